"""Set the version in every file that states it: `python -m tools.version 1.2.3`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[1]

FILES = (
    "proxy/__init__.py",
    "deploy/compose/README.md",
    "deploy/helm/invoisys-proxy/Chart.yaml",
    "deploy/helm/example-erp/Chart.yaml",
    "deploy/kubernetes/central/deployment.yaml",
    "deploy/kubernetes/sidecar.yaml",
    "deploy/kubernetes/sidecar/pod.yaml",
    "docs/deployment/image.md",
)

_FORM = r"[0-9]+\.[0-9]+\.[0-9]+"
"""What PyPI, Helm and an image's tag understand alike."""

_STATED = re.compile(
    rf'(?P<before>^__version__ = "|^ *version: |^appVersion: |\binvoisys-proxy:|\bVERSION=){_FORM}(?![\w.])',
    re.MULTILINE,
)


def stated(text: str) -> list[str]:
    """Return the versions of the program that a text states."""
    return [found[0].removeprefix(found["before"]) for found in _STATED.finditer(text)]


def rewritten(text: str, version: str) -> str:
    """Return a text that states another version."""
    return _STATED.sub(lambda found: found["before"] + version, text)


def faults(version: str, root: Path = ROOT) -> Iterable[str]:
    """Say which files do not state a version, or state another."""
    for name in FILES:
        found = stated((root / name).read_text(encoding="utf-8"))
        if not found:
            yield f"{name} states no version"
        yield from (f"{name} states {other}, not {version}" for other in sorted({*found} - {version}))


def main(version: str) -> int:
    """Write a version into every file; 2 if it is none."""
    if not re.fullmatch(_FORM, version):
        print(f"expected three numbers, such as 1.2.3, found {version!r}", file=sys.stderr)
        return 2
    for file in (ROOT / name for name in FILES):
        file.write_text(rewritten(file.read_text(encoding="utf-8"), version), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
