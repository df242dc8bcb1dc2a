"""The module map of docs/architecture.md, written from the modules' own first lines: `python -m tools.modules`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PROGRAM = ROOT / "proxy"
_MAP = re.compile(r"(<!-- modules: written by `make docs` -->\n).*(\n<!-- end of modules -->)", re.DOTALL)


def purpose(module: Path) -> str:
    """Return the first line of a module's docstring, which is the first of the file."""
    found = re.match(r'"""(.+?)(?:"""|\n)', module.read_text())
    return found[1] if found else ""


def modules(folder: Path) -> Iterator[Path]:
    """Return the modules of one folder that say something, by name."""
    return (each for each in sorted(folder.glob("*.py")) if each.name != "__init__.py")


def module_map() -> str:
    """Return every room with its modules: those of the program's own folder first, then the rooms by name."""
    rooms = [PROGRAM, *sorted(path.parent for path in PROGRAM.glob("*/__init__.py"))]
    parts = []
    for room in rooms:
        rows = [f"| `{each.name}` | {purpose(each).replace('|', chr(92) + '|')} |" for each in modules(room)]
        title = f"### `{room.relative_to(ROOT)}/`"
        parts.append(
            "\n".join([title, "", purpose(room / "__init__.py"), "", "| module | is |", "| --- | --- |", *rows])
        )
    return "\n\n".join(parts)


def written(page: str) -> str:
    """Return the page with the map as it is now."""
    return _MAP.sub(lambda found: f"{found[1]}\n{module_map()}\n{found[2]}", page)


def main() -> int:
    """Write the map into the page."""
    PAGE.write_text(written(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
