"""Where the sidecar's CPU goes under load, function by function."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from bench.load import Load
from bench.peers import PEERS, SIDECAR, start
from bench.places import HOME
from bench.processes import BenchError, two_cores
from bench.scenarios import SCENARIOS
from bench.upstream import upstream, working_folder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_LINE_NUMBER = re.compile(r":\d+(?=\)(?:;|$))")
_RATE = 500
"""Samples in a second."""


def measure(scenario: str, seconds: int) -> str:
    """Sample the sidecar during a scenario, and return the raw stacks; raises `BenchError`.

    To look into another process takes root, or a kernel that lets parents do it.
    """
    core, load_core = two_cores()
    os.sched_setaffinity(0, {load_core})
    asked = SCENARIOS[scenario]
    with working_folder() as folder, upstream(folder, core=load_core) as target:
        running = start(PEERS[SIDECAR], target, folder, core=core, tls=asked.tls)
        try:
            running.child.await_answer(running.port, "/api/small")
            with _sampled(running.child.pid, folder / "stacks", seconds) as sampling:
                Load(load_core, folder).measure(running, asked, seconds + 1)
                said = sampling.communicate()[0]
        finally:
            running.child.stop()
        if sampling.returncode:
            raise BenchError(f"py-spy: {said}")
        return (folder / "stacks").read_text()


def _sampled(pid: int, stacks: Path, seconds: int) -> subprocess.Popen[str]:
    command = [str(HOME / "bin" / "py-spy"), "record", "--native", "--rate", str(_RATE), "--format", "raw"]
    command += ["--function", "--duration", str(seconds), "--pid", str(pid), "--output", str(stacks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603 - ours


class Share(NamedTuple):
    """A function's part of all samples, without and with what it calls."""

    function: str
    own: float
    whole: float


def shares(stacks: str) -> list[Share]:
    """Return the share of each function, the largest as a whole first."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for frames, samples in _stacks(stacks.splitlines()):
        own[frames[-1]] += samples
        for frame in set(frames):
            whole[frame] += samples
    total = sum(own.values())
    found = [Share(frame, own[frame] / total, samples / total) for frame, samples in whole.items()]
    return sorted(found, key=lambda share: (-share.whole, share.function))


def _stacks(lines: Iterable[str]) -> Iterable[tuple[list[str], int]]:
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        yield _LINE_NUMBER.sub("", stack).split(";"), int(samples)
