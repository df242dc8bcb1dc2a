"""A bill of materials that lacks nothing and adds nothing."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from proxy import __version__
from tools.sbom import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCK = """# made by a program
one==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
two==2.0 ; python_full_version < '3.13' \\
    --hash=sha256:cc
"""


def component(name: str, version: str, *hashes: str) -> dict[str, Any]:
    digests = [{"alg": "SHA-256", "content": each} for each in hashes]
    reference = {"type": "distribution", "hashes": digests}
    return {"bom-ref": f"ref-{name}", "name": name, "version": version, "externalReferences": [reference]}


SBOM: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "metadata": {"component": {"bom-ref": "root", "name": "invoisys-proxy"}},
    "components": [component("One", "1.0", "aa", "bb"), component("two", "2.0", "cc")],
    "dependencies": [{"ref": "root"}, {"ref": "ref-One"}],
}


def run(folder: Path, sbom: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    (folder / "lock").write_text(LOCK)
    (folder / "sbom").write_text(json.dumps(sbom))
    code = main(str(folder / "sbom"), str(folder / "lock"))
    return code, json.loads((folder / "sbom").read_text())


def test_it_is_completed(tmp_path: Path) -> None:
    code, sbom = run(tmp_path, SBOM)
    assert code == 0
    assert sbom["metadata"]["component"]["version"] == __version__
    assert sbom["dependencies"] == [{"ref": "root", "dependsOn": ["ref-One", "ref-two"]}, {"ref": "ref-One"}]


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda sbom: sbom["components"].pop(), "two 2.0 is locked and not listed"),
        (lambda sbom: sbom["components"].append(component("three", "3")), "three 3 is listed and not locked"),
        (lambda sbom: sbom["components"][0].update(version="1.1"), "one 1.0 is locked and not listed"),
        (lambda sbom: sbom["components"][1].pop("externalReferences"), "two 2.0 has other hashes"),
        (lambda sbom: sbom.update(bomFormat="other"), "it is not in the form of CycloneDX"),
    ],
)
def test_what_is_wrong_with_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[dict[str, Any]], object], fault: str
) -> None:
    sbom = copy.deepcopy(SBOM)
    spoil(sbom)
    assert run(tmp_path, sbom) == (1, sbom)
    assert fault in capsys.readouterr().err
