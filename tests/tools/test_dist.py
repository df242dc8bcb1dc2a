"""What keeps a build from being a release; `make dist` itself makes one, installs it and runs it, in CI."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
from typing import TYPE_CHECKING

import pytest

from proxy import __version__
from tests.support.pages import links
from tests.support.processes import ROOT
from tools.dist import DistError, demonstrate, run, sdist_files, unlike, wheel_files, wrong_version

if TYPE_CHECKING:
    from pathlib import Path


def a_wheel(folder: Path, version: str = __version__) -> Path:
    wheel = folder / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a.dist-info/METADATA", f"Name: a\nVersion: {version}\n")
        archive.writestr("a/code.py", "1")
    return wheel


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 1}, {"a": 1}, ["b is here and not there"]),
        ({}, {"a": 1}, ["a is there and not here"]),
        ({"a": 1}, {"a": 2}, ["a here differs from that there"]),
    ],
)
def test_files_that_differ_are_told(one: dict[str, int], other: dict[str, int], said: list[str]) -> None:
    assert list(unlike(one, other, "here", "there")) == said


def test_a_wheel_is_read(tmp_path: Path) -> None:
    assert wheel_files(a_wheel(tmp_path))["a/code.py"] == b"1"


def test_an_sdist_is_read_without_its_folder_and_what_the_build_adds(tmp_path: Path) -> None:
    for name in ("PKG-INFO", "code.py"):
        (tmp_path / name).write_text("1")
    sdist = tmp_path / "a-1.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in ("PKG-INFO", "code.py"):
            archive.add(tmp_path / name, f"a-1/{name}")
    assert set(sdist_files(sdist)) == {"code.py"}


def test_another_version_is_told(tmp_path: Path) -> None:
    assert list(wrong_version(a_wheel(tmp_path))) == []
    assert list(wrong_version(a_wheel(tmp_path, "9.9"))) == [f"its version is 9.9, that of the program {__version__}"]


def test_the_page_on_pypi_can_be_read_there() -> None:
    page = ROOT / tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["readme"]
    assert "invoisys-proxy demo" in page.read_text()
    assert [each for each in links(page) if "://" not in each] == []


def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(DistError, match=r"ls /not-there: 2\nls: .*No such file"):
        run("ls", "/not-there")


@pytest.mark.parametrize(
    ("does", "fault"),
    [
        ("exit 1", "the demo ended before it listened"),
        ("echo listening at $1", "urlopen error"),
    ],
)
def test_a_demo_that_does_not_work_is_told(tmp_path: Path, does: str, fault: str) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nset -- http://127.0.0.1:9\n{does}\n")
    program.chmod(0o755)
    with pytest.raises((DistError, OSError), match=fault):
        demonstrate(str(program))
