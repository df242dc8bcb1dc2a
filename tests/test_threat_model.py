"""The threat model names tests that exist, for every threat."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.processes import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def names_in(file: str) -> set[str]:
    names = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if name.startswith("test_")}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file: str, name: str) -> None:
    assert name in names_in(file)


def test_every_threat_has_its_test() -> None:
    tables = re.findall(r"^\| threat \|.*\n\|[ |-]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 30
    for row in rows:
        threat, stops, shown = row.strip("|").split(" | ")
        assert threat.strip()
        assert stops.strip()
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", shown), row
