"""Where uvloop is missing, as on Windows, asyncio's own loop serves; signals are then heard as Windows has them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.support.processes import Fake, Process, Sidecar, environment, sidecar
from tests.support.wire import PATIENCE

MISSING = ("uvloop", "resource", "fcntl", "pwd", "grp")
"""What Windows has no module for."""

AS_ON_WINDOWS = f"""
import sys
sys.modules |= dict.fromkeys({MISSING})  # also those that are built in

import asyncio, errno, functools, os, signal, socket, stat

def refuse(*_):
    raise NotImplementedError

def dup(file, dup=os.dup):
    if stat.S_ISSOCK(os.fstat(file).st_mode):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return dup(file)

os.dup = dup
asyncio.SelectorEventLoop.add_signal_handler = refuse
del signal.SIGHUP, os.geteuid
"""

NO_UNIX_SOCKETS = """
socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)
del socket.AF_UNIX
"""
"""Apart: what is done on Linux alone, when the sidecar stops, goes by them."""


@pytest.fixture
def as_on_windows(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a sidecar that misses what Windows lacks, as far as that can be had elsewhere."""
    (tmp_path / "sitecustomize.py").write_text(AS_ON_WINDOWS)
    return {"PYTHONPATH": str(tmp_path)}


def mapped(proxy: Sidecar) -> str:
    """Return the files that are part of the process."""
    return Path(f"/proc/{proxy.process.child.pid}/maps").read_text()


async def test_it_forwards_and_renews_a_token(fake: Fake, as_on_windows: dict[str, str]) -> None:
    with sidecar(fake.url, **as_on_windows) as proxy:
        assert "uvloop" not in mapped(proxy)
        assert (await proxy.issue(1)).status == 200
        await fake.do("revoke")
        assert (await proxy.issue(2)).status == 200
        state = await fake.state()
    assert (state["documents"], state["duplicates"], state["unauthorized"]) == (2, 0, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_finishes_what_is_in_flight_when_it_is_stopped(
    fake: Fake, as_on_windows: dict[str, str], number: signal.Signals
) -> None:
    with sidecar(fake.url, **as_on_windows) as proxy:
        await fake.reached(logins_granted=1)
        await fake.do("answers", mode="slow", delay=1)
        call = asyncio.create_task(proxy.issue(1))
        await fake.reached(documents=1)
        proxy.process.signal(number)
        assert (await call).status == 200
        assert await asyncio.to_thread(proxy.process.wait) == 0
        assert "stopping" in [each["event"] for each in proxy.process.events]


async def test_a_second_signal_ends_it_at_once(fake: Fake, as_on_windows: dict[str, str]) -> None:
    with sidecar(fake.url, **as_on_windows) as proxy:
        await fake.reached(logins_granted=1)
        await fake.do("answers", mode="slow", delay=60)
        call = asyncio.create_task(proxy.issue(1))
        await fake.reached(documents=1)
        for heard in ("stopping", "stopped"):
            proxy.process.signal(signal.SIGINT)
            await asyncio.to_thread(proxy.process.event, heard)
        reply = await call
        assert (reply.status, reply["X-Invoisys-Outcome"]) == (502, "unknown")
        assert await asyncio.to_thread(proxy.process.wait) == 0


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ("tokens: {store: file:/tokens.json}", "tokens.store: this system lacks the locks that a file of tokens needs"),
        ("listeners: [{bind: unix:/socket}]", "unix:/socket: this system has no Unix sockets"),
    ],
)
def test_what_cannot_be_had_is_told_at_start(
    as_on_windows: dict[str, str], tmp_path: Path, config: str, fault: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AS_ON_WINDOWS + NO_UNIX_SOCKETS)
    file = tmp_path / "config.yaml"
    file.write_text(config)
    settings = environment("http://127.0.0.1:9", LISTEN="", **as_on_windows)
    process = Process("run", "-c", str(file), env=settings)
    process.child.wait(PATIENCE)
    assert process.stop() == 2
    assert process.errors == f"{fault}\n"
