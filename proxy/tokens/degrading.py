"""A shared store that may fail, with this process's memory in its place while it does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from typing import TYPE_CHECKING

from proxy.tokens.memory import MemoryStore
from proxy.tokens.schedule import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from proxy.tokens.store import Kept, Place, TokenKey
    from proxy.tokens.token import Clock

log = logging.getLogger(__name__)

_PAUSES = Backoff(1, 30)


class Degrading:
    """A store that never fails: what the shared one does not do, memory does, until the shared one is back.

    The first failure costs its caller up to `limit` seconds and is told once; from then on nobody but a task of the
    store's own asks the shared one, after pauses that grow. When that gets an answer, the tokens of the meantime are
    shared, unless others have newer ones.
    """

    def __init__(
        self,
        shared: Place,
        clock: Clock,
        *,
        limit: float = 1.0,
        chance: Callable[[], float] = random.random,
        words: Callable[[Exception], str] = str,
    ) -> None:
        """`shared` may raise, and may hang but when a lock is asked for: only it can tell waiting from hanging.

        `words` says of an error what may be logged: its own text may quote what was sent, a password among it.
        """
        self._words = words
        self.shared = True
        self.failures = 0
        self._shared = shared
        self._memory = MemoryStore(clock)
        self._limit = limit
        self._chance = chance
        self._missed: dict[TokenKey, Kept | None] = {}  # what to ask for, or to share, first of all
        self._retry: asyncio.Task[None] | None = None

    @property
    def failing(self) -> bool:
        """Whether memory stands in for the shared store now."""
        return self._retry is not None

    async def load(self, key: TokenKey) -> Kept | None:
        """Return the last token kept, unless it has expired."""
        if not self.failing:
            try:
                async with asyncio.timeout(self._limit):
                    kept = await self._shared.load(key)
            except Exception as error:  # noqa: BLE001 - whatever it is, no caller shall fail for it
                self._failed(key, error)
            else:
                if kept is not None:
                    await self._memory.save(key, kept)  # lest memory, standing in, offers an older one
                return kept
        return await self._memory.load(key)

    async def save(self, key: TokenKey, token: Kept) -> None:
        """Keep a token in place of the one before."""
        await self._memory.save(key, token)
        if not self.failing:
            try:
                async with asyncio.timeout(self._limit):
                    await self._shared.save(key, token)
            except Exception as error:  # noqa: BLE001 - the same
                self._failed(key, error)
            else:
                return
        self._missed[key] = token

    @contextlib.asynccontextmanager
    async def lock(self, key: TokenKey) -> AsyncIterator[None]:
        """Be the only one that logs in for a key: in this process always, of all as long as the shared store works."""
        async with self._memory.lock(key):
            lock = await self._enter(key)
            try:
                yield
            finally:
                if lock is not None:
                    await self._leave(key, lock)

    async def close(self) -> None:
        """Let go of the shared store."""
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.wait([self._retry])
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._limit):
                await self._shared.close()

    async def _enter(self, key: TokenKey) -> AbstractAsyncContextManager[None] | None:
        if self.failing:
            return None
        lock = self._shared.lock(key)
        try:
            await lock.__aenter__()
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(key, error)
            return None
        return lock

    async def _leave(self, key: TokenKey, lock: AbstractAsyncContextManager[None]) -> None:
        try:
            async with asyncio.timeout(self._limit):
                await lock.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(key, error)

    # --- Out and back -------------------------------------------------------------------------------------------------

    def _failed(self, key: TokenKey, error: Exception) -> None:
        self._missed.setdefault(key, None)
        if self.failing:
            return
        self.failures += 1
        self._retry = asyncio.get_running_loop().create_task(self._win_back(), name="win the token store back")
        reason = ": ".join(filter(None, (type(error).__name__, self._words(error))))
        text = "the shared token store does not work, and memory stands in for it: %s"
        log.warning(text, reason, extra={"event": "store-degraded"})

    async def _win_back(self) -> None:
        for failures in itertools.count(1):
            await asyncio.sleep(_PAUSES.delay(failures, self._chance()))
            with contextlib.suppress(Exception):
                await self._catch_up()
                break
        self._retry = None
        log.info("the shared token store works again", extra={"event": "store-back"})

    async def _catch_up(self) -> None:
        while self._missed:
            key, ours = next(iter(self._missed.items()))
            async with asyncio.timeout(self._limit):
                if ours is None:
                    await self._shared.load(key)
                else:
                    await self._share(key, ours)
            if self._missed[key] is ours:  # no newer one came in the meantime
                del self._missed[key]

    async def _share(self, key: TokenKey, ours: Kept) -> None:
        """Keep a token of the meantime, unless others have a newer one; under the lock, lest a login is overtaken."""
        async with self._shared.lock(key):
            theirs = await self._shared.load(key)
            if theirs is None or theirs.obtained_at < ours.obtained_at:
                await self._shared.save(key, ours)
