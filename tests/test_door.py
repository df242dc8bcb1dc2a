"""The door: how many come in, and what the others hear."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proxy import door as module
from proxy.config import Bind, Socket
from proxy.door import Door
from proxy.errors import Forbidden
from tests.support.wire import PATIENCE, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ASK = b"GET / HTTP/1.1\r\n\r\n"


class Inside:
    """Those who were let in."""

    def __init__(self) -> None:
        self.here: dict[asyncio.BaseTransport, None] = {}
        self.most = 0

    def __call__(self) -> asyncio.Protocol:
        return Guest(self)

    def count(self) -> int:
        return len(self.here)


class Guest(asyncio.Protocol):
    def __init__(self, inside: Inside) -> None:
        self._inside = inside

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._inside.here[transport] = None
        self._inside.most = max(self._inside.most, self._inside.count())

    def connection_lost(self, exc: Exception | None) -> None:
        del self._inside.here[self._transport]


@contextlib.asynccontextmanager
async def opened(most: int, make_room: Callable[[], None] | None = None) -> AsyncIterator[tuple[str, Inside]]:
    door, inside = Door(Bind("127.0.0.1", 0), Socket()), Inside()
    url = await door.open(inside, inside.count, most, make_room)
    try:
        async with asyncio.timeout(PATIENCE):
            yield url, inside
    finally:
        door.close()
        for transport in list(inside.here):
            transport.close()
        async with asyncio.timeout(PATIENCE):
            while door._farewells:  # noqa: ASYNC110 - no event tells that they have ended with their callers
                await asyncio.sleep(0)


async def test_all_who_come_at_once_are_counted() -> None:
    """They are accepted in one go, before the first of them is inside."""
    async with opened(5) as (url, inside):
        port = int(url.rpartition(":")[2])
        with contextlib.ExitStack() as callers:
            crowd = [callers.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(40)]
            for caller in crowd:
                caller.sendall(ASK)
            reader, writer = await connect(url)  # the last in the line
            writer.write(ASK)
            assert (await read_reply(reader)).status == 503
            writer.close()
            assert inside.most == inside.count() == 5


async def test_an_answer_comes_only_when_something_was_asked() -> None:
    async with opened(0) as (url, _):
        reader, writer = await connect(url)
        waiting = asyncio.create_task(reader.read(1))
        asking_reader, asking_writer = await connect(url)
        asking_writer.write(ASK * 1000)
        assert (await read_reply(asking_reader)).status == 503
        assert await asking_reader.read() == b""
        assert not waiting.done()
        writer.write(b"G")
        assert await waiting == b"H"
        for each in (writer, asking_writer):
            each.close()


async def test_one_who_uploads_hears_it_too() -> None:
    """To close on bytes that were not read would reset the answer away."""
    async with opened(0) as (url, _):
        reader, writer = await connect(url)
        writer.write(ASK + bytes(1024 * 1024))
        await writer.drain()
        reply = await read_reply(reader)
        assert (reply.status, reply["Retry-After"]) == (503, "1")
        writer.close()


async def test_one_who_never_asks_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONGEST_FAREWELL", 0.02)
    async with opened(0) as (url, _):
        reader, writer = await connect(url)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_only_so_many_are_turned_away_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FAREWELLS", 1)
    async with opened(0) as (url, _):
        first_reader, first = await connect(url)
        reader, second = await connect(url)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        first.write(ASK)
        assert (await read_reply(first_reader)).status == 503
        assert await first_reader.read() == b""
        first.close()
        second.close()
        while True:  # until the place is free again
            reader, third = await connect(url)
            third.write(ASK)
            with contextlib.suppress(Exception):
                assert (await read_reply(reader)).status == 503
                break
            third.close()
        third.close()


async def test_room_is_made_where_it_can_be() -> None:
    inside: Inside

    def send_first_away() -> None:
        next(transport for transport in inside.here if not transport.is_closing()).close()

    async with opened(2, send_first_away) as (url, inside):
        connections = [await connect(url) for _ in range(4)]
        for reader, _ in connections[:2]:
            assert await reader.read() == b""
        assert inside.most <= 3
        for _, writer in connections:
            writer.close()


async def test_a_flood_is_one_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REPORT_EVERY", 0.02)
    told = asyncio.Event()

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    logging.getLogger("proxy.door").addHandler(hearing := Hearing())
    try:
        cut_short = module.CutShort("unix:/x")
        for _ in range(1000):
            cut_short.add(Forbidden("not you"))
        async with asyncio.timeout(PATIENCE):
            await told.wait()
    finally:
        logging.getLogger("proxy.door").removeHandler(hearing)
    (record,) = caplog.records
    said: dict[str, Any] = vars(record)
    assert record.getMessage() == "1000 connections were cut short with 403: not you"
    assert (said["event"], said["listener"], said["connections"]) == ("cut-short", "unix:/x", 1000)
    assert (said["status"], said["error"]) == (403, "forbidden")


async def test_it_is_shut_although_somebody_always_stands_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An abstract socket has neither a filter nor a file: callers may knock without end. Here one is never let in."""
    monkeypatch.setattr(module, "BACKLOG", 64)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as caller:
        listening.bind(f"\0invoisys-proxy-test-{os.getpid()}")
        listening.listen()
        caller.connect(listening.getsockname())
        async with asyncio.timeout(PATIENCE):
            await module._let_in_the_last(listening.fileno())


@pytest.mark.needs("unshare", "ip")
def test_a_caller_who_has_begun_to_knock_is_let_in() -> None:
    """A handshake can be half done when the door is shut: the caller believes to be inside, and asks."""
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if not os.environ.get("CI") and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("left out: no network namespace is allowed here")
    caller = [*namespace, sys.executable, "-m", "tests.support.half_open"]
    said = subprocess.run(caller, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert said.stderr == "answered\n"


def test_the_event_loop_leaves_the_file_of_a_socket() -> None:
    def of_python_3_12(*, sock: object) -> None: ...

    def of_python_3_13(*, sock: object, cleanup_socket: bool = True) -> None: ...

    assert module._leave_file(of_python_3_12) == {}
    assert module._leave_file(of_python_3_13) == {"cleanup_socket": False}


async def test_all_addresses_of_a_name_are_told() -> None:
    door, inside = Door(Bind("localhost", 0), Socket()), Inside()
    try:
        urls = (await door.open(inside, inside.count, 1)).split(", ")
        for url in urls:
            host, _, port = url.removeprefix("http://").rpartition(":")
            assert (host, int(port) > 0) == ("localhost", True)
        assert door._servers
        assert len(urls) == len(door._servers[0].sockets)
    finally:
        await door.shut()
