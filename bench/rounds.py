"""The comparison: every scenario, round after round, every peer in turn, so that a slow moment meets them all."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.load import Figures, Load
from bench.peers import PEERS, Running, start
from bench.processes import two_cores
from bench.scenarios import SCENARIOS, Requests, Scenario
from bench.upstream import upstream, working_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench.upstream import Upstream

Samples = dict[str, dict[str, list[Figures]]]
"""What was measured in each round, by scenario and peer."""

_WARM_UP = Requests("warm-up", "warm-up", 64)
_SETTLE = 1.0
"""Seconds after the start, until the memory of an idle peer is read."""


@dataclass(frozen=True)
class Plan:
    """Who is measured, at what, how often, and for how many seconds each time."""

    peers: Sequence[str]
    scenarios: Sequence[str]
    rounds: int
    seconds: int


@dataclass
class Comparison:
    """What came of a plan; `idle` is memory in MiB after the start, by kind of upstream and peer."""

    samples: Samples = field(default_factory=dict)
    idle: dict[str, dict[str, float]] = field(default_factory=dict)


def compare(plan: Plan) -> Comparison:
    """Measure a plan; raises `BenchError`."""
    measured_core, load_core = two_cores()
    os.sched_setaffinity(0, {load_core})
    comparison = Comparison()
    with working_folder() as folder, upstream(folder, core=load_core) as target:
        load = Load(load_core, folder)
        for tls in (False, True):
            scenarios = [SCENARIOS[name] for name in plan.scenarios if SCENARIOS[name].tls == tls]
            if scenarios:
                with _all_started(plan, target, folder, core=measured_core, tls=tls) as running:
                    kind = "tls" if tls else "plain"
                    comparison.idle[kind] = {one.peer.name: one.child.resident for one in running}
                    _measure(plan, scenarios, running, load, comparison.samples)
    return comparison


@contextlib.contextmanager
def _all_started(plan: Plan, target: Upstream, folder: Path, *, core: int, tls: bool) -> Iterator[list[Running]]:
    with contextlib.ExitStack() as stack:
        running = []
        for name in plan.peers:
            one = start(PEERS[name], target, folder, core=core, tls=tls)
            stack.callback(one.child.stop)
            one.child.await_answer(one.port, "/api/small")
            running.append(one)
        time.sleep(_SETTLE)
        yield running


def _measure(plan: Plan, scenarios: list[Scenario], running: list[Running], load: Load, samples: Samples) -> None:
    for one in running:
        load.measure(one, _WARM_UP, 1)
    for scenario in scenarios:
        taken: dict[str, list[Figures]] = {one.peer.name: [] for one in running}
        samples[scenario.name] = taken
        for number in range(plan.rounds):
            _say(f"{scenario.title}: round {number + 1} of {plan.rounds}")
            for one in running:
                taken[one.peer.name].append(load.measure(one, scenario, plan.seconds))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
