"""What the fuzzer has found interesting, and what it has found wrong, is tried again each time, without the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.response import check

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_a_found_case(case: Path) -> None:
    check(case.read_bytes())
