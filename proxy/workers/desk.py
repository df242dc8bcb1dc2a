"""Tokens that the workers share without a store of their own: they are in the memory of the supervising process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from proxy.errors import LoginError
from proxy.tokens.schedule import REFUSAL
from proxy.tokens.store import Kept
from proxy.workers.channel import Gone, decode
from proxy.workers.words import Refusal, Saved, Wish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.tokens import Clock, TokenKey
    from proxy.workers.channel import Channel, Handlers

log = logging.getLogger(__name__)

_SPARE = 5.0
"""Seconds that a holder of the lock has beyond the limit of its login."""

_FINAL = {kind.name: kind for kind in LoginError.__subclasses__() if kind.final}


class _Refused(NamedTuple):
    digest: str
    """With which credentials."""
    why: Refusal
    times: int
    """In a row."""
    until: float
    """On the monotonic clock."""


class Desk:
    """Keeps the tokens, and lets one worker at a time log in for each key."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.tokens: dict[str, Kept] = {}
        """By `TokenKey.digest`."""
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._refused: dict[str, _Refused] = {}
        """By account and API."""

    def keep(self, digest: str, token: Kept) -> None:
        """Keep a token; its credentials are good."""
        now = self.clock().wall
        self.tokens = {at: each for at, each in (self.tokens | {digest: token}).items() if each.expires_at > now}
        self._refused = {whose: each for whose, each in self._refused.items() if each.digest != digest}

    def refuse(self, wish: Wish, why: Refusal) -> None:
        """Have no worker try the same credentials before the time at which, at the earliest, one process would."""
        before = self._refused.get(wish.whose)
        times = before.times + 1 if before is not None and before.digest == wish.digest else 1
        until = self.clock().monotonic + REFUSAL.delay(times, chance=0)
        self._refused[wish.whose] = _Refused(wish.digest, why, times, until)

    def refusal(self, wish: Wish) -> Refusal | None:
        """Return why a login has to wait, and how long; other credentials than those refused need not."""
        refused = self._refused.get(wish.whose)
        if refused is None:
            return None
        if refused.digest != wish.digest:
            del self._refused[wish.whose]
            return None
        left = refused.until - self.clock().monotonic
        return replace(refused.why, left=left) if left > 0 else None


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
            "refuse": self._refuse,
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
        saved = decode(body, Saved)
        self._desk.keep(saved.digest, saved.token)

    async def _lock(self, body: bytes) -> Refusal | None:
        """Wait for the lock of a login; return why it has to wait, if its credentials were refused."""
        wish = decode(body, Wish)
        await self._desk.locks[wish.digest].acquire()
        self._held.append(wish.digest)
        return self._desk.refusal(wish)

    async def _refuse(self, body: bytes) -> None:
        self._desk.refuse(*decode(body, tuple[Wish, Refusal]))

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
        """Be the only worker that logs in for a key; raises what another was refused with, until that has its time.

        So a wrong password is tried as often as by one process, however many workers there are, and no account is
        locked for it. A worker that is frozen keeps the lock, but not from us: after the time that a login may take,
        we go on without it.
        """
        wish = Wish(key.digest, key._replace(credentials="").digest)
        held: asyncio.Future[Refusal | None] = asyncio.ensure_future(
            self._channel.ask("lock", wish, kind=Refusal | None)
        )
        try:
            await asyncio.wait([held], timeout=self._limit + _SPARE)
            if held.done():
                _raise_refusal(held)
            else:
                text = "another worker has held the lock of a login for %g s; going on without it"
                log.warning(text, self._limit + _SPARE, extra={"event": "store-lock-stuck"})
            try:
                yield
            except LoginError as error:
                if error.final:
                    self._channel.tell("refuse", (wish, Refusal(error.name, error.detail)))
                raise
        finally:
            held.add_done_callback(lambda _: self._unlock(held, key))

    def _unlock(self, held: asyncio.Future[Refusal | None], key: TokenKey) -> None:
        if not held.cancelled() and held.exception() is None:
            self._channel.tell("unlock", key.digest)

    async def close(self) -> None:
        """Do nothing: the supervising process keeps the tokens."""


def _raise_refusal(held: asyncio.Future[Refusal | None]) -> None:
    if held.exception() is None and (why := held.result()) is not None:
        raise _FINAL[why.error](why.detail, retry_after=why.left)
