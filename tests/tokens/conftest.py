"""A machine that stands elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def time_of_brasilia() -> Iterator[None]:
    """Have local time differ from UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "<-03>3")  # spelled so, it needs no database of zones
        time.tzset()
        yield
    time.tzset()
