"""What several processes have counted, added up; what those counted that have ended is not forgotten. Pure."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample as Told

from proxy.observe import families as f
from proxy.observe.metrics import LOGIN_STATES
from proxy.workers.words import Counted, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_GROWING = {"counter", "histogram"}
"""Kinds that must not shrink when a process ends."""

_OF_EACH: dict[str, Callable[[Sequence[float]], float]] = {
    f.TOKEN_AGE.name: max,
    f.TOKEN_LEFT.name: min,
    f.GENERATION.name: max,
    f.LOGIN_STATE.name: max,
    f.LOGIN_RETRY.name: max,
    f.SKEW.name: max,
    f.STORE_FAILING.name: max,
    f.BUILD.name: max,
    "python_info": max,
    "process_start_time_seconds": min,
    "process_open_fds": max,
    "process_max_fds": min,
}
"""Of all else there is as much as all processes have together."""

Labels = tuple[tuple[str, str], ...]


def counted(metrics: Iterable[Metric]) -> list[Counted]:
    """Return metrics as they are sent to another process."""
    return [
        Counted(
            metric.name,
            metric.type,
            metric.documentation,
            [Sample(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples],
        )
        for metric in metrics
    ]


class Sums:
    """Adds up."""

    def __init__(self) -> None:
        self._ended: list[Counted] = []

    def keep(self, metrics: Iterable[Counted]) -> None:
        """Take what a process has counted that has ended."""
        growing = (family for family in metrics if family.kind in _GROWING)
        self._ended = counted(_together([self._ended, growing]))

    def of(self, processes: Iterable[Iterable[Counted]]) -> list[Metric]:
        """Return the metrics of all these processes together, and of those that have ended."""
        return _together([self._ended, *processes])


def _together(processes: Iterable[Iterable[Counted]]) -> list[Metric]:
    families: dict[str, Metric] = {}
    values: defaultdict[str, dict[tuple[str, Labels], list[float]]] = defaultdict(dict)
    for family in chain.from_iterable(processes):
        families.setdefault(family.name, Metric(family.name, family.help, family.kind))
        for sample in family.samples:
            at = sample.name, tuple(sample.labels.items())
            values[family.name].setdefault(at, []).append(sample.value)
    for name, metric in families.items():
        for (line, labels), each in values[name].items():
            metric.samples.append(Told(line, dict(labels), _OF_EACH.get(line, sum)(each)))
        if name == f.LOGIN_STATE.name:
            metric.samples = _one_state(metric.samples)
    return list(families.values())


def _one_state(samples: list[Told]) -> list[Told]:
    """Leave the last of several states of a login: they stand in the order of their seriousness."""
    there = {(_whose(sample), sample.labels["state"]) for sample in samples if sample.value}
    last = {whose: max((state for at, state in there if at == whose), key=LOGIN_STATES.index) for whose, _ in there}
    return [sample._replace(value=float(last.get(_whose(sample)) == sample.labels["state"])) for sample in samples]


def _whose(sample: Told) -> tuple[str, str]:
    return sample.labels["account"], sample.labels["api"]
