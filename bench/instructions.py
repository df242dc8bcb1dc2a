"""How many instructions the sidecar executes for a request: a figure that no other program on the machine changes.

Counted by callgrind, in user space alone; so it shows what a change of code saves, and nothing of the kernel's part.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import uvloop

from bench.crowd import ask_all, callers, get_request, post_request
from bench.peers import PEERS, SIDECAR, Running, start
from bench.places import DEBIAN
from bench.processes import BenchError, two_cores
from bench.upstream import invoice, upstream, working_folder

if TYPE_CHECKING:
    from pathlib import Path

    from bench.upstream import Upstream

_CONNECTIONS = 16
_WARM_UP, _ROUNDS = 20, 100
"""How many times everybody asks."""

_COLLECTED = re.compile(r"^totals: (\d+)", re.MULTILINE)
_VALGRIND = {"VALGRIND_LIB": str(DEBIAN / "usr" / "libexec" / "valgrind")}


def measure() -> dict[str, Any]:
    """Count for a small GET and for a POST of 30 KiB, over a plain upstream; raises `BenchError`."""
    core, load_core = two_cores()
    os.sched_setaffinity(0, {load_core})
    counts = {}
    with working_folder() as folder, upstream(folder, core=load_core) as target:
        for name, body in (("1 KiB answer", None), ("30 KiB POST", invoice())):
            own = folder / name.replace(" ", "-")
            own.mkdir()
            counts[name] = _count(target, own, core, body)
    return counts


def _count(target: Upstream, folder: Path, core: int, body: bytes | None) -> float:
    collected = folder / "callgrind"
    valgrind = [str(DEBIAN / "usr" / "bin" / "valgrind"), "--tool=callgrind", "--instr-atstart=no"]
    valgrind.append(f"--callgrind-out-file={collected}")
    counted = replace(
        PEERS[SIDECAR],
        command=lambda own: [*valgrind, *PEERS[SIDECAR].command(own)],
        env=_VALGRIND,
    )
    running = start(counted, target, folder, core=core, tls=False)
    try:
        running.child.await_answer(running.port, "/api/small")
        uvloop.run(_ask(running, body))
    finally:
        running.child.stop()
    total = _COLLECTED.search(collected.read_text())
    if total is None:
        raise BenchError("callgrind told no total")
    return int(total[1]) / (_ROUNDS * _CONNECTIONS)


async def _ask(running: Running, body: bytes | None) -> None:
    port = running.port
    request = get_request(port, "/api/small") if body is None else post_request(port, "/api/nfe/envio", body)
    async with callers(port, _CONNECTIONS) as crowd:
        for _ in range(_WARM_UP):
            await ask_all(crowd, request)
        _instrument(running.child.pid, "on")
        for _ in range(_ROUNDS):
            await ask_all(crowd, request)
        _instrument(running.child.pid, "off")


def _instrument(pid: int, state: str) -> None:
    vgdb = str(DEBIAN / "usr" / "bin" / "vgdb")
    subprocess.run([vgdb, f"--pid={pid}", "instrumentation", state], check=True, capture_output=True)  # noqa: S603 - ours
