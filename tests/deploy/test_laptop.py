"""A developer's machine: the wheel alone, in a folder where nothing else is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.deploy.manifests import run
from tests.support.pages import blocks
from tests.support.processes import ROOT
from tools.dist import ANY_PORT, demonstrate

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.deploy, pytest.mark.needs("bash")]

PAGE = ROOT / "docs" / "deployment" / "laptop.md"


def test_by_the_lines_of_the_page_the_wheel_alone_serves(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / wheel.name).write_bytes(wheel.read_bytes())
    *install, start = blocks(PAGE)[0][1].splitlines()
    enter = next(line for line in install if "activate" in line)
    run("bash", "-euc", "\n".join(install), cwd=tmp_path)
    env = {"PATH": os.environ["PATH"]} | ANY_PORT
    told = demonstrate("bash", "-euc", f"{enter}\nexec {start}", cwd=tmp_path, env=env)
    assert told == "a document issued through its demo"
