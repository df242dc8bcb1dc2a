"""A caller's connection: aiohttp's server and parser, set up to hand requests over as they are.

What the parser cannot read gets a problem, and one line of log without its bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from proxy.errors import Forbidden, HeadersTooLarge, MalformedRequest, SlowHead, TargetTooLong
from proxy.forward import Request, ascii_line, refusal
from proxy.guard import MAX_FIELDS, MAX_HEAD, MAX_TARGET
from proxy.unix import peer_uid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import StreamReader

    from proxy.door import Door
    from proxy.errors import CallerError, ProxyError
    from proxy.forward import Answer

    Handler = Callable[[Request], Awaitable[Answer]]

log = logging.getLogger(__name__)

_LONGEST_LINE = 16 * MAX_TARGET
"""Bytes of a request line as the parser sees it, with 8-bit bytes written out in ASCII."""

_REQUEST_LINE = re.compile(rb"[A-Z]+ [^ ]+ HTTP/1\.[01]\r")

_LARGEST_HEAD = 2 * MAX_HEAD
"""Bytes of a head that does not end, after which its connection is closed."""

_LONGEST_REST = 10.0
"""Seconds for the rest of a body that nobody wants: to close on it would reset the answer away."""

_OPTIONS: dict[str, Any] = {
    "access_log": None,  # `Forward` writes its own
    "auto_decompress": False,  # a body is opaque
    "max_line_size": _LONGEST_LINE,
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
    """One caller's connection: request lines reach aiohttp's parser in ASCII, and requests go to a `Handler`."""

    __slots__ = ("_callers", "_head_bytes", "_head_timer", "_line", "_payload", "peer_uid")

    def __init__(self, callers: Callers, **options: Any) -> None:
        super().__init__(callers, **options)
        self._callers = callers
        self._line = b""  # the beginning of a request line that has not come whole
        self._payload: StreamReader = EMPTY_PAYLOAD  # of the request that was parsed last
        self._head_bytes = 0  # of a head that has not come whole
        self._head_timer: asyncio.TimerHandle | None = None
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
        """Forget the caller."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the caller, and see to it that a head which has begun comes to its end."""
        self._receive(data)
        if self._line or self._head_bytes:
            self._time_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_head(self) -> None:
        """Give a head that has begun its time; where its caller waits for an earlier answer, that has yet to begin."""
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._callers.patience.head, self._end_slow_head)

    def _receive(self, data: bytes) -> None:
        """Know where a request begins: where the one before has ended."""
        between = self._payload.is_eof()
        if data and between and not self._head_bytes:
            data = self._line + data
            end = data.find(b"\n")
            if end < 0 and data[:1].isupper() and len(data) <= _LONGEST_LINE:
                self._line = data
                return
            self._line = b""
            line = data[:end]
            if not line.isascii() and _REQUEST_LINE.fullmatch(line):
                data = ascii_line(line) + data[end:]
        before, unfinished = self._request_count, self._payload
        super().data_received(data)
        if self._request_count != before:
            message, self._payload = self._messages[-1]
            self._head_bytes = 0
            if not isinstance(message, RawRequestMessage) and not unfinished.is_eof():
                # What cannot be parsed is the rest of this body: whoever reads it would wait for ever.
                unfinished.set_exception(web.RequestPayloadError())
                unfinished.feed_eof()
        elif between and data.strip(b"\r\n"):  # an empty line may come before a request: RFC 9112, section 2.2
            self._head_bytes += len(data)
            if self._head_bytes > _LARGEST_HEAD:
                self.force_close()

    def _end_slow_head(self) -> None:
        """Answer a caller that sends its head drop by drop."""
        self._head_timer = None
        if self.transport is None or self._force_close:
            return
        limit = self._callers.patience.head
        why = SlowHead(f"the request line and header section were not complete {limit:g} s after their first byte")
        self._callers.door.cut_short.add(why)
        self._turn_away(why)

    # --- Requests out -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Have the caller's requests answered, one after the other, for as long as it stays.

        This takes the place of aiohttp's own loop, which makes a task and three objects more for each request.
        """
        try:
            while not self._force_close:
                message, content = await self._next()
                if self.transport is None:
                    break  # cut in the moment in which the request came: nobody would hear the answer
                self._request_in_progress = True  # `shutdown` waits for it
                try:
                    stays = await self._answer(message, content)
                finally:
                    self._request_in_progress = False
                    if self._handler_waiter is not None and not self._handler_waiter.done():
                        self._handler_waiter.set_result(None)
                if self._close or not stays:
                    break
                self._rest()
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

    async def _next(self) -> tuple[Any, StreamReader]:
        """Return the next request; aiohttp's parser takes in a few more than one ahead."""
        if not self._messages:
            self._waiter = self._loop.create_future()
            if self._line or self._head_bytes:
                self._time_head()
            try:
                await self._waiter
            finally:
                self._waiter = None
        taken = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return taken

    async def _answer(self, message: Any, content: StreamReader) -> bool:
        """Have one request answered, and tell whether another may follow on this connection."""
        if not isinstance(message, RawRequestMessage):
            self._turn_away(self._unreadable(message.exc))
            return False
        answer = await self._callers.handler(Request(message, content, self))
        await answer.taken()
        if not content.is_eof():
            await self._skip(content)
        return answer.keep_alive and not self._upgraded  # to what was refused, so that no request follows

    async def _skip(self, content: StreamReader) -> None:
        """Read the rest of a body that nobody wants, for a while."""
        await asyncio.sleep(0)  # an upload that was given up leaves it first
        with contextlib.suppress(TimeoutError, web.RequestPayloadError):
            async with asyncio.timeout(_LONGEST_REST):
                while not content.is_eof():
                    await content.readany()
        if not content.is_eof():
            self.close()

    def _rest(self) -> None:
        """Wait for the next request, for as long as a caller may rest."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def _process_keepalive(self) -> None:
        """Leave a head that has begun to its own limit, so that its caller is told that it was not sent."""
        if self._head_timer is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    # --- The end ------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """End after the request that is under way; aiohttp's own `close` leaves an idle connection open."""
        if self._waiter is None or self._waiter.done():  # done: one has come, and is under way with the next turn
            self.close()
        else:
            self.force_close()

    def _turn_away(self, why: ProxyError) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(refusal(why))
        self.force_close()

    def _unreadable(self, error: Exception) -> CallerError:
        """Count and log what the parser could not read; its own message quotes the request."""
        log.warning("a malformed request was refused (%s)", type(error).__name__, extra={"event": "malformed-request"})
        fault = _fault(error)
        self._callers.on_malformed(fault.name)
        return fault


def _fault(error: Exception) -> CallerError:
    if isinstance(error, LineTooLong):
        if error.args[1] == _LONGEST_LINE:
            return TargetTooLong(f"the request target is longer than {MAX_TARGET} bytes")
        return HeadersTooLarge(f"a field is longer than {MAX_HEAD} bytes")
    if isinstance(error, BadHttpMessage) and error.message == "Too many headers received":
        return HeadersTooLarge(f"the header section has more than {MAX_FIELDS} fields")
    return MalformedRequest("the bytes received are not an HTTP/1.1 request")


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
