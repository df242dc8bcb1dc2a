"""What must be reached, and whether a comparison reached it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.figures import ratio, spread
from bench.peers import PEERS, SIDECAR
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.figures import Spread
    from bench.rounds import Samples


@dataclass(frozen=True)
class Goal:
    """A bound on a figure of the sidecar, or on its ratio to a peer's."""

    scenario: str
    figure: str
    bound: float
    peer: str | None = None
    at_most: bool = False

    def measured(self, samples: Samples) -> Spread | None:
        """Return what was measured, none where this was not in the plan."""
        taken = samples.get(self.scenario, {})
        if SIDECAR not in taken or (self.peer is not None and self.peer not in taken):
            return None
        if self.peer is None:
            return spread(taken[SIDECAR], self.figure)
        return ratio(taken[SIDECAR], taken[self.peer], self.figure)

    def reached(self, measured: Spread) -> bool:
        """Tell whether the median is within the bound."""
        return measured.median <= self.bound if self.at_most else measured.median >= self.bound

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        beside = f" times {PEERS[self.peer].title}" if self.peer else " MiB"
        return f"{FIGURES[self.figure]}, {SCENARIOS[self.scenario].title}: {sign} {self.bound:g}{beside}"


FIGURES = {
    "rps": "requests/s",
    "p50": "p50",
    "p99": "p99",
    "mbps": "MiB/s",
    "growth": "growth of memory",
    "rss": "memory",
}


def _goals() -> Iterator[Goal]:
    for scenario in ("plain-16", "plain-64"):
        for peer, bound in (("envoy", 1.1), ("nginx-lua", 1.1), ("go", 1.1), ("node", 2.5), ("nginx", 0.33)):
            yield Goal(scenario, "rps", bound, peer)
    for scenario in ("tls-16", "tls-64"):
        for peer, bound in (("envoy", 1.0), ("nginx-lua", 1.0), ("go", 1.0), ("node", 1.0), ("nginx", 0.3)):
            yield Goal(scenario, "rps", bound, peer)
    yield Goal("plain-1", "p50", 1.0, "envoy", at_most=True)
    yield Goal("plain-64", "p99", 1.0, "envoy", at_most=True)
    for scenario in ("down", "up"):
        yield Goal(scenario, "mbps", 1.0, "nginx")
        yield Goal(scenario, "growth", 4.0, at_most=True)
    yield Goal("tls-64", "rss", 60.0, at_most=True)


GOALS = tuple(_goals())
