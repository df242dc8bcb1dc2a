"""Tokens that no other process shares."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from cachetools import TLRUCache

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from proxy.tokens.store import Kept, TokenKey
    from proxy.tokens.token import Clock

_PLACES = 256


class MemoryStore:
    """The tokens of this process, each until it expires."""

    shared = False
    failures = 0
    failing = False

    def __init__(self, clock: Clock) -> None:
        self._tokens: TLRUCache[TokenKey, Kept] = TLRUCache(
            _PLACES, ttu=lambda _key, token, _now: token.expires_at, timer=lambda: clock().wall
        )
        self._locks: defaultdict[TokenKey, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load(self, key: TokenKey) -> Kept | None:
        """Return the last token kept, unless it has expired."""
        return self._tokens.get(key)

    async def save(self, key: TokenKey, token: Kept) -> None:
        """Keep a token in place of the one before."""
        self._tokens[key] = token

    def lock(self, key: TokenKey) -> AbstractAsyncContextManager[None]:
        """Be the only one in this process that logs in for a key."""
        return self._locks[key]

    async def close(self) -> None:
        """Do nothing: there is nothing to let go of."""
