"""The units, run by systemd itself on a Debian of ours, in a network of the test's own."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from proxy.fake import PASSWORD
from tests.deploy.machine import Machine, booted
from tests.deploy.manifests import run
from tests.deploy.played import RESOLVER, Outside, outside
from tests.support.canary import assert_discreet
from tests.support.pages import blocks
from tests.support.processes import ROOT
from tests.support.wire import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.netns import Network, Place
    from tests.support.wire import Reply

pytestmark = pytest.mark.deploy

SERVICE = "invoisys-proxy.service"
SOCKET = "invoisys-proxy.socket"
CALLERS = "http://127.0.0.1:8080"


PAGE = ROOT / "docs" / "deployment" / "systemd.md"
INSTALL, WITH_SOCKET = (text for language, text in blocks(PAGE) if language == "console")
PARTS = re.fullmatch(r"(.*pip install[^\n]*)\n(.*?)\n(sudo systemctl.*)", INSTALL, re.DOTALL)
assert PARTS is not None
FETCH, SETTLE, START = PARTS.groups()
"""What needs a package index, what needs its own /dev, and what needs systemd: the page's lines in their order."""

CLONE = "/root/clone"
READY = START.splitlines()[-1]


def typed(commands: str) -> tuple[str, ...]:
    """Return the command that is the page's lines in a shell of root's."""
    return ("bash", "-euc", f'sudo() {{ "$@"; }}\ncd {CLONE}\n{commands}')


@pytest.fixture(scope="module")
def root(debian: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian with systemd, on which the page's first lines were typed."""
    folder = tmp_path_factory.mktemp("machine")
    copy = folder / "root"
    run("cp", "--archive", debian, copy)
    run("chroot", copy, "apt-get", "update", "--quiet")
    run("chroot", copy, "apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "curl", "systemd")
    clone = copy / CLONE.lstrip("/")
    shutil.copytree(ROOT / "deploy" / "systemd", clone / "deploy" / "systemd")
    shutil.copy(ROOT / "requirements.lock", clone)
    (clone / "dist").mkdir()
    shutil.copy(wheel, clone / "dist")
    run("chroot", copy, *typed(FETCH))
    (copy / "etc" / "resolv.conf").write_text(RESOLVER)
    yield copy
    run("rm", "--recursive", "--one-file-system", copy)


@pytest.fixture
def place(network: Network) -> Place:
    return network.add("machine", wires="172.30.0.2")


@pytest.fixture
def around(network: Network, root: Path, tmp_path: Path) -> Outside:
    made = outside(network, tmp_path, "wires")
    shutil.copy(made.authority, root / "etc" / "ssl" / "certs" / "ca-certificates.crt")
    return made


@pytest.fixture
def machine(root: Path, place: Place, around: Outside) -> Iterator[Machine]:
    with booted(root, place) as running:
        running.run(*typed(SETTLE), text=f"{PASSWORD}\n")
        yield running


async def issue(place: Place, number: int) -> Reply:
    document = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"%d"}' % number
    return await place.run(ask(CALLERS, "POST", "/api/nfe/envio", document))


async def test_the_service_runs_without_rights_and_knows_its_password(
    machine: Machine, place: Place, around: Outside
) -> None:
    assert '"status"' in machine.run(*typed(START))
    told = machine.show(SERVICE, "ActiveState", "StatusText", "NRestarts", "MainPID")
    pid = told.pop("MainPID")
    assert told == {"ActiveState": "active", "StatusText": "serving", "NRestarts": "0"}
    assert (await issue(place, 1)).status == 200
    assert json.loads(machine.run(*typed(READY)))["status"] == "ready"
    status = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
    assert "0" not in status["Uid"].split()
    assert {int(status[each], 16) for each in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert PASSWORD not in machine.run("cat", f"/proc/{pid}/environ")
    machine.run("systemctl", "reload", SERVICE)
    assert (await issue(place, 2)).status == 200
    machine.run("systemctl", "disable", "--now", "--quiet", SERVICE)
    ended = machine.show(SERVICE, "ActiveState", "Result", "ExecMainStatus")
    assert ended == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    said = machine.journal(SERVICE)
    assert any('"event":"reloaded"' in line for line in said)
    assert_discreet("\n".join(said), PASSWORD)
    assert (await around.state())["logins"] == 1


async def test_with_the_socket_the_first_call_starts_it_and_in_a_restart_none_goes_unanswered(
    machine: Machine, place: Place, around: Outside
) -> None:
    machine.run(*typed(WITH_SOCKET))
    assert machine.show(SERVICE, "ActiveState") == {"ActiveState": "inactive"}
    assert (await issue(place, 0)).status == 200
    assert machine.show(SERVICE, "ActiveState") == {"ActiveState": "active"}
    numbers = itertools.count(1)
    restarting = asyncio.create_task(asyncio.to_thread(machine.run, "systemctl", "restart", SERVICE))

    async def call() -> list[Reply]:
        replies = []
        while not restarting.done():
            replies.append(await issue(place, next(numbers)))
        return [*replies, await issue(place, next(numbers))]

    replies = [reply for each in await asyncio.gather(*(call() for _ in range(4))) for reply in each]
    await restarting
    # Whoever is not connected yet waits for the next process; whoever is, and asks too late, is told so.
    issued = [reply for reply in replies if reply.status == 200]
    assert len(issued) >= 4
    late = [reply for reply in replies if reply.status != 200]
    assert [(reply.status, reply["X-Invoisys-Outcome"]) for reply in late] == [(503, "not-sent")] * len(late)
    machine.run("systemctl", "disable", "--now", "--quiet", SOCKET, SERVICE)
    state = await around.state()
    assert (state["logins"], state["documents"], state["duplicates"]) == (2, 1 + len(issued), 0)
