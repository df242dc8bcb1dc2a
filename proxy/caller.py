"""A caller's connection: aiohttp's server and parser, set up to hand requests over as they are.

What the parser cannot read gets a problem, and one line of log without its bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import EMPTY_PAYLOAD, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong

from proxy.errors import CallerError, Forbidden, HeadersTooLarge, MalformedRequest, SlowHead, TargetTooLong
from proxy.forward import Request, refusal
from proxy.guard import MAX_FIELDS, MAX_HEAD, MAX_TARGET
from proxy.intake import LONGEST_LINE, Intake
from proxy.unix import peer_uid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import StreamReader
    from aiohttp.http import HttpRequestParser, RawRequestMessage

    from proxy.door import Door
    from proxy.forward import Answer

    Handler = Callable[[Request], Awaitable[Answer]]
    Arrival = tuple[RawRequestMessage, StreamReader] | CallerError

log = logging.getLogger(__name__)

_UNREADABLE = "the bytes received are not an HTTP/1.1 request"

_MOST_WAITING = 64 * 1024
"""Bytes of further requests that a caller may send before its answer is there."""

_LONGEST_REST = 10.0
"""Seconds for the rest of a body that nobody wants: to close on it would reset the answer away."""

_OPTIONS: dict[str, Any] = {
    "access_log": None,  # `Forward` writes its own
    "auto_decompress": False,  # a body is opaque
    "max_line_size": LONGEST_LINE,
    "max_field_size": MAX_HEAD,
    "max_headers": MAX_FIELDS,
    "read_bufsize": 32 * 1024,
}


class Patience(Protocol):
    """How long callers are waited for, in seconds."""

    @property
    def head(self) -> float:
        """For a request's line and header section, from their first byte."""

    @property
    def keep_alive(self) -> float:
        """For the next request."""

    @property
    def idle(self) -> float:
        """For a caller that stands still inside a body or an answer."""


class CallerConnection(web.RequestHandler):
    """One caller's connection: bytes go through an `Intake` to aiohttp's parser, and requests to a `Handler`."""

    __slots__ = ("_arrived", "_callers", "_content", "_head_timer", "_intake", "leaving", "peer_uid")

    def __init__(self, callers: Callers, **options: Any) -> None:
        super().__init__(callers, **options)
        self._callers = callers
        self._intake = Intake()
        self._arrived: Arrival | None = None
        self._content: StreamReader = EMPTY_PAYLOAD  # the body of the request that came last
        self._head_timer: asyncio.TimerHandle | None = None
        self.leaving = False
        """The answer under way is the last on this connection."""
        self.peer_uid: int | None = None
        """The user at the other end, where it is known."""

    # --- As a `Caller` ------------------------------------------------------------------------------------------------

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What brings its requests to their end; none once it has gone."""
        return self._task_handler

    @property
    def address(self) -> str:
        """Where the caller is; empty on a Unix socket."""
        return self.peername[0] if isinstance(self.peername, tuple) else ""

    @property
    def has_all(self) -> bool:
        """Whether all of the request under way has come."""
        return self._intake.whole

    async def drain(self) -> None:
        """Wait until the caller has read most of what was written to it."""
        if self._paused and self.transport is not None:
            await self._drain_helper()

    # --- Bytes in -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the caller in, unless the listener is not for this user."""
        if self._callers.uids is not None:
            self.peer_uid = peer_uid(transport)
            if self._callers.uids and self.peer_uid not in self._callers.uids:
                why = Forbidden(f"the user with uid {self.peer_uid} is not among `uids` of the listener")
                farewell = self._callers.door.farewell(why)
                cast("asyncio.Transport", transport).set_protocol(farewell)
                farewell.connection_made(transport)
                return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the caller, and what refers back to this object: two that hold each other wait for the collector."""
        self._intake.stop()
        self._time_head()
        super().connection_lost(exc)
        self._arrived, self._content = None, EMPTY_PAYLOAD

    def data_received(self, data: bytes) -> None:
        """Take bytes from the caller; there are none where a body is read on of which the parser holds the rest."""
        if self._force_close:
            return
        if data:
            self._intake.add(data)
        else:
            self._parse(data)
        self._take_in()

    def _take_in(self) -> None:
        """Hand the parser what belongs to the request that is under way, and let the rest wait for its turn."""
        intake = self._intake
        try:
            while piece := intake.take():
                self._parse(piece)
        except CallerError as fault:
            self._break(fault, fault.name)
        if intake.has_trailers:
            self.leaving = True
        self._time_head()
        if len(intake.waiting) > _MOST_WAITING and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _parse(self, piece: bytes) -> None:
        parser, intake = cast("HttpRequestParser", self._parser), self._intake
        try:
            messages, self._upgraded, _ = parser.feed_data(piece)
        except HttpProcessingError as error:
            self._break(_fault(error), type(error).__name__)
            return
        if len(messages) != intake.head_ended:
            # Parser and intake disagree about where the request ends: a third one could read it in yet another way.
            self._break(MalformedRequest(_UNREADABLE), "disagreement")
            return
        for message, content in messages:
            parser.message_consumed()
            intake.expect(length=int(message.headers.get(hdrs.CONTENT_LENGTH, 0)), chunked=message.chunked)
            if hdrs.TRANSFER_ENCODING in message.headers and not message.chunked:
                self.leaving = True  # nobody can tell where it ends
            self._content = content
            self._arrive((message, content))

    def _break(self, fault: CallerError, kind: str) -> None:
        """Take in nothing more: what cannot be read is the rest of a body, or else a request."""
        self._intake.stop()
        if self._content.is_eof():
            # No word of the parser's: it quotes the request.
            log.warning("a malformed request was refused (%s)", kind, extra={"event": "malformed-request"})
            self._callers.on_malformed(fault.name)
            self._arrive(fault)
        else:
            self._content.set_exception(web.RequestPayloadError())
            self._content.feed_eof()

    def _arrive(self, arrival: Arrival) -> None:
        self._arrived = arrival
        if self._waits:
            cast("asyncio.Future[None]", self._waiter).set_result(None)

    @property
    def _waits(self) -> bool:
        """Whether no request is under way; one that has come is, before the task has had its turn too."""
        return self._waiter is not None and not self._waiter.done()

    # --- The time for a head ------------------------------------------------------------------------------------------

    def _time_head(self) -> None:
        """Give a head that has begun its time; where its caller waits for an earlier answer, that has yet to begin."""
        if self._intake.in_head and self._waits:
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(self._callers.patience.head, self._end_slow_head)
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow_head(self) -> None:
        self._head_timer = None
        limit = self._callers.patience.head
        why = SlowHead(f"the request line and header section were not complete {limit:g} s after their first byte")
        self._callers.door.cut_short.add(why)
        self._intake.stop()
        self._arrive(why)

    # --- Requests out -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Have the caller's requests answered, one after the other, for as long as it stays.

        This takes the place of aiohttp's own loop, which makes a task and three objects more for each request.
        """
        try:
            while not self._force_close and await self._serve(await self._next()):
                self._rest()
            await self._let_go_by()
        except asyncio.CancelledError:
            self.force_close()
            raise
        except ConnectionError:
            pass  # the caller has gone
        except Exception:
            # No word to the caller: nobody knows how much of an answer it has.
            log.exception("a connection met a defect of the sidecar", extra={"event": "defect"})
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _next(self) -> Arrival:
        if self._arrived is None:
            self._waiter = self._loop.create_future()
            self._time_head()
            try:
                await self._waiter
            finally:
                self._waiter = None
        else:
            await asyncio.sleep(0)  # who sends many at once is not served to the last before anybody else has a turn
        arrived, self._arrived = self._arrived, None
        return cast("Arrival", arrived)

    async def _serve(self, arrived: Arrival) -> bool:
        """Have one request answered, and tell whether another may follow on this connection."""
        if self.transport is None:
            return False  # cut in the moment in which the request came: nobody would hear the answer
        if isinstance(arrived, CallerError):
            self.transport.write(refusal(arrived))
            return False
        message, content = arrived
        self._request_in_progress = True  # `shutdown` waits for it
        try:
            answer = await self._callers.handler(Request(message, content, self))
            await answer.taken()
            # What follows an offer to leave HTTP, which was refused, may be no request.
            stays = answer.keep_alive and not self.leaving and not self._upgraded
            if stays and not content.is_eof():
                await self._skip(content)
        finally:
            self._request_in_progress = False
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        return stays and self._intake.whole and content.is_eof()

    async def _skip(self, content: StreamReader) -> None:
        """Read the rest of a body that nobody wants, for a while."""
        await asyncio.sleep(0)  # an upload that was given up leaves it first
        with contextlib.suppress(TimeoutError, web.RequestPayloadError):
            async with asyncio.timeout(_LONGEST_REST):
                while not content.is_eof():
                    await content.readany()

    def _rest(self) -> None:
        """Go on to the next request, and wait for it as long as a caller may rest."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        self._content = EMPTY_PAYLOAD
        self._intake.proceed()
        if self._buffer_paused:
            self._resume_reading_for_buffer()
        if self._intake.waiting:
            self._take_in()

    def _process_keepalive(self) -> None:
        """Leave a head that has begun to its own limit, so that its caller is told that it was not sent."""
        if self._head_timer is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    # --- The end ------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """End after the request that is under way; aiohttp's own `close` would not take in the rest of its body."""
        if self._waits:
            self.force_close()
        else:
            self.leaving = True

    async def _let_go_by(self) -> None:
        """Hear what the caller still sends, until it leaves or for a while: to close would reset the answer away."""
        transport = self.transport
        if transport is None or transport.is_closing() or self._has_all_and_no_more():
            return
        self._intake.stop()
        self._reading_paused = self._buffer_paused = False
        self._resume_transport_reading()
        with contextlib.suppress(OSError):  # it has left in this moment
            transport.write_eof()
        await asyncio.sleep(_LONGEST_REST)

    def _has_all_and_no_more(self) -> bool:
        return self._intake.whole and not self._intake.waiting and not self._upgraded


def _fault(error: Exception) -> CallerError:
    if isinstance(error, LineTooLong):
        if error.args[1] == LONGEST_LINE:
            return TargetTooLong(f"the request target is longer than {MAX_TARGET} bytes")
        return HeadersTooLarge(f"a field is longer than {MAX_HEAD} bytes")
    if isinstance(error, BadHttpMessage) and error.message == "Too many headers received":
        return HeadersTooLarge(f"the header section has more than {MAX_FIELDS} fields")
    return MalformedRequest(_UNREADABLE)


class Callers(web.Server):
    """All connections of one listener: aiohttp's low-level server, making connections of our own kind."""

    def __init__(
        self,
        handler: Handler,
        on_malformed: Callable[[str], None],
        door: Door,
        patience: Patience,
        uids: frozenset[int] | None,
    ) -> None:
        """`on_malformed` is told the error's name where a request could not be read.

        `uids` are the users let in, an empty set standing for all; there is none where no user is known.
        """
        # A caller that leaves cancels its own exchange; what others wait for runs in tasks of its own.
        super().__init__(_not_asked, handler_cancellation=True)
        self.handler = handler
        self.on_malformed = on_malformed
        self.door = door
        self.patience = patience
        self.uids = uids
        self._leaving: set[asyncio.Transport] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __call__(self) -> web.RequestHandler:
        """Make the connection of a caller who comes in."""
        return CallerConnection(
            self, loop=asyncio.get_running_loop(), keepalive_timeout=self.patience.keep_alive, **_OPTIONS
        )

    def part(self) -> None:
        """Have those leave who are not among `uids` any more."""
        for connection in self.connections:
            if self.uids and cast("CallerConnection", connection).peer_uid not in self.uids:
                cast("CallerConnection", connection).leave()

    def inside(self) -> int:
        """Return how many connections there are."""
        return len(self._connections)

    def sweep(self) -> None:
        """Cut those who were left the end of an answer to take, at the last sweep already, and have not taken it."""
        leaving = {transport for transport in self._connections.values() if transport.is_closing()}
        for transport in leaving & self._leaving:
            transport.abort()
        self._leaving = leaving
        self._sweeper = asyncio.get_running_loop().call_later(self.patience.idle, self.sweep)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's
        """End every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await super().shutdown(timeout)


async def _not_asked(_request: web.BaseRequest) -> web.StreamResponse:
    raise NotImplementedError  # `CallerConnection.start` asks the handler itself
