"""Open files, of which a process has only so many: what is left for callers."""

from __future__ import annotations

import contextlib

_RESERVE = 256
"""Open files for everything else: the operator's port, logins, stores, the log, modules that are read late."""

_TURNED_AWAY = 64
"""Connections of callers to one listener who are being told that they cannot be let in."""


def raise_limit() -> int | None:
    """Raise the soft limit to the hard one, and return how many files may be open; the soft one is for `select`."""
    try:
        import resource  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def left_for_callers(files: int, *, listeners: int, exchanges: int) -> int:
    """Return how many connections each listener may have, so that `exchanges` and the rest never lack a file."""
    return max(1, (files - exchanges - _RESERVE) // listeners - _TURNED_AWAY)
