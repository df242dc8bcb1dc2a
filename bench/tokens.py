"""What a login costs those who wait for it: at a cold start, after a revocation, and ahead of time under load."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import uvloop

from bench.crowd import NO_ANSWER, Reply, ask_all, callers, get_request
from bench.figures import Spread
from bench.peers import FETCHING, PEERS, SIDECAR, Running, start
from bench.processes import get, two_cores
from bench.upstream import upstream, working_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.crowd import Caller
    from bench.upstream import Upstream

CROWDS = (100, 1000, 10_000)


def login_seconds(callers: int) -> float:
    """Return how long a login takes: long enough for the whole crowd to come while it is under way."""
    return 2 + callers / 2000


_TEMPLATE = "upstream-tokens.conf"
_SMALL = "/api/small"
_OK = 200

_REFRESH_EVERY = 2
_REFRESH_LOGIN = 0.5
_CONNECTIONS = 16

Row = dict[str, Any]


def measure(crowds: Sequence[int], seconds: int) -> dict[str, Any]:
    """Measure all crowds, then a scheduled refresh for so many seconds; raises `BenchError`."""
    core, load_core = two_cores()
    os.sched_setaffinity(0, {load_core})
    rows = []
    for count in crowds:
        for name in FETCHING:
            print(f"{name}: {count} callers", file=sys.stderr, flush=True)
            with (
                working_folder() as folder,
                upstream(folder, core=load_core, template=_TEMPLATE, login_seconds=login_seconds(count)) as target,
            ):
                rows += uvloop.run(_crowd(name, count, target, folder, core))
    print("a refresh under load", file=sys.stderr, flush=True)
    with (
        working_folder() as folder,
        upstream(folder, core=load_core, template=_TEMPLATE, login_seconds=_REFRESH_LOGIN) as target,
    ):
        refresh = uvloop.run(_refresh(target, folder, core, seconds))
    return {"crowds": rows, "refresh": refresh}


def _start(name: str, target: Upstream, folder: Path, core: int, settings: dict[str, object]) -> Running:
    running = start(PEERS[name], target, folder, core=core, tls=False, settings=settings)
    try:
        running.child.await_listening(running.port)
    except BaseException:
        running.child.stop()
        raise
    return running


async def _crowd(name: str, count: int, target: Upstream, folder: Path, core: int) -> list[Row]:
    running = _start(name, target, folder, core, {"waiting": count + 1000})
    try:
        async with callers(running.port, count) as crowd:
            cold = await _ask(name, "cold start", crowd, running, target)
        get(target.plain_port, "/bench/revoke")
        async with callers(running.port, count) as crowd:
            return [cold, await _ask(name, "revocation", crowd, running, target)]
    finally:
        running.child.stop()


async def _ask(name: str, what: str, crowd: list[Caller], running: Running, target: Upstream) -> Row:
    before = _state(target)["logins"] if what == "revocation" else 0
    began = time.time()
    replies = await ask_all(crowd, get_request(running.port, _SMALL))
    state = _state(target)
    last = max(reply.came for reply in replies)
    return {
        "peer": name,
        "what": what,
        "callers": len(crowd),
        "login_seconds": login_seconds(len(crowd)),
        "logins": state["logins"] - before,
        "answered": sum(reply.status == _OK for reply in replies),
        "refused": sum(reply.status not in (_OK, NO_ANSWER) for reply in replies),
        "seconds": last - began,
        "after_login": last - max((ended for _, ended in state["spans"]), default=began),
    }


def _state(target: Upstream) -> Any:
    return json.loads(get(target.plain_port, "/bench/state")[1])


async def _refresh(target: Upstream, folder: Path, core: int, seconds: int) -> Row:
    """Have a few callers ask without a pause, and tell the answers that came beside a login from the others."""
    running = _start(SIDECAR, target, folder, core, {"refresh_every": f"{_REFRESH_EVERY}s"})
    try:
        async with callers(running.port, _CONNECTIONS) as crowd:
            request = get_request(running.port, _SMALL)
            await ask_all(crowd, request)  # waits for the first login
            until = time.time() + seconds
            taken = await asyncio.gather(*(_keep_asking(caller, request, until) for caller in crowd))
    finally:
        running.child.stop()
    replies = [reply for replies in taken for reply in replies]
    spans = _state(target)["spans"][1:]
    beside = [reply for reply in replies if any(began < reply.came and reply.asked < ended for began, ended in spans)]
    others = list(set(replies) - set(beside))
    return {
        "refreshes": len(spans),
        "failed": sum(reply.status != _OK for reply in replies),
        "beside": _latency(beside),
        "others": _latency(others),
    }


async def _keep_asking(caller: Caller, request: bytes, until: float) -> list[Reply]:
    replies = []
    while time.time() < until:
        replies.append(await caller.ask(request))
    return replies


def _latency(replies: list[Reply]) -> dict[str, float]:
    took = sorted((reply.came - reply.asked) * 1e6 for reply in replies)
    return {"count": len(took), "p50": Spread.of(took).median, "p99": took[len(took) * 99 // 100], "most": took[-1]}
