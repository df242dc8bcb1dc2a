"""The lock files hold everything that pyproject.toml asks for, each with its hashes, and agree with one another."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.processes import ROOT
from tools.locks import Locked, read_lock

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
EXTRAS = [each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra]
RUN, IMAGE, DEV, AUDIT, DIST = (
    ROOT / f"requirements{suffix}.lock" for suffix in ("", "-image", "-dev", "-audit", "-dist")
)
TOOLS = ("fuzz", "audit", "bench", "deploy", "dist", "mutants")
"""Groups with an environment of their own."""
WANTED: dict[Path, list[str]] = {
    RUN: PROJECT["project"]["dependencies"],
    IMAGE: PROJECT["project"]["dependencies"] + EXTRAS,
    DEV: PROJECT["project"]["dependencies"] + GROUPS["dev"] + EXTRAS,
} | {ROOT / f"requirements-{group}.lock": GROUPS[group] for group in TOOLS}


def named(file: Path) -> dict[str, list[Locked]]:
    entries: dict[str, list[Locked]] = {}
    for entry in read_lock(file):
        entries.setdefault(canonicalize_name(entry.name), []).append(entry)
    return entries


def test_every_lock_file_is_looked_at() -> None:
    assert set(ROOT.glob("requirements*.lock")) == set(WANTED)
    assert set(GROUPS) == {"dev", *TOOLS}


@pytest.mark.parametrize("file", WANTED, ids=lambda file: file.name)
def test_every_requirement_is_locked_in_a_version_that_it_allows(file: Path) -> None:
    locked = named(file)
    for text in WANTED[file]:
        requirement = Requirement(text)
        versions = [entry.version for entry in locked.get(canonicalize_name(requirement.name), [])]
        assert any(map(requirement.specifier.contains, versions)), f"{text}: locked are {versions}"


@pytest.mark.parametrize("file", WANTED, ids=lambda file: file.name)
def test_everything_locked_has_its_hashes(file: Path) -> None:
    entries = read_lock(file)
    assert entries
    for entry in entries:
        assert entry.hashes, entry.name
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each) for each in entry.hashes), entry.name


def test_the_image_has_all_that_runs_so_that_its_audit_is_that_of_both() -> None:
    def without_marker(file: Path) -> set[tuple[str, str, tuple[str, ...]]]:
        return {each[:3] for each in read_lock(file)}

    assert without_marker(RUN) <= without_marker(IMAGE)


def test_what_runs_is_what_is_tested() -> None:
    tested = named(DEV)
    for name, entries in named(RUN).items():
        assert [each[:2] for each in entries] == [each[:2] for each in tested.get(name, [])]
        assert [set(each.hashes) for each in entries] == [set(each.hashes) for each in tested[name]]


@pytest.mark.parametrize("tools", [AUDIT, DIST], ids=lambda file: file.name)
def test_the_tools_do_not_replace_what_is_tested(tools: Path) -> None:
    tested = named(DEV)
    for name, entries in named(tools).items():
        if name in tested:
            assert {each.version for each in entries} == {each.version for each in tested[name]}, name


def test_a_line_that_is_no_locked_requirement(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text("one>=1.0\n")
    with pytest.raises(ValueError, match="not a locked requirement: one"):
        read_lock(file)
