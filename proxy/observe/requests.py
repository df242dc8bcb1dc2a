"""What is counted of requests, in one place: at the end of each."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal, NamedTuple

from proxy.observe import families as f
from proxy.observe.counting import Buckets, Counts, family, histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from proxy.observe.counting import Labels
    from proxy.observe.logs import RequestLine

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
OTHER = "other"
"""Every method that callers make up."""

NONE = "none"
"""The API of a request that is for none, and the origin and status where the caller left before an answer."""

CAUSES = ("host", "origin", "form", "caller-token", "rule", "token-endpoint")
OUTCOMES = ("not-sent", "answered", "unknown")
CUT_SHORT = ("too-many-connections", "slow-head", "forbidden")
REPLAYS = ("replayed", "too-large", "permission", "failed")

_COUNTED = (f.REQUESTS, f.OUTCOMES, f.ERRORS, f.REPLAYS, f.HEARD_OUT, f.GUARD_REFUSALS, f.MALFORMED, f.CUT_SHORT)

_METHODS = {method: method for method in METHODS}
_MS = 0.001
_BOUNDS_MS = tuple(round(bound / _MS, 3) for bound in f.REQUEST_SECONDS)


_Key = tuple[str | None, str, int, bool, str | None, str | None, str | None]


class End(NamedTuple):
    """How a request ended: one of few, whatever callers send."""

    api: str | None
    method: str
    status: int
    own: bool
    outcome: str | None
    error: str | None
    replay: str | None

    @property
    def origin(self) -> str:
        """Return whose answer the caller got."""
        if not self.status:
            return NONE
        return "sidecar" if self.own or self.api is None else "upstream"


class RequestMeter:
    """Counts the requests of one listener; to count one costs about a microsecond."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.ends: defaultdict[_Key, int] = defaultdict(int)
        self.took: defaultdict[str | None, Buckets] = defaultdict(_buckets)
        self.upstream_took: defaultdict[str | None, Buckets] = defaultdict(_buckets)
        self.heard_out: defaultdict[tuple[str | None, str | None], int] = defaultdict(int)
        self.refusals: defaultdict[str, int] = defaultdict(int)
        self.malformed: defaultdict[str, int] = defaultdict(int)
        self.cut_short: defaultdict[str, int] = defaultdict(int)

    def ended(self, line: RequestLine) -> None:
        """Count a request, by what its line says."""
        api = line.api
        method = _METHODS.get(line.method, OTHER)
        # A plain tuple with the fields of an `End`: to make one of those takes as long as all the rest.
        self.ends[api, method, line.status, line.own, line.outcome, line.error, line.replay] += 1
        self.took[api].observe(line.duration_ms)
        if line.upstream_ms is not None:
            self.upstream_took[api].observe(line.upstream_ms)

    def heard(self, line: RequestLine) -> None:
        """Count an answer that was read for a caller that had left."""
        self.heard_out[line.api, line.outcome] += 1

    def refused(self, cause: str) -> None:
        """Count a request that the guard kept out."""
        self.refusals[cause] += 1

    def was_malformed(self, error: str) -> None:
        """Count a request that is malformed or too large."""
        self.malformed[error] += 1

    def was_cut_short(self, error: str) -> None:
        """Count a caller that was cut short before it had made a request."""
        self.cut_short[error] += 1


def _buckets() -> Buckets:
    return Buckets(_BOUNDS_MS)


def collect(meters: Mapping[str, RequestMeter], apis: Mapping[str, Iterable[str]]) -> Iterator[Metric]:
    """Return the families of all listeners' requests, by the listeners' addresses.

    `apis` are those, by listener, of which something is told before the first request.
    """
    counts = {kind: Counts() for kind in _COUNTED}
    for listener, meter in meters.items():
        _begin(counts, listener, apis.get(listener, ()))
        for key, number in meter.ends.items():
            end = End(*key)
            at = (listener, end.api or NONE)
            counts[f.REQUESTS].add((*at, end.method, str(end.status or NONE), end.origin), number)
            counts[f.OUTCOMES].add((*at, end.method, end.outcome), number)
            counts[f.ERRORS].add((*at, end.error), number)
            counts[f.REPLAYS].add((*at, end.replay), number)
        for (api, outcome), number in meter.heard_out.items():
            counts[f.HEARD_OUT].add((listener, api or NONE, outcome), number)
        for cause, number in meter.refusals.items():
            counts[f.GUARD_REFUSALS].add((listener, cause), number)
        for error, number in meter.malformed.items():
            counts[f.MALFORMED].add((listener, error), number)
        for error, number in meter.cut_short.items():
            counts[f.CUT_SHORT].add((listener, error), number)
    for kind, counted in counts.items():
        yield family(kind, counted.sums)
    yield histogram(f.DURATION, _by_api(meters, "took"), _MS)
    yield histogram(f.UPSTREAM_DURATION, _by_api(meters, "upstream_took"), _MS)
    yield family(f.IN_FLIGHT, {(listener,): meter.in_flight for listener, meter in meters.items()})


def _begin(counts: Mapping[f.Family, Counts], listener: str, apis: Iterable[str]) -> None:
    """Begin at zero what an alert waits for: from nothing to one is no increase."""
    for cause in CAUSES:
        counts[f.GUARD_REFUSALS].add((listener, cause), 0)
    for error in CUT_SHORT:
        counts[f.CUT_SHORT].add((listener, error), 0)
    for api in apis:
        counts[f.ERRORS].add((listener, api, "internal-error"), 0)
        for outcome in OUTCOMES:
            counts[f.OUTCOMES].add((listener, api, "POST", outcome), 0)
        for result in REPLAYS:
            counts[f.REPLAYS].add((listener, api, result), 0)


def _by_api(meters: Mapping[str, RequestMeter], times: Literal["took", "upstream_took"]) -> dict[Labels, Buckets]:
    return {
        (listener, api or NONE): buckets
        for listener, meter in meters.items()
        for api, buckets in getattr(meter, times).items()
    }
