"""Where callers come in: aiohttp's server, set up to hand requests over as they are and to say little of bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from proxy.door import Door
from proxy.errors import Forbidden, HeadersTooLarge, InternalError, MalformedRequest, SlowHead, TargetTooLong
from proxy.forward import Answer, ascii_line, refusal
from proxy.guard import MAX_FIELDS, MAX_HEAD, MAX_TARGET
from proxy.unix import peer_uid, uids_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp import StreamReader

    from proxy.config import Listener as Config
    from proxy.door import TakeSockets
    from proxy.errors import CallerError
    from proxy.forward import Forward

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.02
"""Seconds between two looks at whether slow callers have taken their answers."""

_LINGER = 0.5
"""Seconds in which a caller on a kept connection may ask once more, and hear that the sidecar is stopping."""

_LAST_WORDS = 0.1
"""Seconds for a cut request to end in."""

_LONGEST_LINE = 16 * MAX_TARGET
"""Bytes of a request line as the parser sees it, with 8-bit bytes written out in ASCII."""

_REQUEST_LINE = re.compile(rb"[A-Z]+ [^ ]+ HTTP/1\.[01]\r")

_LARGEST_HEAD = 2 * MAX_HEAD
"""Bytes of a head that does not end, after which its connection is closed."""

_OPTIONS: dict[str, Any] = {
    "access_log": None,  # `Forward` writes its own
    "auto_decompress": False,  # a body is opaque
    "max_line_size": _LONGEST_LINE,
    "max_field_size": MAX_HEAD,
    "max_headers": MAX_FIELDS,
    "read_bufsize": 64 * 1024,
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
    """One caller's connection.

    Request lines reach aiohttp's parser in ASCII, and what it cannot parse gets a problem, and one line of log without
    its bytes.
    """

    __slots__ = ("_head_bytes", "_head_timer", "_line", "_payload", "_server", "peer_uid")

    def __init__(self, server: _Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._line = b""  # the beginning of a request line that has not come whole
        self._payload: StreamReader = EMPTY_PAYLOAD  # of the request that was parsed last
        self._head_bytes = 0  # of a head that has not come whole
        self._head_timer: asyncio.TimerHandle | None = None
        self.peer_uid: int | None = None
        """The user at the other end, where it is known."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the caller in, unless the listener is not for this user."""
        if self._server.uids is not None:
            self.peer_uid = peer_uid(transport)
            if self._server.uids and self.peer_uid not in self._server.uids:
                why = Forbidden(f"the user with uid {self.peer_uid} is not among `uids` of the listener")
                farewell = self._server.door.farewell(why)
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
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(self._server.patience.head, self._end_slow_head)
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

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
            if not data.isascii() and _REQUEST_LINE.fullmatch(line := data[:end]):
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
        """Answer a caller that sends its head drop by drop; one that waits for an earlier answer is not to blame."""
        self._head_timer = None
        if self.transport is None or self._force_close:
            return
        if self._waiter is None:
            self._head_timer = self._loop.call_later(self._server.patience.head, self._end_slow_head)
            return
        limit = self._server.patience.head
        why = SlowHead(f"the request line and header section were not complete {limit:g} s after their first byte")
        self._server.door.cut_short.add(why)
        self.transport.write(refusal(why))
        self.force_close()

    def leave(self) -> None:
        """End after the request that is under way; aiohttp's own `close` leaves an idle connection open."""
        if self._waiter is None:
            self.close()
        else:
            self.force_close()

    def _process_keepalive(self) -> None:
        """Leave a head that has begun to its own limit, so that its caller is told that it was not sent."""
        if self._head_timer is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's message quotes the request
    ) -> web.StreamResponse:
        """Answer for aiohttp's parser, which could not read a request."""
        if isinstance(exc, ConnectionError):
            raise exc  # the caller has gone
        answer = Answer(request, self._server.patience.idle)
        answer.close_after()
        if status < InternalError.status:
            log.warning(
                "a malformed request was refused (%s)", type(exc).__name__, extra={"event": "malformed-request"}
            )
            fault = _fault(exc)
            self._server.forward.meter.was_malformed(fault.name)
            answer.refuse(fault, "-")
        else:
            log.error("a request met a defect of the sidecar", exc_info=exc, extra={"event": "defect"})
            answer.refuse(InternalError("a defect of the sidecar; its log tells more"), "-")
        return answer


def _fault(error: BaseException | None) -> CallerError:
    """Name what the parser found; its own message quotes the request."""
    if isinstance(error, LineTooLong):
        if error.args[1] == _LONGEST_LINE:
            return TargetTooLong(f"the request target is longer than {MAX_TARGET} bytes")
        return HeadersTooLarge(f"a field is longer than {MAX_HEAD} bytes")
    if isinstance(error, BadHttpMessage) and error.message == "Too many headers received":
        return HeadersTooLarge(f"the header section has more than {MAX_FIELDS} fields")
    return MalformedRequest("the bytes received are not an HTTP/1.1 request")


class _Server(web.Server):
    """aiohttp's low-level server, making connections of our own kind."""

    def __init__(self, forward: Forward, door: Door, patience: Patience, uids: frozenset[int] | None) -> None:
        """`uids` are the users let in, an empty set standing for all; there is none where no user is known."""
        # A caller that leaves cancels its own exchange; what others wait for runs in tasks of its own.
        super().__init__(self._serve, handler_cancellation=True)
        self.forward = forward
        self.door = door
        self.patience = patience
        self.uids = uids
        self._leaving: set[asyncio.Transport] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __call__(self) -> web.RequestHandler:
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

    def _serve(self, request: web.BaseRequest) -> Coroutine[Any, Any, Answer]:
        return self.forward(request, cast("CallerConnection", request.protocol).peer_uid)

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


class Listener:
    """One address, open from `open` to `close`."""

    def __init__(self, config: Config, forward: Forward, patience: Patience) -> None:
        """Raises `ConfigError`, for a user or a group that nobody has."""
        self.address = config.bind
        """What makes another listener this one's successor."""
        self.forward = forward
        self._door = Door(config.bind, config.socket, forward.meter.was_cut_short)
        self._uids = uids_of(config.uids) if config.bind.path else None
        self._patience = patience
        self._connections: _Server | None = None

    async def open(self, most: int, take_sockets: TakeSockets | None = None) -> str:
        """Let at most so many callers in at a time, and return the address; raises `OSError`.

        `take_sockets` gives those that are open already, if there are any.
        """
        self._connections = _Server(self.forward, self._door, self._patience, self._uids)
        inside = self._connections.inside
        address = await self._door.open(self._connections, inside, most, take_sockets=take_sockets)
        self._connections.sweep()
        return address

    def take_over(self, before: Listener, most: int) -> None:
        """Go on where another listener at the same address was: its callers stay, and their next requests come here.

        `most` is as in `open`. The other can take over again, as if nothing had been.
        """
        self._door, self._connections = before._door, before._connections
        self._door.most = most
        if self._connections is not None:
            self._connections.forward, self._connections.patience = self.forward, self._patience
            self._connections.uids = self._uids

    def part(self) -> None:
        """Have those leave who would not be let in any more, each after the request that is under way."""
        if self._connections is not None:
            self._connections.part()

    async def shut(self) -> None:
        """Take no further connections, but those that are at the door already."""
        await self._door.shut()

    def close(self) -> None:
        """Take no further connections, from now on."""
        self._door.close()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - no error: what takes longer is cut
        """Wait up to `timeout` seconds for the requests in flight, and for slow callers to take their answers.

        Until then, and a moment longer, a connection without a request stays open: to close it could meet a request on
        its way, whose caller would not know what became of it. A request that comes now is answered that the sidecar is
        stopping.
        """
        if self._connections is None:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._connections.connections and loop.time() < began + _LINGER:  # noqa: ASYNC110 - the same
                    await asyncio.sleep(_LOOK_EVERY)
                await self.forward.traffic.emptied()
                while any(map(_unsent, self._connections.connections)):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(_LOOK_EVERY)

    async def end(self) -> None:
        """End every connection."""
        if self._connections is not None:
            await self._connections.shutdown(_LAST_WORDS)


def _unsent(connection: web.RequestHandler) -> bool:
    return connection.transport is not None and connection.transport.get_write_buffer_size() > 0
