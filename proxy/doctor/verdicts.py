"""What is judged by a limit, or by a running sidecar's own words: clock, certificate, tokens that are lost. Pure."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from proxy.doctor.report import Finding, Verdict
from proxy.observe import PREFIX, next_step
from proxy.observe.steps import PASSED_ON, passed_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.doctor.report import Step

MOST_SKEW = 60.0
"""Seconds by which a clock may be off, as for the warning in the log."""
SHORTEST_CERTIFICATE = 14
"""Days that a certificate should last."""
MANY_REJECTIONS = 2
"""Good tokens rejected. A single one says nothing: Invoisys may have restarted."""

_DAY = 24 * 3600.0
_GAVE_A_TOKEN = ("granted", "shared")

_LOST = (
    "upstream rejected {} of {} good tokens of {} for API {} since the sidecar started: either paths are forbidden to"
    " this user, or something else logs in as the same user and only the newest token counts"
)
_KEEP = (
    "look in the log for paths that are always answered 401, and ask Invoisys to allow them; if there are none, let all"
    " that log in as this user share one tokens.store"
)


def judge_clock(skew: float | None, server: str) -> str:
    """Judge by how many seconds our clock is ahead of a server's; raises `Finding`."""
    if skew is None:
        return "the server does not tell its time"
    side = "ahead of" if skew > 0 else "behind"
    off = f"{abs(skew):.0f} s {side} that of {server}"
    if abs(skew) > MOST_SKEW:
        mend = "let this machine set its clock by NTP; on a virtual machine or container, the host's"
        raise Finding("clock-skew", f"this machine's clock is {off}", mend, serious=False)
    return f"this machine's clock is within {MOST_SKEW:.0f} s of the server's"


def judge_certificate(ends: float, now: float, server: str) -> str:
    """Judge a certificate by when it ends, in seconds since the epoch; raises `Finding`."""
    date = f"{datetime.fromtimestamp(ends, UTC):%Y-%m-%d}"
    days = (ends - now) / _DAY
    if days < SHORTEST_CERTIFICATE:
        raise Finding(
            "certificate-expires",
            f"the certificate of {server} expires on {date}, in {math.floor(days)} days",
            f"tell whoever runs {server}: from that day on no request will get through",
            serious=False,
        )
    return f"the certificate fits the name, its chain is trusted, and it is good until {date}"


class Reading(NamedTuple):
    """What a running sidecar has counted since its start; by account and API."""

    rejections: Mapping[tuple[str, str], int]
    """Good tokens that upstream answered 401 to."""
    tokens: Mapping[tuple[str, str], int]
    """All tokens that it had."""
    store_failing: bool
    failures: Mapping[str, int]
    """Requests by the error that they ended in, and by the `replay` of a 401 that was passed on."""


def read_metrics(exposition: str) -> Reading:
    """Read the text of `/metrics`; raises `ValueError` where it is none."""
    rejections: Counter[tuple[str, str]] = Counter()
    tokens: Counter[tuple[str, str]] = Counter()
    ended: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    failing = False
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            match name.removeprefix(PREFIX):
                case "token_rejections_total":
                    rejections[labels["account"], labels["api"]] += int(value)
                case "logins_total" if labels["result"] in _GAVE_A_TOKEN:
                    tokens[labels["account"], labels["api"]] += int(value)
                case "token_store_failing":
                    failing = bool(value)
                case "request_errors_total" | "connections_cut_short_total":
                    ended[labels["error"]] += int(value)
                case "malformed_requests_total":
                    unread[labels["error"]] += int(value)
                case "replays_total" if labels["result"] in PASSED_ON:
                    ended[labels["result"]] += int(value)
    # What is malformed and could be read is counted in both.
    return Reading(rejections, tokens, failing, +(ended | unread))


def judge_metrics(reading: Reading) -> str:
    """Judge what a running sidecar has counted; raises `Finding`.

    Tokens are lost where most of them were rejected, and not replaced when their time had come. Failed requests are
    told with what to do, but are no finding: each was a matter of that request, and may be long over.
    """
    failures = [_in_words(name, number) for name, number in Counter(reading.failures).most_common()]
    if reading.store_failing:
        text = "the shared token store does not work for the running sidecar, and it logs in for itself"
        mend = "see the step store; the sidecar's log says since when"
        raise Finding("store-degraded", "\n".join([text, *failures]), mend, serious=False)
    for (account, api), rejected in reading.rejections.items():
        tokens = reading.tokens[account, api]
        if rejected >= MANY_REJECTIONS and 2 * rejected > tokens:
            text = _LOST.format(rejected, tokens, account, api)
            raise Finding("tokens-lost", "\n".join([text, *failures]), _KEEP, serious=False)
    text = f"good tokens rejected since the sidecar started: {sum(reading.rejections.values())}"
    return "\n".join([f"{text}; requests that failed:" if failures else text, *failures])


def _in_words(name: str, number: int) -> str:
    """Say what the log says of such a failure, for those who were not there to read it."""
    times = "once" if number == 1 else f"{number} times"
    if name in PASSED_ON:
        told = passed_on(name)
        return f"{told.error}, {times}: {told.detail}. {told.next_step}"
    return f"{name}, {times}: {next_step('request', name)}"


def judge_readiness(status: str, reasons: list[str], logins: Sequence[Step] = ()) -> str:
    """Judge what a running sidecar says of itself on /readyz; raises `Finding`, whose mend may be one of `logins`."""
    said = "; ".join((status, *reasons))
    if status == "ready":
        return "the sidecar runs and is ready"
    if status == "draining":
        mend = "start it again, if it was not you who stopped it"
        raise Finding("draining", f"the sidecar is about to end: {said}", mend, serious=False)
    cause = _cause_among(logins, reasons)
    if cause is not None:
        said += f"; the cause stands at {cause.title}"
    if status == "degraded":
        text = f"the sidecar serves, but cannot renew its token: {said}"
        mend = "mend the login (see the step login) before the token that is still good expires"
        raise Finding("degraded", text, "" if cause else mend, serious=False)
    mend = "do what the step login says; if that is well, wait for the sidecar's next login or restart it"
    raise Finding("not-ready", f"the sidecar runs and has no usable token: {said}", "" if cause else mend)


def _cause_among(logins: Sequence[Step], reasons: Sequence[str]) -> Step | None:
    """Return the login that has failed as the sidecar's own, or that could not even be tried."""
    for step in logins:
        same = step.verdict is Verdict.FAILED and all(step.text in reason for reason in reasons)
        if same or step.verdict is Verdict.NOT_TRIED:
            return step
    return None
