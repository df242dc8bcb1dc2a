"""Programs under measurement: started on one core, watched through /proc, ended by their own id."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TICKS = os.sysconf("SC_CLK_TCK")
_START_PATIENCE = 30.0
_STOP_PATIENCE = 5.0
_LOOK_EVERY = 0.02
_OK = 200


class BenchError(Exception):
    """Something that a measurement needs does not work; the message says what."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache  # before this process is bound to one of them
def two_cores() -> tuple[int, int]:
    """Return the core for what is measured, and the core for load and upstream; raises `BenchError` where one lacks."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:  # noqa: PLR2004 - one for each side
        raise BenchError("two cores are needed: one for what is measured, one for load and upstream")
    return cores[0], cores[1]


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return the status and body that a GET is answered; raises `OSError` and `HTTPException`."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_START_PATIENCE)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


class Child:
    """A running program and the processes below it; what it says goes to a file that `forget_log` empties."""

    def __init__(self, command: Sequence[str], *, core: int | str, folder: Path, env: Mapping[str, str]) -> None:
        """Start a program in `folder`, which is made if need be, with nothing but `env` for an environment.

        `core` is one, or several with commas.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                ["/usr/bin/env", "taskset", "--cpu-list", str(core), *command],
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid

    def await_answer(self, port: int, path: str) -> None:
        """Wait until a GET is answered 200; raises `BenchError` where the program ends or never answers."""
        self._await(lambda: get(port, path)[0] == _OK)

    def await_listening(self, port: int) -> None:
        """Wait until a connection is accepted; raises `BenchError` where the program ends before."""

        def connects() -> bool:
            with socket.create_connection(("127.0.0.1", port)):
                return True

        self._await(connects)

    def _await(self, true: Callable[[], bool]) -> None:
        patience = time.monotonic() + _START_PATIENCE
        while time.monotonic() < patience and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if true():
                    return
            time.sleep(_LOOK_EVERY)
        raise BenchError(f"{self._process.args!r} does not serve; it said:\n{self.log.read_text()[-2000:]}")

    def forget_log(self) -> None:
        """Empty the log, so that no disk fills."""
        os.truncate(self.log, 0)

    def stop(self) -> None:
        """End the program, and kill it where it takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_PATIENCE)
            except subprocess.TimeoutExpired:
                for pid in self._tree():
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()

    # --- What it costs ----------------------------------------------------------------------------------------------

    @property
    def cpu(self) -> float:
        """Seconds of CPU that the program, its children and their ended children have used."""
        ticks = 0
        for pid in self._tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5)
        return ticks / _TICKS

    @property
    def resident(self) -> float:
        """MiB of memory in use now, with what processes share counted for each."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> float:
        """MiB of memory in use at most since the start or the last `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        for pid in self._tree():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _memory(self, field: str) -> float:
        lines = (line for pid in self._tree() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    def _tree(self) -> list[int]:
        found = [self.pid]
        for pid in found:  # grows while it is walked
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found
