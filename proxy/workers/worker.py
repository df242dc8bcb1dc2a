"""A worker as the supervising process sees it: started, asked, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, cast

from proxy.server import StartError
from proxy.workers.channel import Gone, Refused
from proxy.workers.process import Process
from proxy.workers.words import Reading

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping

    from proxy.workers.desk import Desk
    from proxy.workers.words import Orders

_LONGEST_START = 60.0
_LONGEST_END = 5.0
"""Seconds for a worker to end that has nothing left to do."""


class Worker:
    """One worker, under one number, whatever process it is at the time."""

    def __init__(self, number: int, env: Mapping[str, str], desk: Desk, say: Callable[[bytes], None]) -> None:
        """`say` takes whole lines of log."""
        self.number = number
        self.restarts = 0
        self.reading: Reading | None = None
        """The last that is known."""
        self.silent_since: float | None = None
        """On the monotonic clock, while it does not tell how it is."""
        self.started_at = 0.0
        """On the wall clock."""
        self.down_since: float | None = None
        """On the monotonic clock, while it has ended and is not back."""
        self._env = env
        self._desk = desk
        self._say = say
        self._last: Process | None = None

    # --- Start and end --------------------------------------------------------------------------------------------

    async def start(self, orders: Orders, sockets: Iterable[socket.socket]) -> None:
        """Return when the worker serves; raises `StartError`."""
        self.reading, self.silent_since, self.started_at = None, None, time.time()
        try:
            self._last = await Process.start(self._env, self._desk, self._say)
        except OSError as error:
            raise StartError(f"a worker cannot be started: {error.strerror}") from None
        try:
            async with asyncio.timeout(_LONGEST_START):
                await self.order("serve", orders, sockets)
                await self.look(_LONGEST_START)
        except BaseException as error:
            self.kill()
            await self.ended()
            if isinstance(error, Refused | Gone | TimeoutError):
                raise StartError(str(error) or "a worker has ended before it served") from None
            raise
        self._last.serves = True

    async def ended(self) -> int:
        """Wait until the process has ended and all that it said is passed on; return its exit code."""
        return await self._process.ended()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    async def leave(self) -> None:
        """Have a worker end that has finished."""
        self._process.channel.close()
        try:
            async with asyncio.timeout(_LONGEST_END):
                await self.ended()
        except TimeoutError:
            self.kill()
            await self.ended()

    # --- While it serves ------------------------------------------------------------------------------------------

    @property
    def _process(self) -> Process:
        """The process that it is now, or was last."""
        if self._last is None:
            raise Gone
        return self._last

    @property
    def pid(self) -> int:
        """That of the process that it is now, or was last."""
        return self._process.pid

    @property
    def serving(self) -> bool:
        """Whether there is a process that serves."""
        return self._last is not None and self._last.serves and not self._last.channel.closed

    @property
    def heard(self) -> int:
        """How much the process has said: one that goes on saying something does not stand still."""
        return self._process.channel.heard

    async def order(self, what: str, orders: Orders, sockets: Iterable[socket.socket]) -> None:
        """Have orders obeyed; raises `Gone` and `Refused`."""
        self._process.hand_over(sockets)
        await self._process.channel.ask(what, orders)

    async def ask(self, what: str, kind: Any = None, body: object = None, patience: float | None = None) -> Any:
        """Return the answer, which is of that `kind`, or none where the worker gives none within so many seconds."""
        with contextlib.suppress(Gone, Refused, TimeoutError):
            async with asyncio.timeout(patience):
                return await self._process.channel.ask(what, body, kind=kind)
        return None

    async def look(self, patience: float) -> None:
        """See how the worker is, as far as it tells within so many seconds."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                self.reading = cast("Reading", await self._process.channel.ask("look", kind=Reading))
        except (TimeoutError, Gone, Refused):
            self.silent_since = self.silent_since or began
        else:
            self.silent_since = None
