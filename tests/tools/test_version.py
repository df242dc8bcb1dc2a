"""One command sets the version everywhere, and a release finds every place that has another."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy import __version__
from tests.support.pages import tracked
from tests.support.processes import ROOT
from tools.version import FILES, faults, main, rewritten, stated

if TYPE_CHECKING:
    from pathlib import Path

NEXT = "6543.21.9"

OTHERS = ("CHANGELOG.md", "docs/release.md", "tests/", "bench/")
"""They tell of versions of any kind: what was, an example, what is made up, other programs."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for path in tracked():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return tmp_path


def python(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False, timeout=60)


def where(version: str, clone: Path) -> list[str]:
    """Name the files that have this version in them, between whatever is no part of one."""
    alone = re.compile(rf"(?<![\w.]){re.escape(version)}(?![\w]|\.\d)".encode())
    names = (str(path.relative_to(ROOT)) for path in tracked())
    return [
        name
        for name in names
        if not name.startswith(OTHERS) and not name.endswith(".lock") and alone.search((clone / name).read_bytes())
    ]


@pytest.mark.needs("make")
def test_one_command_leaves_no_other_version_behind(clone: Path) -> None:
    assert set(where(__version__, clone)) == set(FILES)
    subprocess.run(
        ["make", "--silent", "version", f"VERSION={NEXT}", f"PYTHON={sys.executable}"], cwd=clone, check=True
    )
    assert where(__version__, clone) == []
    assert set(where(NEXT, clone)) == set(FILES)
    assert python(clone, "-m", "proxy", "--version").stdout == f"invoisys-proxy {NEXT}\n"
    assert f"`## [{NEXT}] - YYYY-MM-DD`" in python(clone, "-m", "tools.release", f"v{NEXT}").stderr
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("[Unreleased]", f"[{NEXT}] - 2026-12-31", 1))
    released = python(clone, "-m", "tools.release", f"v{NEXT}")
    assert (released.returncode, released.stderr) == (0, "")


@pytest.mark.parametrize("name", FILES)
def test_a_place_that_was_left_out_is_told(name: str, clone: Path) -> None:
    assert list(faults(__version__, clone)) == []
    text = (clone / name).read_text()
    (clone / name).write_text(rewritten(text, "0.0.1"))
    assert list(faults(__version__, clone)) == [f"{name} states 0.0.1, not {__version__}"]
    (clone / name).write_text(text.replace(__version__, "latest"))
    assert list(faults(__version__, clone)) == [f"{name} states no version"]


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ('__version__ = "0.1.0"', ["0.1.0"]),
        ("version: 1.2.3\nappVersion: 1.2.4\nkubeVersion: 1.29.0", ["1.2.3", "1.2.4"]),
        ("image: registry.example/invoisys-proxy:1.2.3 --build-arg VERSION=1.2.3 \\", ["1.2.3"] * 2),
        ("image: invoisys-proxy:local, your-erp:1.0.0, invoisys-proxy:1.2.3.4", []),
    ],
)
def test_what_states_a_version(text: str, versions: list[str]) -> None:
    assert stated(text) == versions


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3rc1"])
def test_what_is_no_version_changes_nothing(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(version) == 2
    assert repr(version) in capsys.readouterr().err
    assert list(faults(__version__)) == []
