from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Literal

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from proxy.observe import RequestLine, set_up
from proxy.observe.logs import Lines

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = 1_800_000_000.0625
"""2027-01-15 08:00:00.0625 UTC."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the logging of the test run as it was."""
    root, ours = logging.getLogger(), logging.getLogger("proxy")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOON)
    monkeypatch.setattr(time, "localtime", time.gmtime)


class Stream(io.BytesIO):
    """Counts the writes, and tells of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.flushes = 0
        self.written = asyncio.Event()

    def write(self, data: Any) -> int:
        self.writes.append(bytes(data))
        self.written.set()
        return super().write(data)

    def flush(self) -> None:
        self.flushes += 1
        super().flush()


def line(**more: Any) -> RequestLine:
    return RequestLine(request_id="1f2e-7", listener="127.0.0.1:8080", method="POST", path="/api/nfe/envio", **more)


def said(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(text) for text in stream.getvalue().splitlines()]


# --- Events -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_noon")
def test_an_event_as_json() -> None:
    stream = Stream()
    set_up("info", "json", stream)
    logging.getLogger("proxy.tokens").warning(
        "the login failed %d times", 3, extra={"event": "login-failed", "account": "default", "wait": 1.5}
    )
    (event,) = said(stream)
    assert list(event) == ["time", "level", "event", "message", "account", "wait"]
    assert event == {
        "time": "2027-01-15T08:00:00.062Z",
        "level": "warning",
        "event": "login-failed",
        "message": "the login failed 3 times",
        "account": "default",
        "wait": 1.5,
    }
    assert stream.flushes == 1


def test_an_event_without_a_name_bears_its_loggers() -> None:
    stream = Stream()
    set_up("info", "json", stream)
    logging.getLogger("proxy.server").info("hello")
    assert said(stream)[0]["event"] == "proxy.server"


def test_values_that_json_does_not_know() -> None:
    stream = Stream()
    set_up("info", "json", stream)
    logging.getLogger("proxy").info("x", extra={"error": ValueError("of its own"), "many": {1: [None, True]}})
    (event,) = said(stream)
    assert event["error"] == "of its own"
    assert event["many"] == {"1": [None, True]}


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_traceback_of_a_defect(form: Any) -> None:
    stream = Stream()
    set_up("info", form, stream)
    try:
        line(status=1 // 0)
    except ZeroDivisionError:
        logging.getLogger("proxy").exception("a request met a defect", extra={"event": "defect"})
    text = stream.getvalue().decode()
    assert "Traceback (most recent call last)" in text
    assert "ZeroDivisionError: integer division" in text
    if form == "json":
        assert text.count("\n") == 1
        assert "ZeroDivisionError: integer division" in said(stream)[0]["exception"]


@pytest.mark.usefixtures("at_noon")
def test_an_event_as_text() -> None:
    stream = Stream()
    set_up("info", "text", stream)
    logging.getLogger("proxy").info("listening at %s", "127.0.0.1:8080", extra={"event": "listening"})
    logging.getLogger("proxy").warning("não", extra={"event": "other"})
    assert stream.getvalue().decode() == "08:00:00 info    listening at 127.0.0.1:8080\n08:00:00 warning não\n"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_for_our_own_events(level: str, shown: list[str]) -> None:
    stream = Stream()
    set_up(level, "json", stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("proxy.any"), name)("x")
    assert [event["level"] for event in said(stream)] == shown


def test_what_libraries_say_is_shown_from_warnings_on() -> None:
    stream = Stream()
    set_up("debug", "json", stream)
    logging.getLogger("asyncio").info("chatter")
    logging.getLogger("asyncio").warning("trouble")
    assert [event["message"] for event in said(stream)] == ["trouble"]


def test_setting_up_anew_replaces_what_was() -> None:
    first, second = Stream(), Stream()
    set_up("info", "json", first)
    set_up("info", "json", second)
    logging.getLogger("proxy").info("x")
    assert not first.writes
    assert len(second.writes) == 1


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("text", ["\udce3", "\ud800 and more"])
def test_a_message_that_cannot_be_encoded_stops_nothing(form: Any, text: str) -> None:
    """Bytes that are not UTF-8 come in as lone surrogates: in paths of files, in messages of errors."""
    stream = Stream()
    set_up("info", form, stream)
    logging.getLogger("proxy").warning("cannot read %s", text, extra={"path": text})
    assert b"cannot read" in stream.getvalue()


# --- Requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_noon")
async def test_a_request_as_json() -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    log.write(
        line(
            api="2.0",
            status=502,
            outcome="unknown",
            duration_ms=12.5,
            bytes_sent=321,
            error="connection-lost",
            detail='the "connection" ended',
        )
    )
    log.flush()
    assert stream.getvalue() == (
        b'{"time":"2027-01-15T08:00:00.062Z","level":"info","event":"request","request_id":"1f2e-7",'
        b'"listener":"127.0.0.1:8080","method":"POST","path":"/api/nfe/envio","api":"2.0","status":502,'
        b'"outcome":"unknown","duration_ms":12.5,"bytes_sent":321,"error":"connection-lost",'
        b'"detail":"the \\"connection\\" ended"}\n'
    )


async def test_what_is_not_there_is_not_said() -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    log.write(line())
    log.flush()
    (event,) = said(stream)
    assert set(event) == {"time", "level", "event", "request_id", "listener", "method", "path"}


@pytest.mark.usefixtures("at_noon")
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"status": 200, "duration_ms": 3.14159}, "200 POST /api/nfe/envio 3.1 ms"),
        ({"duration_ms": 1.0}, "--- POST /api/nfe/envio 1.0 ms"),
        ({"status": 200, "upstream_ms": 2.25, "duration_ms": 4.0}, "200 POST /api/nfe/envio 4.0 ms (upstream 2.2 ms)"),
        ({"status": 200, "replayed": True}, "200 POST /api/nfe/envio 0.0 ms replayed after a 401"),
        ({"upstream_status": 201}, "--- POST /api/nfe/envio 0.0 ms upstream answered 201"),
        (
            {"status": 502, "outcome": "unknown", "error": "connection-lost", "detail": "the connection ended"},
            "502 POST /api/nfe/envio 0.0 ms unknown: the connection ended",
        ),
        (
            {"outcome": "unknown", "error": "caller-gone"},
            "--- POST /api/nfe/envio 0.0 ms unknown: caller-gone",
        ),
    ],
)
async def test_a_request_as_text(more: dict[str, Any], expected: str) -> None:
    stream = Stream()
    log = set_up("info", "text", stream)
    log.write(line(**more))
    log.flush()
    assert stream.getvalue().decode() == f"08:00:00 {expected}\n"


@pytest.mark.parametrize(("level", "shown"), [("debug", 1), ("info", 1), ("warning", 0), ("error", 0)])
async def test_requests_are_of_the_level_info(level: str, shown: int) -> None:
    stream = Stream()
    log = set_up(level, "json", stream)
    log.write(line())
    log.flush()
    assert len(said(stream)) == shown


async def test_lines_of_requests_are_written_together() -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    for status in range(200, 300):
        log.write(line(status=status))
    assert not stream.writes
    await stream.written.wait()
    assert len(stream.writes) == 1
    assert [event["status"] for event in said(stream)] == list(range(200, 300))
    stream.written.clear()
    log.write(line(status=300))
    await stream.written.wait()
    assert len(stream.writes) == 2


async def test_an_event_comes_after_the_requests_before_it() -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    log.write(line())
    logging.getLogger("proxy").warning("trouble", extra={"event": "trouble"})
    log.write(line())
    log.flush()
    assert [event["event"] for event in said(stream)] == ["request", "trouble", "request"]


async def test_flushing_leaves_no_timer() -> None:
    stream = Stream()
    lines = Lines(stream)
    lines.add_soon(b"one\n")
    timer = lines._timer
    assert timer is not None
    lines.flush()
    assert timer.cancelled()
    lines.add_soon(b"two\n")
    lines.flush()
    assert stream.getvalue() == b"one\ntwo\n"


class Broken(io.BytesIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error: Exception | None = error

    def write(self, data: Any) -> int:
        if self._error is not None:
            raise self._error
        return super().write(data)

    def mend(self) -> None:
        self._error = None


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed file")]
)
async def test_a_log_that_cannot_be_written_stops_nothing(error: Exception) -> None:
    stream = Broken(error)
    log = set_up("info", "json", stream)
    logging.getLogger("proxy").warning("lost")
    log.write(line())
    log.flush()
    stream.mend()
    logging.getLogger("proxy").warning("written")
    assert [event["message"] for event in said(stream)] == ["written"]


def test_the_time_is_in_utc_and_can_be_sorted() -> None:
    stream = Stream()
    set_up("info", "json", stream)
    for _ in range(3):
        logging.getLogger("proxy").info("x")
    times = [event["time"] for event in said(stream)]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at) for at in times)


def fail_to_parse() -> None:
    try:
        raise BadHttpMessage("Bearer a-caller-token")  # noqa: TRY301 - what is raised is the point
    except BadHttpMessage as error:
        raise RuntimeError("beside it") from error


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_error_of_the_parser_is_only_named_since_it_quotes_the_request(form: Literal["json", "text"]) -> None:
    stream = io.BytesIO()
    set_up("debug", form, stream)
    try:
        fail_to_parse()
    except RuntimeError:
        logging.getLogger("aiohttp.server").exception("a request")
    assert b"BadHttpMessage" in stream.getvalue()
    assert b"a-caller-token" not in stream.getvalue()
