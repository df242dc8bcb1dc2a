"""One worker beside two: what a request costs, how even the load is, and how much more two answer.

Two cores are too few for two workers with load and upstream beside them. So there are two measurements. `free`: all
share both cores, and what counts is the CPU that a request costs. `held`: each worker may use so small a part of a core
that load and upstream are no limit; what counts is how many requests are answered.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.figures import Spread, ratio
from bench.load import Load
from bench.peers import PEERS, SIDECAR, Running, start
from bench.processes import BenchError, free_port, two_cores
from bench.quota import held
from bench.scenarios import Requests
from bench.upstream import upstream, working_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.load import Figures

PART = 0.15
"""Of a core, for each worker."""

_CONNECTIONS = (16, 64)


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure one and two workers in turn; raises `BenchError`."""
    cores = ",".join(map(str, two_cores()))
    samples: dict[str, list[Figures]] = {}
    why_not_held = ""
    with working_folder() as folder, upstream(folder, core=cores) as target:
        load = Load(cores, folder)
        both = {}
        try:
            for count in (1, 2):
                own = folder / str(count)
                own.mkdir()
                peer = replace(PEERS[SIDECAR], env={"INVOISYS_WORKERS": str(count)})
                admin = free_port()
                both[count] = (start(peer, target, own, core=cores, tls=False, settings={"admin_port": admin}), admin)
            for running, _ in both.values():
                running.child.await_answer(running.port, "/api/small")
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                for connections in _CONNECTIONS:
                    scenario = Requests(f"plain-{connections}", "", connections)
                    for count, (running, admin) in both.items():
                        name = f"{count} {connections}"
                        figures = _measured(load, running, admin, scenario, seconds)
                        samples.setdefault(f"free {name}", []).append(figures)
                        try:
                            with held(_workers(running, admin), PART):
                                figures = _measured(load, running, admin, scenario, seconds)
                        except BenchError as error:
                            why_not_held = str(error)
                            continue
                        samples.setdefault(f"held {name}", []).append(figures)
        finally:
            for running, _ in both.values():
                running.child.stop()
    return {"rounds": rounds, "seconds": seconds, "samples": samples, "not_held": why_not_held}


def _measured(load: Load, running: Running, admin: int, scenario: Requests, seconds: int) -> Figures:
    """Measure as ever, and tell which part of the CPU was the busiest worker's, and which the supervising process's."""
    ids = _workers(running, admin)
    before = {pid: _cpu(pid) for pid in ids}
    above = _cpu(running.child.pid)
    figures = load.measure(running, scenario, seconds)
    spent = [_cpu(pid) - before[pid] for pid in ids]
    beside = 0 if running.child.pid in ids else _cpu(running.child.pid) - above
    figures["busiest"] = max(spent) / sum(spent)
    figures["supervising"] = beside / (sum(spent) + beside)
    return figures


def _workers(running: Running, admin: int) -> list[int]:
    """Return the processes that serve: the workers, or the only one."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/status", timeout=10) as answer:
        workers = json.load(answer).get("workers", ())
    return [worker["pid"] for worker in workers] or [running.child.pid]


def _cpu(pid: int) -> int:
    """Return the ticks of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def report(results: dict[str, Any]) -> str:
    """Return the figures as a table."""
    about = (
        "Measured {measured} at {commit}: Python {python}, {machine}, load {load:.1f}; {rounds} rounds of {seconds} s."
    )
    return "\n".join([about.format(**results), "", _HEAD, *_rows(results)])


_HEAD = """\
| how | connections | requests/s, one and two | two to one | CPU/request | two to one | the busier worker's part | the\
 supervising process's |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def _rows(results: dict[str, Any]) -> Iterator[str]:
    samples = results["samples"]
    for way, what in (("free", "all share both cores"), ("held", f"each worker has {PART:.0%} of a core")):
        for connections in _CONNECTIONS:
            one, two = (samples.get(f"{way} {count} {connections}") for count in (1, 2))
            if not one or not two:
                yield f"| {what} | {connections} | not measured: {results['not_held']} | | | | | |"
                continue
            cells = [what, str(connections)]
            for figure, unit in (("rps", ""), ("cpu", " µs")):
                medians = [Spread.of(each[figure] for each in side).median for side in (one, two)]
                cells += [", ".join(f"{median:,.0f}{unit}" for median in medians), _told(ratio(two, one, figure))]
            cells += [_told(Spread.of(each[part] for each in two)) for part in ("busiest", "supervising")]
            yield f"| {' | '.join(cells)} |"


def _told(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f} ({spread.least:.2f} to {spread.most:.2f})"
