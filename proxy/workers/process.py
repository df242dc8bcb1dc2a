"""A process that is a worker: it is there whole, with all that ties it to the supervising process, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from proxy.workers.channel import Channel
from proxy.workers.desk import Visitor
from proxy.workers.sockets import hand_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from proxy.workers.desk import Desk

E = TypeVar("E", socket.socket, FileIO)

_PIPE = 1024 * 1024
"""Bytes of log that may wait for the supervising process before a worker waits too."""


class Process:
    """From its start to its end."""

    def __init__(
        self,
        child: asyncio.subprocess.Process,
        channel: Channel,
        hand: socket.socket,
        beside: Iterable[asyncio.Task[None]],
    ) -> None:
        """`hand` is what sockets are handed over through; `beside` ends with the process."""
        self.pid = child.pid
        self.channel = channel
        self.serves = False
        """Whether it has obeyed its first orders."""
        self._child = child
        self._hand = hand
        self._beside = list(beside)

    @classmethod
    async def start(cls, env: Mapping[str, str], desk: Desk, say: Callable[[bytes], None]) -> Process:
        """Start one that waits for orders; `say` takes whole lines of log.

        Raises `OSError`; nothing is left then.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            end, their_end = _kept(socket.socketpair(), ours, theirs)
            hand, their_hand = _kept(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), ours, theirs)
            out, their_out = _kept(_pipe(), ours, theirs)
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "proxy.workers", str(their_end.fileno()), str(their_hand.fileno())),
                env=_with_ourselves(env),
                stdin=subprocess.DEVNULL,
                stdout=their_out,
                pass_fds=(their_end.fileno(), their_hand.fileno()),
                start_new_session=True,  # Ctrl-C is for the supervising process
            )
            ours.callback(_kill, child)
            visitor, voice = Visitor(desk), _Voice(say)
            channel = await Channel.over(end, visitor.handlers)
            await asyncio.get_running_loop().connect_read_pipe(lambda: voice, out)
            ours.pop_all()
        beside = [asyncio.create_task(_listen(channel, visitor)), asyncio.create_task(voice.over())]
        return cls(child, channel, hand, beside)

    def hand_over(self, sockets: Iterable[socket.socket]) -> None:
        """Give it sockets, for the next orders; nothing where it has ended."""
        with contextlib.suppress(OSError):
            hand_over(self._hand, sockets)

    def kill(self) -> None:
        """End it at once."""
        _kill(self._child)

    async def ended(self) -> int:
        """Wait until it has ended and all that it said is passed on; return its exit code."""
        code = await self._child.wait()
        await asyncio.wait(self._beside)
        self._hand.close()
        return code


def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()


async def _listen(channel: Channel, visitor: Visitor) -> None:
    try:
        await channel.run()
    finally:
        visitor.leave()


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


# --- Two ends of everything -------------------------------------------------------------------------------------------


def _kept(pair: tuple[E, E], ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[E, E]:
    """Return two ends, each to be closed with the others of its side."""
    return ours.enter_context(pair[0]), theirs.enter_context(pair[1])


def _pipe() -> tuple[FileIO, FileIO]:
    out, into = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, _PIPE)
    return FileIO(out), FileIO(into, "w")


def _with_ourselves(env: Mapping[str, str]) -> dict[str, str]:
    """Have a worker find this very program, and nothing that lies in the folder it is started in."""
    here = str(Path(__file__).parents[2])
    return {**env, "PYTHONPATH": os.pathsep.join([here, *filter(None, [env.get("PYTHONPATH")])])}
