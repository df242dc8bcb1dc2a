"""What the supervising process and a worker say to one another: questions and answers, both ways, over one socket.

Nobody else has an end of that socket: it has no name, and it was there before the worker was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from proxy.config import Secret
from proxy.errors import ConfigError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

    Handlers = Mapping[str, Callable[[bytes], Awaitable[object]]]

T = TypeVar("T")

log = logging.getLogger(__name__)

_LENGTH = 4
"""Bytes before each message that say how long it is."""


class Gone(Exception):
    """The other process has ended."""


class Refused(Exception):
    """The other process cannot do what was asked; the message says why."""


class _Message(msgspec.Struct, array_like=True):
    number: int
    """An answer has that of its question."""
    what: str
    """Which question; of an answer, `answer` or `refused`."""
    body: bytes


class Channel:
    """One end of the socket; questions are answered by `handlers`, each in a task of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Handlers) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._number = 0
        self.closed = False
        self.heard = 0
        """How many messages have come."""

    @classmethod
    async def over(cls, end: socket.socket, handlers: Handlers) -> Channel:
        """Open a channel over one end of a pair of sockets."""
        return cls(*await asyncio.open_unix_connection(sock=end), handlers)

    async def ask(self, what: str, body: object = None, *, kind: type[T] | Any = None) -> T | Any:
        """Ask, and return the answer, which is of that `kind`; raises `Gone` and `Refused`."""
        if self.closed:
            raise Gone
        self._number += 1
        number, answer = self._number, asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send(number, what, body)
            return decode(await answer, kind)
        finally:
            self._asked.pop(number, None)

    def tell(self, what: str, body: object = None) -> None:
        """Say what needs no answer; nothing where the other process has ended."""
        self._send(0, what, body)

    async def run(self) -> None:
        """Take questions and answers until the other process has ended."""
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(_LENGTH))
                message = msgspec.msgpack.decode(await self._reader.readexactly(length), type=_Message)
                self.heard += 1
                self._take(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """End the channel: what was asked is not answered any more, and what is being answered is given up."""
        self.closed = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Gone())
                answer.exception()  # who has asked may have left
        for task in self._answering:
            task.cancel()
        self._writer.close()

    def _take(self, message: _Message) -> None:
        if message.what in {"answer", "refused"}:
            answer = self._asked.get(message.number)
            if answer is None or answer.done():
                return
            if message.what == "answer":
                answer.set_result(message.body)
            else:
                answer.set_exception(Refused(message.body.decode("utf-8", "surrogateescape")))
            return
        task = asyncio.create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: _Message) -> None:
        try:
            found = await self._handlers[message.what](message.body)
            if message.number:
                self._send(message.number, "answer", found)
        except (ConfigError, OSError) as error:
            self._refuse(message.number, str(error))
        except Exception as error:
            log.exception("a process of the sidecar asked for what met a defect", extra={"event": "defect"})
            self._refuse(message.number, f"a defect of the sidecar: {type(error).__name__}")

    def _refuse(self, number: int, why: str) -> None:
        if number:
            self._write(_Message(number, "refused", why.encode("utf-8", "surrogateescape")))

    def _send(self, number: int, what: str, body: object) -> None:
        self._write(_Message(number, what, encode(body)))

    def _write(self, message: _Message) -> None:
        if not self.closed:
            packed = msgspec.msgpack.encode(message)
            with contextlib.suppress(ConnectionError):
                self._writer.write(len(packed).to_bytes(_LENGTH) + packed)


def encode(value: object) -> bytes:
    """Write a value as it is sent; secrets stand in it."""
    return msgspec.msgpack.encode(value, enc_hook=_written)


def decode(body: bytes, kind: type[T] | Any) -> T | Any:
    """Read a value of that kind."""
    return msgspec.msgpack.decode(body, type=kind, dec_hook=_read)


def _written(value: object) -> object:
    """Write what msgspec does not know; of each value that the configuration writes as one text, that text."""
    # An environment variable may hold bytes that are not UTF-8; Python keeps them as lone surrogates.
    return value.reveal().encode("utf-8", "surrogateescape") if isinstance(value, Secret) else str(value)


def _read(kind: Any, value: Any) -> object:
    return Secret(value.decode("utf-8", "surrogateescape")) if kind is Secret else kind.parse(value)
