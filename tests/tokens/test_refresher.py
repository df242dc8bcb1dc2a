"""The refresher in virtual time: a login server that does what the test says, and no second that really passes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from proxy.config import Credentials, Origin, Secret
from proxy.errors import (
    ConfigError,
    CredentialsRefused,
    LoginError,
    LoginThrottled,
    LoginTimedOut,
    LoginUnreachable,
    Overloaded,
)
from proxy.observe import Metrics
from proxy.tokens import MemoryStore, Refresher, Schedule, Token, TokenKey
from proxy.tokens.login import Grant
from proxy.tokens.store import Kept
from proxy.waiting import WaitingRoom
from tests.support.virtual import VirtualClock, pending_timers, run, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Scenario = Callable[["Bench"], Awaitable[None]]

HOUR = 3600.0
KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token", audience=Origin.parse("http://localhost"))


class Bench:
    """A refresher before a login server under the test's hand."""

    def __init__(self, clock: VirtualClock, *, waiting: int = 10, chance: float = 0.0) -> None:
        self.clock = clock
        self.logins: list[float] = []
        self.takes = 0.5
        self.lifetime = 24 * HOUR
        self.failure: Exception | None = None
        self.credentials = Credentials("user", Secret("first"))
        self.unreadable = False
        self.refuses: Secret | None = None
        self.store = MemoryStore(clock)
        self.metrics = Metrics()
        self.waiting = waiting
        self.chance = chance
        self.refresher = self.another()

    def another(self) -> Refresher:
        return Refresher(
            KEY,
            self._read_credentials,
            self._log_in,
            self.store,
            schedule=Schedule(12 * HOUR, 15, lambda: self.chance),
            clock=self.clock,
            waiting=WaitingRoom(self.waiting),
            meter=self.metrics.token("default", "2.0"),
        )

    def _read_credentials(self) -> Credentials:
        if self.unreadable:
            raise ConfigError("password_file: it is empty")
        return self.credentials

    async def _log_in(self, credentials: Credentials) -> Grant:
        self.logins.append(self.clock.monotonic)
        await asyncio.sleep(self.takes)
        if credentials.password == self.refuses:
            raise CredentialsRefused("Credenciais inválidas.")
        if self.failure is not None:
            raise self.failure
        return Grant(f"token-{len(self.logins)}", self.lifetime)

    async def value(self) -> str:
        return (await self.refresher.token()).value

    def sample(self, name: str, **labels: str) -> float | None:
        of = {"account": "default", "api": "2.0", **labels}
        return self.metrics.registry.get_sample_value(f"invoisys_proxy_{name}", of)

    async def passes(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await settle()


def in_virtual_time(scenario: Scenario) -> Callable[[], None]:
    def test() -> None:
        clock = VirtualClock()

        async def whole() -> None:
            bench = Bench(clock)
            await scenario(bench)
            bench.refresher.stop()
            await settle()
            assert pending_timers() == 0

        run(whole(), clock)

    return test


async def _a_token_is_for_the_server_of_its_api(bench: Bench) -> None:
    assert (await bench.refresher.token()).audience == Origin.parse("http://localhost")


test_a_token_is_for_the_server_of_its_api = in_virtual_time(_a_token_is_for_the_server_of_its_api)


async def _all_who_wait_share_one_login(bench: Bench) -> None:
    assert set(await asyncio.gather(*(bench.value() for _ in range(10)))) == {"token-1"}
    assert len(bench.logins) == 1


test_all_who_wait_share_one_login = in_virtual_time(_all_who_wait_share_one_login)


async def _a_waiter_that_leaves_cancels_nothing(bench: Bench) -> None:
    staying = asyncio.create_task(bench.value())
    leaving = [asyncio.create_task(bench.value()) for _ in range(5)]
    await asyncio.sleep(0.1)
    for task in leaving:
        task.cancel()
    assert await staying == "token-1"
    assert all(task.cancelled() for task in leaving)
    assert len(bench.logins) == 1


test_a_waiter_that_leaves_cancels_nothing = in_virtual_time(_a_waiter_that_leaves_cancels_nothing)


async def _even_when_all_waiters_leave_the_login_goes_on(bench: Bench) -> None:
    first = asyncio.create_task(bench.value())
    await asyncio.sleep(0.1)
    first.cancel()
    await bench.passes(1)
    assert await bench.value() == "token-1"
    assert len(bench.logins) == 1


test_even_when_all_waiters_leave_the_login_goes_on = in_virtual_time(_even_when_all_waiters_leave_the_login_goes_on)


async def _the_token_is_refreshed_ahead_while_it_serves(bench: Bench) -> None:
    assert await bench.value() == "token-1"
    await bench.passes(12 * HOUR - 1)
    assert len(bench.logins) == 1
    await bench.passes(0.6)  # the second login is in flight now
    assert len(bench.logins) == 2
    assert await bench.value() == "token-1"
    await bench.passes(1)
    assert await bench.value() == "token-2"


test_the_token_is_refreshed_ahead_while_it_serves = in_virtual_time(_the_token_is_refreshed_ahead_while_it_serves)


async def _a_short_lived_token_is_refreshed_at_four_fifths(bench: Bench) -> None:
    bench.lifetime = 100
    await bench.value()
    await bench.passes(79)
    assert len(bench.logins) == 1
    await bench.passes(1)
    assert len(bench.logins) == 2


test_a_short_lived_token_is_refreshed_at_four_fifths = in_virtual_time(_a_short_lived_token_is_refreshed_at_four_fifths)


async def _a_valid_token_outlives_every_failed_login(bench: Bench) -> None:
    await bench.value()
    bench.failure = LoginUnreachable("it is down")
    await bench.passes(20 * HOUR)
    assert len(bench.logins) > 100
    assert await bench.value() == "token-1"
    usable, reason = bench.refresher.report()
    assert (usable, reason) == (True, "it is down")


test_a_valid_token_outlives_every_failed_login = in_virtual_time(_a_valid_token_outlives_every_failed_login)


async def _an_expired_token_is_never_given(bench: Bench) -> None:
    await bench.value()
    bench.failure = LoginUnreachable("it is down")
    await bench.passes(24 * HOUR)
    with pytest.raises(LoginUnreachable, match=r"it is down; the next login is in \d+ s"):
        await bench.value()
    assert bench.refresher.current() is None


test_an_expired_token_is_never_given = in_virtual_time(_an_expired_token_is_never_given)


async def _a_machine_that_slept_checks_before_the_first_request(bench: Bench) -> None:
    await bench.value()
    bench.clock.sleep_through(25 * HOUR)
    token = await bench.refresher.token()
    assert (token.value, token.generation) == ("token-2", 2)


test_a_machine_that_slept_checks_before_the_first_request = in_virtual_time(
    _a_machine_that_slept_checks_before_the_first_request
)


async def _a_machine_that_slept_past_the_refresh_serves_at_once_and_logs_in_beside(bench: Bench) -> None:
    await bench.value()
    bench.clock.sleep_through(13 * HOUR)
    asked = bench.clock.monotonic
    assert await bench.value() == "token-1"
    assert bench.clock.monotonic == asked
    await bench.passes(0.6)
    assert await bench.value() == "token-2"


test_a_machine_that_slept_past_the_refresh_serves_at_once = in_virtual_time(
    _a_machine_that_slept_past_the_refresh_serves_at_once_and_logs_in_beside
)


async def _a_wall_clock_that_is_set_back_keeps_no_token_alive(bench: Bench) -> None:
    await bench.value()
    bench.failure = LoginUnreachable("it is down")
    bench.clock.wall -= 365 * 24 * HOUR
    await bench.passes(24 * HOUR)
    with pytest.raises(LoginError):
        await bench.value()


test_a_wall_clock_that_is_set_back_keeps_no_token_alive = in_virtual_time(
    _a_wall_clock_that_is_set_back_keeps_no_token_alive
)


async def _failures_are_told_at_once_and_not_after_the_backoff(bench: Bench) -> None:
    bench.failure = CredentialsRefused("Credenciais inválidas.")
    waiters = [asyncio.create_task(bench.value()) for _ in range(3)]
    await bench.passes(0.5)
    for waiter in waiters:
        error = waiter.exception()
        assert isinstance(error, CredentialsRefused)
        assert error.retry_after == pytest.approx(60)
    assert len({id(waiter.exception()) for waiter in waiters}) == 3  # each its own: a traceback is not shared
    with pytest.raises(CredentialsRefused, match="the next login is in 60 s") as caught:
        await bench.value()
    assert caught.value.retry_after == pytest.approx(60)
    assert len(bench.logins) == 1


test_failures_are_told_at_once = in_virtual_time(_failures_are_told_at_once_and_not_after_the_backoff)


async def _refused_credentials_are_tried_a_few_times_an_hour(bench: Bench) -> None:
    bench.failure = CredentialsRefused("no")
    bench.refresher.start()
    await bench.passes(60)
    assert len(bench.logins) == 1
    await bench.passes(HOUR)
    assert len(bench.logins) <= 9
    gaps = [later - earlier for earlier, later in zip(bench.logins, bench.logins[1:], strict=False)]
    assert min(gaps) >= 60
    assert max(gaps) <= 901


test_refused_credentials_are_tried_a_few_times_an_hour = in_virtual_time(
    _refused_credentials_are_tried_a_few_times_an_hour
)


async def _trouble_is_retried_from_a_second_to_a_minute(bench: Bench) -> None:
    bench.takes = 0
    bench.failure = LoginUnreachable("no")
    bench.refresher.start()
    await bench.passes(HOUR)
    gaps = [later - earlier for earlier, later in zip(bench.logins, bench.logins[1:], strict=False)]
    assert gaps[0] == pytest.approx(1)
    assert gaps == sorted(gaps)
    assert 45 <= gaps[-1] <= 60


test_trouble_is_retried_from_a_second_to_a_minute = in_virtual_time(_trouble_is_retried_from_a_second_to_a_minute)


async def _a_retry_after_is_honoured(bench: Bench) -> None:
    bench.failure = LoginThrottled("slower", retry_after=300)
    bench.refresher.start()
    await bench.passes(300)
    assert len(bench.logins) == 1
    await bench.passes(1)
    assert len(bench.logins) == 2


test_a_retry_after_is_honoured = in_virtual_time(_a_retry_after_is_honoured)


async def _other_credentials_are_tried_at_once_where_the_first_were_refused(bench: Bench) -> None:
    bench.refuses = Secret("first")
    bench.refresher.start()
    await bench.passes(30)
    assert len(bench.logins) == 1
    bench.credentials = Credentials("user", Secret("second"))
    await bench.passes(1.6)
    assert len(bench.logins) == 2
    assert await bench.value() == "token-2"


test_other_credentials_are_tried_at_once = in_virtual_time(
    _other_credentials_are_tried_at_once_where_the_first_were_refused
)


async def _what_another_was_refused_with_is_not_tried_until_its_time(bench: Bench) -> None:
    """Refused by the store's lock, as by the login: there is no attempt a second later."""
    asked: list[float] = []
    lock = bench.store.lock

    @contextlib.asynccontextmanager
    async def refusing(key: TokenKey) -> AsyncIterator[None]:
        async with lock(key):
            asked.append(bench.clock.monotonic)
            if key == KEY.of(Credentials("user", Secret("first"))):
                raise CredentialsRefused("no", retry_after=90)
            yield

    bench.store.lock = refusing  # type: ignore[method-assign]
    bench.refresher.start()
    await bench.passes(89)
    assert (len(asked), bench.sample("login_state", state="refused")) == (1, 1)
    await bench.passes(2)
    assert (len(asked), bench.logins) == (2, [])
    bench.credentials = Credentials("user", Secret("second"))
    await bench.passes(1.6)
    assert len(bench.logins) == 1
    assert await bench.value() == "token-1"


test_what_another_was_refused_with_is_not_tried_until_its_time = in_virtual_time(
    _what_another_was_refused_with_is_not_tried_until_its_time
)


async def _credentials_that_cannot_be_read_are_no_others_than_those_refused(bench: Bench) -> None:
    bench.refuses = Secret("first")
    bench.refresher.start()
    await bench.passes(5)
    bench.unreadable = True  # a file while it is replaced
    await bench.passes(5)
    bench.unreadable = False
    await bench.passes(45)
    assert len(bench.logins) == 1
    assert bench.refresher.report() == (False, "Credenciais inválidas.")


test_credentials_that_cannot_be_read_are_no_others = in_virtual_time(
    _credentials_that_cannot_be_read_are_no_others_than_those_refused
)


async def _a_store_is_not_looked_into_before_it_is_known_for_whom(bench: Bench) -> None:
    asked: list[tuple[str, TokenKey]] = []
    load, lock = bench.store.load, bench.store.lock

    async def watched_load(key: TokenKey) -> Kept | None:
        asked.append(("load", key))
        return await load(key)

    def watched_lock(key: TokenKey) -> AbstractAsyncContextManager[None]:
        asked.append(("lock", key))
        return lock(key)

    bench.store.shared = True
    bench.store.load = watched_load  # type: ignore[method-assign]
    bench.store.lock = watched_lock  # type: ignore[method-assign]
    bench.unreadable = True
    bench.refresher.start()
    await bench.passes(60)
    assert bench.refresher.report() == (False, "the credentials cannot be read: password_file: it is empty")
    bench.unreadable = False
    await bench.passes(60)
    assert await bench.value() == "token-1"
    assert set(asked) == {(what, KEY.of(bench.credentials)) for what in ("lock", "load")}


test_a_store_is_not_looked_into_before_it_is_known_for_whom = in_virtual_time(
    _a_store_is_not_looked_into_before_it_is_known_for_whom
)


async def _after_other_credentials_the_waits_begin_anew(bench: Bench) -> None:
    bench.failure = CredentialsRefused("no")
    bench.refresher.start()
    await bench.passes(200)
    assert len(bench.logins) == 3
    bench.credentials = Credentials("user", Secret("second"))
    await bench.passes(60)
    assert len(bench.logins) == 4
    await bench.passes(10)
    assert len(bench.logins) == 5


test_after_other_credentials_the_waits_begin_anew = in_virtual_time(_after_other_credentials_the_waits_begin_anew)


async def _other_credentials_do_not_end_a_valid_token(bench: Bench) -> None:
    assert await bench.value() == "token-1"
    bench.credentials = Credentials("user", Secret("second"))
    await bench.passes(HOUR)
    assert await bench.value() == "token-1"
    assert len(bench.logins) == 1


test_other_credentials_do_not_end_a_valid_token = in_virtual_time(_other_credentials_do_not_end_a_valid_token)


async def _it_recovers_by_itself(bench: Bench) -> None:
    bench.failure = LoginUnreachable("it is down")
    bench.refresher.start()
    await bench.passes(100)
    bench.failure = None
    await bench.passes(61)
    before = len(bench.logins)
    assert (await bench.value()).startswith("token-")
    assert len(bench.logins) == before
    assert bench.refresher.report() == (True, None)


test_it_recovers_by_itself = in_virtual_time(_it_recovers_by_itself)


async def _a_rejected_token_is_replaced_once_however_many_were_rejected(bench: Bench) -> None:
    token = await bench.refresher.token()
    assert all(await asyncio.gather(*(bench.refresher.renew(token) for _ in range(10))))
    assert await bench.value() == "token-2"
    assert await bench.refresher.renew(token)  # an answer that was long on its way
    assert await bench.value() == "token-2"
    assert len(bench.logins) == 2


test_a_rejected_token_is_replaced_once = in_virtual_time(_a_rejected_token_is_replaced_once_however_many_were_rejected)


async def _a_401_to_a_token_that_was_replaced_meanwhile_is_no_rejection(bench: Bench) -> None:
    first = await bench.refresher.token()
    await bench.passes(13 * HOUR)
    assert await bench.refresher.renew(first)
    assert await bench.value() == "token-2"
    assert len(bench.logins) == 2
    assert bench.sample("token_rejections_total") == 0


test_a_401_to_a_token_that_was_replaced_meanwhile = in_virtual_time(
    _a_401_to_a_token_that_was_replaced_meanwhile_is_no_rejection
)


async def _a_rejection_during_a_scheduled_login_joins_it(bench: Bench) -> None:
    token = await bench.refresher.token()
    await bench.passes(12 * HOUR - 0.4)
    assert len(bench.logins) == 2
    assert await bench.refresher.renew(token)
    assert await bench.value() == "token-2"
    assert len(bench.logins) == 2


test_a_rejection_during_a_scheduled_login_joins_it = in_virtual_time(_a_rejection_during_a_scheduled_login_joins_it)


async def _rejections_of_good_tokens_are_held_to_a_floor(bench: Bench) -> None:
    bench.takes = 0
    for _ in range(600):
        token = await bench.refresher.token()
        await bench.refresher.renew(token)
        await asyncio.sleep(1)
    assert len(bench.logins) <= 1 + 2 + 600 / 30
    assert await bench.value()


test_rejections_of_good_tokens_are_held_to_a_floor = in_virtual_time(_rejections_of_good_tokens_are_held_to_a_floor)


async def _while_logins_fail_a_401_does_not_cost_the_valid_token(bench: Bench) -> None:
    token = await bench.refresher.token()
    bench.failure = LoginUnreachable("it is down")
    await bench.passes(12 * HOUR)
    assert len(bench.logins) > 1
    assert not await bench.refresher.renew(token)
    assert await bench.value() == "token-1"


test_while_logins_fail_a_401_does_not_cost_the_valid_token = in_virtual_time(
    _while_logins_fail_a_401_does_not_cost_the_valid_token
)


async def _a_rejected_token_is_not_given_again(bench: Bench) -> None:
    token = await bench.refresher.token()
    bench.failure = LoginUnreachable("it is down")
    with pytest.raises(LoginUnreachable):
        await bench.refresher.renew(token)
    with pytest.raises(LoginUnreachable):
        await bench.value()
    with pytest.raises(LoginUnreachable):
        await bench.refresher.renew(token)


test_a_rejected_token_is_not_given_again = in_virtual_time(_a_rejected_token_is_not_given_again)


async def _nobody_waits_longer_than_their_patience(bench: Bench) -> None:
    bench.takes = 100
    began = bench.clock.monotonic
    with pytest.raises(LoginTimedOut) as caught:
        await bench.value()
    assert bench.clock.monotonic - began == pytest.approx(15)
    assert (caught.value.detail, caught.value.retry_after) == ("no token within 15 s", 1)


test_nobody_waits_longer_than_their_patience = in_virtual_time(_nobody_waits_longer_than_their_patience)


async def _nor_where_a_clock_is_set_and_a_second_login_is_waited_for(bench: Bench) -> None:
    bench.takes = 14.5
    began = bench.clock.monotonic
    waiter = asyncio.create_task(bench.value())
    await asyncio.sleep(0.1)
    bench.clock.wall += 48 * HOUR
    with pytest.raises(LoginTimedOut):
        await waiter
    assert bench.clock.monotonic - began == pytest.approx(15)
    assert len(bench.logins) == 2


test_nor_where_a_second_login_is_waited_for = in_virtual_time(
    _nor_where_a_clock_is_set_and_a_second_login_is_waited_for
)


async def _a_login_that_timed_out_is_told_as_failing_to_those_who_did_not_wait(bench: Bench) -> None:
    bench.failure = LoginTimedOut("not within 15 s")
    with pytest.raises(LoginTimedOut):
        await bench.value()
    with pytest.raises(LoginError) as caught:
        await bench.value()
    assert type(caught.value) is LoginError
    assert caught.value.status == 503


test_a_login_that_timed_out = in_virtual_time(_a_login_that_timed_out_is_told_as_failing_to_those_who_did_not_wait)


async def _no_more_wait_than_may(bench: Bench) -> None:
    waiters = [asyncio.create_task(bench.value()) for _ in range(11)]
    await settle()
    assert isinstance(waiters[10].exception(), Overloaded)
    assert await asyncio.gather(*waiters[:10]) == ["token-1"] * 10
    assert await bench.value() == "token-1"


test_no_more_wait_than_may = in_virtual_time(_no_more_wait_than_may)


def test_a_defect_in_the_login_is_a_failure_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    said = "the login failed for a reason that is a defect of the sidecar"

    async def scenario(bench: Bench) -> None:
        bench.failure = ZeroDivisionError()
        with pytest.raises(LoginError) as caught:
            await bench.value()
        assert caught.value.detail == said
        assert bench.sample("logins_total", reason="first", result="login-failed") == 1
        bench.failure = None
        await bench.passes(2)
        assert await bench.value() == "token-2"

    in_virtual_time(scenario)()
    defect, failed = caplog.records
    assert (vars(defect)["event"], defect.message) == ("defect", said)
    assert defect.exc_info is not None
    assert vars(failed)["event"] == "login-failed"


async def _a_token_that_expires_before_it_arrives_is_not_given(bench: Bench) -> None:
    bench.lifetime = 0.4
    with pytest.raises(LoginError) as caught:
        await bench.value()
    assert caught.value.detail == "the token from the login could not be used any more"
    assert caught.value.retry_after == 1


test_a_token_that_expires_before_it_arrives = in_virtual_time(_a_token_that_expires_before_it_arrives_is_not_given)


async def _a_second_refresher_of_the_same_key_finds_the_token(bench: Bench) -> None:
    await bench.value()
    other = bench.another()
    assert (await other.token()).value == "token-1"
    assert len(bench.logins) == 1
    other.stop()


test_a_second_refresher_of_the_same_key_finds_the_token = in_virtual_time(
    _a_second_refresher_of_the_same_key_finds_the_token
)


async def _a_token_that_another_got_costs_nothing_of_the_floor(bench: Bench) -> None:
    other = bench.another()
    await bench.value()
    for _ in range(2):
        held = await bench.refresher.token()
        assert (await other.token()).value == held.value
        assert await other.renew(held)
        assert await bench.refresher.renew(held)
        assert await bench.value() == (await other.token()).value
    assert len(bench.logins) == 3
    for allowed in (True, True, False):
        assert bool(await bench.refresher.renew(await bench.refresher.token())) is allowed
    assert len(bench.logins) == 5
    other.stop()


test_a_token_that_another_got_costs_nothing_of_the_floor = in_virtual_time(
    _a_token_that_another_got_costs_nothing_of_the_floor
)


async def _what_another_saves_in_a_shared_store_is_held_a_second_later(bench: Bench) -> None:
    bench.store.shared = True
    other = bench.another()
    held = await bench.refresher.token()
    assert (await other.token()).value == held.value
    await other.renew(held)
    assert bench.refresher.current() is held
    await bench.passes(1.1)
    assert await bench.value() == (await other.token()).value == "token-2"
    assert len(bench.logins) == 2
    assert bench.sample("logins_total", reason="look", result="shared") == 1
    other.stop()


test_what_another_saves_is_held_a_second_later = in_virtual_time(
    _what_another_saves_in_a_shared_store_is_held_a_second_later
)


async def _while_a_login_is_in_flight_nobody_looks_into_the_store(bench: Bench) -> None:
    bench.store.shared = True
    await bench.value()
    asked = []
    load = bench.store.load

    async def watched(key: TokenKey) -> Kept | None:
        asked.append(bench.clock.monotonic)
        return await load(key)

    bench.store.load = watched  # type: ignore[method-assign]
    bench.takes = 10
    bench.clock.sleep_through(13 * HOUR)
    assert await bench.value() == "token-1"
    await bench.passes(9)
    assert len(bench.logins) == 2
    assert len(asked) == 1  # under the lock, before the login


test_while_a_login_is_in_flight_nobody_looks = in_virtual_time(_while_a_login_is_in_flight_nobody_looks_into_the_store)


async def _another_s_token_ends_the_wait_after_a_failed_login(bench: Bench) -> None:
    bench.store.shared = True
    bench.failure = CredentialsRefused("no")
    bench.refresher.start()
    await bench.passes(5)
    now = bench.clock().wall
    await bench.store.save(KEY.of(bench.credentials), Kept("of-another", 7, now, now + HOUR))
    await bench.passes(1.1)
    assert await bench.value() == "of-another"
    assert bench.refresher.report() == (True, None)
    assert len(bench.logins) == 1


test_another_s_token_ends_the_wait_after_a_failed_login = in_virtual_time(
    _another_s_token_ends_the_wait_after_a_failed_login
)


async def _an_older_or_rejected_token_in_the_store_is_not_taken(bench: Bench) -> None:
    bench.store.shared = True
    first = await bench.refresher.token()
    await bench.refresher.renew(first)
    key, now = KEY.of(bench.credentials), bench.clock().wall
    for kept in (
        Kept(first.value, 9, now + 1, now + HOUR),  # rejected
        Kept("older", 9, now - HOUR, now + HOUR),
        Kept("of-an-unknown-age", 9, now + 310, now + HOUR),
    ):
        await bench.store.save(key, kept)
        await bench.passes(2)
        assert await bench.value() == "token-2"
    assert len(bench.logins) == 2


test_an_older_or_rejected_token_in_the_store_is_not_taken = in_virtual_time(
    _an_older_or_rejected_token_in_the_store_is_not_taken
)


async def _a_late_401_is_remembered_though_another_token_is_held(bench: Bench) -> None:
    first = await bench.refresher.token()
    key, now = KEY.of(bench.credentials), bench.clock().wall
    await bench.passes(12 * HOUR)
    assert await bench.refresher.renew(first)
    second = await bench.refresher.token()
    await bench.store.save(key, Kept(first.value, 9, now, now + 24 * HOUR))  # by one that has not heard of it
    assert await bench.refresher.renew(second)
    assert await bench.value() == "token-3"


test_a_late_401_is_remembered = in_virtual_time(_a_late_401_is_remembered_though_another_token_is_held)


async def _a_clock_that_is_set_back_as_a_login_begins_harms_nothing(bench: Bench) -> None:
    await bench.value()
    bench.clock.wall += 13 * HOUR
    assert await bench.value() == "token-1"  # and the login for the next one begins
    bench.clock.wall -= 13 * HOUR
    await bench.passes(1)
    assert await bench.value() == "token-2"


test_a_clock_that_is_set_back_as_a_login_begins = in_virtual_time(
    _a_clock_that_is_set_back_as_a_login_begins_harms_nothing
)


def test_a_token_from_the_store_lives_as_long_as_it_did_there_by_either_clock() -> None:
    for age in (0.0, HOUR):

        async def scenario(bench: Bench, age: float = age) -> None:
            got = bench.clock().wall - age
            await bench.store.save(KEY.of(bench.credentials), Kept("kept", 1, got, got + 3 * HOUR))
            assert await bench.value() == "kept"
            bench.clock.wall -= 365 * 24 * HOUR
            bench.failure = LoginUnreachable("it is down")
            await bench.passes(3 * HOUR - age - 0.5)
            assert await bench.value() == "kept"
            await bench.passes(0.5)
            with pytest.raises(LoginUnreachable):
                await bench.value()

        in_virtual_time(scenario)()


async def _a_token_from_the_future_is_as_good_as_none(bench: Bench) -> None:
    now = bench.clock().wall
    await bench.store.save(KEY.of(bench.credentials), Kept("of-an-unknown-age", 7, now + 301, now + 24 * HOUR))
    token = await bench.refresher.token()
    assert (token.value, token.generation) == ("token-1", 8)


test_a_token_from_the_future_is_as_good_as_none = in_virtual_time(_a_token_from_the_future_is_as_good_as_none)


async def _a_look_that_is_under_way_does_not_undo_a_login(bench: Bench) -> None:
    bench.store.shared = True
    held = await bench.refresher.token()
    gate = asyncio.Event()
    load = bench.store.load

    async def slowly(key: TokenKey) -> Kept | None:
        kept = await load(key)
        await gate.wait()
        return kept

    bench.store.load = slowly  # type: ignore[method-assign]
    await bench.passes(1.1)  # a look has begun, and has found the first token
    bench.store.load = load  # type: ignore[method-assign]
    await bench.refresher.renew(held)
    gate.set()
    await bench.passes(1)
    assert await bench.value() == "token-2"


test_a_look_that_is_under_way_does_not_undo_a_login = in_virtual_time(_a_look_that_is_under_way_does_not_undo_a_login)


async def _a_clock_that_is_set_during_the_login_costs_another_login_and_no_request(bench: Bench) -> None:
    waiter = asyncio.create_task(bench.value())
    await asyncio.sleep(0.1)
    bench.clock.wall += 48 * HOUR
    assert await waiter == "token-2"
    assert len(bench.logins) == 2


test_a_clock_that_is_set_during_the_login = in_virtual_time(
    _a_clock_that_is_set_during_the_login_costs_another_login_and_no_request
)


async def _a_clock_that_is_set_back_during_the_login_costs_nothing(bench: Bench) -> None:
    waiter = asyncio.create_task(bench.value())
    await asyncio.sleep(0.1)
    bench.clock.wall -= 48 * HOUR
    assert await waiter == "token-1"
    await bench.passes(12 * HOUR - 1)
    assert len(bench.logins) == 1


test_a_clock_that_is_set_back_during_the_login = in_virtual_time(
    _a_clock_that_is_set_back_during_the_login_costs_nothing
)


async def _who_waits_for_the_login_in_flight_is_told_of_its_end(bench: Bench) -> None:
    bench.refresher.start()
    await bench.refresher.settled()
    assert await bench.value() == "token-1"
    assert bench.logins == [1000.0]
    assert bench.clock.monotonic == pytest.approx(1000 + bench.takes)
    await bench.refresher.settled()  # there is none


test_who_waits_for_the_login_in_flight = in_virtual_time(_who_waits_for_the_login_in_flight_is_told_of_its_end)


async def _a_login_that_is_ended_before_it_began_keeps_nobody_waiting(bench: Bench) -> None:
    bench.refresher.start()
    bench.refresher.stop()
    waiter = asyncio.create_task(bench.refresher.settled())
    for _ in range(10):
        await asyncio.sleep(0)
    assert waiter.done()
    assert bench.logins == []


test_a_login_that_is_ended_before_it_began = in_virtual_time(
    _a_login_that_is_ended_before_it_began_keeps_nobody_waiting
)


def test_tokens_that_are_rejected_again_and_again_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.passes(HOUR)  # of the machine's life
        for _ in range(4):
            await bench.refresher.renew(await bench.refresher.token())
            await bench.passes(60)
        assert bench.sample("token_rejections_total") == 4

    in_virtual_time(scenario)()
    lost = [record for record in caplog.records if getattr(record, "event", "") == "tokens-lost"]
    assert len(lost) == 1
    assert lost[0].message == (
        "upstream rejects good tokens again and again: either paths are forbidden to this user, or something"
        " else logs in as the same user and only the newest token counts; let all share one tokens.store"
    )
    assert vars(lost[0])["rejections"] == 3


def test_a_path_that_is_forbidden_to_the_user_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        for renewed in (True, True, False):
            assert "tokens-lost" not in {getattr(record, "event", "") for record in caplog.records}
            assert bool(await bench.refresher.renew(await bench.refresher.token())) is renewed

    in_virtual_time(scenario)()
    assert "tokens-lost" in {getattr(record, "event", "") for record in caplog.records}


def test_a_few_rejections_in_an_hour_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(4):
            await bench.refresher.renew(await bench.refresher.token())
            await bench.passes(HOUR / 2 + 1)
        assert "tokens-lost" not in {getattr(record, "event", "") for record in caplog.records}
        for _ in range(2):
            await bench.refresher.renew(await bench.refresher.token())
            await bench.passes(60)
        assert "tokens-lost" in {getattr(record, "event", "") for record in caplog.records}

    in_virtual_time(scenario)()


async def _what_is_counted(bench: Bench) -> None:
    value = bench.sample
    assert value("token_age_seconds") is None
    assert value("token_generation") == 0
    token = await bench.refresher.token()
    await bench.passes(100)
    assert value("token_age_seconds") == pytest.approx(100.5)
    assert value("token_expires_in_seconds") == pytest.approx(24 * HOUR - 100.5)
    assert value("token_generation") == 1
    assert value("logins_total", reason="first", result="granted") == 1
    assert value("login_duration_seconds_sum") == pytest.approx(0.5)
    bench.failure = CredentialsRefused("no")
    with pytest.raises(CredentialsRefused):
        await bench.refresher.renew(token)
    assert value("login_state", state="refused") == 1
    assert value("login_state", state="idle") == 0
    assert value("login_retry_in_seconds") == pytest.approx(60)
    assert value("logins_total", reason="rejected", result="credentials-refused") == 1
    bench.failure = None
    await bench.passes(61)
    assert value("logins_total", reason="retry", result="granted") == 1
    assert value("login_retry_in_seconds") == 0
    assert value("login_duration_seconds_count") == 3
    await bench.passes(12 * HOUR)
    assert value("logins_total", reason="scheduled", result="granted") == 1
    other = bench.another()
    await other.token()
    assert value("logins_total", reason="first", result="shared") == 1
    bench.clock.sleep_through(25 * HOUR)
    await bench.value()
    assert value("logins_total", reason="expired", result="granted") == 1
    other.stop()


test_what_is_counted = in_virtual_time(_what_is_counted)


async def _an_operator_gets_a_new_token_at_once(bench: Bench) -> None:
    assert not bench.refresher.in_use
    assert await bench.value() == "token-1"
    assert bench.refresher.in_use
    await asyncio.gather(bench.refresher.refresh(), bench.refresher.refresh())
    assert await bench.value() == "token-2"
    assert len(bench.logins) == 2


test_an_operator_gets_a_new_token_at_once = in_virtual_time(_an_operator_gets_a_new_token_at_once)


async def _an_operator_need_not_wait_for_the_time_of_the_next_login(bench: Bench) -> None:
    bench.failure = LoginUnreachable("no")
    with pytest.raises(LoginUnreachable):
        await bench.value()
    with pytest.raises(LoginUnreachable):
        await bench.refresher.refresh()
    bench.failure = None
    await bench.refresher.refresh()
    assert await bench.value() == "token-3"
    of = {"account": "default", "api": "2.0", "reason": "retry", "result": "granted"}
    assert bench.metrics.registry.get_sample_value("invoisys_proxy_logins_total", of) == 1


test_an_operator_need_not_wait = in_virtual_time(_an_operator_need_not_wait_for_the_time_of_the_next_login)


async def _before_the_first_login_has_ended_that_is_what_is_reported(bench: Bench) -> None:
    bench.refresher.start()
    assert bench.refresher.report() == (False, "the first login is under way")
    await bench.passes(1)
    assert bench.refresher.report() == (True, None)


test_before_the_first_login_has_ended = in_virtual_time(_before_the_first_login_has_ended_that_is_what_is_reported)


def test_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        bench.failure = LoginUnreachable("it is down")
        with pytest.raises(LoginUnreachable):
            await bench.value()
        bench.failure = None
        await bench.passes(2)

    caplog.set_level("INFO", logger="proxy.tokens")
    in_virtual_time(scenario)()
    failed, granted = caplog.records
    of = {"api": "2.0", "account": "default"}
    about = of | {"event": "login-failed", "reason": "first", "error": "login-unreachable"}
    assert failed.message == "no new token: it is down; the next login is in 1 s"
    assert vars(failed).items() >= about.items()
    about = of | {"event": "login", "reason": "retry", "result": "granted"}
    assert granted.message == "a new token"
    assert vars(granted).items() >= (about | {"generation": 1, "expires_in": 86400}).items()


async def _refused_credentials_are_not_tried_for_an_operator_unless_they_have_changed(bench: Bench) -> None:
    bench.refuses = Secret("first")
    for _ in range(10):
        with pytest.raises(CredentialsRefused):
            await bench.refresher.refresh()
    assert len(bench.logins) == 1
    bench.credentials = Credentials("user", Secret("second"))
    await bench.refresher.refresh()
    assert await bench.value() == "token-2"


test_refused_credentials_are_not_tried_for_an_operator = in_virtual_time(
    _refused_credentials_are_not_tried_for_an_operator_unless_they_have_changed
)


async def _a_failed_refresh_of_an_operator_is_made_up_for(bench: Bench) -> None:
    await bench.value()
    bench.failure = LoginUnreachable("it is down")
    with pytest.raises(LoginUnreachable):
        await bench.refresher.refresh()
    assert bench.refresher.report() == (True, "it is down")
    bench.failure = None
    await bench.passes(2)
    assert bench.refresher.report() == (True, None)
    assert await bench.value() == "token-3"


test_a_failed_refresh_of_an_operator_is_made_up_for = in_virtual_time(_a_failed_refresh_of_an_operator_is_made_up_for)


async def _an_older_token_in_the_store_is_not_gone_back_to(bench: Bench) -> None:
    """As where a disk is full: the token before is still kept, and the one that is held is not."""
    first = await bench.refresher.token()
    now = bench.clock().wall
    old = Kept(first.value, first.generation, first.obtained_at.wall, now + HOUR)
    await bench.passes(10)
    other = bench.another()
    await bench.store.save(KEY.of(bench.credentials), Kept("token-x", 2, bench.clock().wall, now + HOUR))
    assert (await other.token()).value == "token-x"
    await bench.store.save(KEY.of(bench.credentials), old)
    await other.renew(await other.token())
    assert (await other.token()).value == "token-2"
    assert len(bench.logins) == 2
    other.stop()


test_an_older_token_in_the_store_is_not_gone_back_to = in_virtual_time(_an_older_token_in_the_store_is_not_gone_back_to)


async def _stopping_ends_those_who_wait(bench: Bench) -> None:
    waiter = asyncio.create_task(bench.value())
    await asyncio.sleep(0.1)
    bench.refresher.stop()
    await settle()
    late = asyncio.create_task(bench.value())
    await settle()
    for error in (waiter.exception(), late.exception()):
        assert isinstance(error, LoginError)
        assert (error.detail, error.retry_after) == ("the sidecar is stopping", 1)
    assert len(bench.logins) == 1


test_stopping_ends_those_who_wait = in_virtual_time(_stopping_ends_those_who_wait)


def test_a_token_shows_its_value_to_nobody() -> None:
    moment = VirtualClock()()
    token = Token("a-secret", 1, moment, moment, moment)
    assert token.authorization == b"Bearer a-secret"
    assert "a-secret" not in repr(token)
    assert "a-secret" not in repr(Grant("a-secret", 1))
