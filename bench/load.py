"""One measurement: load on one peer, and what it answered, took and cost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from bench.bulk import TIMES
from bench.places import BENCH, ROOT, WRK, with_libraries
from bench.processes import BenchError
from bench.scenarios import Requests, Scenario, Transfers
from bench.upstream import LARGE, invoice

if TYPE_CHECKING:
    from pathlib import Path

    from bench.peers import Running

Figures = dict[str, float]
"""What was measured, by name; times in microseconds, memory in MiB, `busy` in percent of a core."""

_MIB = 1024 * 1024


class Load:
    """Measures from one core."""

    def __init__(self, core: int | str, folder: Path) -> None:
        """`folder` is for the body of the requests."""
        self._pin = ["/usr/bin/env", "taskset", "--cpu-list", str(core)]
        self._body = folder / "invoice.json"
        self._body.write_bytes(invoice())

    def measure(self, running: Running, scenario: Scenario, seconds: int) -> Figures:
        """Put load on a peer for so many seconds, or for some large transfers; raises `BenchError`."""
        child = running.child
        child.forget_log()
        child.forget_peak()
        before, cpu, started = child.resident, child.cpu, time.perf_counter()
        figures: Figures
        if isinstance(scenario, Requests):
            watch = _Watch(running, seconds / 2)
            figures, count = self._requests(running, scenario, seconds)
            figures["rss"] = watch.result()
        else:
            figures, count = self._transfers(running, scenario)
        spent = child.cpu - cpu
        figures["busy"] = spent / (time.perf_counter() - started) * 100
        figures["cpu"] = spent * 1e6 / count
        figures["peak"] = child.peak
        figures["growth"] = figures["peak"] - before
        return figures

    def _requests(self, running: Running, scenario: Requests, seconds: int) -> tuple[Figures, float]:
        command = [*self._pin, str(WRK), "--threads", "1", "--connections", str(scenario.connections)]
        command += ["--duration", f"{seconds}s", "--timeout", "30s", "--script", str(BENCH / "load.lua")]
        command += [f"http://127.0.0.1:{running.port}", "--"]
        if scenario.body is None:
            command += ["GET", scenario.path, "-"]
        else:
            command += ["POST", scenario.path, str(self._body), scenario.body]
        said = _last_line(command, running)
        if said["refused"] or said["broken"] or not said["requests"]:
            raise BenchError(f"{running.peer.name} did not answer well: {said}")
        figures = {name: float(said[name]) for name in ("p50", "p99", "p999")}
        figures["rps"] = said["requests"] / said["microseconds"] * 1e6
        return figures, said["requests"]

    def _transfers(self, running: Running, scenario: Transfers) -> tuple[Figures, float]:
        command = [*self._pin, sys.executable, "-m", "bench.bulk", str(running.port), scenario.path]
        took = _last_line([*command, scenario.direction, scenario.framing], running)
        return {"mbps": LARGE / _MIB * TIMES / sum(took)}, LARGE / _MIB * TIMES


class _Watch:
    """Reads a peer's memory once, in the middle of its load."""

    def __init__(self, running: Running, after: float) -> None:
        self._running = running
        self._resident = 0.0
        self._timer = threading.Timer(after, self._read)
        self._timer.start()

    def _read(self) -> None:
        self._resident = self._running.child.resident

    def result(self) -> float:
        self._timer.join()
        return self._resident


def _last_line(command: list[str], running: Running) -> Any:
    done = subprocess.run(  # noqa: S603 - our own commands
        command, cwd=ROOT, env=with_libraries(), capture_output=True, text=True, check=False
    )
    if done.returncode or not done.stdout:
        raise BenchError(f"load on {running.peer.name} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
