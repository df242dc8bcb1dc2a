"""The documents can be followed: links and anchors lead somewhere, and what can be typed here is typed.

A block marked `sh` is run, page by page, in one terminal, in its order. A block marked `console` is not, and needs at
least one program that cannot run here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from proxy.config import load
from proxy.config.environment import CONFIG, VARIABLES
from proxy.config.model import Config
from tests.support.pages import anchors, as_pattern, blocks, links, name_of, steps, surroundings, tracked
from tests.support.processes import ROOT
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = tracked("*.md")
READMES = {ROOT / "README.md", ROOT / "README.pt-BR.md"}
WITH_COMMANDS = [page for page in DOCUMENTS if steps(page) and page not in READMES]
"""The README's are run as they stand, by test_readme.py; its translation has the same ones."""

FOREGROUND = re.compile(r"invoisys-proxy (run|demo|fake)\b.*")
LISTENS = re.compile(r'"event":"listening"|listening at|fake Invoisys at')
DEMO = "invoisys-proxy demo"
"""What runs already where a page does not start anything: its reader has been through the README."""

NOT_HERE = {
    "cosign": "a release that was published",
    "docker": "a container engine",
    "editor": "somebody who types",
    "git clone": "the repository's address",
    "git push": "the same",
    "helm": "a cluster",
    "icacls": "Windows",
    "invoisys-proxy doctor": "Invoisys",
    "kubectl": "a cluster",
    "make bench": "minutes, and a quiet machine; the bench has tests of its own",
    "make dist": "it is run by CI",
    "make mutants": "half an hour",
    "make run": "it is the README's",
    "nssm": "Windows",
    "pip install": "a release that was published",
    "prometheus": "a server that stays",
    "py -m venv": "Windows",
    "sudo": "root, on a machine of one's own",
}
"""The beginnings of commands, each with what it wants that is not to be had in a test."""

OTHER_VARIABLES = {
    "INVOISYS_PASWORD": "a mistake to be warned of",
    "INVOISYS_TEST_SEED": "of the tests",
    "INVOISYS_URL": "of the ERP, in the manifests",
}

everywhere = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


@everywhere
def test_links_and_anchors_lead_somewhere(document: Path) -> None:
    for link in links(document):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_documents_that_files_name_are_there() -> None:
    named = re.compile(r"\b((?:docs|deploy|examples|tests|bench)/[\w./-]+\.(?:md|png|svg))\b")
    for file in tracked("*.py", "*.yaml", "*.toml", "Makefile", ".ci/run", "*.service", "*.socket"):
        assert [each for each in named.findall(file.read_text()) if not (ROOT / each).exists()] == [], file


def test_every_variable_that_is_told_exists() -> None:
    known = {CONFIG, *VARIABLES, *OTHER_VARIABLES}
    for file in {*DOCUMENTS, *tracked("deploy", "*.yaml", "Dockerfile")}:
        told = set(re.findall(r"\bINVOISYS_[A-Z0-9_]+\b", file.read_text()))
        assert told <= known, name_of(file)


@everywhere
def test_yaml_is_yaml(document: Path) -> None:
    for language, text in blocks(document):
        if language == "yaml":
            list(yaml.safe_load_all(text))


def test_configurations_can_be_used(tmp_path: Path) -> None:
    """Those that are whole: what has the sections of a configuration, and nothing else."""
    used = set()
    for document in DOCUMENTS:
        for language, text in blocks(document):
            content = yaml.safe_load(text) if language == "yaml" else None
            if isinstance(content, dict) and content.keys() <= set(Config.__struct_fields__):
                file = tmp_path / "config.yaml"
                file.write_text(text)
                load(str(file), {} if "accounts" in content else {"INVOISYS_USERNAME": "a", "INVOISYS_PASSWORD": "b"})
                used.add(name_of(document))
    assert used >= {"docs/access.md", "docs/configuration.md", "docs/tokens.md"}


@everywhere
def test_no_code_is_shown_that_sefaz_rejects(document: Path) -> None:
    """Rejection 897: one digit repeated, or counting up."""
    for code in re.findall(r'"codigoAleatorioNF":"([0-9]+)"', document.read_text()):
        assert len(code) == 8
        assert len(set(code)) > 1
        assert code not in "01234567890123456"


def test_how_long_to_ask_before_sending_again_is_told_alike() -> None:
    for name in ("docs/erp-guide.md", "docs/guia-erp.pt-BR.md", "docs/outcome.md", "examples/README.md"):
        assert re.search(r"\b5\s+minut", (ROOT / name).read_text()), name


# --- Commands ------------------------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """The commands of a block, without what is only set for them."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    plain = (re.sub(r"^(\w+=\S* +)+", "", part.strip()) for line in lines for part in line.split(" && "))
    return [each for each in plain if each]


@everywhere
def test_what_is_not_run_could_not_be(document: Path) -> None:
    for language, text in blocks(document):
        assert language not in {"bash", "shell", "sh-session", "powershell"}, "`sh` is run, `console` is not"
        if language == "console":
            found = [each for each in commands(text) if any(f"{each} ".startswith(f"{name}") for name in NOT_HERE)]
            assert found or windows(text), f"this could be run:\n{text}"


def windows(text: str) -> bool:
    return re.search(r"\.exe\b", text) is not None


class Home(NamedTuple):
    """A folder that looks like a clone, with addresses of its own in the place of 127.0.0.1."""

    folder: Path
    address: str

    def here(self, text: str) -> str:
        return text.replace("127.0.0.1", self.address)


_numbers = itertools.count(1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in {path.relative_to(ROOT).parts[0] for path in tracked()}:
        (folder / name).symlink_to(ROOT / name)
    program = tmp_path / "bin" / "invoisys-proxy"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m proxy "$@"\n')
    program.chmod(0o755)
    own = os.getpid()
    return Home(folder, f"127.{2 + own % 250}.{own // 250 % 256}.{next(_numbers)}")


class Terminal:
    """One bash that is told a page's blocks; what stays in the foreground goes on beside."""

    def __init__(self, home: Home) -> None:
        self._home = home
        own = {"PATH": f"{home.folder.parent / 'bin'}:{os.environ['PATH']}", "NO_PROXY": home.address}
        demo = {"INVOISYS_LISTEN": f"{home.address}:8080", "INVOISYS_ADMIN": f"{home.address}:9090"}
        self._read, write = os.pipe()
        self._bash = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            cwd=home.folder,
            env=surroundings() | own | demo | {"TERMINAL": str(write)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[write],
            start_new_session=True,
        )
        os.close(write)
        self._too_long = threading.Timer(4 * PATIENCE, self._kill)
        self._too_long.start()
        self._beside = os.fdopen(self._read)

    def run(self, text: str) -> str:
        """Type commands, and return what they print; a foreground program at their end is waited for."""
        assert self._bash.stdin is not None
        *lines, last = self._home.here(text).splitlines()
        stays = FOREGROUND.search(last)
        if stays:
            last = f"{last} >&$TERMINAL 2>&1 & PID=$!"
        self._bash.stdin.write("\n".join([*lines, last, "echo; echo ---done---", ""]))
        self._bash.stdin.flush()
        said = self._said()
        if stays:
            self._listening(last)
        return said

    def _said(self) -> str:
        assert self._bash.stdout is not None
        lines: list[str] = []
        for line in self._bash.stdout:
            if line == "---done---\n":
                return "".join(lines).strip()
            lines.append(line)
        raise AssertionError("it failed:\n" + "".join(lines))

    def _listening(self, command: str) -> None:
        said = []
        for line in self._beside:
            said.append(line)
            if LISTENS.search(line):
                return
        raise AssertionError(f"{command} ended:\n{''.join(said)}")

    def close(self) -> None:
        """Leave, with all that was started."""
        self._too_long.cancel()
        with contextlib.suppress(BrokenPipeError):
            self._bash.communicate("kill $(jobs -p) 2>/dev/null; wait\n", timeout=PATIENCE)
        self._kill()
        self._beside.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()


@contextlib.contextmanager
def terminal(home: Home) -> Iterator[Terminal]:
    opened = Terminal(home)
    try:
        yield opened
    finally:
        opened.close()


def needed(page: Path) -> list[str]:
    """Return the programs that a page's commands want."""
    typed = "\n".join(step.commands for step in steps(page))
    return ["bash", *(name for name in ("curl", "openssl", "promtool") if name in typed)]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.needs(*needed(page)), id=name_of(page)) for page in WITH_COMMANDS],
)
def test_the_commands_of_a_page_work_in_their_order(page: Path, home: Home) -> None:
    found = steps(page)
    with terminal(home) as typed:
        if not any(FOREGROUND.search(step.commands) for step in found):
            typed.run(DEMO)
        for step in found:
            # Where the page shows no answer, one that is an error is not what it promises. No terminal, so no meter.
            options = "--no-progress-meter" + (" --fail-with-body" if step.answer is None else "")
            curl = f'curl() {{ command curl {options} "$@"; }}'
            said = typed.run(f"{curl}\n{step.commands}")
            if step.answer is not None:
                answer = home.here(step.answer)
                assert re.fullmatch(as_pattern(answer), said, re.DOTALL), f"{step.commands}\n{said}"


def test_a_command_that_fails_is_seen(home: Home) -> None:
    with terminal(home) as typed:
        assert typed.run("echo one\ntwo=2\necho $two") == "one\n2"
        with pytest.raises(AssertionError, match="not here"):
            typed.run(f"echo not here >&2; {shlex.join(['false'])}\necho after")
