"""Callers that take and do not give: each kind is bounded, a normal one is served meanwhile, and all comes back."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.config import written
from tests.support.processes import sidecar
from tests.support.wire import PATIENCE, BrokenOff, ask, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from tests.support.processes import Fake, Sidecar
    from tests.support.wire import Reply

    Caller = tuple[asyncio.StreamReader, asyncio.StreamWriter]

KIB, MIB = 1024, 1024 * 1024
PATH = "/api/nfe/getbychaveSTD/1"
HEAD = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()
INBOX = "/v1/nfe-entrada/eventos-nsui/12345678000195/0"
GONE = (BrokenOff, ConnectionError)


@contextlib.asynccontextmanager
async def callers(number: int, url: str, *said: bytes) -> AsyncIterator[list[Caller]]:
    """Connect so many, each of whom says the same."""
    connected: list[Caller] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while len(connected) < number:
                connected += await asyncio.gather(*(connect(url) for _ in range(min(250, number - len(connected)))))
                for _, writer in connected[-250:]:
                    writer.writelines(said)
        yield connected
    finally:
        for _, writer in connected:
            writer.close()


async def served(proxy: Sidecar) -> None:
    """Show that a normal caller is served, and the probes answer."""
    assert (await proxy.ask("GET", PATH)).status == 200
    for probe in ("/livez", "/readyz"):
        assert (await ask(proxy.admin, "GET", probe)).status == 200


async def back_to(files: int, proxy: Sidecar) -> None:
    """Ask until the process has no more files open than before, and serves."""
    async with asyncio.timeout(PATIENCE):
        while proxy.process.files > files or (await proxy.ask("GET", PATH)).status == 503:
            assert (await ask(proxy.admin, "GET", "/livez")).status == 200
    await served(proxy)


async def let_in(proxy: Sidecar) -> Caller:
    """Connect until there is a place, and keep it: those of callers who have left may not be free yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            reader, writer = await connect(proxy.url)
            writer.write(HEAD + b"\r\n")
            if (await read_reply(reader)).status == 200:
                return reader, writer
            writer.close()


async def answers(callers: Iterable[Caller]) -> list[Reply | BaseException]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(read_reply(reader) for reader, _ in callers), return_exceptions=True)


def cut_short(proxy: Sidecar, number: int) -> dict[str, object]:
    """Wait until the log has told of so many, and return the last line on them."""
    while True:
        line = proxy.process.event("cut-short")
        number -= line["connections"]
        if number <= 0:
            return line


# --- Heads that do not end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"GET /api", HEAD + b"X-A: b\r\n\r"], ids=len)
async def test_heads_that_do_not_end(fake: Fake, tmp_path: Path, begun: bytes) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"head": "700ms"})) as proxy:
        await served(proxy)
        files = proxy.process.files
        async with callers(200, proxy.url, begun) as slow:
            await served(proxy)
            for reply in await answers(slow):
                assert not isinstance(reply, BaseException)
                assert (reply.status, reply["X-Invoisys-Outcome"], reply["Connection"]) == (408, "not-sent", "close")
                assert reply.json()["type"] == "urn:invoisys-proxy:slow-head"
            assert [await reader.read() for reader, _ in slow] == [b""] * 200
            await back_to(files, proxy)
        assert cut_short(proxy, 200)["error"] == "slow-head"


async def test_a_head_that_comes_drop_by_drop(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"head": "500ms"})) as proxy:
        reader, writer = await connect(proxy.url)

        async def drip() -> None:
            writer.write(HEAD)
            while True:
                writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        ((reply,), _) = await asyncio.gather(answers([(reader, writer)]), served(proxy))
        dripping.cancel()
        writer.close()
        assert not isinstance(reply, BaseException)
        assert reply.status == 408


async def test_a_head_in_pieces_is_no_abuse(fake: Fake, tmp_path: Path) -> None:
    """Neither the limit for an empty connection nor that of an earlier head applies."""
    timeouts = {"head": "20s", "keep_alive": "300ms"}
    with sidecar(fake.url, "-c", written(tmp_path, timeouts=timeouts)) as proxy:
        async with callers(1, proxy.url, HEAD) as [(reader, writer)]:
            for _ in range(2):
                async with callers(1, proxy.url) as [(silent, _)]:
                    assert await silent.read() == b""  # that one had less time than the other has had by now
                writer.write(b"\r\n")
                assert (await read_reply(reader)).status == 200
                writer.write(HEAD)


async def test_a_head_that_waits_for_an_earlier_answer_is_not_to_blame(fake: Fake, tmp_path: Path) -> None:
    """Its time begins when that answer has ended."""
    await fake.do("answers", mode="slow", delay=1.5, times=1)
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"head": "1s"})) as proxy:
        async with callers(1, proxy.url, HEAD + b"\r\n") as [(reader, writer)]:
            await fake.reached(requests=1)
            writer.write(HEAD)
            assert (await read_reply(reader)).status == 200
            writer.write(b"\r\n")
            assert (await read_reply(reader)).status == 200


async def test_connections_without_a_request_are_closed(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"keep_alive": "500ms"})) as proxy:
        await served(proxy)
        files = proxy.process.files
        async with callers(100, proxy.url) as silent, callers(100, proxy.url, b"\r\n") as empty_lines:
            await served(proxy)
            assert [await reader.read() for reader, _ in [*silent, *empty_lines]] == [b""] * 200
            await back_to(files, proxy)


# --- Bodies that do not end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "name", "outcome"), [(100_000, "slow-body", "not-sent"), (100_000_000, "stalled-upload", "unknown")]
)
async def test_bodies_that_come_drop_by_drop(fake: Fake, tmp_path: Path, length: int, name: str, outcome: str) -> None:
    """Never still for long, and still no way to keep all connections to Invoisys."""
    config = written(tmp_path, timeouts={"idle": "600ms"}, limits={"connections": 5})
    with sidecar(fake.url, "-c", config) as proxy:
        await served(proxy)
        files = proxy.process.files
        head = f"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
        async with callers(5, proxy.url, head) as slow:

            async def drip() -> None:
                while True:
                    for _, writer in slow:
                        writer.write(b"x")
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            told, _ = await asyncio.gather(answers(slow), served(proxy))
            dripping.cancel()
            for reply in told:
                assert not isinstance(reply, BaseException)
                assert (reply.status, reply["X-Invoisys-Outcome"]) == (408, outcome)
                assert reply.json()["type"] == f"urn:invoisys-proxy:{name}"
                assert reply.json()["detail"] == "the body came at less than 1024 bytes a second"
        await back_to(files, proxy)


# --- Answers that are not read ----------------------------------------------------------------------------------------


NOT_READING = 24


async def not_reading(url: str, request: bytes) -> socket.socket:
    """Connect with as little room for an answer as there may be, and send."""
    parts = urlsplit(url)
    family = socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET
    caller = socket.socket(family)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    caller.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(caller, parts.path if parts.scheme == "unix" else (parts.hostname, parts.port))
    await loop.sock_sendall(caller, request)
    return caller


async def test_answers_that_are_not_read(fake: Fake, tmp_path: Path) -> None:
    """Whether the answer waits to go on, or waits whole for the connection to close: the caller is cut."""
    config = written(tmp_path, timeouts={"idle": "500ms"})
    with sidecar(fake.url, "-c", config, LISTEN=f"unix:{tmp_path}/s") as proxy:
        request = f"GET {INBOX} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        with contextlib.ExitStack() as open_now:
            ended = open_now.enter_context(select.epoll())
            for number in range(NOT_READING):
                await fake.do("inbox", documents=1, size=96 * KIB + number * 12 * KIB)
                caller = open_now.enter_context(await not_reading(proxy.url, request))
                ended.register(caller, select.EPOLLHUP | select.EPOLLONESHOT)
                await fake.reached(requests=number + 1)
            await served(proxy)
            left = NOT_READING
            while left:
                heard = await asyncio.to_thread(ended.poll, PATIENCE)
                assert heard
                left -= len(heard)


async def test_a_flood_of_requests_whose_answers_are_not_read(fake: Fake, tmp_path: Path) -> None:
    """50 MiB are asked for in one go; they do not pile up."""
    await fake.do("inbox", documents=1, size=20 * KIB)
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"idle": "1s"})) as proxy:
        await served(proxy)
        assert (await proxy.ask("GET", INBOX)).status == 200
        files, before = proxy.process.files, proxy.process.resident
        proxy.process.forget_peak()
        request = f"GET {INBOX} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with contextlib.closing(await not_reading(proxy.url, request * 100)) as caller:
            flood = asyncio.create_task(asyncio.get_running_loop().sock_sendall(caller, request * 2460))
            await fake.reached(requests=20)
            await served(proxy)
            assert proxy.process.files > files
            await back_to(files, proxy)
            flood.cancel()
            await asyncio.gather(flood, return_exceptions=True)
        assert proxy.process.peak - before < 8 * MIB
        assert (await fake.state())["requests"] < 1000


# --- Connections ------------------------------------------------------------------------------------------------------


async def test_a_flood_of_connections(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, limits={"caller_connections": 50})) as proxy:
        await served(proxy)
        files = proxy.process.files
        async with callers(48, proxy.url):
            await served(proxy)
            places = [await let_in(proxy) for _ in range(2)]
            async with callers(300, proxy.url, HEAD + b"\r\n") as too_many:
                assert (await ask(proxy.admin, "GET", "/readyz")).status == 200
                told = await answers(too_many)
                assert all(isinstance(each, GONE) for each in told if isinstance(each, BaseException))
                replies = [reply for reply in told if not isinstance(reply, BaseException)]
                assert len(replies) >= 64
                for reply in replies:
                    assert (reply.status, reply["X-Invoisys-Outcome"]) == (503, "not-sent")
                    assert (reply["Retry-After"], reply["Connection"]) == ("1", "close")
                    assert reply.json()["type"] == "urn:invoisys-proxy:too-many-connections"
                assert proxy.process.files <= files + 50 + 64 + 2
                assert cut_short(proxy, 300)["error"] == "too-many-connections"
            for _, writer in places:
                writer.close()
        await back_to(files, proxy)


async def test_a_flood_at_the_operators_port(fake: Fake) -> None:
    """There the newest is let in and the oldest must go: an orchestrator that gets no answer would restart us."""
    with sidecar(fake.url) as proxy:
        await served(proxy)
        files = proxy.process.files
        async with callers(300, proxy.admin) as idle:
            await served(proxy)
            assert [await reader.read() for reader, _ in idle[:200]] == [b""] * 200
            assert proxy.process.files <= files + 101
        await back_to(files, proxy)


async def test_one_who_is_turned_away_and_never_asks(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, limits={"caller_connections": 1})) as proxy:
        async with callers(1, proxy.url), callers(1, proxy.url) as [(reader, _)]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""


async def test_as_many_connections_as_open_files_allow(fake: Fake) -> None:
    """The operator's port and the way to Invoisys never lack a file."""
    with sidecar(fake.url, FILES="1024") as proxy:
        warning = next(event for event in proxy.process.events if event["event"] == "few-open-files")
        assert "each listener takes 504 connections at a time, not 16384" in warning["message"]
        async with callers(503, proxy.url) as idle:
            await served(proxy)
            async with callers(600, proxy.url):
                for probe in ("/livez", "/readyz"):
                    assert (await ask(proxy.admin, "GET", probe)).status == 200
                assert proxy.process.files < 1024
                reader, writer = idle[0]
                writer.write(HEAD + b"\r\n")
                assert (await read_reply(reader)).status == 200


IDLE = 10_000


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < IDLE + 1000,
    reason=f"left out: a process may not have {IDLE + 1000} files open here",
)
async def test_ten_thousand_idle_connections(fake: Fake) -> None:
    with sidecar(fake.url) as proxy:
        await served(proxy)
        files, before = proxy.process.files, proxy.process.resident
        async with callers(IDLE, proxy.url) as idle:
            await served(proxy)
            assert proxy.process.files >= files + IDLE
            assert (proxy.process.resident - before) / IDLE < 16 * KIB
            for place in (0, IDLE // 2, IDLE - 1):
                reader, writer = idle[place]
                writer.write(HEAD + b"\r\n")
                assert (await read_reply(reader)).status == 200
        await back_to(files, proxy)
