"""A look at the machine: who runs the sidecar, and who else can get at its files."""

from __future__ import annotations

import os
import stat
from pathlib import Path as File
from typing import TYPE_CHECKING

from proxy.config.environment import CONFIG
from proxy.config.safety import READ, WRITE, FileState, Surroundings, literal_secrets, secret_files
from proxy.config.tree import Faults
from proxy.config.yaml import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.model import Config


def look_around(config: Config, path: str | None, env: Mapping[str, str]) -> Surroundings:
    """Look at what a configuration that was loaded from `path` and `env` touches; nothing is told of Windows."""
    if not hasattr(os, "geteuid"):
        return Surroundings()
    file = path or env.get(CONFIG) or None
    names = [name for _, name in secret_files(config)] + ([file] if file else [])
    return Surroundings(
        root=os.geteuid() == 0,
        config_file=file,
        literal_secrets=tuple(literal_secrets(read(file, Faults()))) if file else (),
        files={name: state for name in names if (state := _state(name)) is not None},
    )


def _state(name: str) -> FileState | None:
    try:
        file = File(name).resolve(strict=True)
        found = file.stat()
        flags = os.statvfs(file).f_flag
        # In a folder that others may not pass, no mode of a file lets them in.
        passable = all(folder.stat().st_mode & stat.S_IXOTH for folder in file.parents)
    except OSError:
        return None
    for_all = found.st_mode & (READ | WRITE) if passable else 0
    return FileState(found.st_uid == os.geteuid(), for_all, bool(flags & os.ST_RDONLY))
