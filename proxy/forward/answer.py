"""The answer to a caller, which writes its own bytes.

aiohttp's response object re-encodes header bytes, adds fields that nobody sent, and costs half of the server's speed.
This one writes upstream's own, head and small body in one piece.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import HttpVersion10, web

from proxy.forward.cors import preflight_head, shared_with, without_cors
from proxy.forward.headers import answer_head
from proxy.forward.problem import own_head, problem

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from proxy.errors import ProxyError
    from proxy.observe import Inspected
    from proxy.upstream import Exchange

_RESET = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, with no time: the connection is reset when it is closed."""

_NO_BODY = frozenset({204, 304})


class CallerGone(ConnectionError):
    """The caller's connection ended before its answer was whole."""


class Answer(web.StreamResponse):
    """What one caller gets. aiohttp's server asks for `prepare`, `write_eof` and `keep_alive`, and nothing else."""

    def __init__(self, request: web.BaseRequest, stall: float) -> None:
        """`stall` is in seconds: how long the caller may stand still while it should read."""
        self._request = request
        self._stall = stall
        self._kept = request.keep_alive
        self._old = request.version <= HttpVersion10
        self._shared = b""
        self._sent_status = 0
        self.sent = 0
        """Bytes of the body that went to the caller."""
        self.inspected: Inspected | None = None
        """Takes the body too, where bodies are inspected."""

    @property
    def status(self) -> int:
        """The status that was sent; 0 before."""
        return self._sent_status

    @property
    def begun(self) -> bool:
        """Whether a byte has gone to the caller, so that no other answer can be given."""
        return self._sent_status != 0

    # --- What the handler calls -------------------------------------------------------------------------------------

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
        bodiless = response.status in _NO_BODY or self._request.method == "HEAD"
        chunked = not bodiless and response.length is None and not self._old
        if response.length is None and not bodiless and self._old:
            self._kept = False  # the end of the connection is the end of the body
        hop = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        hop += self._shared + self._connection_field()
        fields = without_cors(response.headers) if self._shared else response.headers
        head = answer_head(response.status, response.reason, fields, origin=origin, hop=hop)
        self._sent_status = response.status
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
            await self._drain()
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
        self._sent_status = 204
        self._write(b"%b%b\r\n" % (head, self._connection_field()))

    def break_off(self) -> None:
        """End the connection where the answer cannot be finished: never a clean end on a truncated document."""
        self._kept = False
        transport = self._transport
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
        self._kept = False

    # --- What aiohttp's server calls --------------------------------------------------------------------------------

    @property
    def keep_alive(self) -> bool:
        """Whether the connection takes another request."""
        return self._kept

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the handler has written the head."""

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp passes none
        """Write nothing, the handler has; but answers must not pile up before a caller that asks and does not read."""
        if self._request.protocol.writing_paused:
            await self._drain()

    # --- Inside -----------------------------------------------------------------------------------------------------

    @property
    def _transport(self) -> asyncio.Transport | None:
        return self._request.transport

    def _own(self, status: int, content_type: bytes, body: bytes, fields: bytes = b"") -> None:
        head = own_head(status, content_type, len(body), fields + self._shared)
        self._sent_status = status
        self.sent = 0 if self._request.method == "HEAD" else len(body)
        self._write(b"%b%b\r\n%b" % (head, self._connection_field(), body[: self.sent]))

    def _connection_field(self) -> bytes:
        if not self._kept:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self._old else b""

    async def _drain(self) -> None:
        transport = self._transport
        try:
            async with asyncio.timeout(self._stall):
                await self._request.writer.drain()
        except TimeoutError:
            self.break_off()  # it would hold its connection to upstream for ever
            if transport is not None:
                transport.abort()  # what it has not taken, it will not take
            raise CallerGone from None

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise CallerGone
        transport.write(data)


def _last_chunks(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
