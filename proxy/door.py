"""The door to an address: how many callers may be in at a time, and what the others are told."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import select
import socket
import struct
import sys
from collections import Counter
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, NamedTuple, cast

from proxy.errors import TooManyConnections
from proxy.forward import refusal
from proxy.unix import UnixSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from proxy.config import Bind, Socket
    from proxy.errors import ProxyError
    from proxy.systemd import Address, Taken

    TakeSockets = Callable[[Address], Taken | None]

log = logging.getLogger(__name__)

BACKLOG = 4096
_RECEIVE_BUFFER = 64 * 1024
"""Bytes that the kernel takes in for a caller ahead of what is read; it doubles them for its own needs. Left to itself
it takes in megabytes and hands them over at once: a thousand callers, and memory is full of what nobody reads yet."""

_RETRY_AFTER = 1.0
_LONGEST_FAREWELL = 1.0
"""Seconds that a caller who is turned away may take to ask, and to hear why not."""

_MOST_FAREWELLS = 64  # `descriptors` counts with them
"""Callers who are turned away with a word at a time; the others' connections are just closed."""

_LONGEST_HANDSHAKE = 0.1
"""Seconds that a caller who has begun to knock may take to come in; those are near."""

_SO_ATTACH_FILTER = 26
_DROP_KNOCKS = (
    (0x30, 0, 0, 13),  # load the byte with the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of them, keep SYN and ACK
    (0x15, 0, 1, 0x02),  # where SYN stands alone, go on; else leave out the next
    (0x06, 0, 0, 0),  # keep nothing of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
)
"""A classic BPF program, as (code, jump if true, jump if false, operand); socket(7), linux/filter.h."""

_REPORT_EVERY = 1.0
"""Seconds between two lines of log on callers who were cut short: a flood of them must not become one of lines."""


class Door:
    """Where callers come in, from `open` to `close`."""

    def __init__(self, bind: Bind, access: Socket, count: Callable[[str], None] | None = None) -> None:
        """Raises `ConfigError`, for an owner or a group that nobody has; `count` is told why somebody is cut short."""
        self._bind = bind
        self._unix = UnixSocket(bind.path, access) if bind.path else None
        self._servers: list[asyncio.Server] = []
        self._is_others = False
        """The socket was handed over, and whoever did so goes on with it."""
        self._coming = 0  # through the door and not inside yet: many may come at once
        self._farewells = 0
        self.most = 0
        """How many callers may be inside."""
        self.cut_short = CutShort(str(bind), count)

    async def open(
        self,
        make: Callable[[], asyncio.Protocol],
        inside: Callable[[], int],
        most: int,
        make_room: Callable[[], None] | None = None,
        take_sockets: TakeSockets | None = None,
    ) -> str:
        """Listen, and return the address, with the ports that were chosen where none was given; raises `OSError`.

        `make` makes the connection of a caller, `inside` tells how many there are, `most` how many there may be. One
        more is turned away, or let in where somebody else can be made to leave. `take_sockets` gives those that are
        open already, if there are any.
        """
        self.most = most
        loop = asyncio.get_running_loop()

        def let_in() -> asyncio.Protocol:
            if inside() + self._coming >= self.most:
                if make_room is None:
                    return self.farewell(self._full())
                make_room()
            self._coming += 1
            loop.call_soon(self._came)
            return make()

        address = await self._listen(let_in, take_sockets)
        for listening in self._sockets():
            with _as_socket(listening.fileno()) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)  # for those who come in by it
        return address

    async def _listen(self, let_in: Callable[[], asyncio.Protocol], take_sockets: TakeSockets | None) -> str:
        bind = self._bind
        loop = asyncio.get_running_loop()
        taken = take_sockets(bind.path or (bind.host, bind.port)) if take_sockets is not None else None
        self._is_others = taken is not None and taken.stays
        if self._unix is not None:
            (listening,) = taken.sockets if taken is not None else [self._unix.open(BACKLOG)]
            listen: Callable[..., Awaitable[asyncio.Server]] = loop.create_unix_server
            self._servers = [await listen(let_in, sock=listening, backlog=BACKLOG, **_leave_file(listen))]
            return str(bind)
        if taken is not None:
            self._servers = [await loop.create_server(let_in, sock=each, backlog=BACKLOG) for each in taken.sockets]
        else:
            self._servers = [await loop.create_server(let_in, bind.host, bind.port, backlog=BACKLOG)]
        ports = dict.fromkeys(each.getsockname()[1] for each in self._sockets())  # a name may have two addresses
        return ", ".join(f"http://{replace(bind, port=port)}" for port in ports)

    async def shut(self) -> None:
        """Let nobody in any more but who stands at the door: closed on, they would not know what became of them."""
        if self._servers and not self._is_others:
            if self._unix is not None:
                self._unix.remove()
            if sys.platform == "linux":
                await asyncio.gather(*(_let_in_the_last(each.fileno()) for each in self._sockets()))
        self.close()

    def close(self) -> None:
        """Let nobody in any more."""
        if self._servers:
            for server in self._servers:
                server.close()
            self._servers = []
            if self._unix is not None:
                self._unix.remove()

    def _sockets(self) -> Iterator[socket.socket]:
        return (each for server in self._servers for each in server.sockets)

    def farewell(self, why: ProxyError) -> asyncio.Protocol:
        """Return what speaks to a caller that is turned away."""
        self.cut_short.add(why)
        if self._farewells == _MOST_FAREWELLS:
            return _Farewell(b"", self._left)
        self._farewells += 1
        return _Farewell(refusal(why), self._left)

    def _full(self) -> ProxyError:
        return TooManyConnections(f"{self.most} callers are connected already", retry_after=_RETRY_AFTER)

    def _came(self) -> None:
        self._coming -= 1

    def _left(self) -> None:
        self._farewells -= 1


def _leave_file(listen: Callable[..., object]) -> dict[str, bool]:
    """Have the event loop leave a socket's file, which Python 3.13 would remove: that is ours to do, or systemd's."""
    return {"cleanup_socket": False} if "cleanup_socket" in signature(listen).parameters else {}


def _as_socket(listening: int) -> socket.socket:
    """Return another handle of a socket: the event loop's own takes no options, and Windows's `os.dup` no socket."""
    return socket.fromfd(listening, -1, -1)


async def _let_in_the_last(listening: int) -> None:
    """Have the kernel drop who knocks at a TCP socket from now on, so that they knock again, and find it closed.

    Who has knocked already may believe to be inside before the kernel here knows: they are waited for. A Unix socket
    has no such moment, and its file is gone.
    """
    with contextlib.suppress(OSError), _as_socket(listening) as own:
        if own.family != socket.AF_UNIX:
            code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _DROP_KNOCKS))
            program = struct.pack("@HP", len(_DROP_KNOCKS), ctypes.addressof(code))
            own.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            await asyncio.sleep(_LONGEST_HANDSHAKE)
    door = select.poll()
    door.register(listening, select.POLLIN)
    for _ in range(BACKLOG):  # who comes later was not at the door: an abstract socket can be knocked at without end
        if not door.poll(0):
            break
        await asyncio.sleep(0)  # the event loop lets at least one in


class _Farewell(asyncio.Protocol):
    """Says the same to whatever it is asked, once; nothing of the request is read."""

    def __init__(self, answer: bytes, on_end: Callable[[], None]) -> None:
        self._answer = answer
        self._on_end = on_end
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request, but not for long: an answer that nobody has asked for would be taken for another's."""
        self._transport = cast("asyncio.Transport", transport)
        if self._answer:
            self._timer = asyncio.get_running_loop().call_later(_LONGEST_FAREWELL, self._transport.abort)
        else:
            self._transport.abort()

    def data_received(self, _data: bytes) -> None:
        """Answer the first bytes, and let the others go by: to close on them would reset the answer away."""
        answer, self._answer = self._answer, b""
        if answer:
            self._transport.write(answer)
            self._transport.write_eof()

    def connection_lost(self, _error: Exception | None) -> None:
        """Give the place back."""
        if self._timer is not None:
            self._timer.cancel()
            self._on_end()


class _Cut(NamedTuple):
    status: int
    name: str
    detail: str


class CutShort:
    """Callers who were cut short before they had made a request: counted one by one, told in the log by number."""

    def __init__(self, listener: str, count: Callable[[str], None] | None = None) -> None:
        self._listener = listener
        self._count = count
        self._told: Counter[_Cut] = Counter()

    def add(self, why: ProxyError) -> None:
        """Count one, to be told soon."""
        if not self._told:
            asyncio.get_running_loop().call_later(_REPORT_EVERY, self._tell)
        self._told[_Cut(why.status, why.name, why.detail)] += 1
        if self._count is not None:
            self._count(why.name)

    def _tell(self) -> None:
        told, self._told = self._told, Counter()
        for why, number in told.items():
            log.warning(
                "%d connections were cut short with %d: %s",
                number,
                why.status,
                why.detail,
                extra={
                    "event": "cut-short",
                    "listener": self._listener,
                    "connections": number,
                    "status": why.status,
                    "error": why.name,
                },
            )
