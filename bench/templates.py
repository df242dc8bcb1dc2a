"""Configuration files with `@name@` where a run fills something in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PLACE = re.compile(r"@([a-z_]+)@")


def filled(text: str, values: Mapping[str, object]) -> str:
    """Return the text with every `@name@` replaced; raises `KeyError` for a name that has no value."""
    return _PLACE.sub(lambda found: str(values[found[1]]), text)


def write_filled(template: Path, folder: Path, values: Mapping[str, object]) -> Path:
    """Write a filled template under its own name into a folder, and return where it is."""
    written = folder / template.name
    written.write_text(filled(template.read_text(), values))
    return written
