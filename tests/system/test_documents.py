"""The documents can be followed: links and anchors lead somewhere, and what can be typed here is typed.

A block marked `sh` is run, page by page, in one terminal, in its order, and one marked `python` too. A block marked
`console` is not: each of its commands has to have a reason.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from types import FunctionType
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from proxy.config import load
from proxy.config.environment import CONFIG, VARIABLES
from proxy.config.model import Config
from proxy.fake import PASSWORD, USERNAME
from tests.support.pages import anchors, as_pattern, blocks, links, name_of, steps, surroundings, tracked
from tests.support.processes import ROOT
from tests.support.wire import PATIENCE, BrokenOff, ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENTS = tracked("*.md")
READMES = {ROOT / "README.md", ROOT / "README.pt-BR.md"}
WITH_COMMANDS = [page for page in DOCUMENTS if steps(page) and page not in READMES]
"""The README's are run as they stand, by test_readme.py; its translation has the same ones."""

FOREGROUND = re.compile(r"(invoisys-proxy (run|demo|fake)|prometheus --)\b.*")
LISTENS = re.compile(r'"event":"listening"|listening at|fake Invoisys at|ready to receive web requests')
DEMO = "invoisys-proxy demo"
"""What runs already where a page does not start anything: its reader has been through the README."""

_ACCOUNT = {
    "git clone REPOSITORY": "the repository's address",
    "install -m 600 /dev/null ~/": "a home of one's own",
    "${EDITOR:-vi} ": "somebody who types",
    ".venv/bin/python -m proxy doctor": "an account at Invoisys",
    ".venv/bin/python -m proxy run": "an account at Invoisys",
}
NOT_HERE = {
    "CONTRIBUTING.md": {"make run": "it is the README's", "make test": "it would run itself"},
    "README.md": _ACCOUNT,
    "README.pt-BR.md": _ACCOUNT,
    "bench/README.md": {"make bench": "minutes, and a quiet machine; the bench has tests of its own"},
    "docs/deployment/windows.md": {
        "$wheel": "Windows",
        '& "C:\\Program Files\\': "Windows",
        ".\\invoisys-proxy.exe": "Windows",
        "New-Item": "Windows",
        "curl.exe": "Windows",
        "icacls": "Windows",
        "notepad": "Windows",
        "nssm": "Windows",
        "py -m venv": "Windows",
    },
    "docs/pypi.md": {
        "pip install": "a release that was published",
        "invoisys-proxy demo": "it is the README's",
        "invoisys-proxy doctor": "an account at Invoisys",
        "invoisys-proxy run": "an account at Invoisys",
    },
    "docs/release.md": {
        "cosign": "a release that was published",
        "git push": "the repository's address",
        "git tag": "a key to sign with",
        "make dist": "minutes; CI runs it",
        ".venv/bin/python -m tools.release": "a tag that fits; tests/tools/test_release.py has one",
    },
    "docs/testing.md": {
        "make mutants": "half an hour",
        ".venv/bin/mutmut show": "what that half hour leaves behind",
    },
    "docs/tracing.md": {"pip install": "a release that was published"},
    "docs/troubleshooting.md": {"invoisys-proxy doctor": "an account at Invoisys"},
}
"""The beginnings of commands in `console` blocks, page by page, each with what it wants that is not to be had here."""

ELSEWHERE = {
    "deploy/compose/README.md": "tests/deploy/test_compose.py",
    "docs/deployment/image.md": "tests/deploy/test_image.py",
    "docs/deployment/kubernetes.md": "tests/deploy/test_kubernetes.py",
    "docs/deployment/laptop.md": "tests/deploy/test_laptop.py",
    "docs/deployment/systemd.md": "tests/deploy/test_played_systemd.py",
}
"""Pages whose `console` blocks are for root, an engine or a cluster: what plays them, as far as it can be played."""

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
    """The commands of a block, one by one, without comments, what is set for them, and where they are typed."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    parts = (part.strip() for line in lines for part in re.sub(r"(^|\s+)# .*", "", line).split(" && "))
    plain = (re.sub(r"^(\w+=\S* +)+", "", part) for part in parts)
    return [each for each in plain if each and not each.startswith(("cd ", "export "))]


def test_a_block_is_its_commands() -> None:
    text = "cd a  # there\nexport A=1 B=2\nA=1 one \\\n    --b && two # of them\nthree"
    assert commands(text) == ["one --b", "two", "three"]


@everywhere
def test_what_is_not_run_could_not_be(document: Path) -> None:
    name = name_of(document)
    assert not {language for language, _ in blocks(document)} & {"bash", "shell", "sh-session", "powershell"}, (
        "`sh` is run, `console` is not"
    )
    typed = [each for language, text in blocks(document) if language == "console" for each in commands(text)]
    if name in ELSEWHERE:
        assert typed
        assert (ROOT / ELSEWHERE[name]).exists()
        return
    reasons = NOT_HERE.get(name, {})
    assert [each for each in typed if not each.startswith(tuple(reasons))] == [], "this could be run"
    assert [each for each in reasons if not any(one.startswith(each) for one in typed)] == [], "nothing is so"


@pytest.mark.parametrize("document", [page for page in DOCUMENTS if "```python" in page.read_text()], ids=name_of)
async def test_python_on_a_page_does_what_it_says(document: Path) -> None:
    """In one go, as in a coroutine of the reader's, who has an `issue`."""
    text = "\n".join(text for language, text in blocks(document) if language == "python")
    code = compile(text, name_of(document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with asyncio.timeout(PATIENCE):
        await FunctionType(code, {"issue": issue})()


async def issue(url: str) -> None:
    """Issue a document at a fake, and care as little as the page for what becomes of the answer."""
    form = f"grant_type=password&username={USERNAME}&password={PASSWORD}".encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    token = (await ask(url, "POST", "/api/token", form, kind)).json()["access_token"]
    with contextlib.suppress(BrokenOff):
        await ask(url, "POST", "/api/nfe/envio", b'{"numero": 1}', {"Authorization": f"bearer {token}"})


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
        beside = home.folder.parent
        own = {"PATH": f"{beside / 'bin'}:{os.environ['PATH']}", "NO_PROXY": home.address, "TMPDIR": str(beside)}
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
    return ["bash", *(name for name in ("curl", "openssl", "prometheus", "promtool") if name in typed)]


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
