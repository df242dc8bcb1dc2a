"""Tokens that the workers share without a store of their own: they are in the memory of the supervising process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

from proxy.errors import CredentialsRefused
from proxy.tokens.store import Kept
from proxy.workers.channel import Gone, decode
from proxy.workers.words import Refusal, Saved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.tokens import Clock, TokenKey
    from proxy.workers.channel import Channel, Handlers

log = logging.getLogger(__name__)

_REFUSED_FOR = 50.0
"""Seconds in which what was refused to one worker is not tried by another; less than until its own next attempt."""

_SPARE = 5.0
"""Seconds that a holder of the lock has beyond the limit of its login."""


class Desk:
    """Keeps the tokens, and lets one worker at a time log in for each key."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.tokens: dict[str, Kept] = {}
        """By `TokenKey.digest`."""
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.refusals: dict[str, tuple[float, str]] = {}
        """When, on the monotonic clock, credentials were refused, and the words for it."""


class Visitor:
    """What one worker does at the desk; whatever lock it holds is free when it leaves."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._held: list[str] = []
        self.handlers: Handlers = {
            "load": self._load,
            "save": self._save,
            "lock": self._lock,
            "unlock": self._unlock,
            "refusal": self._refusal,
        }

    def leave(self) -> None:
        """Let go of every lock."""
        for digest in self._held:
            self._desk.locks[digest].release()
        self._held.clear()

    async def _load(self, body: bytes) -> Kept | None:
        token = self._desk.tokens.get(decode(body, str))
        return token if token is not None and token.expires_at > self._desk.clock().wall else None

    async def _save(self, body: bytes) -> None:
        saved, now = decode(body, Saved), self._desk.clock().wall
        tokens = self._desk.tokens | {saved.digest: saved.token}
        self._desk.tokens = {digest: token for digest, token in tokens.items() if token.expires_at > now}

    async def _lock(self, body: bytes) -> str | None:
        """Wait for the lock of a key; return why its credentials were refused, if that was just now."""
        digest = decode(body, str)
        await self._desk.locks[digest].acquire()
        self._held.append(digest)
        at, why = self._desk.refusals.get(digest, (float("-inf"), None))
        return why if self._desk.clock().monotonic < at + _REFUSED_FOR else None

    async def _refusal(self, body: bytes) -> None:
        refusal = decode(body, Refusal)
        self._desk.refusals[refusal.digest] = (self._desk.clock().monotonic, refusal.why)

    async def _unlock(self, body: bytes) -> None:
        digest = decode(body, str)
        if digest in self._held:
            self._held.remove(digest)
            self._desk.locks[digest].release()


class DeskStore:
    """A worker's store of tokens: whatever it is asked, it asks the supervising process."""

    shared = True
    failures = 0

    def __init__(self, channel: Channel, limit: float) -> None:
        """`limit`, in seconds, is that of a login."""
        self._channel = channel
        self._limit = limit

    @property
    def failing(self) -> bool:
        """Whether the supervising process has ended, so that this worker, which ends too, logs in for itself."""
        return self._channel.closed

    async def load(self, key: TokenKey) -> Kept | None:
        """Return the last token kept, unless it has expired."""
        with contextlib.suppress(Gone):
            token: Kept | None = await self._channel.ask("load", key.digest, kind=Kept | None)
            return token
        return None

    async def save(self, key: TokenKey, token: Kept) -> None:
        """Keep a token in place of the one before."""
        with contextlib.suppress(Gone):
            await self._channel.ask("save", Saved(key.digest, token))

    @contextlib.asynccontextmanager
    async def lock(self, key: TokenKey) -> AsyncIterator[None]:
        """Be the only worker that logs in for a key; raises `CredentialsRefused` where another has just been refused.

        So a wrong password is tried once, not once by each worker, and no account is locked for it. A worker
        that is frozen keeps the lock, but not from us: after the time that a login may take, we go on without it.
        """
        held: asyncio.Future[str | None] = asyncio.ensure_future(self._channel.ask("lock", key.digest, kind=str | None))
        try:
            await asyncio.wait([held], timeout=self._limit + _SPARE)
            if held.done():
                _raise_refusal(held)
            else:
                text = "another worker has held the lock of a login for %g s; going on without it"
                log.warning(text, self._limit + _SPARE, extra={"event": "store-lock-stuck"})
            try:
                yield
            except CredentialsRefused as error:
                self._channel.tell("refusal", Refusal(key.digest, error.detail))
                raise
        finally:
            held.add_done_callback(lambda _: self._unlock(held, key))

    def _unlock(self, held: asyncio.Future[str | None], key: TokenKey) -> None:
        if not held.cancelled() and held.exception() is None:
            self._channel.tell("unlock", key.digest)

    async def close(self) -> None:
        """Do nothing: the supervising process keeps the tokens."""


def _raise_refusal(held: asyncio.Future[str | None]) -> None:
    if held.exception() is None and (why := held.result()) is not None:
        raise CredentialsRefused(why)
