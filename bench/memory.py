"""A thousand callers that send 1 MiB each, all at once: is every one answered, and in how much memory?"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import uvloop

from bench.crowd import ask_all, callers, post_request
from bench.peers import PEERS, SIDECAR, start
from bench.processes import two_cores
from bench.upstream import upstream, working_folder

if TYPE_CHECKING:
    from pathlib import Path

    from bench.upstream import Upstream

CALLERS = 1000
BODY = 1024 * 1024

_SETTLE = 1.0
_OK = 200


def measure() -> dict[str, Any]:
    """Measure the sidecar with its usual limits; memory in MiB. Raises `BenchError`."""
    core, load_core = two_cores()
    os.sched_setaffinity(0, {load_core})
    with working_folder() as folder, upstream(folder, core=load_core) as target:
        return uvloop.run(_measure(target, folder, core))


async def _measure(target: Upstream, folder: Path, core: int) -> dict[str, Any]:
    running = start(PEERS[SIDECAR], target, folder, core=core, tls=False)
    child = running.child
    try:
        child.await_answer(running.port, "/api/small")
        time.sleep(_SETTLE)  # noqa: ASYNC251 - nobody else is here yet
        idle = child.resident
        child.forget_peak()
        async with callers(running.port, CALLERS) as crowd:
            replies = await ask_all(crowd, post_request(running.port, "/api/nfe/envio", b"x" * BODY))
        return {
            "callers": CALLERS,
            "answered": sum(reply.status == _OK for reply in replies),
            "seconds": max(reply.came for reply in replies) - min(reply.asked for reply in replies),
            "idle": idle,
            "peak": child.peak,
        }
    finally:
        child.stop()
