from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from proxy.errors import CannotConnect, ConnectionLost, MethodNotAllowed
from proxy.forward.answer import CallerGone
from tests.support.callers import serving
from tests.support.origin import Visit, client, releasing, upstream
from tests.support.wire import PATIENCE, connect, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.forward import Request
    from proxy.forward.answer import Answer

GET = b"GET /api/nfe HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"HEAD /api/nfe HTTP/1.1\r\nHost: localhost\r\n\r\n"
OLD = b"GET /api/nfe HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
ORIGIN = b"https://api.invoisys.test"


@contextlib.asynccontextmanager
async def relaying(
    *answer: bytes | asyncio.Event, close: bool = False, stall: float = PATIENCE, gone: asyncio.Event | None = None
) -> AsyncIterator[str]:
    """Serve what an upstream says, piece by piece, each after its event."""

    async def script(visit: Visit) -> None:
        while True:
            await visit.head()
            for part in answer:
                if isinstance(part, asyncio.Event):
                    await part.wait()
                else:
                    await visit.say(part)
            if close:
                visit.close()

    async def handler(request: Request, answer: Answer) -> None:
        with releasing(await pool.begin(head_only=request.method == "HEAD")) as exchange:
            await exchange.send(GET, b"")
            try:
                await answer.relay(exchange, ORIGIN)
            except ConnectionLost:
                answer.break_off()
            except CallerGone:
                assert gone is not None
                gone.set()
                raise

    async with upstream(script) as origin, client(origin.port) as pool, serving(handler, stall) as url:
        yield url


async def everything(url: str, request: bytes) -> bytes:
    """Send a request, and read until the end of the connection."""
    reader, writer = await connect(url)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def exactly(url: str, request: bytes, expected: bytes) -> bool:
    """Show that just these bytes come, and return whether the connection takes another request."""
    reader, writer = await connect(url)
    try:
        writer.write(request)
        assert await reader.readexactly(len(expected)) == expected
        writer.write(request)
        try:
            again = await reader.read(1)
        except ConnectionResetError:
            return False
        assert again in (b"", expected[:1])
        return again != b""
    finally:
        writer.close()


# --- Answers of upstream ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "answer", "expected", "kept"),
    [
        (
            GET,
            (
                b"HTTP/1.1 201 Feito \xe3\r\nX-a: \xff\r\nx-A: 2\r\nContent-Length: 2\r\n"
                b"Connection: x-gone\r\nX-Gone: 1\r\n\r\nhi"
            ),
            b"HTTP/1.1 201 Feito \xe3\r\nX-a: \xff\r\nx-A: 2\r\nContent-Length: 2\r\n\r\nhi",
            True,
        ),
        (
            GET,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x\r\ni\r\n0\r\nX-Trailer: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            True,
        ),
        (
            GET,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            True,
        ),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (GET, b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n", True),
        (
            HEAD,
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
            True,
        ),
        (HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", True),
        (
            OLD,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi",
            True,
        ),
        (
            OLD,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi",
            False,
        ),
        (OLD, b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 204 No\r\nConnection: keep-alive\r\n\r\n", True),
        (
            GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
            False,
        ),
        (
            GET,
            b"HTTP/1.1 302 Found\r\nLocation: https://api.invoisys.test/x\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
            True,
        ),
    ],
)
async def test_an_answer_is_passed_on(request_: bytes, answer: bytes, expected: bytes, kept: bool) -> None:
    async with relaying(answer) as url:
        assert await exactly(url, request_, expected) is kept


async def test_a_body_up_to_the_end_of_upstreams_connection() -> None:
    async with relaying(b"HTTP/1.1 200 OK\r\n\r\nhello", close=True) as url:
        reply = await send(url, GET)
        assert reply["Transfer-Encoding"] == "chunked"
        assert reply.body == b"hello"
        assert await everything(url, OLD) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


@pytest.mark.parametrize(
    ("head", "pieces", "expected"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"],
            [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"],
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", [b"one", b"two"], [b"one", b"two"]),
    ],
)
async def test_a_body_is_passed_on_as_it_comes(head: bytes, pieces: list[bytes], expected: list[bytes]) -> None:
    turns = [asyncio.Event() for _ in pieces]
    parts = [part for pair in zip(turns, pieces, strict=True) for part in pair]
    async with relaying(head, *parts) as url:
        reader, writer = await connect(url)
        writer.write(GET)
        assert await reader.readuntil(b"\r\n\r\n") == head
        for turn, piece in zip(turns, expected, strict=True):
            turn.set()
            assert await reader.readexactly(len(piece)) == piece
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
    ],
)
@pytest.mark.parametrize("old", [False, True])
async def test_an_answer_that_breaks_off_breaks_off_here_too(head: bytes, old: bool) -> None:
    turn = asyncio.Event()
    async with relaying(head + b"hello", turn, close=True) as url:
        reader, writer = await connect(url)
        writer.write(OLD if old else GET)
        await reader.readuntil(b"hello")
        turn.set()
        if old:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert b"0\r\n\r\n" not in await reader.read()
        writer.close()


# --- Answers of our own -----------------------------------------------------------------------------------------------


def own(
    status: bytes, fields: bytes, body: bytes, *, last: bytes = b"", kind: bytes = b"application/problem+json"
) -> bytes:
    return (
        b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n%b%b\r\n%b"
        % (status, kind, len(body), fields, last, body)
    )  # fmt: skip


PROBLEM = (
    b'{"type":"urn:invoisys-proxy:cannot-connect","title":"Invoisys could not be reached","status":502,'
    b'"detail":"no route","origin":"upstream","outcome":"not-sent","request_id":"7"}'
)
OUTCOME = b"X-Invoisys-Outcome: not-sent\r\nProxy-Status: invoisys-proxy; error=destination_unavailable\r\n"


@pytest.mark.parametrize(
    ("request_", "expected", "kept"),
    [
        (GET, own(b"502 Bad Gateway", OUTCOME, PROBLEM), True),
        (HEAD, own(b"502 Bad Gateway", OUTCOME, PROBLEM)[: -len(PROBLEM)], True),
        (OLD, own(b"502 Bad Gateway", OUTCOME, PROBLEM, last=b"Connection: keep-alive\r\n"), True),
        (
            b"GET / HTTP/1.0\r\n\r\n",
            own(b"502 Bad Gateway", OUTCOME, PROBLEM, last=b"Connection: close\r\n"),
            False,
        ),
    ],
)
async def test_a_refusal(request_: bytes, expected: bytes, kept: bool) -> None:
    async def handler(request: Request, answer: Answer) -> None:
        assert not answer.begun
        assert answer.status == 0
        answer.refuse(CannotConnect("no route"), "7")
        assert answer.begun
        assert answer.status == 502
        assert answer.sent == (0 if request.method == "HEAD" else len(PROBLEM))

    async with serving(handler) as url:
        assert await exactly(url, request_, expected) is kept


async def test_a_refusal_may_be_the_last_answer() -> None:
    async def handler(request: Request, answer: Answer) -> None:
        answer.close_after()
        assert not answer.keep_alive
        answer.refuse(MethodNotAllowed("the sidecar is not a tunnel"), "7")

    async with serving(handler) as url:
        reply = await send(url, GET)
        assert reply["Connection"] == "close"
        assert reply["Allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        assert json.loads(reply.body)["origin"] == "caller"
        assert await everything(url, GET + GET) == await everything(url, GET)


async def test_json_of_our_own() -> None:
    async def handler(request: Request, answer: Answer) -> None:
        answer.give(b"{}")

    async with serving(handler) as url:
        expected = own(b"200 OK", b"", b"{}", kind=b"application/json;charset=UTF-8")
        assert await exactly(url, GET, expected)


async def test_a_caller_that_waits_is_told_to_go_on() -> None:
    async def handler(request: Request, answer: Answer) -> None:
        answer.go_on()
        assert not answer.begun
        assert await request.content.read() == b"hi"
        answer.give(b"{}")

    async with serving(handler) as url:
        reader, writer = await connect(url)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


# --- Callers that leave -----------------------------------------------------------------------------------------------


async def test_a_caller_that_has_gone() -> None:
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handler(request: Request, answer: Answer) -> None:
        assert request.caller.transport is not None
        request.caller.transport.close()
        with pytest.raises(CallerGone):
            answer.give(b"{}")
        answer.break_off()
        told.set_result(answer.keep_alive)

    async with serving(handler) as url:
        assert await everything(url, GET) == b""
        assert await told is False


async def test_a_caller_who_takes_nothing_holds_upstream_for_a_while_only() -> None:
    size, gone = 50 * 1024 * 1024, asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    async with relaying(head, bytes(size), stall=0.05, gone=gone) as url:
        reader, writer = await connect(url)
        writer.write(GET)
        await gone.wait()
        assert len(await reader.read()) < size
        writer.close()


async def test_breaking_off_after_the_connection_is_lost() -> None:
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handler(request: Request, answer: Answer) -> None:
        assert request.caller.transport is not None
        request.caller.transport.abort()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert request.caller.transport is None
            answer.break_off()
            told.set_result(answer.keep_alive)
            raise

    async with serving(handler) as url:
        with contextlib.suppress(ConnectionResetError):
            await everything(url, GET)
        assert await told is False
