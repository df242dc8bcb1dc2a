"""What Prometheus is told, and in which form."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from proxy.admin import Readiness
from proxy.errors import Outcome, ProxyError
from proxy.observe import Level, Metrics, PoolReading, RequestLine, StoreReading, TokenReading
from proxy.observe.families import FAMILIES, REQUEST_SECONDS
from proxy.observe.metrics import LOGIN_STATES, READINESS_STATES
from proxy.observe.metrics_page import LABELS, page
from proxy.observe.requests import CAUSES, OUTCOMES
from proxy.tokens.states import LoginState
from tests.support.processes import ROOT

READING = TokenReading(age=60.5, expires_in=3539.5, generation=3, login_state="backing-off", retry_in=8.0, rejections=2)
LISTENER = "127.0.0.1:8080"


def metrics(reading: TokenReading = READING) -> Metrics:
    """Metrics of which every family has a sample."""
    made = Metrics()
    meter = made.token("default", "2.0")
    meter.read_from(lambda: reading)
    meter.skew_from(lambda: -1.5)
    meter.login_took(0.3)
    meter.login_ended("first", "granted")
    made.store_from(lambda: StoreReading(failing=True, failures=4))
    made.levels_from(lambda: Level(3, 1000), lambda: Level(4096, 65536))
    made.pool_from("2.0", lambda: PoolReading(2, 1, 100, opened=5, reused=40, closed={"idle": 2}))
    made.echoes_from("2.0", lambda: 1)
    made.readiness_from(lambda: "degraded")
    requests = made.requests(LISTENER, ["2.0"])
    requests.in_flight = 7
    requests.ended(line(replay="replayed", error="connection-lost", outcome="unknown"))
    requests.heard(line(outcome=Outcome.ANSWERED))
    requests.refused("host")
    requests.was_malformed("malformed-request")
    requests.was_cut_short("slow-head")
    return made


def line(**more: Any) -> RequestLine:
    usual: dict[str, Any] = {"method": "POST", "api": "2.0", "status": 200, "duration_ms": 30.0, "upstream_ms": 20.0}
    return RequestLine(request_id="1", listener=LISTENER, path="/api/nfe/envio", **usual | more)


def value(made: Metrics, sample: str, **labels: str) -> float | None:
    return made.registry.get_sample_value(f"invoisys_proxy_{sample}", labels)


# --- The formats ------------------------------------------------------------------------------------------------------


def test_the_classic_format_is_the_default() -> None:
    body, media_type = metrics().exposition("")
    assert media_type.startswith("text/plain")
    names = {family.name for family in read_text(body.decode())}
    assert "invoisys_proxy_logins" in names


def test_openmetrics_is_given_to_those_who_ask() -> None:
    body, media_type = metrics().exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    families = list(read_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    assert "invoisys_proxy_logins" in {family.name for family in families}
    assert {kind.name.removesuffix("_total").removesuffix("_info") for kind in FAMILIES} <= {
        family.name for family in families if family.samples
    }


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing() -> None:
    body, _ = metrics().exposition("")
    said = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


# --- The definitions --------------------------------------------------------------------------------------------------


def test_all_that_is_defined_is_told_and_all_that_is_told_is_defined() -> None:
    told = {family.name: family for family in metrics().collect()}
    assert set(told) == {family.name for family in Metrics().describe()}
    for kind in FAMILIES:
        samples = told[kind.empty().name].samples
        assert samples, f"{kind.name} has no sample"
        for sample in samples:
            assert sample.name.startswith(kind.name)
            assert set(sample.labels) - {"le"} == set(kind.labels)


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), "make docs writes it anew"


def test_the_page_has_every_label() -> None:
    assert list(LABELS) == sorted({label for kind in FAMILIES for label in kind.labels})


def test_the_states_are_those_of_the_rooms() -> None:
    assert set(LOGIN_STATES) == {state.value for state in LoginState}
    assert set(READINESS_STATES) == set(Readiness)
    assert set(OUTCOMES) == set(Outcome)


def causes(kind: type[ProxyError] = ProxyError) -> set[str]:
    own = {kind.cause} if kind.cause is not None else set()
    return own.union(*(causes(below) for below in kind.__subclasses__()))


def test_the_causes_are_those_of_the_errors() -> None:
    code = (ROOT / "proxy" / "guard.py").read_text() + (ROOT / "proxy" / "forward" / "forward.py").read_text()
    forbidden = re.findall(r'raise Forbidden\(\s*f?"[^"]*",\s*"([a-z-]+)"', code)
    assert len(forbidden) == code.count("raise Forbidden(")
    assert set(CAUSES) == causes() | set(forbidden)


# --- Requests ---------------------------------------------------------------------------------------------------------

OF = {"listener": LISTENER, "api": "2.0"}


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        ({}, {"status": "200", "origin": "upstream"}),
        ({"status": 502}, {"status": "502", "origin": "upstream"}),
        ({"status": 502, "own": True, "error": "cannot-connect"}, {"status": "502", "origin": "sidecar"}),
        ({"status": 0, "error": "caller-gone"}, {"status": "none", "origin": "none"}),
        ({"status": 200, "api": None}, {"api": "none", "status": "200", "origin": "sidecar"}),
        ({"method": "PROPFIND"}, {"method": "other", "status": "200", "origin": "upstream"}),
    ],
)
def test_a_request_by_whose_answer_it_got(said: dict[str, Any], labels: dict[str, str]) -> None:
    made = Metrics()
    made.requests(LISTENER).ended(line(**said))
    assert value(made, "requests_total", **{**OF, "method": "POST", **labels}) == 1


def test_requests_are_added_up() -> None:
    made = Metrics()
    meter = made.requests(LISTENER)
    for outcome in ("answered", "answered", "unknown"):
        meter.ended(line(outcome=outcome))
    meter.ended(line(outcome="unknown", error="connection-lost", status=502, own=True))
    assert value(made, "request_outcomes_total", **OF, method="POST", outcome="answered") == 2
    assert value(made, "request_outcomes_total", **OF, method="POST", outcome="unknown") == 2
    assert value(made, "requests_total", **OF, method="POST", status="200", origin="upstream") == 3
    assert value(made, "request_errors_total", **OF, error="connection-lost") == 1


def test_made_up_methods_make_no_series() -> None:
    made = Metrics()
    for number in range(100):
        made.requests(LISTENER).ended(line(method=f"M{number}"))
    (requests,) = [family for family in made.collect() if family.name == "invoisys_proxy_requests"]
    assert len(requests.samples) == 1


@pytest.mark.parametrize("bound", REQUEST_SECONDS)
def test_a_duration_lies_within_its_bounds(bound: float) -> None:
    made = Metrics()
    made.requests(LISTENER).ended(line(duration_ms=bound * 1000, upstream_ms=bound * 1000 + 0.001))
    below = {at: value(made, "request_duration_seconds_bucket", **OF, le=str(float(at))) for at in REQUEST_SECONDS}
    assert below == {at: float(at >= bound) for at in REQUEST_SECONDS}
    upstream = value(made, "upstream_duration_seconds_bucket", **OF, le=str(float(bound)))
    assert upstream == 0
    assert value(made, "upstream_duration_seconds_bucket", **OF, le="+Inf") == 1
    assert value(made, "request_duration_seconds_sum", **OF) == pytest.approx(bound)
    assert value(made, "request_duration_seconds_count", **OF) == 1


def test_a_request_that_went_nowhere_took_no_time_there() -> None:
    made = Metrics()
    made.requests(LISTENER).ended(line(api=None, upstream_ms=None))
    assert value(made, "request_duration_seconds_count", listener=LISTENER, api="none") == 1
    assert value(made, "upstream_duration_seconds_count", listener=LISTENER, api="none") is None


@pytest.mark.parametrize(
    ("sample", "labels"),
    [
        ("request_outcomes_total", {**OF, "method": "POST", "outcome": "unknown"}),
        ("request_errors_total", {**OF, "error": "internal-error"}),
        ("replays_total", {**OF, "result": "failed"}),
        ("guard_refusals_total", {"listener": LISTENER, "cause": "host"}),
        ("connections_cut_short_total", {"listener": LISTENER, "error": "too-many-connections"}),
    ],
)
def test_what_an_alert_waits_for_begins_at_zero(sample: str, labels: dict[str, str]) -> None:
    made = Metrics()
    made.requests(LISTENER, ["2.0"])
    assert value(made, sample, **labels) == 0


def test_listeners_of_one_address_share_a_meter() -> None:
    made = Metrics()
    for number in (3, 4):
        made.requests(LISTENER).in_flight += number
    assert value(made, "requests_in_flight", listener=LISTENER) == 7


def test_a_draft_shows_nothing_until_it_is_taken() -> None:
    made = metrics()
    told = made.exposition("")[0]
    draft = Metrics(made)
    draft.token("default", "2.0").read_from(lambda: READING._replace(generation=0))
    draft.token("matriz", "2.0").login_ended("first", "granted")
    draft.requests(LISTENER, ["1.0"]).in_flight += 1
    assert {*_samples(made.exposition("")[0])} - {*_samples(told)} == {
        f'invoisys_proxy_requests_in_flight{{listener="{LISTENER}"}} 8.0'
    }
    made.show(draft)
    assert value(made, "token_generation", account="default", api="2.0") == 0
    assert value(made, "logins_total", account="default", api="2.0", reason="first", result="granted") == 1
    assert value(made, "logins_total", account="matriz", api="2.0", reason="first", result="granted") == 1


def test_what_is_gone_is_told_no_more_but_requests_until_they_have_left() -> None:
    made, after = metrics(), Metrics()
    made.requests(LISTENER)
    leaving = Metrics(made)
    leaving.requests(LISTENER)
    made.show(after, [leaving])
    assert "requests_in_flight" in (told := made.exposition("")[0].decode())
    assert "account=" not in told
    made.show(after)
    assert "listener=" not in made.exposition("")[0].decode()


def test_what_a_room_has_counted_stays_when_another_takes_its_place() -> None:
    shown = Metrics()

    def pool(opened: int, idle: int) -> PoolReading:
        return PoolReading(idle, 0, 100, opened, reused=10 * opened, closed={"idle": opened - idle})

    def told() -> list[float | None]:
        samples = [f"pool_connections_{each}_total" for each in ("opened", "reused")]
        return [
            *(value(shown, sample, api="2.0") for sample in samples),
            value(shown, "pool_connections_closed_total", api="2.0", cause="idle"),
            value(shown, "pool_connections", api="2.0", state="idle"),
            value(shown, "token_rejections_total", account="default", api="2.0"),
        ]

    first = Metrics()
    first.pool_from("2.0", lambda: pool(3, 2))
    first.token("default", "2.0").read_from(lambda: READING)
    shown.show(first)
    assert told() == [3, 30, 1, 2, 2]
    kept = Metrics(first)
    kept.pool_from("2.0", first._pools["2.0"])
    kept.token("default", "2.0")
    shown.show(kept, [first])
    assert told() == [3, 30, 1, 2, 2], "what both read is counted once"
    other = Metrics(kept)
    other.pool_from("2.0", lambda: pool(1, 1))
    other.token("default", "2.0").read_from(lambda: READING._replace(rejections=1))
    shown.show(other, [kept])
    assert told() == [4, 40, 1, 3, 3]
    for _ in range(2):
        shown.show(other)
        assert told() == [4, 40, 1, 1, 3]
    shown.show(bare := Metrics(other))
    assert told() == [None] * 5
    bare.pool_from("2.0", lambda: pool(0, 0))
    bare.token("default", "2.0").read_from(lambda: READING._replace(rejections=0))
    shown.show(bare)
    assert told() == [4, 40, 1, 0, 3]


def _samples(exposition: bytes) -> list[str]:
    return [line for line in exposition.decode().splitlines() if line.startswith("invoisys_proxy_")]


# --- What is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "labels", "expected"),
    [
        ("token_age_seconds", {}, 60.5),
        ("token_expires_in_seconds", {}, 3539.5),
        ("token_generation", {}, 3),
        ("token_rejections_total", {}, 2),
        ("login_retry_in_seconds", {}, 8),
        ("login_state", {"state": "backing-off"}, 1),
        ("login_state", {"state": "idle"}, 0),
        ("logins_total", {"reason": "first", "result": "granted"}, 1),
        ("login_duration_seconds_sum", {}, 0.3),
        ("login_duration_seconds_bucket", {"le": "0.25"}, 0),
        ("login_duration_seconds_bucket", {"le": "0.5"}, 1),
        ("clock_skew_seconds", {}, -1.5),
    ],
)
def test_what_is_told_of_a_token(sample: str, labels: dict[str, str], expected: float) -> None:
    assert value(metrics(), sample, account="default", api="2.0", **labels) == expected


@pytest.mark.parametrize(
    ("sample", "labels", "expected"),
    [
        ("token_store_failing", {}, 1),
        ("token_store_failures_total", {}, 4),
        ("requests_waiting", {}, 3),
        ("requests_waiting_limit", {}, 1000),
        ("held_bytes", {}, 4096),
        ("held_limit_bytes", {}, 65536),
        ("pool_connections", {"api": "2.0", "state": "idle"}, 2),
        ("pool_connections", {"api": "2.0", "state": "busy"}, 1),
        ("pool_connections_limit", {"api": "2.0"}, 100),
        ("pool_connections_opened_total", {"api": "2.0"}, 5),
        ("pool_connections_reused_total", {"api": "2.0"}, 40),
        ("pool_connections_closed_total", {"api": "2.0", "cause": "idle"}, 2),
        ("token_echoes_stripped_total", {"api": "2.0"}, 1),
        ("readiness", {"state": "degraded"}, 1),
        ("readiness", {"state": "ready"}, 0),
    ],
)
def test_what_is_told_of_the_rest(sample: str, labels: dict[str, str], expected: float) -> None:
    assert value(metrics(), sample, **labels) == expected


def test_there_is_no_age_without_a_token_and_no_skew_without_a_date() -> None:
    made = metrics(READING._replace(age=None, expires_in=None, generation=0))
    made.token("default", "2.0").skew_from(lambda: None)
    for sample in ("token_age_seconds", "token_expires_in_seconds", "clock_skew_seconds"):
        assert value(made, sample, account="default", api="2.0") is None
