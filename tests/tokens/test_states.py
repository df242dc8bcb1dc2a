"""The table, the schedule and the floor, as pure decisions."""

from __future__ import annotations

from itertools import product
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import CredentialsRefused, GrantRefused, LoginServerFailed, LoginThrottled
from proxy.tokens import Moment, Schedule, Token
from proxy.tokens.life import Life
from proxy.tokens.schedule import REFUSAL, TROUBLE, RateFloor
from proxy.tokens.states import LOGIN, STEPS, Event, LoginState, Step, TokenState
from proxy.tokens.store import Kept

HOUR = 3600.0
NOW = Moment(1_800_000_000, 1000)
CHANCE = st.floats(0, 1, exclude_max=True)


def token(*, refresh: float, expires: float, generation: int = 1) -> Token:
    return Token("value", generation, NOW, NOW.plus(refresh), NOW.plus(expires))


def test_every_pair_of_states_has_its_step() -> None:
    assert {(held, login) for held in STEPS for login in STEPS[held]} == set(product(TokenState, LoginState))


def test_only_usable_tokens_are_served() -> None:
    serving = {held for held in STEPS if STEPS[held][LoginState.IN_FLIGHT] is Step.SERVE}
    assert serving == {TokenState.VALID, TokenState.DUE}


def test_no_second_login_is_begun() -> None:
    assert not {STEPS[held][LoginState.IN_FLIGHT] for held in STEPS} & {Step.LOGIN, Step.SERVE_AND_LOGIN}
    for waiting in (LoginState.BACKING_OFF, LoginState.REFUSED):
        assert not {STEPS[held][waiting] for held in STEPS} & {Step.LOGIN, Step.SERVE_AND_LOGIN}


def test_one_login_at_a_time_and_none_before_its_time() -> None:
    assert {state for state, event in LOGIN if event is Event.BEGAN} == {LoginState.IDLE}
    assert {event for state, event in LOGIN if state is LoginState.IN_FLIGHT} == {
        Event.GRANTED,
        Event.FAILED,
        Event.WAS_REFUSED,
    }


def life(token: Token | None) -> Life:
    made = Life(Schedule(43200, 15, lambda: 0))
    if token is not None:
        made.began(NOW)
        made.granted(token)
    return made


@pytest.mark.parametrize(
    ("held", "state"),
    [
        (None, TokenState.NONE),
        (token(refresh=1, expires=2), TokenState.VALID),
        (token(refresh=0, expires=2), TokenState.DUE),
        (token(refresh=-1, expires=0), TokenState.EXPIRED),
    ],
)
def test_token_states(held: Token | None, state: TokenState) -> None:
    assert life(held).token_state(NOW) is state


def test_a_rejected_token() -> None:
    held = token(refresh=1, expires=2)
    living = life(held)
    assert living.rejected(held, NOW)
    assert living.token_state(NOW) is TokenState.REJECTED
    living.began(NOW)
    living.granted(held)  # the same again: then its 401 was about permission
    assert living.token_state(NOW) is TokenState.VALID


def test_an_empty_floor_keeps_a_good_token_but_none_that_is_due() -> None:
    living = life(None)

    def reject(value: str, *, refresh: float) -> bool:
        living.began(NOW)
        living.granted(Token(value, 1, NOW, NOW.plus(refresh), NOW.plus(HOUR)))
        renewable = living.rejected(cast("Token", living.token), NOW)
        living.logs_in(NOW)
        return renewable

    assert [reject(value, refresh=1) for value in ("one", "two", "three")] == [True, True, False]
    assert reject("due", refresh=0)


def test_the_last_sixteen_rejected_tokens_are_remembered() -> None:
    living = life(None)
    for number in range(17):
        now = NOW.plus(number * 60)
        living.began(now)
        living.granted(Token(f"token-{number}", number, now, now.plus(HOUR), now.plus(HOUR)))
        assert living.rejected(cast("Token", living.token), now)
        living.logs_in(now)
    later = NOW.plus(HOUR)
    kept = [Kept(f"token-{number}", number, later.wall, later.wall + HOUR) for number in range(17)]
    known = [living.accepts(each, later) for each in kept]
    assert known == [True] + [False] * 16


@pytest.mark.parametrize(
    ("value", "spellings"),
    [
        ("a" * 15, ()),
        ("a" * 16, (b"a" * 16,)),
        (
            "Abcdef+ghijkl/mno==",
            (b"Abcdef+ghijkl/mno==", b"Abcdef%2Bghijkl%2Fmno%3D%3D", b"Abcdef%2bghijkl%2fmno%3d%3d"),
        ),
    ],
)
def test_in_which_ways_a_token_may_be_quoted(value: str, spellings: tuple[bytes, ...]) -> None:
    assert Token(value, 1, NOW, NOW, NOW).spellings == spellings


def test_an_event_that_cannot_happen_is_a_defect() -> None:
    living = life(None)
    living.began(NOW)
    with pytest.raises(KeyError):
        living.began(NOW)


@given(passed=st.floats(0, 1e9), slept=st.floats(-1e9, 1e9), lifetime=st.floats(1, 1e6))
def test_a_token_past_its_life_on_either_clock_is_not_usable(passed: float, slept: float, lifetime: float) -> None:
    held = token(refresh=lifetime / 2, expires=lifetime)
    now = Moment(NOW.wall + passed + slept, NOW.monotonic + passed)
    usable = life(held).token_state(now) in (TokenState.VALID, TokenState.DUE)
    assert usable == (now.wall < held.expires_at.wall and now.monotonic < held.expires_at.monotonic)


def test_age_is_told_by_the_clock_that_says_more_and_what_is_left_by_the_one_that_says_less() -> None:
    for now in (Moment(NOW.wall + 60, NOW.monotonic + 10), Moment(NOW.wall + 10, NOW.monotonic + 60)):
        assert NOW.age(now) == 60
        assert NOW.plus(100).left(now) == 40


@given(failures=st.integers(1, 10_000), chance=CHANCE)
@example(failures=1, chance=0.5)
def test_delays_stay_within_their_bounds(failures: int, chance: float) -> None:
    assert 1 <= TROUBLE.delay(failures, chance) <= 60
    assert 60 <= REFUSAL.delay(failures, chance) <= 900
    assert TROUBLE.delay(failures, chance) <= TROUBLE.delay(failures + 1, chance)


@given(chance=CHANCE, lifetime=st.floats(1, 7 * 86400))
def test_a_refresh_comes_by_twelve_hours_and_by_four_fifths_of_the_life(chance: float, lifetime: float) -> None:
    after = Schedule(43200, 15, lambda: chance).refresh_after(lifetime)
    latest = min(43200, 0.8 * lifetime)
    assert 0.95 * latest <= after <= latest


def test_which_failures_are_refusals() -> None:
    schedule = Schedule(43200, 15, lambda: 0)
    assert schedule.retry_after(CredentialsRefused(""), 1) == pytest.approx(60)
    assert schedule.retry_after(GrantRefused(""), 1) == pytest.approx(60)
    assert schedule.retry_after(LoginServerFailed(""), 1) == pytest.approx(1)
    assert schedule.retry_after(LoginThrottled("", retry_after=120), 1) == 120
    assert schedule.retry_after(LoginThrottled("", retry_after=10**9), 1) == 900


def test_an_empty_floor_lets_one_pass_after_thirty_seconds() -> None:
    floor = RateFloor()
    for _ in range(2):
        floor.take(NOW)
    assert not floor.allows(NOW.plus(29))
    assert floor.allows(NOW.plus(30))


@given(st.lists(st.floats(0, 100), max_size=200))
def test_the_floor_lets_two_pass_and_one_more_each_half_minute(pauses: list[float]) -> None:
    floor = RateFloor()
    now, taken, began = NOW, 0, NOW.monotonic
    for pause in pauses:
        now = now.plus(pause)
        if floor.allows(now):
            floor.take(now)
            taken += 1
        assert taken <= 2 + (now.monotonic - began) / 30 + 1e-6
