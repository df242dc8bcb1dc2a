from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from multidict import CIMultiDict

from proxy.errors import BrokenUpload, MalformedRequest, Outcome, ProxyError, SlowBody, StalledUpload
from proxy.forward import HeldBytes, Holder
from proxy.forward.headers import Framing
from tests.support.virtual import VirtualClock, run
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from proxy.forward import Request
    from proxy.forward.body import Body

SHORT = 0.02


def holder(cap: int = 10, budget: int = 1000, stall: float = PATIENCE) -> Holder:
    return Holder(cap, HeldBytes(budget), stall)


class Caller:
    """A request, and the hand that sends its body."""

    def __init__(self, *pieces: bytes, length: int | None = None, chunked: bool = False, whole: bool = True) -> None:
        loop = asyncio.get_running_loop()
        protocol = BaseProtocol(loop)
        protocol.connection_made(asyncio.Transport())
        self.content = StreamReader(protocol, 2**16, loop=loop)
        headers: CIMultiDict[str] = CIMultiDict()
        if length is not None:
            headers["content-length"] = str(length)
        if chunked:
            headers["transfer-encoding"] = "chunked"
        self.request = cast("Request", SimpleNamespace(headers=headers, content=self.content))
        for piece in pieces:
            self.content.feed_data(piece)
        if whole:
            self.content.feed_eof()

    def fails(self) -> None:
        self.content.set_exception(web.RequestPayloadError("the payload is not completed"))


async def on_the_wire(body: Body) -> bytes:
    if isinstance(body.wire, bytes):
        return body.wire
    return b"".join([piece async for piece in body.wire])


# --- Bodies that are held ---------------------------------------------------------------------------------------------


async def test_a_request_without_a_body() -> None:
    held = holder()
    body = await held.read(Caller().request)
    assert body.framing == Framing()
    assert body.wire == b""
    assert body.replayable
    with body:
        assert held.budget.taken == 0
    assert held.budget.taken == 0


@pytest.mark.parametrize(
    "pieces",
    [[b""], [b"1"], [b"1234567890"], [b"12345", b"67890"], [bytes([byte]) for byte in b"1234567890"]],
)
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_within_the_cap_is_held(pieces: list[bytes], chunked: bool) -> None:
    whole = b"".join(pieces)
    held = holder(cap=10)
    body = await held.read(Caller(*pieces, length=None if chunked else len(whole), chunked=chunked).request)
    with body:
        assert body.replayable
        assert body.wire == whole
        assert body.framing == Framing(len(whole))
        assert held.budget.taken == len(whole)
    assert held.budget.taken == 0


async def test_a_held_body_that_comes_slowly() -> None:
    caller = Caller(b"123", length=6, whole=False)
    reading = asyncio.create_task(holder().read(caller.request))
    await asyncio.sleep(0)
    assert not reading.done()
    caller.content.feed_data(b"456")
    await asyncio.sleep(0)
    caller.content.feed_eof()
    assert (await reading).wire == b"123456"


async def test_a_held_body_is_the_bytes_that_came() -> None:
    """One piece is not copied."""
    piece = b"12345"
    assert (await holder().read(Caller(piece, length=5).request)).wire is piece


# --- Bodies that stream -----------------------------------------------------------------------------------------------


async def test_a_body_that_says_it_is_large_streams_at_once() -> None:
    held = holder(cap=10)
    caller = Caller(length=11, whole=False)
    body = await held.read(caller.request)
    with body:
        assert not body.replayable
        assert body.framing == Framing(11)
        assert held.budget.taken == 0
        caller.content.feed_data(b"12345678901")
        caller.content.feed_eof()
        assert await on_the_wire(body) == b"12345678901"


async def test_a_chunked_body_that_turns_out_large_streams_on_behind_what_was_read() -> None:
    held = holder(cap=10)
    caller = Caller(b"12345", chunked=True, whole=False)
    reading = asyncio.create_task(held.read(caller.request))
    await asyncio.sleep(0)
    caller.content.feed_data(b"678901")
    body = await reading
    with body:
        assert not body.replayable
        assert body.framing == Framing(chunked=True)
        assert held.budget.taken == 5
        caller.content.feed_data(b"x" * 17)
        caller.content.feed_eof()
        assert await on_the_wire(body) == (b"5\r\n12345\r\n6\r\n678901\r\n11\r\nxxxxxxxxxxxxxxxxx\r\n0\r\n\r\n")
    assert held.budget.taken == 0


async def test_both_framings_of_a_streaming_body_are_the_callers() -> None:
    plain = await holder(cap=1).read(Caller(b"12", length=2).request)
    chunked = await holder(cap=1).read(Caller(b"12", chunked=True).request)
    assert await on_the_wire(plain) == b"12"
    assert await on_the_wire(chunked) == b"2\r\n12\r\n0\r\n\r\n"


async def test_past_the_budget_bodies_stream() -> None:
    held = holder(cap=10, budget=15)
    first = await held.read(Caller(b"1234567890", length=10).request)
    second = await held.read(Caller(b"123456", length=6).request)
    third = await held.read(Caller(b"12345", chunked=True).request)
    assert first.replayable
    assert not second.replayable
    assert second.framing == Framing(6)
    assert third.replayable
    assert held.budget.taken == 15
    assert await on_the_wire(second) == b"123456"
    for body in (first, second, third):
        with body:
            pass
    assert held.budget.taken == 0


async def test_a_streaming_body_comes_as_the_caller_sends_it() -> None:
    caller = Caller(length=100, whole=False)
    body = await holder(cap=10).read(caller.request)
    assert not isinstance(body.wire, bytes)
    pieces = aiter(body.wire)
    for piece in (b"one", b"two"):
        caller.content.feed_data(piece)
        assert await anext(pieces) == piece
    caller.content.feed_eof()
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)


# --- Callers that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pieces", "length"), [([], 5), ([b"123"], 5), ([b"123"], None)])
async def test_a_body_that_does_not_come(pieces: list[bytes], length: int | None) -> None:
    caller = Caller(*pieces, length=length, chunked=length is None, whole=False)
    with pytest.raises(SlowBody, match=r"^no byte of the body came for 0\.02 s$") as error:
        await holder(stall=SHORT).read(caller.request)
    assert type(error.value) is SlowBody
    assert error.value.outcome is Outcome.NOT_SENT


def at_a_pace(rate: float, seconds: float, *, cap: int, pause: float = 0.0) -> tuple[int, ProxyError | None]:
    """Send so many bytes a second, a piece each second, while upstream takes `pause` seconds over each."""
    got = 0
    failure: ProxyError | None = None

    async def play() -> None:
        nonlocal got, failure
        caller = Caller(chunked=True, whole=False)

        async def send() -> None:
            for _ in range(int(seconds)):
                caller.content.feed_data(b"x" * int(rate))
                await asyncio.sleep(1)
            caller.content.feed_eof()

        sending = asyncio.create_task(send())
        try:
            body = await holder(cap=cap, budget=2**30, stall=60).read(caller.request)
            if isinstance(body.wire, bytes):
                got = len(body.wire)
            else:
                async for piece in body.wire:
                    got += len(piece)
                    await asyncio.sleep(pause)
        except ProxyError as error:
            failure = error
        finally:
            sending.cancel()

    run(play(), VirtualClock())
    return got, failure


@pytest.mark.parametrize("cap", [2**30, 10])
def test_a_body_may_take_its_time(cap: int) -> None:
    got, failure = at_a_pace(1024, 3600, cap=cap)
    assert failure is None
    assert got >= 1024 * 3600


@pytest.mark.parametrize(("cap", "kind"), [(2**30, SlowBody), (10, StalledUpload)])
def test_a_body_that_all_but_stands_still(cap: int, kind: type[ProxyError]) -> None:
    _, failure = at_a_pace(1, 3600, cap=cap)
    assert type(failure) is kind
    assert failure.detail == "the body came at less than 1024 bytes a second"


def test_a_body_is_not_slow_because_upstream_is() -> None:
    got, failure = at_a_pace(1, 600, cap=10, pause=1.0)
    assert failure is None
    assert got > 600


async def test_a_malformed_body() -> None:
    caller = Caller(b"123", chunked=True, whole=False)
    reading = asyncio.create_task(holder().read(caller.request))
    await asyncio.sleep(0)
    caller.fails()
    with pytest.raises(MalformedRequest) as error:
        await reading
    assert error.value.outcome is Outcome.NOT_SENT


async def test_a_streaming_body_that_stands_still() -> None:
    body = await holder(cap=1, stall=SHORT).read(Caller(b"12", length=100, whole=False).request)
    assert not isinstance(body.wire, bytes)
    pieces = aiter(body.wire)
    assert await anext(pieces) == b"12"
    # Both limits are nearly the same here: two bytes buy two milliseconds.
    with pytest.raises(StalledUpload, match=r"no byte of the body came for 0\.02 s|less than 1024 bytes") as error:
        await anext(pieces)
    assert error.value.outcome is Outcome.UNKNOWN


async def test_a_streaming_body_that_turns_malformed() -> None:
    caller = Caller(b"12", chunked=True, whole=False)
    body = await holder(cap=1).read(caller.request)
    assert not isinstance(body.wire, bytes)
    pieces = aiter(body.wire)
    assert await anext(pieces) == b"2\r\n12\r\n"
    caller.fails()
    with pytest.raises(BrokenUpload) as error:
        await anext(pieces)
    assert error.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("how", ["slow", "malformed", "cancelled"])
async def test_a_body_that_was_not_read_up_gives_back_what_it_held(how: str) -> None:
    held = holder(stall=SHORT if how == "slow" else PATIENCE)
    caller = Caller(b"123", chunked=True, whole=False)
    reading = asyncio.create_task(held.read(caller.request))
    await asyncio.sleep(0)
    assert held.budget.taken == 3
    if how == "malformed":
        caller.fails()
    elif how == "cancelled":
        reading.cancel()
    with pytest.raises((ProxyError, asyncio.CancelledError)):
        await reading
    assert held.budget.taken == 0


@pytest.mark.parametrize("length", [2**53 + 1, 2**64 - 1])
async def test_a_length_that_no_body_has(length: int) -> None:
    with pytest.raises(MalformedRequest) as error:
        await holder().read(Caller(length=length, whole=False).request)
    assert error.value.outcome is Outcome.NOT_SENT


def test_the_budget() -> None:
    budget = HeldBytes(10)
    assert budget.take(7)
    assert not budget.take(4)
    assert budget.taken == 7
    assert budget.take(3)
    budget.give_back(7)
    assert budget.taken == 3
    assert budget.take(0)
