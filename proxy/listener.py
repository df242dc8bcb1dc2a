"""Where callers come in: aiohttp's server, set up to hand requests over as they are and to say little of bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from proxy.errors import HeadersTooLarge, InternalError, MalformedRequest, TargetTooLong
from proxy.forward import Answer, ascii_line
from proxy.guard import MAX_FIELDS, MAX_HEAD, MAX_TARGET

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from proxy.config import Bind
    from proxy.errors import CallerError
    from proxy.forward import Forward

log = logging.getLogger(__name__)

_BACKLOG = 4096
_LOOK_EVERY = 0.02
"""Seconds between two looks at whether slow callers have taken their answers."""

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
    "keepalive_timeout": 75.0,
    "max_line_size": _LONGEST_LINE,
    "max_field_size": MAX_HEAD,
    "max_headers": MAX_FIELDS,
    "read_bufsize": 64 * 1024,
}


class CallerConnection(web.RequestHandler):
    """One caller's connection.

    Request lines reach aiohttp's parser in ASCII, and what it cannot parse gets a problem, and one line of log without
    its bytes.
    """

    __slots__ = ("_head_bytes", "_line", "_payload")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._line = b""  # the beginning of a request line that has not come whole
        self._payload: StreamReader = EMPTY_PAYLOAD  # of the request that was parsed last
        self._head_bytes = 0  # of a head that has not come whole

    def data_received(self, data: bytes) -> None:
        """Take bytes from the caller, knowing where a request begins: where the one before has ended."""
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
        answer = Answer(request)
        answer.close_after()
        if status < InternalError.status:
            log.warning(
                "a malformed request was refused (%s)", type(exc).__name__, extra={"event": "malformed-request"}
            )
            answer.refuse(_fault(exc), "-")
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

    def __call__(self) -> web.RequestHandler:
        return CallerConnection(self, loop=asyncio.get_running_loop(), **_OPTIONS)


class Listener:
    """One address, open from `open` to `close`."""

    def __init__(self, bind: Bind, forward: Forward) -> None:
        self._bind = bind
        self.forward = forward
        self._server: asyncio.Server | None = None
        self._connections: web.Server | None = None
        self._file: SocketFile | None = None

    async def open(self) -> str:
        """Listen, and return the address, with the port that was chosen where none was given; raises `OSError`."""
        # A caller that leaves cancels its own exchange; what others wait for runs in tasks of its own.
        self._connections = _Server(self.forward, handler_cancellation=True)
        loop = asyncio.get_running_loop()
        if self._bind.path:
            bound = unix_socket(self._bind.path)
            self._file = None if _is_abstract(self._bind.path) else SocketFile(self._bind.path)
            self._server = await loop.create_unix_server(self._connections, sock=bound, backlog=_BACKLOG)
            return str(self._bind)
        self._server = await loop.create_server(self._connections, self._bind.host, self._bind.port, backlog=_BACKLOG)
        return f"http://{replace(self._bind, port=self._server.sockets[0].getsockname()[1])}"

    def close(self) -> None:
        """Take no further connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._file is not None:
                self._file.remove()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - no error: what takes longer is cut
        """Wait up to `timeout` seconds for the requests in flight, and for slow callers to take their answers.

        Until then a connection without a request stays open: to close it could meet a request on its way, whose caller
        would not know what became of it. A request that comes now is answered that the sidecar is stopping.
        """
        if self._connections is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.forward.emptied()
                while any(map(_unsent, self._connections.connections)):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(_LOOK_EVERY)

    async def end(self) -> None:
        """End every connection."""
        if self._connections is not None:
            await self._connections.shutdown(_LAST_WORDS)


def _unsent(connection: web.RequestHandler) -> bool:
    return connection.transport is not None and connection.transport.get_write_buffer_size() > 0


class SocketFile:
    """The file of a Unix socket, which is removed only while it is still ours."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._inode = self._path.stat().st_ino

    def remove(self) -> None:
        """Remove the file, unless another server has put its own in the place."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def unix_socket(path: str) -> socket.socket:
    """Return a bound Unix socket for owner and group, replacing a stale file; raises `OSError` where one is live."""
    if not _is_abstract(path) and Path(path).is_socket():
        _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o117)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


def _is_abstract(path: str) -> bool:
    return path.startswith("\0")


def _remove_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        else:
            raise OSError(f"{path} is in use by a live server")
