"""How many callers' connections the open files of a process allow."""

from __future__ import annotations

import resource

import pytest

from proxy.descriptors import left_for_callers, raise_limit


@pytest.mark.parametrize(
    ("files", "listeners", "exchanges", "left"),
    [
        (1024, 1, 200, 504),
        (1024, 2, 200, 220),
        (20_000, 1, 200, 19_480),
        (1_048_576, 1, 200, 1_048_056),
        (64, 1, 200, 1),
        (64, 3, 200, 1),
    ],
)
def test_callers_get_what_is_left(files: int, listeners: int, exchanges: int, left: int) -> None:
    assert left_for_callers(files, listeners=listeners, exchanges=exchanges) == left


def test_the_limit_is_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    try:
        assert raise_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
