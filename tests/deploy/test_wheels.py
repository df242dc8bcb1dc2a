"""What is locked can be installed without a compiler, also where nothing of this was ever run."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from packaging.markers import Marker
from packaging.utils import canonicalize_name

from tests.deploy.manifests import run
from tests.support.processes import ROOT
from tools.locks import read_lock

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deploy

(PYTHON,) = re.findall(r"^ARG PYTHON=(\d+\.\d+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


class Target(NamedTuple):
    """A kind of machine, as pip and the markers of a lock file name it."""

    platforms: tuple[str, ...]
    system: str
    machine: str

    def takes(self, marker: str) -> bool:
        return not marker or Marker(marker).evaluate(
            {
                "implementation_name": "cpython",
                "platform_machine": self.machine,
                "platform_python_implementation": "CPython",
                "python_full_version": f"{PYTHON}.0",
                "python_version": PYTHON,
                "sys_platform": self.system,
            }
        )


def linux(machine: str) -> Target:
    return Target((f"manylinux_2_28_{machine}", f"manylinux2014_{machine}"), "linux", machine)


@pytest.mark.parametrize(
    ("lock", "target"),
    [
        ("requirements-image.lock", linux("x86_64")),
        ("requirements-image.lock", linux("aarch64")),
        ("requirements.lock", Target(("win_amd64",), "win32", "AMD64")),
    ],
    ids=["amd64", "arm64", "windows"],
)
def test_there_is_a_wheel_of_everything_for_the_image_s_python(lock: str, target: Target, tmp_path: Path) -> None:
    wanted = [each for each in read_lock(ROOT / lock) if target.takes(each.marker)]
    # Without their markers, which pip would judge by this machine.
    lines = [" --hash=".join((f"{each.name}=={each.version}", *each.hashes)) for each in wanted]
    (tmp_path / "lock").write_text("\n".join(lines))
    # It reads what the index has, and installs nothing.
    install = (sys.executable, "-m", "pip", "--quiet", "install", "--dry-run", "--ignore-installed", "--no-deps")
    wheels = ("--only-binary", ":all:", "--require-hashes", "--implementation", "cp", "--python-version", PYTHON)
    platforms = [part for each in target.platforms for part in ("--platform", each)]
    where = ("--target", tmp_path / "target", "--report", tmp_path / "report.json", "-r", tmp_path / "lock")
    run(*install, *wheels, *platforms, *where)
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    found = {canonicalize_name(each["metadata"]["name"]) for each in report["install"]}
    assert found == {canonicalize_name(each.name) for each in wanted}
