"""How long the sidecar takes from `exec` to listening, and what it imports on the way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from bench.places import ROOT
from bench.processes import BenchError, two_cores
from bench.upstream import working_folder

if TYPE_CHECKING:
    from pathlib import Path

_SETTINGS = {
    "INVOISYS_USERNAME": "bench",
    "INVOISYS_PASSWORD": "bench",
    "INVOISYS_LISTEN": "127.0.0.1:0",
    "INVOISYS_ADMIN": "127.0.0.1:0",
    "INVOISYS_API_2_0_URL": "http://127.0.0.1:9",
    "INVOISYS_API_2_0_TOKEN_URL": "http://127.0.0.1:9/api/token",
    "INVOISYS_API_3_0_URL": "http://127.0.0.1:9",
    "INVOISYS_API_3_0_TOKEN_URL": "http://127.0.0.1:9/v1/token",
}
_MOST = 12
_IMPORT = re.compile(r"import time: +(\d+) \| +(\d+) \|( +)(\S+)")
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(times: int) -> dict[str, Any]:
    """Start the sidecar so many times; CPU in seconds, and the largest imports in microseconds of their own."""
    core, _ = two_cores()
    os.sched_setaffinity(0, {core})
    with working_folder() as folder:
        _until_listening(folder)  # writes the byte code
        cpu = [_until_listening(folder)[0] for _ in range(times)]
        imports = _until_listening(folder, "-X", "importtime")[1]
    found = [_IMPORT.match(line) for line in imports.splitlines()]
    own = {match[4]: int(match[1]) for match in found if match}
    largest = sorted(own.items(), key=lambda item: -item[1])[:_MOST]
    return {"cpu": cpu, "modules": len(own), "largest": dict(largest)}


def _until_listening(folder: Path, *options: str) -> tuple[float, str]:
    errors = folder / "errors"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *options, "-m", "proxy", "run"],
            cwd=folder,
            env=_SETTINGS | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        with process, process.stdout:
            listening = any(b'"event":"listening"' in line for line in process.stdout)
            spent = _cpu(process.pid) if listening else 0.0
            process.terminate()
    if not listening:
        raise BenchError(f"the sidecar does not start:\n{errors.read_text()}")
    return spent, errors.read_text()


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - one line of the kernel's
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
