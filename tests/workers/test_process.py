"""A process that is a worker: whole, or not at all."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from proxy.tokens import system_clock
from proxy.workers.desk import Desk
from proxy.workers.process import Process


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_one_that_cannot_be_started_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    gc.collect()
    gc.disable()  # what is forgotten is not closed by chance
    try:
        before = descriptors()
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await Process.start({}, Desk(system_clock), print)
        assert descriptors() == before
    finally:
        gc.enable()
