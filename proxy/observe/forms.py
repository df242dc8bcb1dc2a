"""How a line of the log looks: as JSON for machines, as text for a person, with colours on a terminal."""

from __future__ import annotations

import json
import logging
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from proxy.observe.steps import next_step, told_of

if TYPE_CHECKING:
    from types import TracebackType

    from proxy.observe.logs import RequestLine
    from proxy.observe.repeats import Repeated

    _ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_OWN_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}

_json = msgspec.json.Encoder(enc_hook=str)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TELLS_FAULTS = frozenset({"configuration-refused", "reload-refused"})
"""Events whose message has a line for each fault."""

_MINUTE = 60
_INDENT = "\n" + " " * len("08:00:00 warning ")


def level_of(line: RequestLine) -> str:
    """Return the level of a request's line."""
    return "info" if line.error is None else "warning"


class JsonForm:
    """One JSON object a line."""

    def __init__(self, worker: int | None = None) -> None:
        """The number of this process stands in each line, where there are several."""
        self._worker = {} if worker is None else {"worker": worker}
        self._head = b'{"time":"%b","level":"%b","event":"request",'
        if worker is not None:
            self._head += b'"worker":%d,' % worker

    def event(self, record: logging.LogRecord, repeated: Repeated[logging.LogRecord] | None = None) -> bytes:
        """Return the line of an event, or of several that are alike."""
        event = getattr(record, "event", record.name)
        fields: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "event": event,
            "message": record.getMessage(),
        } | self._worker
        fields |= {
            name: value for name, value in record.__dict__.items() if name not in _OWN_FIELDS and name != "event"
        }
        if record.exc_info is not None:
            fields["exception"] = _traceback(record.exc_info)
        if record.levelno >= logging.WARNING:
            fields |= _further(_step_of(record), repeated)
        try:
            return _json.encode(fields) + b"\n"
        except UnicodeEncodeError:  # bytes that are not UTF-8, in the path of a file, stand in texts as lone surrogates
            return json.dumps(fields, default=str).encode() + b"\n"

    def request(self, line: RequestLine, repeated: Repeated[RequestLine] | None = None) -> bytes:
        """Return the line of a request, or of several that failed alike."""
        head = self._head % (_utc(time.time()).encode(), level_of(line).encode())
        written = head + _json.encode(line)[1:]
        told = told_of(line)
        if told is None:
            return written + b"\n"
        said = {"detail": told.detail} if line.error is None else {}
        return written[:-1] + b"," + _json.encode(said | _further(told.next_step, repeated))[1:] + b"\n"


def _step_of(record: logging.LogRecord) -> str:
    """Return what to do about an event: what it says itself, which knows most, or what is said of all of its kind."""
    own: str = getattr(record, "next_step", "")
    return own or next_step(getattr(record, "event", ""), getattr(record, "error", None))


def _further(step: str, repeated: Repeated[logging.LogRecord] | Repeated[RequestLine] | None) -> dict[str, object]:
    further: dict[str, object] = {"next_step": step} if step else {}
    if repeated is not None:
        further |= {"repeated": repeated.count, "within_s": repeated.seconds}
    return further


class TextForm:
    """One line, or few, for a person."""

    def __init__(self, *, colours: bool = False, worker: int | None = None) -> None:
        self._colours = colours
        self._worker = "" if worker is None else f" {worker}"

    def event(self, record: logging.LogRecord, repeated: Repeated[logging.LogRecord] | None = None) -> bytes:
        """Return the line of an event, or of several that are alike."""
        level = record.levelname.lower()
        about = [str(getattr(record, name)) for name in ("account", "api", "reason") if hasattr(record, name)]
        event, said = getattr(record, "event", ""), record.getMessage()
        lines = said.split("\n") if event in _TELLS_FAULTS else [said]
        text = _more(repeated) + _INDENT.join(map(_plain, lines))
        text += self._in("2", f" ({', '.join(about)})") if about else ""
        if record.levelno >= logging.WARNING:
            step = _step_of(record)
            text += self._step(step) if len(lines) == 1 else f"{_INDENT}{self._in('36', step)}"
        text = f"{self._clock(record.created)} {self._in(_OF_LEVEL.get(level, ''), f'{level:7}')} {text}"
        if record.exc_info is not None:
            text = "\n".join([text, *map(_plain, _traceback(record.exc_info).splitlines())])
        return text.encode("utf-8", "backslashreplace") + b"\n"

    def request(self, line: RequestLine, repeated: Repeated[RequestLine] | None = None) -> bytes:
        """Return the line of a request, or of several that failed alike."""
        status = self._in(_OF_STATUS.get(line.status // 100, "31"), str(line.status or "---"))
        text = f"{_more(repeated)}{_plain(line.method)} {_plain(line.path)} {line.duration_ms:.1f} ms"
        text += self._in("2", f" {line.request_id}")
        if line.upstream_ms is not None:
            text += self._in("2", f" (upstream {line.upstream_ms:.1f} ms)")
        if line.replayed:
            text += " replayed after a 401"
        if line.upstream_status is not None:
            text += f" upstream answered {line.upstream_status}"
        told = told_of(line)
        if told is not None:
            said = _plain(f"{line.outcome}: {told.detail or told.error}")
            text += f" {self._in('1;31' if line.outcome == 'unknown' else '33', said)}"
            text += self._step(told.next_step)
        return f"{self._clock(time.time())} {status} {text}\n".encode("utf-8", "backslashreplace")

    def _step(self, step: str) -> str:
        return f". {self._in('36', step)}" if step else ""

    def _clock(self, seconds: float) -> str:
        return self._in("2", time.strftime("%H:%M:%S", time.localtime(seconds)) + self._worker)

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and colour else text


_OF_LEVEL = {"debug": "2", "warning": "33", "error": "1;31", "critical": "1;31"}
_OF_STATUS = {1: "", 2: "32", 3: "36", 4: "33", 5: "31"}
"""By the first digit; a caller that left before an answer has none."""


def _traceback(exc_info: _ExcInfo) -> str:
    """Write a traceback, but of an error of aiohttp's parser only its name: its text quotes what could not be read."""
    error = exc_info[1]
    while error is not None:
        if isinstance(error, HttpProcessingError):
            return type(error).__name__
        error = error.__cause__ or error.__context__
    return logging.Formatter().formatException(exc_info)


def _plain(text: str) -> str:
    """Write control characters out, so that no text can act on a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _more(repeated: Repeated[logging.LogRecord] | Repeated[RequestLine] | None) -> str:
    if repeated is None:
        return ""
    minutes = round(repeated.seconds / _MINUTE)
    return f"{repeated.count} more like it in the last {'minute' if minutes == 1 else f'{minutes} minutes'}: "


def _utc(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(4)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
