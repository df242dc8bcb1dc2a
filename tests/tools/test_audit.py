"""What an audit means for the build, with a pip-audit that says what it is told."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tools.audit import main

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"name": "aiohttp", "version": "3.14.5", "vulns": []}
BAD = {"name": "idna", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": []}]}
UNMENDED = {"name": "yarl", "version": "2.0", "vulns": [{"id": "PYSEC-2", "fix_versions": [], "aliases": []}]}
SKIPPED = {"name": "attrs", "skip_reason": "Dependency not found and could not be audited: attrs (1.0)"}
NO_NAME = """Traceback (most recent call last):
  …
requests.exceptions.ConnectionError: HTTPSConnectionPool(host='data.example', port=443): Max retries exceeded
"""


def auditor(folder: Path, *, output: str = "", errors: str = "", code: int = 0, hang: bool = False) -> str:
    program = folder / "pip-audit"
    wait = "import time; time.sleep(60)" if hang else ""
    program.write_text(
        f"#!{sys.executable}\nimport sys\n{wait}\nassert sys.argv[-1] == 'the.lock'\n"
        f"sys.stdout.write({output!r})\nsys.stderr.write({errors!r})\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    return str(program)


def report(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


@pytest.mark.parametrize(
    ("said", "passed", "text"),
    [
        ({"output": report(GOOD)}, True, "no known vulnerability in 1 dependencies"),
        ({"output": report(GOOD, BAD, UNMENDED), "code": 1}, False, "idna 1.0: PYSEC-1, mended in 1.1"),
        ({"output": report(GOOD, BAD, UNMENDED), "code": 1}, False, "yarl 2.0: PYSEC-2, mended in no version yet"),
        ({"output": report(SKIPPED, BAD), "code": 1}, False, "PYSEC-1"),
        ({"output": report(BAD), "code": 0}, False, "PYSEC-1"),
        ({"output": report(GOOD, SKIPPED)}, True, "but NOT AUDITED: attrs"),
        ({"output": report(SKIPPED, SKIPPED)}, True, "NOT AUDITED: the data does not know any"),
        ({"output": report()}, True, "NOT AUDITED: the data does not know any"),
        ({"errors": NO_NAME, "code": 1}, True, "NOT AUDITED: the data on vulnerabilities could not be reached"),
        ({"errors": "ERROR:pip_audit._cli:requirement x is not hashed", "code": 1}, False, "x is not hashed"),
        ({"errors": "pip-audit: error: unrecognized arguments", "code": 2}, False, "unrecognized arguments"),
        ({"output": "[]", "code": 0}, False, "pip-audit gave no report"),
        ({"output": "", "code": 0}, False, "pip-audit gave no report"),
    ],
)
def test_what_fails_the_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: dict[str, Any], text: str, *, passed: bool
) -> None:
    code = main(["the.lock", "--auditor", auditor(tmp_path, **said)])
    shown = capsys.readouterr()
    assert text in (shown.out if passed else shown.err)
    assert code == (0 if passed else 1)


def test_an_audit_that_hangs_is_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["the.lock", "--auditor", auditor(tmp_path, hang=True), "--limit", "0.5"]) == 0
    assert "NOT AUDITED: no report within 0.5 s" in capsys.readouterr().out


def test_a_pip_audit_that_is_not_there_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["the.lock", "--auditor", str(tmp_path / "absent")]) == 1
    assert "cannot be run" in capsys.readouterr().err
