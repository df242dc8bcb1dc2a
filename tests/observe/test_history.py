"""What is remembered of requests."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.msgpack import decode, encode

from proxy.observe import RequestLine, history
from proxy.observe.history import BOUNDS_MS, LAST, PIECE, STEP, History, Inspected


class Clock:
    def __init__(self) -> None:
        self.now = 10_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(history, "time", clock)
    return clock


def line(number: int, took: float = 1.0, error: str | None = None) -> RequestLine:
    return RequestLine(f"id-{number}", "127.0.0.1:8080", "GET", "/api/x", duration_ms=took, error=error)


def test_the_last_requests_are_remembered_the_newest_first(clock: Clock) -> None:
    past = History()
    for number in range(1, LAST + 51):
        past.ended(line(number), ())
    assert [each.number for each in past.since(0)] == list(range(LAST + 50, 50, -1))
    assert [each.number for each in past.since(LAST + 48)] == [LAST + 50, LAST + 49]
    assert past.since(LAST + 50) == []
    assert past.since(LAST + 999) == []
    assert past.find("id-50") == []
    assert [each.line.request_id for each in past.find("id-51")] == ["id-51"]


def test_what_became_of_a_request_whose_caller_left_is_no_second_request(clock: Clock) -> None:
    past = History()
    past.ended(line(1, error="caller-gone"), ())
    past.heard(line(1, error="caller-gone"))
    assert len(past.find("id-1")) == 2
    assert sum(point.requests for point in past.steps(clock.now)) == 1


def test_a_quarter_of_an_hour_in_steps(clock: Clock) -> None:
    past = History()
    past.ended(line(1), ())
    clock.now += 15 * 60 - STEP
    past.ended(line(2, error="connection-lost"), ())
    clock.now += STEP - 1
    for number in range(3, 13):
        past.ended(line(number), ())
    points = past.steps(clock.now)
    assert [point.ago for point in points] == list(range(890, -1, -STEP))
    told = [(point.ago, point.requests, point.failed) for point in points if point.requests]
    assert told == [(890, 1, 0), (0, 11, 1)]
    later = [(point.ago, point.requests) for point in past.steps(clock.now + 1) if point.requests]
    assert later == [(10, 11)]


def test_quantiles_are_told_to_within_a_quarter(clock: Clock) -> None:
    past = History()
    took = [0.3 * 1.07**power for power in range(150)]
    for number, milliseconds in enumerate(took):
        past.ended(line(number, milliseconds), ())
    point = past.steps(clock.now)[-1]
    for told, share in zip(point.quantiles(), (0.5, 0.9, 0.99), strict=True):
        right = took[int(share * len(took)) - 1]
        assert told is not None
        assert right <= told <= right * 1.34
    assert all(upper / lower < 1.26 for lower, upper in pairwise(BOUNDS_MS))


def test_no_requests_have_no_quantiles_and_the_longest_have_the_last_bound(clock: Clock) -> None:
    past = History()
    nothing = past.steps(clock.now)[-1]
    assert (nothing.requests, nothing.failed, nothing.quantiles()) == (0, 0, (None, None, None))
    past.ended(line(1, 1e9), ())
    assert past.steps(clock.now)[-1].quantiles()[0] == BOUNDS_MS[-1]


def test_only_the_beginning_of_a_body_is_kept() -> None:
    inspected = Inspected(b"/api/x", b"x" * (PIECE + 1))
    for _ in range(3):
        inspected.hear(b"y" * (PIECE - 5))
    assert inspected.body == b"x" * PIECE
    assert inspected.answer == b"y" * PIECE
    assert (inspected.size, inspected.answer_size) == (PIECE + 1, 3 * (PIECE - 5))
    assert Inspected(b"/api/x", None).body is None


def test_how_long_a_body_was_is_known_beyond_the_process_that_has_seen_it() -> None:
    inspected = Inspected(b"/api/\xe9", b"x" * (PIECE + 1))
    assert decode(encode(inspected), type=Inspected) == inspected
