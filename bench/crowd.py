"""Many callers at once, each with a connection of its own, and when each is answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NO_ANSWER = 0
"""The status that stands for a connection that ended unanswered."""

_AT_A_TIME = 500
"""Connections that are opened together, within every listener's backlog."""


class Reply(NamedTuple):
    """The status of one answer, and when it was asked for and came, in seconds since the epoch."""

    status: int
    asked: float
    came: float


class Caller(asyncio.Protocol):
    """One connection, with one request at a time; answers tell their length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[Reply] | None = None
        self._received = bytearray()
        self._asked = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def ask(self, request: bytes) -> asyncio.Future[Reply]:
        """Send a request; the future has the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._asked = time.time()
        if self._transport.is_closing():
            self._end(NO_ANSWER)
        else:
            self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            self._received.clear()
            self._end(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        del exc
        self._end(NO_ANSWER)

    def _end(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(status, self._asked, time.time()))

    def close(self) -> None:
        """Close the connection."""
        self._transport.abort()


@contextlib.asynccontextmanager
async def callers(port: int, count: int) -> AsyncIterator[list[Caller]]:
    """Open so many connections; raises `OSError`."""
    loop = asyncio.get_running_loop()
    opened: list[Caller] = []
    try:
        while len(opened) < count:
            batch = range(min(_AT_A_TIME, count - len(opened)))
            made = await asyncio.gather(*(loop.create_connection(Caller, "127.0.0.1", port) for _ in batch))
            opened += [caller for _, caller in made]
        yield opened
    finally:
        for caller in opened:
            caller.close()


async def ask_all(crowd: list[Caller], request: bytes) -> list[Reply]:
    """Have everybody ask at once, and return the answers when the last is there."""
    return list(await asyncio.gather(*[caller.ask(request) for caller in crowd]))


def get_request(port: int, path: str) -> bytes:
    """Return the bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def post_request(port: int, path: str, body: bytes) -> bytes:
    """Return the bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
