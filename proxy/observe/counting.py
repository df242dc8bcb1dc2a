"""Counting as cheaply as Python can: plain numbers in dictionaries, turned into families when somebody asks.

Everything is counted and read in the one thread of the event loop, so that nothing needs a lock: prometheus-client's
own counters and histograms take one, and three to five times as long.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from proxy.observe.families import Family

    Samples = Mapping[tuple[Family, "Labels"], int]
    Reader = Callable[[], Samples]

Labels = tuple[str, ...]


class Buckets:
    """How many values lie within each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Counts:
    """Sums by the values of labels; what lacks a value is not counted."""

    def __init__(self) -> None:
        self.sums: dict[Labels, float] = {}

    def add(self, labels: tuple[str | None, ...], number: float = 1) -> None:
        """Add to the sum under these values."""
        at = tuple(value for value in labels if value is not None)
        if len(at) == len(labels):
            self.sums[at] = self.sums.get(at, 0) + number


class Succession:
    """Sums over what is read in several rooms, of which one may take another's place: what that has counted stays."""

    def __init__(self) -> None:
        self._rooms: tuple[Reader, ...] = ()
        self._gone: Counter[tuple[Family, Labels]] = Counter()

    def go_on(self, rooms: Iterable[Reader]) -> None:
        """Read in these rooms from now on."""
        now = tuple(rooms)
        for room in set(self._rooms) - set(now):
            self._gone.update({at: number for at, number in room().items() if at[0].kind == "counter"})
        self._rooms = now

    def sums(self, rooms: Iterable[Reader]) -> Samples:
        """Return the sums over the rooms that it goes on with, and over these."""
        found = self._gone.copy()
        for room in dict.fromkeys((*self._rooms, *rooms)):
            found.update(room())
        return found


def family(kind: Family, children: Mapping[Labels, float]) -> Metric:
    """Return a family with its children, by the values of their labels."""
    metric = kind.empty()
    metric.samples = [Sample(kind.name, dict(zip(kind.labels, at, strict=True)), to) for at, to in children.items()]
    return metric


def histogram(kind: Family, children: Mapping[Labels, Buckets], unit: float = 1) -> Metric:
    """Return a family of histograms, whose values were counted in that part of the family's own unit."""
    metric = HistogramMetricFamily(kind.name, kind.help, labels=kind.labels)
    for labels, child in children.items():
        bounds = [*(repr(round(float(bound) * unit, 9)) for bound in child.bounds), "+Inf"]
        metric.add_metric(labels, list(zip(bounds, accumulate(child.counts), strict=True)), child.sum * unit)
    return metric
