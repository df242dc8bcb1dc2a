"""The README and the tables of the docs say what the program does: commands are run, answers and tables compared."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest
import yaml

from proxy.config import Account, Admin, Api, Config, Drain, Limits, Listener, Log, Socket, Timeouts, Tokens
from proxy.config.environment import CONFIG, VARIABLES
from proxy.config.show import plain
from proxy.config.tree import spelled
from proxy.errors import InternalError, ProxyError
from tests.support.pages import as_pattern, rows, steps, surroundings
from tests.support.processes import ROOT
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

README = ROOT / "README.md"

FOREGROUND = "make run"
ALL_TESTS = "make test"
"""The one command that is not run, since it would run itself; that CI runs it is checked instead."""

INSTALLING = 300.0
"""Seconds after which a command that stays in the foreground, and may install first, should be up."""

_CODE = re.compile(r"`([^`]+)`")


def require_free(*ports: int) -> None:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or os.environ.get("CI"):
                    raise
                pytest.skip(f"left out: port {port} is in use; is a sidecar running?")


@contextlib.contextmanager
def in_the_foreground(command: str) -> Iterator[None]:
    """Run a command as in a terminal of its own, from when it listens to Ctrl-C."""
    process = subprocess.Popen(
        shlex.split(command),
        cwd=ROOT,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    too_long = threading.Timer(INSTALLING, process.kill)
    too_long.start()
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if '"event":"listening"' in line:
                break
        else:
            raise AssertionError(f"{command} ended:\n{''.join(said)}")
        too_long.cancel()
        yield
    finally:
        too_long.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE)


@pytest.mark.needs("bash", "curl", "make")
def test_the_commands_of_the_readme_work_in_their_order() -> None:
    require_free(8080, 9090)
    with contextlib.ExitStack() as terminals:
        for step in steps(README):
            if step.commands == FOREGROUND:
                terminals.enter_context(in_the_foreground(step.commands))
            elif step.commands != ALL_TESTS:
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", step.commands],
                    cwd=ROOT,
                    env=surroundings(),
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
                assert done.returncode == 0, f"{step.commands}\n{done.stderr}"
                if step.answer is not None:
                    assert re.fullmatch(as_pattern(step.answer), done.stdout.strip()), done.stdout


def test_the_readme_starts_the_demo_and_issues_a_document_first() -> None:
    first, second, *others = steps(README)
    assert first.commands == FOREGROUND
    assert "/api/nfe/envio" in second.commands
    assert second.answer is not None
    assert ALL_TESTS in [step.commands for step in others]


def test_ci_runs_the_command_of_the_readme_then_tries_deployments_and_a_release_and_looks_at_dependencies() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-6:] == [
        ALL_TESTS,
        'make deploy-test AS_ROOT="${as_root[*]}"',
        "make first-success",
        "make dist",
        "make sbom",
        "make audit",
    ]
    assert ALL_TESTS in [step.commands for step in steps(README)]


def test_every_command_and_every_option_is_told() -> None:
    page = ROOT / "docs" / "commands.md"
    told = {_CODE.findall(row[0])[0] for row in rows(page) if row[0].startswith("`")}
    wanted = subprocess.run(
        [sys.executable, "-m", "proxy", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = re.findall(r"^    (\w+) ", wanted.stdout, re.MULTILINE)
    assert {each.split()[0] for each in told} == set(names)
    for each in told:
        name, *_ = each.split()
        usage = subprocess.run(
            [sys.executable, "-m", "proxy", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        options = set(re.findall(r"^  (-\w|--[\w-]+)", usage, re.MULTILINE)) - {"-h"}
        assert options == set(re.findall(r"(?<=\[)(-\w|--[\w-]+)", each)), name


def errors(kind: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    for below in kind.__subclasses__():
        if "name" in vars(below) or below is InternalError:
            yield below
        yield from errors(below)


def test_the_outcome_contract_has_every_error() -> None:
    told = [tuple(_CODE.sub(r"\1", cell) for cell in row[:3]) for row in rows(ROOT / "docs" / "outcome.md")]
    wanted = {(error.name, str(error.status), str(error.outcome)) for error in errors()}
    assert wanted == {row for row in told if re.fullmatch("[0-9]{3}", row[1])}


def test_the_documents_have_every_variable() -> None:
    told = {row[0]: row[1] for row in rows(ROOT / "docs" / "configuration.md") if row[0].startswith("`INVOISYS_")}
    assert told.pop(f"`{CONFIG}`").startswith("none")
    assert told == {f"`{name}`": f"`{spelled(path)}`" for name, path in VARIABLES.items()}
    in_short = {name for row in rows(README) for name in _CODE.findall(row[0]) if name.startswith("INVOISYS_")}
    assert in_short == {CONFIG, *VARIABLES}


SECTIONS: dict[str, msgspec.Struct] = {
    "accounts.NAME.": Account(),
    "listeners[].": Listener(),
    "listeners[].socket.": Socket(),
    "admin.": Admin(),
    "admin.socket.": Socket(),
    'apis."2.0".': Api(prefix="/api/"),
    "tokens.": Tokens(),
    "timeouts.": Timeouts(),
    "limits.": Limits(),
    "drain.": Drain(),
    "log.": Log(),
}


def test_the_documents_have_every_key_with_its_default() -> None:
    told = {key.strip("`"): default.strip("`") for key, default, *_ in rows(ROOT / "docs" / "configuration.md")}
    wanted = {"environment": "sandbox", "workers": "1"}
    for prefix, section in SECTIONS.items():
        for field in msgspec.structs.fields(type(section)):
            value = plain(getattr(section, field.name))
            if isinstance(value, dict):
                assert f"{prefix}{field.name}." in SECTIONS
                continue
            wanted[f"{prefix}{field.name}"] = "none" if value is None else as_written(value)
    wanted |= {'apis."2.0".url': "by environment", 'apis."2.0".token_url': "by environment"}
    assert {key: told.get(key) for key in wanted} == wanted
    assert {field.name for field in msgspec.structs.fields(Config)} == {re.split(r"[.\[]", key)[0] for key in wanted}


def as_written(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
