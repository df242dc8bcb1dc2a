"""What several workers have to show, as one."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from proxy.admin import Condition, Listening, Readiness, Refreshed, Rooms
from proxy.admin.status import Connections, Login, Token, Worker, gather, request
from proxy.config import load
from proxy.observe import History, RequestLine
from proxy.workers.shares import share_of
from proxy.workers.views import condition_of, refreshed_of, status_of
from proxy.workers.words import View

READY = Condition(Readiness.READY)
NOW = datetime(2027, 1, 15, tzinfo=UTC)
WORKERS = [Worker(number, 100 + number, True, NOW, 0) for number in (1, 2)]


def token(login_state: str, generation: int, logins: int = 1) -> Token:
    at = NOW.replace(hour=generation)
    return Token(
        "default", "2.0", "valid", login_state, generation, at, at, at, 0.0, 1, None,
        [Login(NOW.replace(hour=generation, minute=logins - each), "first", "granted") for each in range(logins)],
    )  # fmt: skip


def view(took: list[float], *tokens: Token, in_flight: int = 1, busy: int = 1) -> View:
    """What a worker shows that has had requests which took so many milliseconds."""
    history = History()
    for each in took:
        history.ended(RequestLine("id", "l", "GET", "/", status=200, duration_ms=each), ())
    rooms = Rooms("sandbox", [Listening("l", "default", in_flight)], {}, {}, {}, 2, 10)
    status = gather(rooms, history, READY, time.time(), since=history.number)
    connections = [Connections("2.0", "https://u", 1, busy, 50, 3, 4, {"idle": 1, "failed": busy})]
    past = [each._replace(number=int(each.at * 1e6)) for each in history.since(0)]
    status = replace(
        status, tokens=tokens, connections=connections, requests=[request(each, time.time()) for each in past]
    )
    return View(status, history.steps(time.monotonic()))


def test_the_worst_condition_is_told_and_who_gives_which_reason() -> None:
    bad = Condition(Readiness.NOT_READY, ("no token",), ("Get one.",))
    assert condition_of({1: READY, 2: READY}, []) == READY
    assert condition_of({1: READY, 2: bad}, []) == Condition(
        Readiness.NOT_READY, ("worker 2: no token",), ("Get one.",)
    )
    assert condition_of({1: bad, 2: bad}, []) == bad
    down = Condition(Readiness.DEGRADED, ("worker 2 has ended",), ("See why.",))
    assert condition_of({1: READY}, [down]) == down
    assert condition_of({1: bad}, [down]) == Condition(
        Readiness.NOT_READY, ("no token", "worker 2 has ended"), ("Get one.", "See why.")
    )


def test_a_status_adds_up() -> None:
    views = [view([1.0] * 30, token("idle", 1)), view([1000.0] * 10, token("idle", 1), in_flight=3, busy=5)]
    told = status_of(views, READY, WORKERS, run="run", clock=time.monotonic())
    assert (told.run, told.readiness, told.started_at, told.workers) == ("run", "ready", NOW, WORKERS)
    assert (told.waiting, told.waiting_limit) == (4, 20)
    assert [each.in_flight for each in told.listeners] == [4]
    (pool,) = told.connections
    assert (pool.idle, pool.busy, pool.limit, pool.opened, pool.reused) == (2, 6, 100, 6, 8)
    assert pool.closed == {"idle": 2, "failed": 6}
    assert len(told.requests) == 40
    numbers = [each.number for each in told.requests]
    assert numbers == sorted(numbers, reverse=True)


def test_quantiles_are_those_of_all_requests() -> None:
    views = [view([1.0] * 30), view([1000.0] * 10)]
    told = status_of(views, READY, WORKERS, run="run", clock=time.monotonic())
    point = next(each for each in reversed(told.traffic.points) if each.p50_ms is not None)
    assert point.p50_ms == pytest.approx(1.0, rel=0.25)
    assert point.p90_ms == pytest.approx(1000.0, rel=0.25)


def test_no_more_requests_are_told_of_than_one_process_remembers() -> None:
    views = [view([1.0] * 150), view([1.0] * 150)]
    assert len(status_of(views, READY, WORKERS, run="run", clock=time.monotonic()).requests) == 200


def test_of_a_token_the_worst_is_told_and_otherwise_the_newest() -> None:
    def told(*tokens: Token) -> Token:
        views = [view([], each) for each in tokens]
        (found,) = status_of(views, READY, WORKERS, run="run", clock=time.monotonic()).tokens
        return found

    newest = told(token("idle", 1, 6), token("idle", 2, 6))
    assert (newest.generation, newest.rejections, len(newest.logins)) == (2, 2, 10)
    assert [each.at for each in newest.logins] == sorted((each.at for each in newest.logins), reverse=True)
    assert told(token("refused", 1), token("idle", 2)).login_state == "refused"


def test_a_token_counts_as_replaced_only_if_no_worker_has_failed() -> None:
    good, bad = Refreshed("default", "2.0"), Refreshed("default", "2.0", "login-timed-out", "took too long")
    third = Refreshed("default", "3.0")
    assert refreshed_of([[good], [good, third]]) == [good, third]
    assert refreshed_of([[bad], [good]]) == [bad]
    assert refreshed_of([[good], [bad]]) == [bad]
    assert refreshed_of([]) == []


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_shares_add_up_to_what_is_configured(workers: int) -> None:
    config = replace(load(None, {"INVOISYS_USERNAME": "u", "INVOISYS_PASSWORD": "p"}), workers=workers)
    shares = [share_of(config, number).limits for number in range(1, workers + 1)]
    assert sum(each.connections for each in shares) == config.limits.connections
    assert sum(each.replay_memory for each in shares) == config.limits.replay_memory
    assert max(each.connections for each in shares) - min(each.connections for each in shares) <= 1
    assert {each.waiting for each in shares} == {config.limits.waiting}
