"""The log: one line an event on standard output, as JSON or as text for a person.

There are two kinds of lines. Those about requests are structs that are encoded and written in batches, off the way of
the request; everything else goes through `logging`, with an `event` and further fields in `extra`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, BinaryIO, Literal

import msgspec
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    _ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_BATCH_EVERY = 0.02
"""Seconds that a request's line may wait for others."""

_OWN_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}

_json = msgspec.json.Encoder(enc_hook=str)


class RequestLine(msgspec.Struct, omit_defaults=True):
    """What is said of one request; times in milliseconds, sizes in bytes. No query value, no header, no body."""

    request_id: str
    listener: str
    method: str
    path: str
    peer_uid: int | None = None
    """The user who called, at a Unix socket."""
    api: str | None = None
    status: int = 0
    """0 where the caller left before it got one."""
    outcome: str | None = None
    duration_ms: float = 0.0
    upstream_ms: float | None = None
    bytes_sent: int = 0
    upstream_status: int | None = None
    """What upstream answered to a caller that was no longer there."""
    replayed: bool = False
    """Sent once more after a 401."""
    replay: str | None = None
    """What followed a 401: `replayed`, `too-large` to be sent again, a matter of `permission`, or `failed`."""
    resent: bool = False
    """Sent once more because a kept connection had been closed: GET and HEAD alone."""
    own: bool = False
    """The caller got an answer of the sidecar's own."""
    error: str | None = None
    detail: str | None = None


class _JsonLine(msgspec.Struct):
    time: str
    level: str
    event: str


class Lines:
    """Where lines go: gathered, and written in one piece."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def add_soon(self, line: bytes) -> None:
        """Take a line, to be written with those of the next moments."""
        self._waiting.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_BATCH_EVERY, self.flush)

    def add(self, line: bytes) -> None:
        """Write a line now, after those that wait."""
        self._waiting.append(line)
        self.flush()

    def flush(self) -> None:
        """Write what waits; a log that cannot be written stops no request."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._waiting = self._waiting, []
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
        except (OSError, ValueError):
            return


class AccessLog:
    """Writes a line for each request, unless only warnings are asked for."""

    def __init__(self, lines: Lines, form: Callable[[RequestLine], bytes], *, enabled: bool = True) -> None:
        self._lines = lines
        self._form = form
        self._enabled = enabled

    def write(self, line: RequestLine) -> None:
        """Write one line, soon."""
        if self._enabled:
            self._lines.add_soon(self._form(line))

    def flush(self) -> None:
        """Write what waits."""
        self._lines.flush()


def set_up(level: str, form: Literal["json", "text"], stream: BinaryIO) -> AccessLog:
    """Send all logging to `stream` and return the log for requests."""
    lines = Lines(stream)
    handler = _Handler(lines, _event_as_json if form == "json" else _event_as_text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours = logging.getLogger("proxy")
    ours.setLevel(level.upper())
    form_request = _request_as_json if form == "json" else _request_as_text
    return AccessLog(lines, form_request, enabled=ours.isEnabledFor(logging.INFO))


class _Handler(logging.Handler):
    def __init__(self, lines: Lines, form: Callable[[logging.LogRecord], bytes]) -> None:
        super().__init__()
        self._lines = lines
        self._form = form

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.add(self._form(record))


def _event_as_json(record: logging.LogRecord) -> bytes:
    fields: dict[str, object] = {
        "time": _utc(record.created),
        "level": record.levelname.lower(),
        "event": getattr(record, "event", record.name),
        "message": record.getMessage(),
    }
    fields |= {name: value for name, value in record.__dict__.items() if name not in _OWN_FIELDS and name != "event"}
    if record.exc_info is not None:
        fields["exception"] = _traceback(record.exc_info)
    try:
        return _json.encode(fields) + b"\n"
    except UnicodeEncodeError:  # bytes that are not UTF-8, in the path of a file, stand in texts as lone surrogates
        return json.dumps(fields, default=str).encode() + b"\n"


def _event_as_text(record: logging.LogRecord) -> bytes:
    text = f"{_clock(record.created)} {record.levelname.lower():7} {record.getMessage()}"
    if record.exc_info is not None:
        text += "\n" + _traceback(record.exc_info)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _traceback(exc_info: _ExcInfo) -> str:
    """Write a traceback, but of an error of aiohttp's parser only its name: its text quotes what could not be read."""
    error = exc_info[1]
    while error is not None:
        if isinstance(error, HttpProcessingError):
            return type(error).__name__
        error = error.__cause__ or error.__context__
    return logging.Formatter().formatException(exc_info)


def _request_as_json(line: RequestLine) -> bytes:
    head = _json.encode(_JsonLine(_utc(time.time()), "info", "request"))
    return head[:-1] + b"," + _json.encode(line)[1:] + b"\n"


def _request_as_text(line: RequestLine) -> bytes:
    text = f"{_clock(time.time())} {line.status or '---'} {line.method} {line.path} {line.duration_ms:.1f} ms"
    if line.upstream_ms is not None:
        text += f" (upstream {line.upstream_ms:.1f} ms)"
    if line.replayed:
        text += " replayed after a 401"
    if line.upstream_status is not None:
        text += f" upstream answered {line.upstream_status}"
    if line.error is not None:
        text += f" {line.outcome}: {line.detail or line.error}"
    return text.encode() + b"\n"


def _utc(seconds: float) -> str:
    whole, fraction = divmod(seconds, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1000):03d}Z"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
