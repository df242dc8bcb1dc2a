"""Configuration files for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, **sections: Any) -> str:
    """Write a configuration file and return its path."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)
