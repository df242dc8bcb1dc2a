"""The supervising process, within the test, with real workers."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

from proxy.config import load
from proxy.errors import ConfigError
from proxy.observe import AccessLog
from proxy.observe.forms import JsonForm
from proxy.observe.logs import Lines
from proxy.server import StartError
from proxy.systemd import Supervisor
from proxy.tokens.schedule import Backoff
from proxy.workers import team as module
from proxy.workers.team import Team
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = {
    "INVOISYS_USERNAME": "someone",
    "INVOISYS_PASSWORD": "a-secret",
    "INVOISYS_LISTEN": "127.0.0.1:0",
    "INVOISYS_ADMIN": "127.0.0.1:0",
    "INVOISYS_WORKERS": "2",
    "INVOISYS_API_2_0_URL": "http://127.0.0.1:9",
    "INVOISYS_API_2_0_TOKEN_URL": "http://127.0.0.1:9/api/token",
}


def a_team() -> Team:
    env = dict(os.environ)
    access_log = AccessLog(Lines(io.BytesIO()), JsonForm(), logging.CRITICAL)
    return Team(load(None, SETTINGS), env, access_log, Supervisor({}), log_form="json", colours=False)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - what another process does has no event here
            await asyncio.sleep(0.02)


async def test_a_worker_that_stands_still_too_long_is_ended_and_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_MISSED", 2)
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.5)
    monkeypatch.setattr(module, "_LONGEST_LOOK", 0.5)
    caplog.set_level(logging.INFO)
    team = a_team()
    await team.start()
    try:
        one, other = team._workers
        before, untouched = one.pid, other.pid
        os.kill(before, signal.SIGSTOP)
        await until(lambda: one.pid != before and one.serving)
        assert other.pid == untouched
        assert (one.restarts, other.restarts) == (1, 0)
    finally:
        await team.stop()
    told = [record.__dict__["event"] for record in caplog.records if "worker" in record.__dict__]
    assert told == ["worker-stuck", "worker-ended", "worker-started"]


async def test_who_looks_does_not_hasten_the_end_of_one_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.5)
    monkeypatch.setattr(module, "_LONGEST_LOOK", 0.5)
    team = a_team()
    await team.start()
    try:
        one, _ = team._workers
        before = one.pid
        os.kill(before, signal.SIGSTOP)
        for _ in range(4):
            await asyncio.gather(*(team._answers.condition() for _ in range(2 * module._MOST_MISSED)))
        os.kill(before, signal.SIGCONT)
        await until(lambda: one.silent_since is None)
        assert (one.pid, one.serving, one.restarts) == (before, True, 0)
    finally:
        await team.stop()


async def test_a_pause_of_all_processes_ends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a container is frozen: time passes, and nobody has had any of it."""
    monkeypatch.setattr(module, "_MOST_MISSED", 2)
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.5)
    monkeypatch.setattr(module, "_LONGEST_LOOK", 0.5)
    team = a_team()
    await team.start()
    try:
        one, _ = team._workers
        before = one.pid
        os.kill(before, signal.SIGSTOP)
        time.sleep(3)  # noqa: ASYNC251 - the supervising process stands still too
        os.kill(before, signal.SIGCONT)
        heard = one.heard
        await until(lambda: one.heard > heard + 2)
        assert (one.pid, one.restarts) == (before, 0)
    finally:
        await team.stop()


async def test_one_that_ends_again_and_again_is_started_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_AGAIN", Backoff(0.01, 0.05))
    team = a_team()
    await team.start()
    try:
        one, _ = team._workers
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/bin/false")  # no worker can start any more
            os.kill(one.pid, signal.SIGKILL)
            await until(lambda: one.restarts >= 6)
            assert one.down_since is not None
        await until(lambda: one.serving and one.down_since is None)
    finally:
        await team.stop()
    ends = [record.args for record in caplog.records if "has ended" in record.msg]
    waits = [float(str(args[3])) for args in ends if isinstance(args, tuple)]
    assert waits[0] == 0
    assert 0 < waits[1] < waits[2] < waits[3]
    assert waits[3:] == sorted(waits[3:])
    assert waits[-1] <= 0.05


async def test_what_cannot_be_listened_at_is_told_and_leaves_no_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        team = a_team()
        team._addresses[0].bind = team._addresses[0].bind.parse(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StartError, match=r"cannot listen: 127\.0\.0\.1:.*: address already in use"):
            await team.start()
    assert not any(worker.serving for worker in team._workers)


def test_other_systems_are_told_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="workers: several processes at one address need Linux; found win32"):
        a_team()
