"""An upstream whose every connection is played by a coroutine of the test, and which forgets no byte that it read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from proxy.upstream import Dialler, Pool
from proxy.waiting import WaitingRoom
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from proxy.upstream import Exchange

    Script = Callable[["Visit"], Awaitable[None]]


class Visit(asyncio.Protocol):
    """One accepted connection, from upstream's side."""

    def __init__(self, origin: Origin) -> None:
        self.seen = bytearray()
        """Every byte that arrived."""
        self.gone = asyncio.Event()
        """The connection is at its end."""
        self._origin = origin
        self._ended = False
        self._taken = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._transport: asyncio.Transport
        self._script: asyncio.Task[None] | None = None

    # --- What a script calls ------------------------------------------------------------------------------------------

    async def head(self) -> bytes:
        """Read a request up to its empty line."""
        while (end := self.seen.find(b"\r\n\r\n", self._taken)) < 0:
            await self._more()
        start, self._taken = self._taken, end + 4
        return bytes(self.seen[start : self._taken])

    async def take(self, size: int) -> bytes:
        """Read so many bytes."""
        while len(self.seen) - self._taken < size:
            await self._more()
        start, self._taken = self._taken, self._taken + size
        return bytes(self.seen[start : self._taken])

    async def say(self, data: bytes) -> None:
        """Write, and wait until it is on its way."""
        self._transport.write(data)
        await self._room.wait()

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def read_on(self) -> None:
        self._transport.resume_reading()

    def finish(self) -> None:
        """Send no more, in an orderly way; go on reading."""
        self._transport.write_eof()

    def close(self) -> None:
        self._transport.close()

    def cut(self) -> None:
        """End the connection with a reset."""
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        cast("socket.socket", self._transport.get_extra_info("socket")).setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self._transport.abort()

    def end_unnoticed(self) -> None:
        """End the sending half beneath TLS and both event loops: the client's kernel knows, and nobody else."""
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as same:
            same.shutdown(socket.SHUT_WR)

    async def _more(self) -> None:
        if self._ended:
            raise EOFError(f"the request ended after {bytes(self.seen[-100:])!r}")
        self._news.clear()
        await self._news.wait()

    # --- What the transport calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer: object = transport.get_extra_info("peername")
        # Little room, so that back-pressure is felt soon.
        self._transport.set_write_buffer_limits(high=64 * 1024)
        self._origin.visits.append(self)
        self._origin.arrived.set()
        self._script = asyncio.get_running_loop().create_task(self._play())

    def data_received(self, data: bytes) -> None:
        self.seen += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._news.set()
        self._room.set()
        self.gone.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def _play(self) -> None:
        try:
            await self._origin.script(self)
        except EOFError:
            return
        except Exception:
            self._transport.abort()  # so that nobody waits for the rest of the play
            raise

    async def end(self) -> None:
        """Drop the connection and raise what went wrong in its script."""
        self._transport.abort()
        await self.gone.wait()
        if self._script is not None:
            self._script.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._script


@dataclass
class Origin:
    """What listens, and who came."""

    script: Script
    port: int = 0
    visits: list[Visit] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody has connected."""

    @property
    def visit(self) -> Visit:
        """The only connection there was."""
        (visit,) = self.visits
        return visit

    @property
    def seen(self) -> list[bytes]:
        """The bytes of each connection."""
        return [bytes(visit.seen) for visit in self.visits]


@contextlib.asynccontextmanager
async def upstream(
    script: Script, *, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
) -> AsyncIterator[Origin]:
    """Listen on loopback. What waits for bytes in a script raises `EOFError` at the end of its connection."""
    origin = Origin(script)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sees to it only where it made the socket
    if receive_buffer is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    server = await asyncio.get_running_loop().create_server(lambda: Visit(origin), sock=listening, ssl=tls)
    origin.port = listening.getsockname()[1]
    try:
        async with asyncio.timeout(PATIENCE):
            yield origin
    finally:
        server.close()
        await asyncio.gather(*(visit.end() for visit in origin.visits))


@dataclass(frozen=True)
class Limits:
    """Times that no test reaches, but where it says so."""

    response: float = PATIENCE
    idle: float = PATIENCE


@contextlib.asynccontextmanager
async def client(
    port: int,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    connect: float = PATIENCE,
    limits: Limits | None = None,
    connections: int = 1,
    waiting: int = 0,
) -> AsyncIterator[Pool]:
    """Make a pool of connections to that port. At the end every exchange must have been given back."""
    pool = Pool(Dialler(host, port, tls, connect), limits or Limits(), connections, WaitingRoom(waiting))
    try:
        yield pool
        assert_free(pool, connections)
    finally:
        pool.close()


def assert_free(pool: Pool, connections: int) -> None:
    """Show that nothing is under way, and that no place for an exchange was lost."""
    assert not pool._busy
    assert pool._places._free == connections
    assert pool._waiting.taken == 0


@contextlib.contextmanager
def releasing(exchange: Exchange) -> Iterator[Exchange]:
    """Give the exchange back in the end."""
    try:
        yield exchange
    finally:
        exchange.release()


async def read_all(exchange: Exchange) -> bytes:
    """Read the body of an answer to its end."""
    pieces = []
    while piece := await exchange.read():
        pieces.append(piece)
    return b"".join(pieces)
