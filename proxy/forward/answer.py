"""The answer to a caller, which writes its own bytes.

aiohttp's response object re-encodes header bytes, adds fields that nobody sent, and costs half of the server's speed.
This one writes upstream's own, head and small body in one piece.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10

from proxy.forward.cors import preflight_head, shared_with, without_cors
from proxy.forward.headers import answer_head
from proxy.forward.problem import own_head, problem

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from proxy.errors import ProxyError
    from proxy.forward.request import Request
    from proxy.observe import Inspected
    from proxy.upstream import Exchange

_RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, with no time: the connection is reset when it is closed."""

_NO_BODY = frozenset({204, 304})


class CallerGone(ConnectionError):
    """The caller's connection ended before its answer was whole."""


class Answer:
    """What one caller gets."""

    __slots__ = (
        "_caller",
        "_old",
        "_shared",
        "_stall",
        "_to_head",
        "head",
        "inspected",
        "keep_alive",
        "sent",
        "status",
    )

    def __init__(self, request: Request, stall: float) -> None:
        """`stall` is in seconds: how long the caller may stand still while it should read."""
        self._caller = request.caller
        self._stall = stall
        self._old = request.version <= HttpVersion10
        self._to_head = request.method == "HEAD"
        self._shared = b""
        self.keep_alive = request.keep_alive
        """Whether the connection takes another request."""
        self.status = 0
        """The status that was sent; 0 before."""
        self.head = b""
        """The head that was sent; empty before."""
        self.sent = 0
        """Bytes of the body that went to the caller."""
        self.inspected: Inspected | None = None
        """Takes the body too, where bodies are inspected."""

    @property
    def begun(self) -> bool:
        """Whether a byte has gone to the caller, so that no other answer can be given."""
        return self.status != 0

    def share_with(self, page: str) -> None:
        """Let a web page of that origin read the answer, whatever it will be."""
        self._shared = shared_with(page)

    def go_on(self) -> None:
        """Ask a caller that waits for it to send its body (RFC 9110, section 10.1.1)."""
        self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def relay(self, exchange: Exchange, origin: bytes) -> None:
        """Pass upstream's answer on as it comes.

        Raises `CallerGone`, and where the body breaks off what `Exchange.read` raises: then `break_off` follows.
        """
        response = exchange.response
        bodiless = self._to_head or response.status in _NO_BODY
        chunked = False
        if response.length is None and not bodiless:
            chunked = not self._old
            self.keep_alive = self.keep_alive and chunked  # else the end of the connection is the end of the body
        hop = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        hop += self._shared + self._connection_field()
        fields, names = response.headers, response.names
        if self._shared:
            fields, names = without_cors(fields, names)
        self.head = head = answer_head(response.status, response.reason, fields, names, origin=origin, hop=hop)
        self.status = response.status
        if response.ended:
            body = response.take()
            self.sent = len(body)
            if self.inspected is not None:
                self.inspected.hear(body)
            self._write(head + _last_chunks(body) if chunked else head + body)
            return
        self._write(head)
        while piece := await exchange.read():
            self.sent += len(piece)
            if self.inspected is not None:
                self.inspected.hear(piece)
            self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await self.taken()
        if chunked:
            self._write(b"0\r\n\r\n")

    def refuse(self, error: ProxyError, request_id: str) -> None:
        """Answer with a problem."""
        fields, body = problem(error, request_id)
        self._own(error.status, b"application/problem+json", body, fields)

    def give(self, body: bytes) -> None:
        """Answer 200 with JSON of the sidecar's own."""
        self._own(200, b"application/json;charset=UTF-8", body)

    def allow(self, page: str, headers: CIMultiDictProxy[str]) -> None:
        """Answer a preflight of a web page of that origin; raises `MalformedRequest`."""
        head = preflight_head(page, headers)
        self.status = 204
        self.head = b"%b%b\r\n" % (head, self._connection_field())
        self._write(self.head)

    def break_off(self) -> None:
        """End the connection where the answer cannot be finished: never a clean end on a truncated document."""
        self.keep_alive = False
        transport = self._caller.transport
        if transport is None:
            return
        if self._old:
            # Where the end of the connection ends the body, only a reset tells that it is not whole.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        else:
            transport.close()

    def close_after(self) -> None:
        """Let this answer be the last on its connection."""
        self.keep_alive = False

    async def taken(self) -> None:
        """Return when the caller reads what it gets, be it one answer or many: they must not pile up before it.

        Raises `CallerGone`.
        """
        if not self._caller.writing_paused:
            return
        transport = self._caller.transport
        try:
            async with asyncio.timeout(self._stall):
                await self._caller.drain()
        except TimeoutError:
            self.break_off()  # it would hold its connection to upstream for ever
            if transport is not None:
                transport.abort()  # what it has not taken, it will not take
            raise CallerGone from None

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _own(self, status: int, content_type: bytes, body: bytes, fields: bytes = b"") -> None:
        head = own_head(status, content_type, len(body), fields + self._shared)
        self.status = status
        self.sent = 0 if self._to_head else len(body)
        self.head = b"%b%b\r\n" % (head, self._connection_field())
        self._write(self.head + body[: self.sent])

    def _connection_field(self) -> bytes:
        self.keep_alive = self.keep_alive and not self._caller.leaving
        if not self.keep_alive:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self._old else b""

    def _write(self, data: bytes) -> None:
        transport = self._caller.transport
        if transport is None or transport.is_closing():
            raise CallerGone
        transport.write(data)


def _last_chunks(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
