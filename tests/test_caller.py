"""A caller's connection, at the moments in which two things happen at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import StreamReader, hdrs, web

from proxy import caller
from proxy.errors import Draining, MalformedRequest
from proxy.forward import HeldBytes, Holder
from proxy.intake import Intake
from tests.support.callers import serving
from tests.support.wire import connect, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proxy.caller import CallerConnection
    from proxy.forward import Request
    from proxy.forward.answer import Answer
    from tests.support.callers import Handler

GET = b"GET /api/nfe HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Served:
    """A connection that has been served once and rests, from both ends; every request gets `{}`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def handle(self, request: Request, answer: Answer) -> None:
        self.requests.append(request)
        answer.give(b"{}")

    @property
    def connection(self) -> CallerConnection:
        return cast("CallerConnection", self.requests[0].caller)

    @contextlib.asynccontextmanager
    async def once(self) -> AsyncIterator[asyncio.StreamReader]:
        async with serving(self.handle) as url:
            reader, writer = await connect(url)
            writer.write(GET)
            await read_reply(reader)
            yield reader
            writer.close()


async def test_a_request_that_comes_while_its_caller_is_to_leave_is_answered() -> None:
    served = Served()
    async with served.once() as reader:
        served.connection.data_received(GET)
        served.connection.leave()
        assert (await read_reply(reader)).status == 200
        assert await reader.read() == b""
        assert len(served.requests) == 2


async def test_a_request_that_comes_while_its_connection_is_cut_goes_nowhere() -> None:
    served = Served()
    async with served.once() as reader:
        served.connection.data_received(GET)
        served.connection.force_close()
        assert await reader.read() == b""
        assert len(served.requests) == 1


async def test_what_is_left_of_an_upload_that_was_given_up_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever read it has yet to hear that it was given up."""

    async def give_up(request: Request, answer: Answer) -> None:
        upload = asyncio.create_task(request.content.readany())
        await asyncio.sleep(0)  # now it waits for more
        upload.cancel()
        answer.refuse(Draining("the sidecar gave the request up"), "-")

    async with serving(give_up) as url:
        reader, writer = await connect(url)
        for _ in range(2):
            writer.write(b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
            assert (await read_reply(reader)).status == 503
            writer.write(b"12345")
        writer.close()
    assert not caplog.records


async def test_a_caller_that_is_to_leave_gets_its_upload_to_its_end_and_is_told() -> None:
    """The rest of the body is still taken in, and the answer says that it is the last."""
    come: asyncio.Queue[Request] = asyncio.Queue()
    bodies = []

    async def take(request: Request, answer: Answer) -> None:
        come.put_nowait(request)
        await request.content.wait_eof()
        bodies.append(request.content.read_nowait())
        answer.give(b"{}")

    async with serving(take) as url:
        reader, writer = await connect(url)
        writer.write(b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
        cast("CallerConnection", (await come.get()).caller).leave()
        writer.write(b"cd")
        reply = await read_reply(reader)
        assert (reply.status, ("Connection", "close") in reply.fields, bodies) == (200, True, [b"abcd"])
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET /api/nfe HTTP/1.1\r\n\r\n",
        b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
        b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\nConnection: close\r\n\r\n",
        b"GET /api/nfe HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a" * 70_000,
    ],
    ids=["no-host", "bad-chunk", "unread-body", "large-field"],
)
async def test_a_caller_that_is_refused_while_it_sends_hears_it_and_is_not_reset(beginning: bytes) -> None:
    async def refuse(request: Request, answer: Answer) -> None:
        if hdrs.TRANSFER_ENCODING in request.headers:
            with pytest.raises(web.RequestPayloadError):
                await request.content.readany()
        answer.close_after()
        answer.refuse(Draining("not now"), "-")

    async with serving(refuse) as url:
        reader, writer = await connect(url)
        writer.write(beginning)
        status = (await read_reply(reader)).status
        assert status in (400, 431, 503)
        for _ in range(64):  # as much as no buffer of the kernel takes
            writer.write(b"a" * 65_536)
            await writer.drain()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_caller_that_does_not_stop_sending_is_not_heard_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "_LONGEST_REST", 0.05)
    served = Served()
    async with serving(served.handle) as url:
        reader, writer = await connect(url)
        writer.write(b"GET /api/nfe HTTP/1.1\r\n\r\n")
        assert (await read_reply(reader)).status == 400
        with contextlib.suppress(ConnectionError):
            while not writer.transport.is_closing():
                writer.write(b"a" * 65_536)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_requests_beyond_the_one_under_way_wait_in_the_kernel() -> None:
    """A caller cannot have the sidecar keep what it sends ahead of its answers."""
    come: asyncio.Queue[Request] = asyncio.Queue()
    go_on = asyncio.Event()

    async def handle(request: Request, answer: Answer) -> None:
        come.put_nowait(request)
        await go_on.wait()
        answer.give(b"{}")

    async with serving(handle) as url:
        reader, writer = await connect(url)
        writer.write(GET * 200_000)
        connection = cast("CallerConnection", (await come.get()).caller)
        while not connection._buffer_paused:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
        assert len(connection._intake.waiting) < 1024 * 1024
        go_on.set()
        for _ in range(1000):
            assert (await read_reply(reader)).status == 200
        writer.transport.abort()


async def test_a_flood_of_requests_on_one_connection_leaves_others_their_turn() -> None:
    served = Served()
    async with serving(served.handle) as url:
        reader, writer = await connect(url)
        other, others = await connect(url)
        writer.write(GET * 20_000)
        await read_reply(reader)
        others.write(GET)
        assert (await read_reply(other)).status == 200
        assert len(served.requests) < 10_000
        writer.transport.abort()
        others.close()


@pytest.mark.parametrize(
    "line", [b"GET /" + b"a" * 70_000, b"A" * 300_000, b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n\r\n"]
)
async def test_a_request_line_that_is_too_long_is_refused_at_once(line: bytes) -> None:
    served = Served()
    async with serving(served.handle) as url:
        reader, writer = await connect(url)
        writer.write(line)
        assert (await read_reply(reader)).status == 414
        writer.close()


async def test_a_caller_that_resets_after_its_refusal_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(request: Request, answer: Answer) -> None:
        answer.close_after()
        answer.refuse(Draining("not now"), "-")
        caller_socket = writer.get_extra_info("socket")
        caller_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await asyncio.sleep(0)  # in which it is closed
        gone.set()

    gone = asyncio.Event()
    async with serving(refuse) as url:
        _, writer = await connect(url)
        writer.write(b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
        await gone.wait()
        for _ in range(5):
            await asyncio.sleep(0)
    assert not caplog.records


# --- What is left of a request ----------------------------------------------------------------------------------------


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


BODY = b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
BROKEN = b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nz\r\n"


def alive(kind: type) -> int:
    return sum(type(each) is kind for each in gc.get_objects())


def reading(*, reads: bool) -> Handler:
    """Answer after the body was read, or without."""
    holder = Holder(1000, HeldBytes(1000), 30)

    async def handle(request: Request, answer: Answer) -> None:
        try:
            if reads:
                await holder.read(request)
        except MalformedRequest as error:
            answer.close_after()
            answer.refuse(error, "-")
        else:
            answer.give(b"{}")

    return handle


@pytest.mark.usefixtures("without_collector")
async def test_a_connection_that_rests_holds_nothing_of_its_last_request() -> None:
    async with serving(reading(reads=False)) as url:
        reader, writer = await connect(url)
        for _ in range(2):
            writer.write(BODY)
            await read_reply(reader)
        await asyncio.sleep(0)
        assert alive(StreamReader) == 0
        assert alive(Intake) == 1
        writer.close()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("sent", [BODY, BROKEN], ids=["whole", "broken"])
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
async def test_a_connection_that_has_ended_is_gone_without_the_collector(sent: bytes, *, reads: bool) -> None:
    async with serving(reading(reads=reads)) as url:
        reader, writer = await connect(url)
        writer.write(sent)
        await read_reply(reader)
        writer.close()
        other, others = await connect(url)
        others.write(GET)
        await read_reply(other)
        assert (alive(StreamReader), alive(Intake)) == (0, 1)
        others.close()
