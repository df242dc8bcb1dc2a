"""Where tokens are kept that no other process shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cachetools import TLRUCache

if TYPE_CHECKING:
    from proxy.tokens.token import Clock, Token

_PLACES = 256


class TokenKey(NamedTuple):
    """What a token belongs to: another environment, account or endpoint never finds it."""

    environment: str
    account: str
    api: str
    token_url: str


class MemoryStore:
    """Tokens by account and API, each until it expires."""

    def __init__(self, clock: Clock) -> None:
        self._tokens: TLRUCache[TokenKey, Token] = TLRUCache(
            _PLACES, ttu=lambda _key, token, _now: token.expires_at.monotonic, timer=lambda: clock().monotonic
        )

    async def load(self, key: TokenKey) -> Token | None:
        """Return the last token saved, unless it has expired."""
        return self._tokens.get(key)

    async def save(self, key: TokenKey, token: Token) -> None:
        """Keep a token in place of the one before."""
        self._tokens[key] = token
