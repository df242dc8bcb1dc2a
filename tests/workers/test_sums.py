"""What several processes have counted, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from proxy.observe import families as f
from proxy.observe.counting import Buckets, family, histogram
from proxy.observe.metrics import LOGIN_STATES
from proxy.workers.sums import Sums, counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.workers.words import Counted


def requests(**by_status: int) -> list[Counted]:
    children: dict[tuple[str, ...], float] = {
        ("l", "2.0", "GET", status.strip("_"), "upstream"): number for status, number in by_status.items()
    }
    return counted([family(f.REQUESTS, children)])


def took(*values: float) -> list[Counted]:
    buckets = Buckets((1.0, 10.0))
    for value in values:
        buckets.observe(value)
    return counted([histogram(f.DURATION, {("l", "2.0"): buckets})])


def gauge(kind: f.Family, value: float) -> list[Counted]:
    return counted([family(kind, {tuple("x" for _ in kind.labels): value})])


def login(state: str) -> list[Counted]:
    return counted([family(f.LOGIN_STATE, {("a", "2.0", each): each == state for each in LOGIN_STATES})])


def values(metrics: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for metric in metrics for sample in metric.samples}


def test_counters_are_added_up_by_their_labels() -> None:
    told = values(Sums().of([requests(_200=3, _404=1), requests(_200=4, _503=2)]))
    assert {key[4]: value for key, value in told.items()} == {"200": 7, "404": 1, "503": 2}


def test_histograms_are_added_up_bound_by_bound() -> None:
    told = values(Sums().of([took(0.5, 5), took(0.5, 50, 50)]))
    assert [value for key, value in told.items() if key[0].endswith("_bucket")] == [2, 3, 5]
    assert [value for key, value in told.items() if key[0].endswith("_sum")] == [106]


def test_what_those_counted_that_have_ended_stays_and_what_they_had_does_not() -> None:
    sums = Sums()
    sums.keep([*requests(_200=3), *took(5), *gauge(f.WAITING, 9)])
    sums.keep([*requests(_200=2, _404=1), *took(0.5)])
    told = values(sums.of([[*requests(_200=10), *took(50)]]))
    assert {key[4]: value for key, value in told.items() if key[0] == f.REQUESTS.name} == {"200": 15, "404": 1}
    assert [value for key, value in told.items() if key[0].endswith("_bucket")] == [1, 2, 3]
    assert (f.WAITING.name,) not in told
    assert values(sums.of([]))[f.REQUESTS.name, "l", "2.0", "GET", "404", "upstream"] == 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (f.WAITING, 5), (f.IN_FLIGHT, 5), (f.CONNECTIONS_LIMIT, 5), (f.HELD, 5),
        (f.TOKEN_AGE, 3), (f.TOKEN_LEFT, 2), (f.GENERATION, 3), (f.LOGIN_RETRY, 3), (f.STORE_FAILING, 3),
    ],
)  # fmt: skip
def test_gauges_are_what_all_have_together_but_for_what_they_share(kind: f.Family, expected: float) -> None:
    assert list(values(Sums().of([gauge(kind, 2), gauge(kind, 3)])).values()) == [expected]


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (("idle", "idle"), "idle"),
        (("idle", "in-flight"), "in-flight"),
        (("refused", "backing-off"), "refused"),
        (("backing-off", "in-flight"), "backing-off"),
    ],
)
def test_a_login_has_one_state_the_worst(states: tuple[str, str], worst: str) -> None:
    told = values(Sums().of(map(login, states)))
    assert {key[3]: value for key, value in told.items()} == {state: float(state == worst) for state in LOGIN_STATES}


def test_memory_and_processor_time_are_those_of_all_and_open_files_those_of_the_worst() -> None:
    def process(number: float) -> list[Counted]:
        cpu = Metric("process_cpu_seconds", "", "counter")
        cpu.samples = [Sample("process_cpu_seconds_total", {}, number)]
        found = [cpu]
        for name in ("process_resident_memory_bytes", "process_open_fds", "process_max_fds"):
            metric = Metric(name, "", "gauge")
            metric.samples = [Sample(name, {}, number)]
            found.append(metric)
        return counted(found)

    assert list(values(Sums().of([process(1), process(10)])).values()) == [11, 11, 10, 1]
