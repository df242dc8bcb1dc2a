from __future__ import annotations

from proxy.observe import repeats
from proxy.observe.repeats import Repeated, Repeats

MINUTE, TEN = repeats.WINDOWS


def test_the_first_of_a_kind_is_told_and_the_next_are_not() -> None:
    failures: Repeats[int] = Repeats()
    assert [failures.in_full("a", number, number) for number in range(5)] == [True, False, False, False, False]
    assert failures.in_full("b", 5, 5)


def test_those_that_follow_are_told_together_with_the_last_of_them() -> None:
    failures: Repeats[str] = Repeats()
    for number, what in enumerate(["first", "second", "third"]):
        failures.in_full("a", what, number)
    assert failures.due(MINUTE - 0.1) == []
    assert failures.due(MINUTE) == [Repeated("third", 2, MINUTE)]
    assert failures.due(MINUTE + 1) == []


def test_the_first_few_are_told_in_full_where_that_is_asked_for() -> None:
    failures: Repeats[int] = Repeats((MINUTE, MINUTE), full=3)
    told = []
    for second in range(300):
        told += [(second, one.count) for one in failures.due(second)]
        told += [(second, 0)] if failures.in_full("a", second, second) else []
    assert told == [(0, 0), (1, 0), (2, 0), (60, 57), (120, 60), (180, 60), (240, 60)]


def test_while_they_go_on_they_are_told_less_often() -> None:
    failures: Repeats[int] = Repeats()
    told = []
    for second in range(7200):
        told += [(second, one.count) for one in failures.due(second)]
        failures.in_full("a", second, second)
    assert told == [(60, 59), *((at, 600) for at in range(660, 7200, 600))]


def test_a_kind_that_was_silent_for_a_window_is_told_in_full_again() -> None:
    failures: Repeats[str] = Repeats()
    failures.in_full("a", "once", 0)
    assert failures.due(MINUTE) == []
    assert failures.in_full("a", "again", MINUTE)
    failures.in_full("a", "and again", MINUTE + 1)
    assert failures.due(2 * MINUTE) == [Repeated("and again", 1, MINUTE)]
    assert failures.due(2 * MINUTE + TEN) == []
    assert failures.next_end is None


def test_when_the_cause_is_gone_the_rest_is_told_and_the_next_is_a_first() -> None:
    failures: Repeats[str] = Repeats()
    for kind in ("a", "a", "b", "b"):
        failures.in_full(kind, kind, 0)
    assert failures.end(lambda kind: kind == "a") == [Repeated("a", 1, MINUTE)]
    assert failures.in_full("a", "a", 1)
    assert not failures.in_full("b", "b", 1)
    assert failures.end() == [Repeated("b", 2, MINUTE)]


def test_when_the_next_window_ends() -> None:
    failures: Repeats[str] = Repeats()
    assert failures.next_end is None
    failures.in_full("a", "a", 5)
    failures.in_full("b", "b", 3)
    assert failures.next_end == MINUTE + 3


def test_no_number_of_kinds_fills_the_memory() -> None:
    failures: Repeats[int] = Repeats()
    assert all(failures.in_full(number, number, 0) for number in range(10_000))
    assert len(failures._windows) == repeats._MOST
    assert not failures.in_full(0, 0, 0)
