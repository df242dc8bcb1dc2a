"""Processes held to a part of a core each, by the kernel (cgroups), so that the load on them is not the limit."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.processes import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PERIOD = 20_000
"""Microseconds within which a process may use its part."""

_SECOND_VERSION = Path("/sys/fs/cgroup")
_FIRST_VERSION = _SECOND_VERSION / "cpu"


@contextlib.contextmanager
def held(pids: Iterable[int], part: float) -> Iterator[None]:
    """Hold each process to that part of a core; raises `BenchError` where that is not allowed."""
    first = _FIRST_VERSION.is_dir()
    above = _FIRST_VERSION if first else _SECOND_VERSION
    made: list[Path] = []
    try:
        for pid in pids:
            group = above / f"invoisys-proxy-bench-{os.getpid()}-{pid}"
            group.mkdir()
            made.append(group)
            if first:
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (group / "cpu.cfs_quota_us").write_text(str(int(_PERIOD * part)))
            else:
                (group / "cpu.max").write_text(f"{int(_PERIOD * part)} {_PERIOD}")
            (group / "cgroup.procs").write_text(str(pid))
        yield
    except OSError as error:
        raise BenchError(f"no process can be held to a part of a core here: {error}") from None
    finally:
        for group in made:
            for pid_there in (group / "cgroup.procs").read_text().split():
                (above / "cgroup.procs").write_text(pid_there)
            group.rmdir()
