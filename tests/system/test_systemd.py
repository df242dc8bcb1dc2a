"""The sidecar as a service of systemd's kind: what it tells, and the listener that it takes over."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.config import written
from tests.support.processes import ROOT, Fake, Process, environment, sidecar
from tests.support.wire import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "proxy", "run"])
"""


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


def started(fake: Fake, told: socket.socket, **settings: str) -> Process:
    return Process("run", env=environment(fake.url) | {"NOTIFY_SOCKET": str(told.getsockname()), **settings})


def test_it_tells_when_it_serves_reads_again_and_stops(fake: Fake, told: socket.socket) -> None:
    process = started(fake, told)
    try:
        assert told.recv(1000) == b"READY=1\nSTATUS=serving"
        process.event("listening")
        process.signal(signal.SIGHUP)
        assert told.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert told.recv(1000) == b"READY=1\nSTATUS=serving"
        process.signal(signal.SIGTERM)
        assert told.recv(1000) == b"STOPPING=1"
        assert process.wait() == 0
    finally:
        process.stop()


def test_signs_of_life_end_when_it_stands_still(fake: Fake, told: socket.socket) -> None:
    process = started(fake, told, WATCHDOG_USEC="400000")
    try:
        assert told.recv(1000) == b"READY=1\nSTATUS=serving"
        assert [told.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.signal(signal.SIGSTOP)
        told.settimeout(1)
        with pytest.raises(TimeoutError):
            list(iter(lambda: told.recv(1000), None))
        process.signal(signal.SIGCONT)
        told.settimeout(20)
        assert told.recv(1000) == b"WATCHDOG=1"
    finally:
        process.signal(signal.SIGCONT)
        process.stop()


async def test_a_listener_is_taken_over_and_outlives_a_restart(fake: Fake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        env = os.environ | environment(fake.url, LISTEN=url.removeprefix("http://"))
        for number in (1, 2):
            # Nobody accepts yet, and nobody is refused: the call waits for the sidecar.
            early = asyncio.create_task(ask(url, "GET", "/api/nfe/getbychaveSTD/1"))
            child = subprocess.Popen(  # noqa: ASYNC220 - nothing else waits for the loop
                [sys.executable, "-c", ACTIVATE, str(listening.fileno())],
                cwd=ROOT,
                env=env,
                pass_fds=[listening.fileno()],
                stdout=subprocess.DEVNULL,
            )
            assert (await early).status == 200
            child.terminate()
            assert await asyncio.to_thread(child.wait, 20) == 0
            assert (await fake.state())["logins"] == number


async def test_a_socket_for_nobody_is_told(fake: Fake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        child = subprocess.Popen(  # noqa: ASYNC220 - nothing else waits for the loop
            [sys.executable, "-c", ACTIVATE, str(listening.fileno())],
            cwd=ROOT,
            env=os.environ | environment(fake.url),
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        lines: list[str] = []
        while not lines or '"listening"' not in lines[-1]:
            lines.append(await asyncio.to_thread(child.stdout.readline))
        child.terminate()
        await asyncio.to_thread(child.wait, 20)
        child.stdout.close()
    assert any('"socket-not-taken"' in line for line in lines)


async def test_sigkill_and_restart_with_a_store_cost_no_login(fake: Fake, tmp_path: Path) -> None:
    config = written(tmp_path, tokens={"store": f"file:{tmp_path}/kept/tokens.json"})
    for number in range(3):
        with sidecar(fake.url, "-c", config) as proxy:
            assert (await proxy.issue(number)).status == 200
            proxy.process.signal(signal.SIGKILL)
            proxy.process.wait()
    assert (await fake.state())["logins"] == 1
