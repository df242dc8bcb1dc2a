"""A way between the sidecar and upstream that breaks: after some bytes in either direction, or from the first."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from random import Random

_RESET = struct.pack("ii", 1, 0)
_PIECE = 64 * 1024


class Relay:
    """Passes bytes on until a connection's fate is met; each fate is drawn when the connection is made."""

    def __init__(self, upstream: str, chance: Random) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._chance = chance
        self._listening: socket.socket | None = None
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self._connections: set[asyncio.Task[None]] = set()
        self.calm = False
        """No connection made from now on is cut."""
        self.cuts = 0
        self.heard: bytearray | None = None
        """What goes up, where a test listens."""

    def open(self) -> str:
        """Take connections; the port stays the same, and nobody else's while none are taken."""
        if self._listening is None:
            self._listening = socket.socket()
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._listening.bind(self._reserved.getsockname())
            self._listening.listen(1024)
            self._listening.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listening, self._accept)
        return f"http://127.0.0.1:{self._reserved.getsockname()[1]}"

    def refuse(self) -> None:
        """Take no further connections, until `open`."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self) -> None:
        # asyncio's own server loses a connection that comes while it is closed.
        if self._listening is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                accepted, _ = self._listening.accept()
                accepted.setblocking(False)
                task = asyncio.get_running_loop().create_task(self._pass_on(accepted))
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        self.refuse()
        await self.end_all()
        self._reserved.close()

    async def end_all(self) -> None:
        """End every connection in an orderly way."""
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(self, accepted: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=accepted)
        except BaseException:
            accepted.close()
            raise
        up, down = self._fate()
        try:
            if up == 0:
                self._cut(writer)
                return
            upper_reader, upper_writer = await asyncio.open_connection(*self._upstream)
            pumps = [
                asyncio.ensure_future(self._pump(reader, upper_writer, up, listen=True)),
                asyncio.ensure_future(self._pump(upper_reader, writer, down)),
            ]
            try:
                done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in done:
                    pump.result()
            finally:
                upper_writer.close()  # first: `end_all` may cancel the wait for the pumps
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except _Cut:
            self._cut(writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        self.cuts += 1
        if self._chance.random() < 0.5:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def _fate(self) -> tuple[int | None, int | None]:
        chance = self._chance
        if self.calm:
            return None, None
        draw = chance.random()
        if draw < 0.05:
            return 0, None
        if draw < 0.5:
            return chance.randrange(1, 30_000), None
        if draw < 0.9:
            return None, chance.randrange(1, 15_000)
        return None, None

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None, *, listen: bool = False
    ) -> None:
        while data := await reader.read(_PIECE):
            if left is not None:
                data, left = data[:left], left - len(data)
            if listen and self.heard is not None:
                self.heard += data
            writer.write(data)
            await writer.drain()
            if left is not None and left <= 0:
                raise _Cut


class _Cut(Exception):
    """The connection's fate is met."""
