"""From samples to what is told: medians with their spread, and the ratio of the sidecar to each peer. Pure."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.load import Figures


class Spread(NamedTuple):
    """A median, and the least and the most of what it was taken from."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarize values, one at least."""
        known = sorted(values)
        return cls(median(known), known[0], known[-1])


def spread(samples: Iterable[Figures], figure: str) -> Spread | None:
    """Return the spread of one figure, none where it was not measured."""
    values = [sample[figure] for sample in samples if figure in sample]
    return Spread.of(values) if values else None


def ratio(ours: Iterable[Figures], theirs: Iterable[Figures], figure: str) -> Spread | None:
    """Return the spread of ours divided by theirs, round by round: what a slow moment of the machine cancels out of."""
    pairs = zip(ours, theirs, strict=True)
    ratios = [mine[figure] / other[figure] for mine, other in pairs if mine.get(figure) and other.get(figure)]
    return Spread.of(ratios) if ratios else None
