"""The log: one line an event on standard output, as JSON or as text for a person.

There are two kinds of lines. Those about requests are structs that are encoded and written in batches, off the way of
the request; everything else goes through `logging`, with an `event` and further fields in `extra`. Which events there
are stands in `events`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from typing import TYPE_CHECKING, BinaryIO, Generic, Literal, TypeVar

import msgspec

from proxy.observe.forms import JsonForm, TextForm
from proxy.observe.history import History
from proxy.observe.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from proxy.observe.repeats import Repeated

T = TypeVar("T")
Form = JsonForm | TextForm

_BATCH_EVERY = 0.02
"""Seconds that a request's line may wait for others."""

_READING = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that make no document."""

_MENDS = {"login": "login-failed", "store-back": "store-degraded"}
"""Events with which a failure of the other kind, of the same account and API, is over."""

_OFTEN = (60.0, 60.0), 3
"""Beside the lines of all other requests: how often failed ones that are alike share one, and after how many."""

_COUNTED = frozenset({"cut-short"})
"""Events that tell of many at once already."""

_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9]+")


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
    waiting_ms: float | None = None
    """For a connection to Invoisys; none where it did not have to."""
    login_ms: float | None = None
    """For a login; none where there was a token."""
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

    def ended(self, started: float) -> None:
        """Note how long it took since `started`, on `time.perf_counter`."""
        self.duration_ms = round((time.perf_counter() - started) * 1000, 3)


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


class _Alike(Generic[T]):
    """Writes failures: the first of a kind at once, those that follow together; by default one, and ever less often."""

    def __init__(self, write: Callable[[T, Repeated[T] | None], None], repeats: Repeats[T] | None = None) -> None:
        self._write = write
        self._repeats: Repeats[T] = repeats or Repeats()
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, kind: Hashable, what: T) -> None:
        """Write a failure, or count it."""
        self._tell_due()
        if self._repeats.in_full(kind, what, time.monotonic()):
            self._write(what, None)
        self._set_timer()

    def end(self, which: Callable[[Hashable], bool] = lambda _: True) -> None:
        """Write what is still to be told, because the cause is gone or nothing follows."""
        for repeated in self._repeats.end(which):
            self._write(repeated.last, repeated)

    def _tell_due(self) -> None:
        for repeated in self._repeats.due(time.monotonic()):
            self._write(repeated.last, repeated)

    def _set_timer(self) -> None:
        at = self._repeats.next_end
        if self._timer is not None or at is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the next failure, or the end, tells what is due
        self._timer = loop.call_later(max(0.0, at - time.monotonic()), self._time_came)

    def _time_came(self) -> None:
        self._timer = None
        self._tell_due()
        self._set_timer()


class AccessLog:
    """Writes a line for each request, or only for those that failed; alike failures that sent nothing share one."""

    def __init__(self, lines: Lines, form: Form, level: int = logging.INFO, events: _Handler | None = None) -> None:
        self._lines = lines
        self._form = form
        self.history = History()
        """The last requests, whatever the level."""
        self.set_level(level)
        self._alike = _Alike(self._write)
        self._alike_among_others = _Alike(self._write, Repeats(*_OFTEN))
        self._events = events

    def set_level(self, level: int) -> None:
        """Take another level, for what comes now."""
        self._each = level <= logging.DEBUG
        self._well = level <= logging.INFO
        self._failed = level <= logging.WARNING

    def write(self, line: RequestLine) -> None:
        """Write one line, soon."""
        if self._each or (line.error is None and self._well):
            self._lines.add_soon(self._form.request(line))
        elif self._failed and line.error is not None:
            if line.method not in _READING and line.outcome != "not-sent":
                self._lines.add_soon(self._form.request(line))  # each may be a document that somebody has to query
                return
            kind = (line.listener, line.api, line.error, line.outcome)
            if self._well:
                self._alike_among_others.tell((*kind, None if line.api else line.path), line)
            else:
                self._alike.tell(kind, line)

    def pass_on(self, lines: bytes) -> None:
        """Write whole lines of another process."""
        self._lines.add(lines)

    def flush(self) -> None:
        """Write what waits, and what was only counted so far."""
        self._alike.end()
        self._alike_among_others.end()
        if self._events is not None:
            self._events.alike.end()
        self._lines.flush()

    def _write(self, line: RequestLine, repeated: Repeated[RequestLine] | None) -> None:
        self._lines.add_soon(self._form.request(line, repeated))


def set_up(
    level: str, form: Literal["json", "text"], stream: BinaryIO, *, colours: bool = False, worker: int | None = None
) -> AccessLog:
    """Send all logging to `stream` and return the log for requests; of several processes, each has its number."""
    lines = Lines(stream)
    shape = JsonForm(worker) if form == "json" else TextForm(colours=colours, worker=worker)
    handler = _Handler(lines, shape)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours = logging.getLogger("proxy")
    ours.setLevel(level.upper())
    return AccessLog(lines, shape, ours.level, handler)


class _Handler(logging.Handler):
    def __init__(self, lines: Lines, form: Form) -> None:
        super().__init__()
        self._lines = lines
        self._form = form
        self.alike = _Alike(self._write)

    def emit(self, record: logging.LogRecord) -> None:
        event, of = getattr(record, "event", record.name), _of(record)
        if record.levelno >= logging.WARNING and event not in _COUNTED:
            self.alike.tell((event, of, _kind(record)), record)
            return
        if event in _MENDS:
            self.alike.end(lambda kind: isinstance(kind, tuple) and kind[:2] == (_MENDS[event], of))
        self._write(record, None)

    def _write(self, record: logging.LogRecord, repeated: Repeated[logging.LogRecord] | None) -> None:
        self._lines.add(self._form.event(record, repeated))


def _of(record: logging.LogRecord) -> tuple[object, ...]:
    return tuple(getattr(record, name, None) for name in ("account", "api", "listener", "worker"))


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    """Return what failures have in common that are alike: their words without numbers, and where they were raised."""
    words = f"{record.levelname} {_NUMBERS.sub('0', record.getMessage())}"
    error = getattr(record, "error", None)
    if record.exc_info is None:
        return words, error
    kind, _, frames = record.exc_info
    return words, error, kind, *((frame.f_code, line) for frame, line in traceback.walk_tb(frames))
