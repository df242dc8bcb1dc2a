"""The rooms of the sidecar in this very process, with bytes at both ends, for tests that try many things quickly."""

from __future__ import annotations

import asyncio
import io
import logging
from typing import TYPE_CHECKING

from proxy.assembly import Assembly
from proxy.config import load
from proxy.fake import PASSWORD, USERNAME, FakeInvoisys
from proxy.observe import AccessLog
from proxy.observe.forms import JsonForm
from proxy.observe.logs import Lines
from tests.certainty.origin import Parsed, parse
from tests.support.wire import PATIENCE, connect

if TYPE_CHECKING:
    from collections.abc import Iterable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


def request_ends(data: bytes) -> bool:
    """Whether a request as the sidecar writes it is there to its end."""
    head, there, rest = data.partition(b"\r\n\r\n")
    if not there:
        return False
    framing = framing_of(head)
    if framing == b"chunked":
        return rest.endswith(b"0\r\n\r\n") and (rest == b"0\r\n\r\n" or rest.endswith(b"\r\n0\r\n\r\n"))
    return len(rest) >= int(framing or 0)


def framing_of(head: bytes) -> bytes | None:
    """Return what tells a request's length: a number, `chunked`, or nothing."""
    told = [
        line.partition(b": ")[2]
        for line in head.split(b"\r\n")
        if line.lower().startswith((b"content-length:", b"transfer-encoding:"))
    ]
    assert len(told) <= 1, head
    return told[0] if told else None


class World:
    """A listener, and an upstream that notes every byte and says what it is told to."""

    def __init__(self, **limits: str) -> None:
        self._limits = limits
        self._fake = FakeInvoisys()
        self.met: list[bytes] = []
        """What came in on each connection to upstream."""
        self.answer: list[bytes] = [OK]
        """What upstream says, piece by piece; then it closes."""
        self._servers: list[asyncio.Server] = []
        self._under_way: set[asyncio.Task[None]] = set()

    async def open(self, config: str) -> None:
        token_server = await self._fake.start()
        origin = await asyncio.start_server(self._be_upstream, "127.0.0.1", 0)
        self._servers.append(origin)
        url = f"http://127.0.0.1:{origin.sockets[0].getsockname()[1]}"
        env = {
            "INVOISYS_USERNAME": USERNAME,
            "INVOISYS_PASSWORD": PASSWORD,
            "INVOISYS_LISTEN": "127.0.0.1:0",
            "INVOISYS_API_2_0_URL": url,
            "INVOISYS_API_2_0_TOKEN_URL": f"{token_server}/api/token",
            "INVOISYS_API_3_0_URL": url,
            "INVOISYS_API_3_0_TOKEN_URL": f"{token_server}/v1/token",
        }
        self._rooms = Assembly(load(config, env), env, AccessLog(Lines(io.BytesIO()), JsonForm(), logging.CRITICAL))
        self.url = await self._rooms.listeners[0].open(100)

    async def close(self) -> None:
        for listener in self._rooms.listeners:
            listener.close()
            await listener.end()
        for refresher in self._rooms.refreshers.values():
            refresher.stop()
        for pool in self._rooms.pools.values():
            pool.close()
        for server in self._servers:
            server.close()
        await self._fake.stop()

    async def _be_upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        place = len(self.met)
        self.met.append(b"")
        try:
            while not request_ends(self.met[place]):
                data = await reader.read(64 * 1024)
                if not data:
                    return
                self.met[place] += data
            for piece in self.answer:
                writer.write(piece)
                await asyncio.sleep(0)
            if not writer.transport.is_closing():  # the caller of this may have cut it on its way
                writer.write_eof()
            # Whatever comes now was not part of the request.
            while data := await reader.read(64 * 1024):
                self.met[place] += data
        except ConnectionError:
            pass
        finally:
            self._under_way.discard(task)
            writer.close()

    async def tell(self, pieces: Iterable[bytes], quiet: float = PATIENCE) -> Parsed:
        """Send a request piece by piece, and read one answer.

        After so many `quiet` seconds the caller has said all: a request that is not whole ends there.
        """
        self.met.clear()
        raw, told = b"", Parsed()
        async with asyncio.timeout(2 * PATIENCE):
            reader, writer = await connect(self.url)
            try:
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                while not told.whole:
                    try:
                        data = await asyncio.wait_for(reader.read(64 * 1024), quiet)
                    except TimeoutError:
                        writer.write_eof()
                        data = await reader.read(64 * 1024)
                    raw += data
                    told = parse(raw, ended=not data)
                    if not data:
                        break
            except ConnectionError:
                pass
            finally:
                writer.close()
            await asyncio.gather(*self._under_way)
        return told
