"""The recent past, for the status page: the last requests, and how many there were in each second.

To take note of a request costs less than a microsecond: nothing is copied, encoded or masked before somebody looks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from secrets import token_hex
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.observe.logs import RequestLine

    Fields = Sequence[tuple[bytes, bytes]]

LAST = 200
"""Requests that are remembered."""

MINUTES = 15
STEP = 10
"""Seconds that one point of the series stands for."""

_SECONDS = MINUTES * 60
_STEPS = _SECONDS // STEP
BOUNDS_MS = tuple(round(0.25 * 1.25**power, 3) for power in range(61))
"""From a quarter of a millisecond to 163 s; a quantile is told to within a quarter."""

PIECE = 16 * 1024
"""Bytes of a body that are kept where bodies are inspected."""


class Inspected(Struct):
    """What is kept of a request where bodies are inspected: in a development setup alone."""

    target: bytes
    body: bytes | None
    """The first piece of it; there is none where it was not held."""
    answer: bytes = b""
    """The first piece of the answer's body."""
    size: int = 0
    """Bytes of the whole body."""
    answer_size: int = 0
    """Bytes of the whole answer's."""

    def __post_init__(self) -> None:
        """Keep no more than a piece of the body."""
        if self.body is not None:
            self.size = max(self.size, len(self.body))
            self.body = self.body[:PIECE]

    def hear(self, piece: bytes) -> None:
        """Take a piece of the answer's body."""
        self.answer_size += len(piece)
        if len(self.answer) < PIECE:
            self.answer += piece[: PIECE - len(self.answer)]


class Past(NamedTuple):
    """One request that has ended; `at` is on the monotonic clock."""

    number: int
    at: float
    line: RequestLine
    fields: Fields = ()
    """The header section as it came, secrets and all: it is masked where it is shown."""
    inspected: Inspected | None = None
    head: bytes = b""
    """That of the answer as the caller got it; empty where there was none."""


class Step(NamedTuple):
    """What happened within `STEP` seconds, `ago` seconds ago."""

    ago: int
    requests: int
    failed: int
    took: list[int]
    """How many requests took how long, by `BOUNDS_MS`; empty without requests."""

    def quantiles(self) -> tuple[float | None, float | None, float | None]:
        """Return the median, the 90 % and the 99 % quantile in milliseconds, none without requests."""
        p50, p90, p99 = (_quantile(self.took, self.requests, share) for share in (0.5, 0.9, 0.99))
        return p50, p90, p99


class _Second:
    __slots__ = ("failed", "number", "requests", "took")

    def __init__(self, number: int) -> None:
        self.number = number
        self.requests = 0
        self.failed = 0
        self.took = [0] * (len(BOUNDS_MS) + 1)


class History:
    """What is remembered of one sidecar's requests."""

    def __init__(self) -> None:
        self.run = token_hex(4)
        """Tells this process from the one before it."""
        self.inspecting = False
        """Whether bodies are kept too."""
        self.number = 0
        """How many requests were remembered so far."""
        self._last: deque[Past] = deque(maxlen=LAST)
        self._seconds: deque[_Second] = deque(maxlen=_SECONDS)
        self._second = _Second(-1)

    # --- At the end of a request ------------------------------------------------------------------------------------

    def ended(self, line: RequestLine, fields: Fields, inspected: Inspected | None = None, head: bytes = b"") -> None:
        """Remember a request and how long it took."""
        now = time.monotonic()
        self.number += 1
        self._last.append(Past(self.number, now, line, fields, inspected, head))
        number = int(now)
        second = self._second
        if second.number != number:
            second = self._second = _Second(number)
            self._seconds.append(second)
        second.requests += 1
        second.took[bisect_left(BOUNDS_MS, line.duration_ms)] += 1
        if line.error is not None:
            second.failed += 1

    def heard(self, line: RequestLine) -> None:
        """Remember what became of a request whose caller had left."""
        self.number += 1
        self._last.append(Past(self.number, time.monotonic(), line))

    # --- When somebody looks ----------------------------------------------------------------------------------------

    def since(self, number: int) -> list[Past]:
        """Return the requests that are remembered and came after that one, the newest first."""
        missing = min(self.number - number, len(self._last))
        return [self._last[-position] for position in range(1, missing + 1)]

    def find(self, request_id: str) -> list[Past]:
        """Return what is remembered of one request, the newest first."""
        return [past for past in self.since(0) if past.line.request_id == request_id]

    def steps(self, now: float) -> list[Step]:
        """Return the last quarter of an hour up to `now`, on the monotonic clock, the oldest step first."""
        last = int(now) // STEP
        steps: dict[int, list[_Second]] = {}
        for second in self._seconds:
            steps.setdefault(second.number // STEP, []).append(second)
        return [_step((last - step) * STEP, steps.get(step, ())) for step in range(last - _STEPS + 1, last + 1)]


def _step(ago: int, seconds: Sequence[_Second]) -> Step:
    requests = sum(second.requests for second in seconds)
    failed = sum(second.failed for second in seconds)
    return Step(
        ago, requests, failed, [sum(column) for column in zip(*(second.took for second in seconds), strict=True)]
    )


def _quantile(counts: list[int], total: int, share: float) -> float | None:
    """Return the bound below which that share of the values lies."""
    wanted = share * total
    for bound, count in zip((*BOUNDS_MS, BOUNDS_MS[-1]), counts, strict=bool(total)):
        wanted -= count
        if wanted <= 0:
            return bound if total else None
    return None
