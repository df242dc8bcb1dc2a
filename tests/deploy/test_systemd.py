"""The unit files, judged by systemd itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from proxy.config import Listener
from proxy.config.environment import VARIABLES

UNITS = Path("deploy/systemd")
PAGE = Path("docs/deployment/systemd.md")
PROGRAM = "/opt/invoisys-proxy/bin/invoisys-proxy"

needs_systemd = pytest.mark.needs("systemd-analyze")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


@needs_systemd
def test_the_units_are_understood(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        # The program is not installed here, and nothing else may be wrong.
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
    verified = analyze("verify", *map(str, tmp_path.glob("*.s*")))
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
def test_the_service_is_hardened() -> None:
    judged = analyze("security", "--offline=yes", "--no-pager", str(UNITS / "invoisys-proxy.service"))
    exposure = re.search(r"Overall exposure level for invoisys-proxy.service: ([0-9.]+)", judged.stdout)
    assert exposure is not None, judged.stdout + judged.stderr
    (claimed,) = re.findall(r"exposure ([0-9.]+) or less", PAGE.read_text())
    assert float(exposure[1]) <= float(claimed) <= 1.5


def test_it_stops_only_after_the_drain() -> None:
    unit = (UNITS / "invoisys-proxy.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) > 25  # drain.timeout by default


def test_the_socket_has_the_address_of_a_listener_that_nobody_configured() -> None:
    unit = (UNITS / "invoisys-proxy.socket").read_text()
    assert re.findall(r"^ListenStream=(.*)$", unit, re.MULTILINE) == [str(Listener().bind)]


def test_the_password_is_handed_over_as_a_credential() -> None:
    unit = (UNITS / "invoisys-proxy.service").read_text()
    (name,) = re.findall(r"^LoadCredential=(\w+):", unit, re.MULTILINE)
    assert re.findall(r"^Environment=(INVOISYS_\w+)=%d/(.*)$", unit, re.MULTILINE) == [("INVOISYS_PASSWORD_FILE", name)]
    assert "INVOISYS_PASSWORD_FILE" in VARIABLES
