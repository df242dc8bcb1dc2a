from __future__ import annotations

import asyncio
import gc
import hashlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.errors import AnswerTimedOut, BrokenUpload, ConnectionLost, MalformedAnswer, Outcome, UpstreamError
from proxy.upstream.connection import Connection
from tests.support.origin import Limits, Visit, client, read_all, releasing, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.upstream import Exchange

GET = b"GET /api/nfe HTTP/1.1\r\nHost: invoisys.test\r\n\r\n"
POST = b"POST /api/nfe HTTP/1.1\r\nHost: invoisys.test\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
MIB = 1024 * 1024
SHORT = 0.05


def large_post(size: int) -> bytes:
    return b"POST /api/nfe HTTP/1.1\r\nHost: invoisys.test\r\nContent-Length: %d\r\n\r\n" % size


async def answer(visit: Visit) -> None:
    while True:
        await visit.head()
        await visit.say(OK)


class Upload:
    """A body that stops after its first piece, until it is told to go on."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            yield b"5\r\nfirst\r\n"
            await self.go_on.wait()
            if self._error is not None:
                raise self._error
            yield b"4\r\nlast\r\n"
            yield b"0\r\n\r\n"
        finally:
            self.ended.set()


FIRST = len(b"5\r\nfirst\r\n")
LAST = len(b"4\r\nlast\r\n0\r\n\r\n")


# --- One exchange -----------------------------------------------------------------------------------------------------


async def test_a_request_and_its_answer() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            assert not exchange.sent_whole
            await exchange.send(GET, b"")
            assert exchange.sent_whole
            assert exchange.response.status == 200
            assert exchange.response.headers == [(b"Content-Length", b"5")]
            assert await read_all(exchange) == b"hello"
            assert await exchange.read() == b""
            assert exchange.reusable
        assert origin.seen == [GET]


async def test_the_answer_to_head() -> None:
    async def script(visit: Visit) -> None:
        while True:
            await visit.head()
            await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    async with upstream(script) as origin, client(origin.port) as pool:
        for _ in range(2):
            with releasing(await pool.begin(head_only=True)) as exchange:
                await exchange.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", b"")
                assert await read_all(exchange) == b""
                assert exchange.response.length == 5
        assert len(origin.visits) == 1


async def test_an_answer_up_to_the_end_of_the_connection() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\nno length")
        visit.close()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert await read_all(exchange) == b"no length"
            assert not exchange.reusable


async def test_interim_answers_are_passed_over() -> None:
    asked = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await asked.wait()
        await visit.say(OK)

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            sending = asyncio.create_task(exchange.send(GET, b""))
            while not exchange.response.heard:  # noqa: ASYNC110 - `send` must say nothing of it
                await asyncio.sleep(0)
            assert not sending.done()
            asked.set()
            await sending
            assert exchange.response.status == 200
            assert await read_all(exchange) == b"hello"


@pytest.mark.parametrize("size", [1, 64 * 1024, 64 * 1024 + 1, 4 * MIB])
async def test_a_held_body_arrives_whole_and_once(size: int) -> None:
    body = hashlib.shake_128(b"body").digest(size)

    async def script(visit: Visit) -> None:
        await visit.head()
        assert await visit.take(size) == body
        await visit.say(OK)

    async with upstream(script, receive_buffer=8192) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(large_post(size), body)
            assert await read_all(exchange) == b"hello"
            assert exchange.sent_whole
            assert exchange.reusable
        assert origin.seen == [large_post(size) + body]


async def test_a_streaming_body_arrives_as_it_comes() -> None:
    upload = Upload()

    async def script(visit: Visit) -> None:
        await visit.head()
        assert await visit.take(FIRST) == b"5\r\nfirst\r\n"
        upload.go_on.set()
        assert await visit.take(LAST) == b"4\r\nlast\r\n0\r\n\r\n"
        await visit.say(OK)

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(POST, upload)
            assert await read_all(exchange) == b"hello"
            assert exchange.reusable
        assert origin.seen == [POST + b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n"]


async def test_a_slow_upstream_slows_the_upload_down() -> None:
    made = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(50):
            made += 1
            yield bytes(MIB)

    stalled = asyncio.Event()

    async def script(visit: Visit) -> None:
        visit.stop_reading()
        await stalled.wait()
        visit.read_on()
        head = await visit.head()
        await visit.take(50 * MIB)
        assert head == large_post(50 * MIB)
        await visit.say(OK)

    async with upstream(script, receive_buffer=8192) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            sending = asyncio.create_task(exchange.send(large_post(50 * MIB), body()))
            while exchange._connection._writable is None:  # noqa: ASYNC110 - nothing tells that a transport is full
                await asyncio.sleep(0)
            assert made < 20
            stalled.set()
            await sending
            assert made == 50
            assert await read_all(exchange) == b"hello"


async def test_a_slow_caller_slows_the_answer_down() -> None:
    piece, count = hashlib.shake_128(b"piece").digest(MIB), 50
    said = 0

    async def script(visit: Visit) -> None:
        nonlocal said
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * MIB))
        for _ in range(count):
            await visit.say(piece)
            said += 1

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            while not exchange._connection._reading_paused:  # noqa: ASYNC110 - the point is that nobody is told
                await asyncio.sleep(0)
            for _ in range(1000):  # all that can still happen
                await asyncio.sleep(0)
            assert said < count // 2
            most, total = exchange.response.buffered, 0
            digest = hashlib.sha256()
            while got := await exchange.read():
                digest.update(got)
                total += len(got)
                most = max(most, exchange.response.buffered, len(got))
            assert total == count * MIB
            assert digest.digest() == hashlib.sha256(piece * count).digest()
            assert most <= 512 * 1024
            assert exchange.reusable


# --- What goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Visit.close, Visit.cut, Visit.finish])
@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_connection_that_ends_before_the_head(how: Callable[[Visit], None], beginning: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        if beginning:
            await visit.say(beginning)
        how(visit)
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(ConnectionLost) as error:
                await exchange.send(GET, b"")
            assert error.value.outcome is Outcome.UNKNOWN
            assert not exchange.reusable
        await origin.visit.gone.wait()
        assert origin.seen == [GET]


@pytest.mark.parametrize("how", [Visit.close, Visit.finish])
@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n"],
)
async def test_a_connection_that_ends_in_the_body(how: Callable[[Visit], None], head: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(head + b"hello")
        how(visit)
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            await origin.visit.gone.wait()
            assert await exchange.read() == b"hello"
            for _ in range(2):
                with pytest.raises(ConnectionLost):
                    await exchange.read()
        assert origin.seen == [GET]


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"]
)
async def test_a_malformed_answer(data: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(data)
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(MalformedAnswer) as error:
                await exchange.send(GET, b"")
            assert error.value.outcome is Outcome.UNKNOWN
            await origin.visit.gone.wait()
        assert origin.seen == [GET]


async def test_a_body_that_turns_malformed() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(MalformedAnswer):
                await exchange.send(GET, b"")
            assert await exchange.read() == b"hello"
            with pytest.raises(MalformedAnswer):
                await exchange.read()


async def test_no_answer_in_time() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port, limits=Limits(response=SHORT)) as pool:
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(AnswerTimedOut, match=r"^no answer within 0\.05 s$") as error:
                await exchange.send(GET, b"")
            assert error.value.outcome is Outcome.UNKNOWN
            await origin.visit.gone.wait()
        assert origin.seen == [GET]


async def test_an_answer_that_stands_still() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port, limits=Limits(idle=SHORT)) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert await exchange.read() == b"hello"
            with pytest.raises(AnswerTimedOut, match=r"^the answer stood still for 0\.05 s$"):
                await exchange.read()
            await origin.visit.gone.wait()


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_request_that_is_not_taken(streaming: bool) -> None:
    size = 50 * MIB

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(MIB)

    async def script(visit: Visit) -> None:
        visit.stop_reading()
        await visit.gone.wait()

    async with upstream(script, receive_buffer=8192) as origin, client(origin.port, limits=Limits(idle=SHORT)) as pool:
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(AnswerTimedOut, match=r"^the request was not taken for 0\.05 s$") as error:
                await exchange.send(large_post(size), stream() if streaming else bytes(size))
            assert error.value.outcome is Outcome.UNKNOWN
            assert not exchange.sent_whole


async def test_a_request_that_is_lost_on_its_way() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.cut()

    async with upstream(script, receive_buffer=8192) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(ConnectionLost):
                await exchange.send(large_post(50 * MIB), bytes(50 * MIB))
            assert not exchange.sent_whole
        assert len(origin.visits) == 1


@pytest.mark.parametrize(
    ("raised", "expected", "outcome"),
    [
        (BrokenUpload("the framing of the body is malformed"), BrokenUpload, Outcome.UNKNOWN),
        (RuntimeError("a defect"), ConnectionLost, Outcome.UNKNOWN),
    ],
)
async def test_a_body_that_cannot_be_had(raised: Exception, expected: type[UpstreamError], outcome: Outcome) -> None:
    upload = Upload(raised)

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.take(FIRST)
        upload.go_on.set()
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(expected) as error:
                await exchange.send(POST, upload)
            assert error.value.outcome is outcome
            assert not exchange.sent_whole
            assert not exchange.reusable
            await origin.visit.gone.wait()
        assert origin.seen == [POST + b"5\r\nfirst\r\n"]


async def test_a_body_that_cannot_be_had_after_an_early_head() -> None:
    upload = Upload(BrokenUpload("the framing of the body is malformed"))

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(POST, upload)
            upload.go_on.set()
            with pytest.raises(BrokenUpload):
                await exchange.read()


# --- Answers before the end of the request ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("early", "status"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\nexpired", 401),
        (b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 7\r\n\r\nexpired", 413),
        (b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nexpired\r\n0\r\n\r\n", 500),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nexpired", 200),
    ],
)
async def test_an_early_answer_is_heard_and_ends_the_upload(early: bytes, status: int) -> None:
    upload = Upload()

    async def script(visit: Visit) -> None:
        if len(origin.visits) == 1:
            await visit.head()
            await visit.take(FIRST)
            await visit.say(early)
            await visit.gone.wait()
        else:
            await answer(visit)

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(POST, upload)
            assert exchange.response.status == status
            assert await read_all(exchange) == b"expired"
            await upload.ended.wait()
            assert not exchange.sent_whole
            assert not exchange.reusable
        await origin.visit.gone.wait()
        assert origin.seen == [POST + b"5\r\nfirst\r\n"]
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert await read_all(exchange) == b"hello"
        assert len(origin.visits) == 2


async def test_an_early_refusal_ends_the_upload_before_its_own_body_has_come() -> None:
    upload = Upload()

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\n")
        await upload.ended.wait()
        await visit.say(b"expired")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(POST, upload)
            assert exchange.response.status == 401
            assert await read_all(exchange) == b"expired"


async def test_an_early_refusal_reaches_a_large_held_body() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.stop_reading()
        await visit.say(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        await visit.gone.wait()

    async with upstream(script, receive_buffer=8192) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(large_post(50 * MIB), bytes(50 * MIB))
            assert exchange.response.status == 413
            assert not exchange.reusable


async def test_an_early_head_lets_the_upload_go_on() -> None:
    upload = Upload()

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.take(FIRST)
        await visit.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await visit.take(LAST)
        await visit.say(b"4\r\ndone\r\n0\r\n\r\n")

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(POST, upload)
            assert exchange.response.status == 200
            assert not exchange.sent_whole
            upload.go_on.set()
            assert await read_all(exchange) == b"done"
            assert exchange.sent_whole
            assert exchange.reusable
        assert origin.seen == [POST + b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n"]


# --- Settling and releasing -------------------------------------------------------------------------------------------


async def test_settling_keeps_the_answer_for_later() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        exchange = await pool.begin()
        await exchange.send(GET, b"")
        assert await exchange.settle(5)
        exchange.release()
        with releasing(await pool.begin()) as other:
            await other.send(GET, b"")
            assert await read_all(exchange) == b"hello"
            assert await read_all(other) == b"hello"
        assert origin.seen == [GET + GET]


async def test_settling_does_not_wait_for_a_large_answer() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\n")
        await visit.say(b"123456")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert not await exchange.settle(5)
            assert await exchange.read() == b"123456"


async def test_settling_waits_for_the_rest() -> None:
    waiting = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\n12345")
        await waiting.wait()
        await visit.say(b"67890")

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            settling = asyncio.create_task(exchange.settle(100))
            await asyncio.sleep(0)
            waiting.set()
            assert await settling
            assert await read_all(exchange) == b"1234567890"


@pytest.mark.parametrize("cut", [True, False])
async def test_an_answer_that_fails_does_not_settle(cut: bool) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\n12345")
        if cut:
            visit.close()
        await visit.gone.wait()

    limits = Limits() if cut else Limits(idle=SHORT)
    async with upstream(script) as origin, client(origin.port, limits=limits) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert not await exchange.settle(100)


async def test_releasing_twice_is_releasing_once() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        first = await pool.begin()
        await first.send(GET, b"")
        await first.settle(100)
        first.release()
        first.release()
        with releasing(await pool.begin()) as second:
            first.release()
            await second.send(GET, b"")
            assert await read_all(second) == b"hello"
            first.release()
        assert origin.seen == [GET + GET]


async def test_releasing_early_closes_the_connection() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
        await origin.visit.gone.wait()
        assert origin.seen == [GET]


async def test_an_exchange_that_sent_nothing_leaves_the_connection_as_it_was() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            assert exchange.reusable
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert await read_all(exchange) == b"hello"
        assert origin.seen == [GET]


async def test_releasing_ends_the_upload() -> None:
    upload = Upload()

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(POST, upload)
        await upload.ended.wait()
        await origin.visit.gone.wait()
        assert origin.seen == [POST + b"5\r\nfirst\r\n"]


async def test_a_failure_that_nobody_waits_for_is_not_complained_about() -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        visit.cut()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            await origin.visit.gone.wait()
        del exchange
    gc.collect()
    assert not said


# --- Time -------------------------------------------------------------------------------------------------------------


class ManualLoop:
    """A clock that stands until it is moved, and the timers that hang on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[asyncio.TimerHandle] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self.now

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        pass

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, (), cast("asyncio.AbstractEventLoop", self))
        self.timers.append(timer)
        return timer

    @property
    def pending(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in self.timers if not timer.cancelled()]

    def pass_by(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.pending if timer.when() <= end]:
            timer = min(due, key=asyncio.TimerHandle.when)
            self.timers.remove(timer)
            self.now = timer.when()
            timer._run()
        self.now = end


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self, socket: object) -> None:
        super().__init__({"socket": socket})
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Bench:
    """A connection in no network and in no time: `response` is 100 seconds, `idle` 10."""

    def __init__(self) -> None:
        self.clock = ManualLoop()
        self.freed: list[Connection] = []
        self.connection = Connection(Limits(response=100, idle=10), self.freed.append)
        self.connection.loop = cast("asyncio.AbstractEventLoop", self.clock)
        self.wire = Wire(0)
        self.connection.connection_made(self.wire)
        self.exchange = self.connection.begin(head_only=False)


async def sending(exchange: Exchange, head: bytes, body: bytes | Upload = b"") -> asyncio.Task[None]:
    task = asyncio.create_task(exchange.send(head, body))
    await asyncio.sleep(0)
    return task


async def run_ready() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_time_for_the_head() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    bench.clock.pass_by(99.9)
    assert not bench.wire.aborted
    bench.clock.pass_by(0.1)
    assert bench.wire.aborted
    with pytest.raises(AnswerTimedOut, match="no answer within 100 s"):
        await sent


async def test_part_of_a_head_gives_no_more_time() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    bench.clock.pass_by(60)
    bench.connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    bench.clock.pass_by(40)
    with pytest.raises(AnswerTimedOut, match="no answer within 100 s"):
        await sent


async def test_an_answer_may_take_long_as_long_as_it_comes() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    bench.clock.pass_by(90)
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    await sent
    for _ in range(100):
        bench.clock.pass_by(9.9)
        bench.connection.data_received(b"x")
        assert len(bench.clock.pending) == 1
    bench.clock.pass_by(9.9)
    assert not bench.wire.aborted
    bench.clock.pass_by(0.1)
    assert bench.wire.aborted


async def test_a_slow_caller_is_not_upstreams_delay() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(300_000))
    await sent
    bench.clock.pass_by(1000)
    assert not bench.wire.aborted
    assert len(await bench.exchange.read()) == 300_000
    bench.clock.pass_by(9.9)
    assert not bench.wire.aborted
    bench.clock.pass_by(0.1)
    assert bench.wire.aborted


async def test_a_whole_answer_waits_for_its_caller_without_limit() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    bench.connection.data_received(OK)
    await sent
    bench.clock.pass_by(1000)
    assert await bench.exchange.read() == b"hello"
    bench.exchange.release()
    assert bench.freed == [bench.connection]
    assert not bench.wire.aborted


async def test_a_slow_caller_may_upload_without_limit() -> None:
    bench, upload = Bench(), Upload()
    sent = await sending(bench.exchange, POST, upload)
    await run_ready()
    bench.clock.pass_by(1000)
    assert not bench.wire.aborted
    upload.go_on.set()
    await run_ready()
    assert bench.exchange.sent_whole
    bench.clock.pass_by(100)
    with pytest.raises(AnswerTimedOut, match="no answer within 100 s"):
        await sent


async def test_an_upload_that_upstream_takes_slowly_is_not_cut() -> None:
    bench, upload = Bench(), Upload()
    bench.connection.pause_writing()
    sent = await sending(bench.exchange, POST, upload)
    await run_ready()
    bench.clock.pass_by(9.9)
    bench.connection.resume_writing()
    await run_ready()
    bench.clock.pass_by(1000)
    assert not bench.wire.aborted
    upload.go_on.set()
    await run_ready()
    bench.connection.data_received(OK)
    await sent


async def test_the_time_to_rest_ends_with_the_rest() -> None:
    bench, upload = Bench(), Upload()
    sent = await sending(bench.exchange, GET)
    bench.connection.data_received(OK)
    await sent
    bench.exchange.release()
    bench.connection.rest(45)
    bench.exchange = bench.connection.begin(head_only=False)
    assert bench.exchange.kept
    sent = await sending(bench.exchange, POST, upload)
    await run_ready()
    bench.clock.pass_by(1000)
    assert not bench.wire.aborted
    upload.go_on.set()
    await run_ready()
    bench.connection.data_received(OK)
    await sent


@pytest.mark.parametrize("paused", [False, True])
async def test_an_upload_may_outlast_an_early_head(paused: bool) -> None:
    """Upstream waits for the rest of the request, and the caller takes its time: nobody is late."""
    bench, upload = Bench(), Upload()
    if paused:
        bench.connection.pause_writing()
    sent = await sending(bench.exchange, POST, upload)
    await run_ready()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    await sent
    if paused:
        bench.connection.resume_writing()
        await run_ready()
    bench.clock.pass_by(1000)
    assert not bench.wire.aborted
    upload.go_on.set()
    await run_ready()
    bench.connection.data_received(b"hello")
    assert await read_all(bench.exchange) == b"hello"
    assert bench.exchange.reusable


@pytest.mark.parametrize("paused", [False, True])
async def test_after_an_early_head_and_the_upload_the_answer_must_come(paused: bool) -> None:
    bench, upload = Bench(), Upload()
    if paused:
        bench.connection.pause_writing()
    sent = await sending(bench.exchange, POST, upload)
    await run_ready()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    await sent
    if paused:
        bench.connection.resume_writing()
    upload.go_on.set()
    await run_ready()
    assert bench.exchange.sent_whole
    bench.clock.pass_by(100)
    assert bench.wire.aborted


async def test_a_closed_connection_leaves_no_timer() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    assert len(bench.clock.pending) == 1
    sent.cancel()
    bench.exchange.release()
    assert bench.wire.aborted
    assert not bench.clock.pending


async def test_an_answer_that_ends_before_its_request_leaves_no_timer() -> None:
    bench, upload = Bench(), Upload()
    sent = await sending(bench.exchange, POST, upload)
    await run_ready()
    bench.connection.data_received(OK)
    await sent
    bench.clock.pass_by(1000)
    assert not bench.wire.aborted
    assert await read_all(bench.exchange) == b"hello"
    bench.exchange.release()
    assert bench.wire.aborted


async def test_a_slow_caller_who_takes_up_again_after_the_upload_is_timed() -> None:
    bench, upload = Bench(), Upload()
    sent = await sending(bench.exchange, POST, upload)
    await run_ready()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(300_000))
    await sent
    upload.go_on.set()
    await run_ready()
    assert bench.exchange.sent_whole
    bench.clock.pass_by(1000)
    assert not bench.wire.aborted
    await bench.exchange.read()
    bench.clock.pass_by(10)
    assert bench.wire.aborted


async def test_one_timer_serves_many_exchanges() -> None:
    bench = Bench()
    for _ in range(10):
        sent = await sending(bench.exchange, GET)
        bench.connection.data_received(OK)
        await sent
        bench.exchange.release()
        bench.connection.rest(45)
        assert len(bench.clock.pending) == 1
        bench.clock.pass_by(1)
        bench.exchange = bench.connection.begin(head_only=False)
    assert len(bench.clock.timers) == 2  # the first, and the one that it was brought forward to


async def test_bytes_that_nobody_asked_for_end_a_resting_connection() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    bench.connection.data_received(OK)
    await sent
    bench.exchange.release()
    assert not bench.wire.aborted
    bench.connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert bench.wire.aborted
    assert bench.connection.closed


async def test_the_end_of_a_resting_connection() -> None:
    bench = Bench()
    sent = await sending(bench.exchange, GET)
    bench.connection.data_received(OK)
    await sent
    bench.exchange.release()
    bench.connection.eof_received()
    bench.connection.connection_lost(None)
    assert bench.connection.closed
