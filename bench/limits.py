"""The sidecar alone: start-up, and memory at its limits."""

from __future__ import annotations

from typing import Any

from bench import memory, start

_STARTS = 10


def measure() -> dict[str, Any]:
    """Measure both; raises `BenchError`."""
    return {"start": start.measure(_STARTS), "memory": memory.measure()}
