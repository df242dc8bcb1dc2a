"""A worker as the supervising process sees it: started, asked, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from proxy.server import StartError
from proxy.workers.channel import Channel, Gone, Refused
from proxy.workers.desk import Visitor
from proxy.workers.sockets import hand_over
from proxy.workers.words import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.workers.desk import Desk
    from proxy.workers.words import Orders

_LONGEST_START = 60.0
_LONGEST_LOOK = 2.0
"""Seconds for a worker to tell how it is."""

_LONGEST_END = 5.0
"""Seconds for a worker to end that has nothing left to do."""

_PIPE = 1024 * 1024
"""Bytes of log that may wait for the supervising process before a worker waits too."""


class Worker:
    """One worker, under one number, whatever process it is at the time."""

    def __init__(self, number: int, env: Mapping[str, str], desk: Desk, say: Callable[[bytes], None]) -> None:
        """`say` takes whole lines of log."""
        self.number = number
        self.restarts = 0
        self.serving = False
        self.reading: Reading | None = None
        """The last that is known."""
        self.silent_since: float | None = None
        """On the monotonic clock, while it does not tell how it is."""
        self.started_at = 0.0
        """On the wall clock."""
        self.down_since: float | None = None
        """On the monotonic clock, while it has ended and is not back."""
        self.channel: Channel
        self._env = env
        self._desk = desk
        self._say = say
        self._hand: socket.socket
        self._process: asyncio.subprocess.Process
        self._running: list[asyncio.Task[None]] = []

    # --- Start and end --------------------------------------------------------------------------------------------

    async def start(self, orders: Orders, sockets: Sequence[socket.socket]) -> None:
        """Return when the worker serves; raises `StartError`."""
        self.reading, self.silent_since, self.started_at = None, None, time.time()
        try:
            await self._spawn()
        except OSError as error:
            raise StartError(f"a worker cannot be started: {error.strerror}") from None
        try:
            async with asyncio.timeout(_LONGEST_START):
                await self.order("serve", orders, sockets)
                await self.look()
        except BaseException as error:
            self.kill()
            await self.ended()
            if isinstance(error, Refused | Gone | TimeoutError):
                raise StartError(str(error) or "a worker has ended before it served") from None
            raise
        self.serving = True

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._hand, their_hand = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out, their_out = os.pipe()
        with theirs, their_hand, os.fdopen(their_out, "wb") as stdout:
            with contextlib.suppress(OSError):
                fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, _PIPE)
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "proxy.workers", str(theirs.fileno()), str(their_hand.fileno())),
                env=_with_ourselves(self._env),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                pass_fds=(theirs.fileno(), their_hand.fileno()),
                start_new_session=True,  # Ctrl-C is for the supervising process
            )
        visitor, voice = Visitor(self._desk), _Voice(self._say)
        self.channel = await Channel.over(ours, visitor.handlers)
        await asyncio.get_running_loop().connect_read_pipe(lambda: voice, os.fdopen(out, "rb", 0))
        self._running = [asyncio.create_task(self._listen(visitor)), asyncio.create_task(voice.over())]

    async def _listen(self, visitor: Visitor) -> None:
        try:
            await self.channel.run()
        finally:
            self.serving = False
            visitor.leave()

    async def ended(self) -> int:
        """Wait until the process has ended and all that it said is passed on; return its exit code."""
        code = await self._process.wait()
        await asyncio.wait(self._running)
        self._hand.close()
        return code

    def kill(self) -> None:
        """End the process at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def leave(self) -> None:
        """Have a worker end that has finished."""
        self.channel.close()
        try:
            async with asyncio.timeout(_LONGEST_END):
                await self.ended()
        except TimeoutError:
            self.kill()
            await self.ended()

    # --- While it serves ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process that it is now, or was last."""
        return self._process.pid

    async def order(self, what: str, orders: Orders, sockets: Sequence[socket.socket]) -> None:
        """Have orders obeyed; raises `Gone` and `Refused`."""
        with contextlib.suppress(OSError):  # a worker that is gone
            hand_over(self._hand, sockets)
        await self.channel.ask(what, orders)

    async def ask(self, what: str, kind: Any = None, body: object = None, patience: float | None = None) -> Any:
        """Return the answer, which is of that `kind`, or none where the worker gives none within so many seconds."""
        with contextlib.suppress(Gone, Refused, TimeoutError):
            async with asyncio.timeout(patience):
                return await self.channel.ask(what, body, kind=kind)
        return None

    async def look(self, patience: float | None = None) -> bool:
        """See how the worker is, and return whether it has told in time."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience or _LONGEST_LOOK):
                self.reading = cast("Reading", await self.channel.ask("look", kind=Reading))
        except (TimeoutError, Gone, Refused):
            self.silent_since = self.silent_since or began
            return False
        self.silent_since = None
        return True


class _Voice(asyncio.Protocol):
    """What a worker says, passed on in whole lines: those of several would mix in a pipe."""

    def __init__(self, say: Callable[[bytes], None]) -> None:
        self._say = say
        self._begun = b""
        self._over = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Pass on what is whole."""
        lines, end, self._begun = (self._begun + data).rpartition(b"\n")
        if end:
            self._say(lines + end)

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop the beginning of a line whose end does not come."""
        self._over.set()

    async def over(self) -> None:
        """Return when nothing more is said."""
        await self._over.wait()


def _with_ourselves(env: Mapping[str, str]) -> dict[str, str]:
    """Have a worker find this very program, and nothing that lies in the folder it is started in."""
    here = str(Path(__file__).parents[2])
    return {**env, "PYTHONPATH": os.pathsep.join([here, *filter(None, [env.get("PYTHONPATH")])])}
