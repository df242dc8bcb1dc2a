"""Lock files, read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_LOCKED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; (?P<marker>.*?))?(?P<hashes>(?: --hash=\S+)*)")


class Locked(NamedTuple):
    """One entry of a lock file."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str
    """Where it is wanted; everywhere, if empty."""


def read_lock(file: Path) -> list[Locked]:
    """Return the entries of a lock file; raises `ValueError` for a line that is none."""
    entries = []
    for line in re.sub(r" *\\\n *", " ", file.read_text()).splitlines():
        if line and not line.startswith("#"):
            found = _LOCKED.fullmatch(line)
            if found is None:
                raise ValueError(f"{file.name}: not a locked requirement: {line[:80]}")
            hashes = found["hashes"].replace(" --hash=", " ").split()
            entries.append(Locked(found["name"].lower(), found["version"], tuple(hashes), found["marker"] or ""))
    return entries
