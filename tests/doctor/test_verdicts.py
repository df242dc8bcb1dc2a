from __future__ import annotations

from typing import Any

import pytest

from proxy.doctor.report import Finding, Step, Verdict
from proxy.doctor.verdicts import (
    MOST_SKEW,
    judge_certificate,
    judge_clock,
    judge_metrics,
    judge_readiness,
    read_metrics,
)
from proxy.observe import Metrics, RequestLine, StoreReading, TokenReading
from proxy.tokens import login

DAY = 24 * 3600.0


def test_the_clock_is_judged_as_for_the_log() -> None:
    assert login._MOST_SKEW == MOST_SKEW


@pytest.mark.parametrize("skew", [None, 0.0, 60.0, -60.0])
def test_a_clock_that_is_near_enough(skew: float | None) -> None:
    assert judge_clock(skew, "invoisys.test:443")


@pytest.mark.parametrize(("skew", "side"), [(61.0, "61 s ahead of"), (-7200.0, "7200 s behind")])
def test_a_clock_that_is_wrong(skew: float, side: str) -> None:
    with pytest.raises(Finding, match=f"^this machine's clock is {side} that of invoisys.test:443$") as found:
        judge_clock(skew, "invoisys.test:443")
    assert found.value.verdict is Verdict.WARNING


def test_a_certificate_lasts_for_two_weeks_or_is_warned_of() -> None:
    now = 1_800_000_000.0
    assert judge_certificate(now + 14 * DAY, now, "invoisys.test:443").endswith("it is good until 2027-01-29")
    with pytest.raises(Finding, match=r"expires on 2027-01-29, in 13 days$") as found:
        judge_certificate(now + 14 * DAY - 3600, now, "invoisys.test:443")
    assert found.value.verdict is Verdict.WARNING
    assert found.value.cause == "certificate-expires"


def counted(*, rejections: int, logins: dict[tuple[str, str], int], failing: bool = False) -> str:
    """The metrics of a sidecar with one account and API, as it tells them itself."""
    metrics = Metrics()
    meter = metrics.token("matriz", "2.0")
    for (reason, result), count in logins.items():
        for _ in range(count):
            meter.login_ended(reason, result)
    meter.read_from(lambda: TokenReading(1.0, 1.0, 1, "idle", 0.0, rejections))
    metrics.store_from(lambda: StoreReading(failing, int(failing)))
    return metrics.exposition("")[0].decode()


@pytest.mark.parametrize(
    ("rejections", "logins"),
    [
        (0, {("first", "granted"): 1}),
        (1, {("first", "granted"): 1}),  # Invoisys may have restarted
        (5, {("first", "granted"): 1, ("rejected", "granted"): 5, ("scheduled", "granted"): 14}),
        (2, {("rejected", "granted"): 2, ("scheduled", "granted"): 2}),
    ],
)
def test_tokens_that_last(rejections: int, logins: dict[tuple[str, str], int]) -> None:
    said = judge_metrics(read_metrics(counted(rejections=rejections, logins=logins)))
    assert said == f"good tokens rejected since the sidecar started: {rejections}"


@pytest.mark.parametrize(
    "logins",
    [
        {("first", "granted"): 1, ("rejected", "granted"): 2},
        {("first", "granted"): 1, ("rejected", "granted"): 1, ("rejected", "shared"): 1},
        {("first", "granted"): 1, ("rejected", "granted"): 2, ("retry", "login-throttled"): 90},
    ],
)
def test_tokens_that_are_lost(logins: dict[tuple[str, str], int]) -> None:
    with pytest.raises(Finding, match=r"^upstream rejected 2 of 3 good tokens of matriz for API 2\.0 ") as found:
        judge_metrics(read_metrics(counted(rejections=2, logins=logins)))
    assert found.value.cause == "tokens-lost"
    assert "only the newest token counts" in found.value.text
    assert "share one tokens.store" in found.value.mend


def test_a_store_that_fails_the_running_sidecar() -> None:
    with pytest.raises(Finding, match=r"^the shared token store does not work") as found:
        judge_metrics(read_metrics(counted(rejections=0, logins={}, failing=True)))
    assert found.value.cause == "store-degraded"


def test_requests_that_failed_are_told_by_their_number_with_what_to_do() -> None:
    metrics = Metrics()
    meter = metrics.requests("127.0.0.1:8080", ["2.0"])
    ends: list[dict[str, Any]] = [
        *({"error": "connection-lost", "outcome": "unknown"} for _ in range(3)),
        {"error": "target-too-long", "outcome": "not-sent"},
        {"status": 401, "replay": "permission"},
        {"status": 200, "replay": "replayed"},
    ]
    for end in ends:
        meter.ended(RequestLine("id", "127.0.0.1:8080", "POST", "/", api="2.0", **end))
    meter.was_malformed("target-too-long")  # the same one
    meter.was_malformed("malformed-request")
    meter.was_malformed("malformed-request")
    meter.was_cut_short("slow-head")
    said = judge_metrics(read_metrics(metrics.exposition("")[0].decode())).splitlines()
    assert said[0] == "good tokens rejected since the sidecar started: 0; requests that failed:"
    assert said[1:3] == [
        "connection-lost, 3 times: Query the document by access key before anybody sends it again.",
        "malformed-request, 2 times: Mend the client: what it sent is not HTTP/1.1.",
    ]
    assert {line.partition(",")[0] for line in said[3:]} == {"target-too-long", "401-permission", "slow-head"}
    assert all(", once: " in line for line in said[3:])


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("degraded", Verdict.WARNING), ("draining", Verdict.WARNING), ("not-ready", Verdict.FAILED)],
)
def test_a_sidecar_that_says_what_is_wrong(status: str, verdict: Verdict) -> None:
    with pytest.raises(Finding, match=f"{status}; Invoisys refused the credentials$") as found:
        judge_readiness(status, ["Invoisys refused the credentials"])
    assert (found.value.cause, found.value.verdict) == (status, verdict)


REFUSED = Step("login", "default to API 2.0", Verdict.FAILED, "Invoisys refused the credentials", "credentials-refused")
NOT_TRIED = Step("login", "default to API 3.0", Verdict.NOT_TRIED, "not tried, since tcp failed")
WELL = Step("login", "default to API 2.0", Verdict.OK, "Invoisys gave a token")


@pytest.mark.parametrize("status", ["degraded", "not-ready"])
@pytest.mark.parametrize(
    ("logins", "reasons", "cause"),
    [
        ([REFUSED], ["Invoisys refused the credentials"], REFUSED),
        ([WELL, REFUSED], ["worker 1: Invoisys refused the credentials"], REFUSED),
        ([WELL, NOT_TRIED], ["the login server could not be reached"], NOT_TRIED),
        ([REFUSED], ["the login server answered 500"], None),
        ([REFUSED], ["Invoisys refused the credentials", "no worker serves"], None),
        ([WELL], ["the first login is under way"], None),
    ],
)
def test_a_cause_that_a_login_has_told_is_not_told_again(
    status: str, logins: list[Step], reasons: list[str], cause: Step | None
) -> None:
    with pytest.raises(Finding) as found:
        judge_readiness(status, reasons, logins)
    assert found.value.text.endswith(f"; the cause stands at {cause.title}" if cause else reasons[-1])
    assert (found.value.mend == "") is (cause is not None)


@pytest.mark.parametrize("exposition", ["<html>", "# TYPE"])
def test_what_are_no_metrics(exposition: str) -> None:
    with pytest.raises(ValueError):
        read_metrics(exposition)


def test_a_sidecar_that_is_ready() -> None:
    assert judge_readiness("ready", []) == "the sidecar runs and is ready"
