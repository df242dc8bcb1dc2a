from __future__ import annotations

from bench.figures import Spread, ratio, spread
from bench.goals import Goal


def rounds(name: str, *values: float) -> list[dict[str, float]]:
    return [{name: value} for value in values]


def test_a_spread_is_the_median_with_the_least_and_the_most() -> None:
    assert spread(rounds("rps", 30, 10, 20), "rps") == Spread(20, 10, 30)


def test_a_figure_that_was_not_measured_has_no_spread() -> None:
    assert spread(rounds("rps", 1), "mbps") is None


def test_ratios_are_taken_round_by_round_so_that_a_slow_moment_cancels_out() -> None:
    ours, theirs = rounds("rps", 100, 10, 50), rounds("rps", 200, 20, 100)
    assert ratio(ours, theirs, "rps") == Spread(0.5, 0.5, 0.5)


def test_a_ratio_to_nothing_is_none() -> None:
    assert ratio(rounds("cpu", 1), rounds("cpu", 0), "cpu") is None


def test_a_goal_is_judged_by_the_median_of_the_ratios() -> None:
    samples = {"plain-64": {"sidecar": rounds("p99", 9, 11, 30), "envoy": rounds("p99", 10, 10, 10)}}
    goal = Goal("plain-64", "p99", 1.0, "envoy", at_most=True)
    measured = goal.measured(samples)
    assert measured == Spread(1.1, 0.9, 3.0)
    assert not goal.reached(measured)
    assert Goal("plain-64", "p99", 1.0, "envoy").reached(measured)


def test_a_goal_beside_a_peer_that_was_not_measured_is_left_open() -> None:
    assert Goal("plain-64", "rps", 1.0, "go").measured({"plain-64": {"sidecar": rounds("rps", 1)}}) is None
