"""What a release's tag must agree with, and what is told of it: `python -m tools.release v1.2.3`.

Prints the changelog's section of that version, which is the text of the release.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tools import version as versions

ROOT = Path(__file__).parents[1]


def section(changelog: str, version: str) -> str | None:
    """Return what the changelog says of a version, or None where it has no dated section for it."""
    heading = rf"^## \[{re.escape(version)}\] - [0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}$"
    found = re.search(rf"{heading}\n(.*?)(?=^## |^\[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() or None if found else None


def faults(tag: str, changelog: str) -> list[str]:
    """Say what does not agree with a tag."""
    version = tag.removeprefix("v")
    found = [] if tag == f"v{version}" else [f"the tag is {tag}, which does not begin with v"]
    found += versions.faults(version)
    if section(changelog, version) is None:
        found.append(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD` with anything in it")
    return found


def main(tag: str) -> int:
    """Check a tag and print the text of the release; 0 if all agrees."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if found := faults(tag, changelog):
        print("\n".join(found), file=sys.stderr)
        return 1
    print(section(changelog, tag.removeprefix("v")))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
