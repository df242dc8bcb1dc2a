"""One connection to upstream: a request is written once, its answer is read, and it is known how far each got.

Opening a connection writes nothing of a request; from the moment `Exchange.send` is called, every failure is one of
unknown outcome. There is no path on which a request is written twice.
"""

from __future__ import annotations

import asyncio
import select
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from proxy.errors import AnswerTimedOut, ConnectionLost, ProxyError
from proxy.upstream.response import Response

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterable, Callable

    from proxy.config import Origin

_ONE_WRITE = 64 * 1024
"""A request up to this many bytes goes to the transport in one piece, with no task to send it."""

_HIGH_WATER = 256 * 1024
"""Bytes of an answer that may wait for a slow caller before upstream is no longer read."""

_FIRST_REFUSAL = 400

CAUSES = ("idle", "upstream", "abandoned", "failed", "stopped")
"""Why a connection ends: it rested for too long, upstream closed it or said that it would, an exchange was not brought
to its end by us or by the caller, or it failed, or the sidecar stopped."""


class Timeouts(Protocol):
    """How long upstream may take, in seconds."""

    @property
    def response(self) -> float:
        """From the last byte of the request to the head of the answer."""

    @property
    def idle(self) -> float:
        """Between two pieces of a body, either way."""


class Exchange:
    """One request written to upstream and its response read back; whoever holds it calls `release` at the end."""

    __slots__ = ("_connection", "_failure", "_headed", "_more", "_upload", "kept", "response", "sent_whole", "written")

    def __init__(self, connection: Connection, *, head_only: bool) -> None:
        self._connection = connection
        self._headed: asyncio.Future[bool] = connection.loop.create_future()  # false where there will be no head
        self._more: asyncio.Future[None] | None = None  # set while `read` waits
        self._upload: asyncio.Task[None] | None = None
        self._failure: ProxyError | None = None
        self.response = Response(head_only=head_only)
        self.kept = connection.exchanges > 0
        """The connection was kept from an earlier exchange: upstream may have closed it in the meantime."""
        self.written = False
        """A byte of the request was handed over."""
        self.sent_whole = False
        """The last byte of the request was handed over: upstream may act on it."""

    async def send(self, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
        """Write the request; return when the head of the answer is there, even if that is before the last byte.

        Raises `ConnectionLost`, `MalformedAnswer` or `AnswerTimedOut`, and what iterating over the body raises.
        """
        self.written = True
        if isinstance(body, bytes) and len(body) <= _ONE_WRITE:
            self._connection.write(head + body)
            self._sent()
        else:
            self._upload = self._connection.loop.create_task(self._send(head, body))
            self._upload.add_done_callback(self._upload_done)
        if not await self._headed:
            raise cast("ProxyError", self._failure)

    async def read(self) -> bytes:
        """Return the next piece of the answer's body, `b""` at its end; raises as `send` does."""
        while not self.response.buffered and not self.response.ended:
            await self._arrival()
        piece = self.response.take()
        self._connection.resume_reading()
        return piece

    async def settle(self, limit: int) -> bool:
        """Wait for the whole answer and tell whether it came; a body of more than `limit` bytes is not waited for.

        The body stays where it is, so that an exchange can be released now and its answer passed on later.
        """
        try:
            while not self.response.ended and self.response.buffered <= limit:
                await self._arrival()
        except ProxyError:
            return False
        return self.response.ended

    def release(self) -> None:
        """Give the connection back, once; one whose answer was not read to its end is closed."""
        self._stop_upload()
        # An error that was raised refers to all frames it went through, and one of them holds the body of the request.
        self._upload = self._failure = None
        self.response.close()
        self._connection.end(self)

    @property
    def audience(self) -> Origin | None:
        """The server at the other end, by which it is known whose token may be sent."""
        return self._connection.audience

    @property
    def reusable(self) -> bool:
        """Whether request and answer ended where they should, so that the connection may carry another exchange."""
        if not self.written:
            return True
        response = self.response
        return response.ended and self.sent_whole and response.keep_alive and not response.excess

    # --- The request ----------------------------------------------------------------------------------------------

    async def _send(self, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
        connection = self._connection
        connection.write(head)
        if isinstance(body, bytes):
            view = memoryview(body)
            for start in range(0, len(view), _ONE_WRITE):
                connection.write(view[start : start + _ONE_WRITE])
                await connection.drain()
        else:
            async for piece in body:
                connection.write(piece)
                await connection.drain()

    def _upload_done(self, upload: asyncio.Task[None]) -> None:
        if upload.cancelled():
            return
        error = upload.exception()
        if error is None:
            self._sent()
        elif isinstance(error, ProxyError):
            self._connection.fail(error, "abandoned")
        else:
            self._connection.fail(ConnectionLost("the request could not be sent to its end"), "abandoned")

    def _sent(self) -> None:
        self.sent_whole = True
        self._connection.expect_answer()

    def _stop_upload(self) -> None:
        if self._upload is not None:
            self._upload.cancel()

    # --- The answer, as the connection hands it over --------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take bytes of the answer; raises `MalformedAnswer`."""
        response = self.response
        response.feed(data)
        if response.headed:
            if response.ended or response.status >= _FIRST_REFUSAL:
                self._stop_upload()  # upstream has decided without the rest
            self._wake()

    def received_eof(self) -> None:
        """Take the end of the connection; raises `ConnectionLost`."""
        self.response.feed_eof()
        self._wake()

    def failed(self, error: ProxyError) -> None:
        """Take the reason why no more will come."""
        self._stop_upload()
        if self.response.ended or self._failure is not None:
            return
        self._failure = error
        if not self._headed.done():
            self._headed.set_result(False)
        self._wake()

    async def _arrival(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._more = self._connection.loop.create_future()
        await self._more

    def _wake(self) -> None:
        if not self._headed.done():
            self._headed.set_result(True)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


def _watch(connected: socket.socket) -> Callable[[], object]:
    """Return a function whose result is true where anything has arrived at a socket, be it an end."""
    if not hasattr(select, "poll"):  # Windows
        return lambda: select.select([connected], [], [], 0)[0]
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return partial(poll.poll, 0)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection to upstream, with one exchange at a time."""

    def __init__(
        self,
        timeouts: Timeouts,
        on_free: Callable[[Connection], None],
        ended: Counter[str] | None = None,
        audience: Origin | None = None,
    ) -> None:
        """`on_free` is called at the end of each exchange, whether the connection is still open or not.

        `ended` counts why connections end.
        """
        self.loop = asyncio.get_running_loop()
        self.audience = audience
        self.closed = False
        self.exchanges = 0
        """How many have ended."""
        self._timeouts = timeouts
        self._on_free = on_free
        self._ended = Counter() if ended is None else ended
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport
        self._writable: asyncio.Future[None] | None = None  # set while the transport can take no more
        self._reading_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None

    # --- Exchanges ------------------------------------------------------------------------------------------------

    def begin(self, *, head_only: bool) -> Exchange:
        """Return a new exchange, of which nothing is written yet."""
        self._disarm()  # the time to rest is over
        self._exchange = Exchange(self, head_only=head_only)
        return self._exchange

    def end(self, exchange: Exchange) -> None:
        """End an exchange: the connection is free again, or closed if it cannot carry another."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self.exchanges += 1
        if not exchange.reusable:
            self.close("upstream" if exchange.response.ended else "abandoned")
        self._on_free(self)

    def rest(self, seconds: float) -> None:
        """Stay open for `seconds` more without an exchange, then close."""
        self._arm(seconds)

    def is_fresh(self) -> bool:
        """Whether a rested connection is still good.

        A byte or an end that lies there unread means that upstream has given the connection up, and that what is
        written now may be lost: to ask the kernel first makes that loss rare.
        """
        return self.is_open() and not self._arrived()

    def is_open(self) -> bool:
        """Whether neither side has closed the connection, as far as is known."""
        return not self.closed and not self._transport.is_closing()

    def close(self, cause: str) -> None:
        """Close at once; what is not sent yet is dropped."""
        if not self.closed:
            self.closed = True
            self._ended[cause] += 1
            self._disarm()
            self._transport.abort()

    def fail(self, error: ProxyError, cause: str | None = None) -> None:
        """Close, and tell the exchange under way why."""
        under_way = self._exchange is not None and not self._exchange.response.ended
        self.close(cause or ("failed" if under_way else "upstream"))
        if self._exchange is not None:
            self._exchange.failed(error)

    # --- Flow in both directions ----------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Hand bytes of the request to the transport."""
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the transport takes more; upstream may leave it waiting for `timeouts.idle`."""
        if self._writable is not None:
            self._arm(self._timeouts.idle)
            await self._writable
            self._disarm()

    def expect_answer(self) -> None:
        """Start the time that upstream has for its answer, now that it has the whole request."""
        exchange = self._exchange
        if exchange is None or exchange.response.ended or self._reading_paused:
            return
        self._arm(self._timeouts.idle if exchange.response.headed else self._timeouts.response)

    def resume_reading(self) -> None:
        """Go on reading, where a slow caller had made the connection stop."""
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
            self._expect_more()

    # --- What the transport tells ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._arrived = _watch(transport.get_extra_info("socket"))
        # asyncio's own TLS tells an end that the peer announced from one that an attacker may have made in no way.
        self._eof_is_sure = transport.get_extra_info("ssl_object") is None or type(self.loop).__module__ == "uvloop"

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.close("upstream")  # nobody asked for anything
            return
        try:
            self._exchange.received(data)
        except ProxyError as error:
            self.fail(error)
            return
        response = self._exchange.response
        if response.ended:
            self._disarm()
        elif response.buffered > _HIGH_WATER:
            self._reading_paused = True
            self._transport.pause_reading()
            self._disarm()  # now it is the caller who is slow
        elif response.headed:
            self._expect_more()

    def eof_received(self) -> None:
        if self._exchange is not None and self._eof_is_sure:
            try:
                self._exchange.received_eof()
            except ProxyError as error:
                self.fail(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.fail(ConnectionLost("the connection ended before the answer was whole"))

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # --- Time -----------------------------------------------------------------------------------------------------
    # One timer serves every deadline of a connection. It is set anew only where it would fire too late, so that an
    # exchange costs no timer of its own.

    def _arm(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(self._deadline, self._tick)

    def _expect_more(self) -> None:
        """Start the time that upstream has for the next piece of its answer; while it takes the request, it has any."""
        if self._exchange is not None and self._exchange.sent_whole:
            self._arm(self._timeouts.idle)

    def _disarm(self) -> None:
        self._deadline = None
        if self.closed and self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._tick)
        else:
            self.fail(self._timed_out(), "idle" if self._exchange is None else "failed")

    def _timed_out(self) -> AnswerTimedOut:
        exchange = self._exchange
        if exchange is None or exchange.response.headed:
            return AnswerTimedOut(f"the answer stood still for {self._timeouts.idle:g} s")
        if exchange.sent_whole:
            return AnswerTimedOut(f"no answer within {self._timeouts.response:g} s")
        return AnswerTimedOut(f"the request was not taken for {self._timeouts.idle:g} s")
