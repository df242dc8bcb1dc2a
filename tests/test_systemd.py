"""What systemd is told, over its own kind of socket, and what it hands over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.systemd import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAKES_OVER = """
import os, sys
from proxy.systemd import Supervisor
env = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
supervisor = Supervisor(env)
assert not env
address = ("127.0.0.1", int(sys.argv[1]))
taken, = supervisor.take_sockets(address).sockets
assert supervisor.take_sockets(address) is None
print(supervisor.addresses_left(), flush=True)
assert not os.get_inheritable(taken.fileno())
taken.setblocking(True)
taken.accept()[0].sendall(b"taken over")
"""


@pytest.fixture(params=["path", "abstract"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        if request.param == "path":
            address = bound = str(tmp_path / "notify")
        else:
            address = f"@invoisys-proxy-test-{os.getpid()}"
            bound = "\0" + address[1:]
        listening.bind(bound)
        listening.settimeout(5)
        yield listening, address


def test_what_is_told(told: tuple[socket.socket, str]) -> None:
    listening, address = told
    env = {"NOTIFY_SOCKET": address, "HOME": "/"}
    supervisor = Supervisor(env)
    assert env == {"HOME": "/"}
    supervisor.ready("listening")
    assert listening.recv(500) == b"READY=1\nSTATUS=listening"
    supervisor.alive()
    assert listening.recv(500) == b"WATCHDOG=1"
    supervisor.reloading()
    assert listening.recv(500).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    supervisor.stopping()
    assert listening.recv(500) == b"STOPPING=1"


def test_nobody_is_told_where_nobody_asked() -> None:
    supervisor = Supervisor({})
    supervisor.ready("listening")
    assert supervisor.watchdog_every == 0
    assert supervisor.addresses_left() == []


def test_a_supervisor_that_has_gone_is_no_error(tmp_path: Path) -> None:
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("listening")


@pytest.mark.parametrize(
    ("env", "every"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_how_often_a_sign_of_life_is_due(env: dict[str, str], every: float) -> None:
    assert Supervisor(env).watchdog_every == every


def test_sockets_of_another_process_are_left_alone() -> None:
    assert Supervisor({"LISTEN_PID": "1", "LISTEN_FDS": "1"}).addresses_left() == []


def test_a_listening_socket_is_taken_over_by_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port = one.getsockname()[1]

        def hand_over() -> None:
            # In the child, as systemd does it: the sockets are descriptors 3 and 4.
            low = [os.dup(one.fileno()), os.dup(other.fileno())]
            os.dup2(low[0], 3)
            os.dup2(low[1], 4)

        child = subprocess.Popen(
            [sys.executable, "-c", TAKES_OVER, str(port)],
            stdout=subprocess.PIPE,
            text=True,
            close_fds=False,
            preexec_fn=hand_over,  # noqa: PLW1509 - no threads here
        )
        assert child.stdout is not None
        assert child.stdout.readline() == f"[('127.0.0.1', {other.getsockname()[1]})]\n"
        with socket.create_connection(("127.0.0.1", port)) as caller:
            assert caller.recv(100) == b"taken over"
        assert child.wait(timeout=10) == 0
        child.stdout.close()
