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
from proxy.observe.steps import ERRORS, PASSED_ON

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = 1_800_000_000.0625
"""2027-01-15 08:00:00.0625 UTC."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Have the log of the test run go where it went before."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOON)
    monkeypatch.setattr(time, "time_ns", lambda: int(NOON * 1e9))  # what Python 3.13 stamps its records with
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
    usual: dict[str, Any] = {"method": "POST", "path": "/api/nfe/envio"}
    return RequestLine(request_id="1f2e-7", listener="127.0.0.1:8080", **usual | more)


def said(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(text) for text in stream.getvalue().splitlines()]


# --- Events -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_noon")
def test_an_event_as_json() -> None:
    stream = Stream()
    set_up("info", "json", stream)
    logging.getLogger("proxy.tokens").warning(
        "the login failed %d times",
        3,
        extra={"event": "login-failed", "account": "default", "wait": 1.5, "error": "grant-refused"},
    )
    (event,) = said(stream)
    assert list(event) == ["time", "level", "event", "message", "account", "wait", "error", "next_step"]
    assert event == {
        "time": "2027-01-15T08:00:00.062Z",
        "level": "warning",
        "event": "login-failed",
        "message": "the login failed 3 times",
        "account": "default",
        "wait": 1.5,
        "error": "grant-refused",
        "next_step": "Correct token_url of the API: this one does not take passwords.",
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
    assert "ZeroDivisionError: " in text
    if form == "json":
        assert text.count("\n") == 1
        assert "ZeroDivisionError: " in said(stream)[0]["exception"]


@pytest.mark.usefixtures("at_noon")
def test_an_event_as_text() -> None:
    stream = Stream()
    set_up("info", "text", stream)
    logging.getLogger("proxy").info("listening at %s", "127.0.0.1:8080", extra={"event": "listening"})
    logging.getLogger("proxy").warning("não", extra={"event": "other"})
    about = {"event": "login", "account": "default", "api": "2.0", "reason": "rejected", "generation": 2}
    logging.getLogger("proxy").info("a new token", extra=about)
    assert stream.getvalue().decode() == (
        "08:00:00 info    listening at 127.0.0.1:8080\n"
        "08:00:00 warning não\n"
        "08:00:00 info    a new token (default, 2.0, rejected)\n"
    )


@pytest.mark.usefixtures("at_noon")
def test_an_event_of_several_lines_as_text() -> None:
    stream = Stream()
    set_up("info", "text", stream)
    faults = "the old one stays: one: required\ntwo: required\x1b[2J"
    logging.getLogger("proxy").error("%s", faults, extra={"event": "reload-refused"})
    assert stream.getvalue().decode() == (
        "08:00:00 error   the old one stays: one: required\n"
        "                 two: required\\x1b[2J\n"
        "                 Correct what the message names, see that check is content, and send SIGHUP again.\n"
    )


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


# --- Failures that are alike ------------------------------------------------------------------------------------------


class Clock:
    """The monotonic clock, under the test's hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def fail(wait: int, account: str = "default", error: str = "login-unreachable") -> None:
    logging.getLogger("proxy.tokens").warning(
        "no new token: refused; the next login is in %d s",
        wait,
        extra={"event": "login-failed", "api": "2.0", "account": account, "error": error},
    )


def test_a_thousand_failures_are_two_lines(clock: Clock) -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    for number in range(1000):
        fail(number)
    assert len(said(stream)) == 1
    log.flush()
    first, rest = said(stream)
    assert "repeated" not in first
    assert (rest["repeated"], rest["within_s"], rest["event"]) == (999, 60.0, "login-failed")
    assert rest["message"].endswith("in 999 s")


def test_other_accounts_errors_and_words_are_told(clock: Clock) -> None:
    stream = Stream()
    set_up("info", "json", stream)
    for _ in range(3):
        fail(1)
        fail(1, account="second")
        fail(1, error="login-timeout")
        logging.getLogger("proxy").warning("INVOISYS_A: unknown", extra={"event": "unknown-variable"})
        logging.getLogger("proxy").warning("INVOISYS_B: unknown", extra={"event": "unknown-variable"})
    assert len(said(stream)) == 5


def test_the_next_failure_tells_what_is_due(clock: Clock) -> None:
    stream = Stream()
    set_up("info", "text", stream)
    for wait in (1, 2, 4):
        fail(wait)
    clock.now += 60
    fail(8)
    first, rest = (text.partition(" ")[2] for text in stream.getvalue().decode().splitlines())
    assert first.startswith("warning no new token: refused; the next login is in 1 s (default, 2.0). The sidecar tries")
    assert rest.startswith("warning 2 more like it in the last minute: no new token: refused; the next login is in 4 s")


async def test_what_is_due_is_told_in_its_time(clock: Clock) -> None:
    stream = Stream()
    set_up("info", "json", stream)
    fail(1)
    fail(2)
    stream.written.clear()
    (timer,) = (handle for handle in timers() if handle.when() - asyncio.get_running_loop().time() > 50)
    clock.now += 60
    timer._run()
    timer.cancel()
    assert stream.written.is_set()
    assert said(stream)[-1]["repeated"] == 1


def timers() -> list[asyncio.TimerHandle]:
    return [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]


def test_a_new_token_ends_a_row_of_failed_logins(clock: Clock) -> None:
    stream = Stream()
    set_up("info", "json", stream)
    fail(1)
    fail(2)
    fail(1, account="second")
    fail(2, account="second")
    logging.getLogger("proxy").info("a new token", extra={"event": "login", "api": "2.0", "account": "default"})
    fail(1)
    fail(4, account="second")
    told = [(event["event"], event["account"], event.get("repeated")) for event in said(stream)]
    assert told == [
        ("login-failed", "default", None),
        ("login-failed", "second", None),
        ("login-failed", "default", 1),
        ("login", "default", None),
        ("login-failed", "default", None),
    ]


@pytest.mark.parametrize("event", ["worker-ended", "worker-stuck"])
def test_what_happens_to_another_worker_is_told_at_once(clock: Clock, event: str) -> None:
    stream = Stream()
    set_up("info", "json", stream)
    for number in (1, 2, 2):
        about = {"event": event, "worker": number}
        logging.getLogger("proxy").error("worker %d (process %d) stopped", number, 100 + number, extra=about)
    assert [(told["worker"], told.get("repeated")) for told in said(stream)] == [(1, None), (2, None)]


def test_defects_are_alike_where_they_were_raised(clock: Clock) -> None:
    stream = Stream()
    set_up("info", "json", stream)

    nothing: dict[str, int] = {}
    nobody: list[int] = []

    def defect(what: Any) -> None:
        try:
            what()
        except (IndexError, KeyError):
            logging.getLogger("proxy").exception("a request met a defect", extra={"event": "defect"})

    for _ in range(3):
        defect(lambda: nobody[0])
        defect(lambda: nothing["key"])
    logging.getLogger("proxy").error("a defect", exc_info=ValueError("never raised"), extra={"event": "defect"})
    kinds = [event["exception"].splitlines()[-1] for event in said(stream)]
    assert kinds == [
        "IndexError: list index out of range",
        "KeyError: 'key'",
        "ValueError: never raised",
    ]


# --- On a terminal ----------------------------------------------------------------------------------------------------


async def test_colours_are_only_where_they_are_asked_for() -> None:
    for colours in (False, True):
        stream = Stream()
        log = set_up("info", "text", stream, colours=colours)
        fail(1)
        for status in (0, 200, 304, 404, 502):
            log.write(line(status=status))
        log.flush()
        coloured = [b"\x1b[" in text for text in stream.getvalue().splitlines()]
        assert coloured == [colours] * 6
        assert stream.getvalue().count(b"\x1b[0m") * 2 == stream.getvalue().count(b"\x1b[")


async def test_no_text_acts_on_a_terminal() -> None:
    stream = Stream()
    log = set_up("info", "text", stream)
    logging.getLogger("proxy").warning("said %s", "\x1b[2J\x07\r\n\x9b")
    log.write(line(error="login-failed", detail="\x1b]0;title\x07"))
    log.flush()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", stream.getvalue())
    assert stream.getvalue().count(b"\n") == 2


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
        b'{"time":"2027-01-15T08:00:00.062Z","level":"warning","event":"request","request_id":"1f2e-7",'
        b'"listener":"127.0.0.1:8080","method":"POST","path":"/api/nfe/envio","api":"2.0","status":502,'
        b'"outcome":"unknown","duration_ms":12.5,"bytes_sent":321,"error":"connection-lost",'
        b'"detail":"the \\"connection\\" ended",'
        b'"next_step":"Query the document by access key before anybody sends it again."}\n'
    )


@pytest.mark.parametrize("replay", list(PASSED_ON))
async def test_a_401_that_was_passed_on_says_why_and_what_to_do(replay: str) -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    log.write(line(status=401, outcome="answered", replay=replay))
    log.flush()
    (event,) = said(stream)
    detail, step = PASSED_ON[replay]
    assert (event["replay"], event["detail"], event["next_step"]) == (replay, detail, step.replace("`", ""))
    assert event["level"] == "info"  # Invoisys has answered
    assert "error" not in event


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
        ({"status": 200, "duration_ms": 3.14159}, "200 POST /api/nfe/envio 3.1 ms 1f2e-7"),
        ({"duration_ms": 1.0}, "--- POST /api/nfe/envio 1.0 ms 1f2e-7"),
        (
            {"status": 200, "upstream_ms": 2.25, "duration_ms": 4.0},
            "200 POST /api/nfe/envio 4.0 ms 1f2e-7 (upstream 2.2 ms)",
        ),
        ({"status": 200, "replayed": True}, "200 POST /api/nfe/envio 0.0 ms 1f2e-7 replayed after a 401"),
        ({"upstream_status": 201}, "--- POST /api/nfe/envio 0.0 ms 1f2e-7 upstream answered 201"),
        (
            {"status": 502, "outcome": "unknown", "error": "connection-lost", "detail": "the connection ended"},
            "502 POST /api/nfe/envio 0.0 ms 1f2e-7 unknown: the connection ended. " + ERRORS["connection-lost"],
        ),
        (
            {"status": 401, "outcome": "answered", "replay": "failed"},
            f"401 POST /api/nfe/envio 0.0 ms 1f2e-7 answered: {PASSED_ON['failed'][0]}. "
            + PASSED_ON["failed"][1].replace("`", ""),
        ),
        (
            {"status": 200, "replay": "replayed", "replayed": True},
            "200 POST /api/nfe/envio 0.0 ms 1f2e-7 replayed after a 401",
        ),
        (
            {"outcome": "unknown", "error": "caller-gone"},
            "--- POST /api/nfe/envio 0.0 ms 1f2e-7 unknown: caller-gone. " + ERRORS["caller-gone"],
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


FAILED = {"status": 502, "outcome": "not-sent", "error": "connection-refused", "detail": "nothing listens there"}


@pytest.mark.parametrize(
    ("level", "shown"), [("debug", [None] * 5), ("info", [None] * 3 + [2]), ("warning", [None, 4]), ("error", [])]
)
async def test_requests_that_failed_are_warnings(level: str, shown: list[int | None]) -> None:
    stream = Stream()
    log = set_up(level, "json", stream)
    for _ in range(5):
        log.write(line(**FAILED))
    log.flush()
    assert [event.get("repeated") for event in said(stream)] == shown
    assert {event["level"] for event in said(stream)} <= {"warning"}
    assert {event["next_step"] for event in said(stream)} <= {ERRORS["connection-refused"].replace("`", "")}


@pytest.mark.parametrize(("level", "summarised"), [("info", 4), ("warning", 2)])
@pytest.mark.parametrize(
    ("said_of_it", "each"),
    [
        ({"outcome": "unknown", "error": "connection-lost", "status": 502}, True),
        ({"outcome": "unknown", "error": "caller-gone"}, True),
        ({"outcome": "answered", "error": "caller-gone", "upstream_status": 200}, True),
        ({"outcome": "unknown", "error": "connection-lost", "status": 502, "method": "GET"}, False),
        (FAILED, False),
    ],
)
async def test_what_may_have_made_a_document_is_never_summarised(
    said_of_it: dict[str, Any], each: bool, level: str, summarised: int
) -> None:
    stream = Stream()
    log = set_up(level, "json", stream)
    for _ in range(5):
        log.write(line(**said_of_it))
    log.flush()
    assert len(said(stream)) == (5 if each else summarised)


async def test_what_goes_well_has_a_line_each_among_failures_that_share_one() -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    for number in range(10):
        log.write(line(status=200) if number % 2 else line(**FAILED))
    log.flush()
    assert [event.get("repeated") or event["status"] for event in said(stream)] == [502, 200] * 3 + [200, 200, 2]


async def test_requests_that_were_refused_for_their_path_are_alike_where_it_is_the_same() -> None:
    stream = Stream()
    log = set_up("info", "json", stream)
    for number in range(10):
        log.write(line(path=f"/{number % 2}", status=404, outcome="not-sent", error="no-such-api"))
    log.flush()
    told = [(event["path"], event.get("repeated")) for event in said(stream)]
    assert told == [("/0", None), ("/1", None)] * 3 + [("/0", 2), ("/1", 2)]


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
