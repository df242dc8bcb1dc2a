"""A hypothesis state machine over two refreshers that share a store, in virtual time, before adversaries.

The machine does not know how the refresher works. It keeps its own account of what was granted, given, rejected and
refused, by both clocks, and holds whatever happens against that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVarTuple

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.config import Credentials, Secret
from proxy.errors import (
    ConfigError,
    CredentialsRefused,
    GrantRefused,
    LoginError,
    LoginNonsense,
    LoginServerFailed,
    LoginThrottled,
    LoginTimedOut,
    LoginUnreachable,
    Overloaded,
)
from proxy.tokens import MemoryStore, Moment, Refresher, Schedule, Token, TokenKey
from proxy.tokens.login import Grant
from proxy.tokens.store import Kept
from proxy.waiting import WaitingRoom
from tests.support.virtual import VirtualClock, VirtualLoop, pending_timers, settle

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

_Ts = TypeVarTuple("_Ts")

HOUR = 3600.0
PATIENCE = 15.0
REFRESH_EVERY = 12 * HOUR
PLACES = 5
REPLICAS = 2
A_MOMENT = 1e-6
ENDLESS = 1000
KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token")
SECRETS = ("first", "second")

FAILURES: dict[str, Callable[[], Exception]] = {
    "refuses": lambda: CredentialsRefused("no"),
    "refuses the grant": lambda: GrantRefused("not that way"),
    "throttles": lambda: LoginThrottled("slower"),
    "throttles for 2 min": lambda: LoginThrottled("slower", retry_after=120),
    "throttles for ever": lambda: LoginThrottled("slower", retry_after=1e9),
    "fails": lambda: LoginServerFailed("500"),
    "dies": lambda: LoginUnreachable("gone"),
    "babbles": lambda: LoginNonsense("<html>"),
    "meets a defect": ZeroDivisionError,
}


class GuardedLoop(VirtualLoop):
    """Ends work that goes round and round without time passing, which in virtual time would never end."""

    turns = 0
    turned_at = 0.0

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        now = self.time()
        self.turns = self.turns + 1 if now == self.turned_at and when <= now else 0
        self.turned_at = now
        if self.turns > ENDLESS:
            raise RecursionError("a timer is set for now, again and again")
        return super().call_at(when, callback, *args, context=context)


@dataclass
class Life:
    """The machine's own account of one token that a replica holds."""

    value: str
    obtained_at: Moment
    lifetime: float

    def has_lasted(self, now: Moment, seconds: float) -> bool:
        """By either clock."""
        end = self.obtained_at.plus(seconds)
        return now.wall >= end.wall - A_MOMENT or now.monotonic >= end.monotonic - A_MOMENT

    def surely_lasts(self, now: Moment) -> bool:
        end = self.obtained_at.plus(self.lifetime)
        return now.wall < end.wall - A_MOMENT and now.monotonic < end.monotonic - A_MOMENT

    def is_over(self, now: Moment) -> bool:
        end = self.obtained_at.plus(self.lifetime)
        return now.wall >= end.wall + A_MOMENT or now.monotonic >= end.monotonic + A_MOMENT

    def may_be_due(self, now: Moment) -> bool:
        return self.has_lasted(now, 0.9 * min(REFRESH_EVERY, 0.8 * self.lifetime))


@dataclass
class Failures:
    """The machine's own account of how long a replica has to leave the login server alone."""

    in_a_row: int = 0
    until: float = float("-inf")
    refused: Credentials | None = None

    def add(self, error: LoginError, now: Moment, used: Credentials | None) -> None:
        self.in_a_row += 1
        first, longest = (60, 900) if error.final else (1, 60)
        wait = min(0.75 * longest, first * 2.0 ** min(self.in_a_row - 1, 10))
        self.until = now.monotonic + max(wait, min(error.retry_after or 0, 900))
        self.refused = used if error.final else None


class Bucket:
    """Two, and one more every 30 s."""

    level = 2.0
    at = 0.0

    def take(self, now: float) -> bool:
        self.level = min(2.0, self.level + (now - self.at) / 30)
        self.at = now
        self.level -= 1
        return self.level > -A_MOMENT


class Replica(Refresher):
    """A refresher that tells the machine what it does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held: Life | None = None
        self.own: Life | None = None
        self.failures: Failures | None = None
        self.used: Credentials | None = None
        self.condemned: dict[str, int] = {}
        self.bucket = Bucket()
        self.ended = False
        super().__init__(
            KEY,
            self._read_credentials,
            self._ask_server,
            world.store,
            schedule=Schedule(REFRESH_EVERY, PATIENCE, world.chance),
            clock=world.clock,
            waiting=world.waiting,
        )

    def _read_credentials(self) -> Credentials:
        if self.world.unreadable:
            raise ConfigError("the file is gone")
        self.used = self.world.credentials
        if self.failures is not None and self.failures.refused not in (None, self.used):
            self.failures = None  # other credentials may be tried at once, and the count begins anew
        return self.used

    def _start_login(self) -> asyncio.Task[LoginError | None]:
        self.world.expect(self._may_log_in(self.world.clock()), "a login comes before its time")
        self.world.expect(not self.ended, "a login begins after the stop")
        return super()._start_login()

    async def _ask_server(self, credentials: Credentials) -> Grant:
        now = self.world.clock()
        grant = await self.world.log_in(credentials)
        self.own = Life(grant.access_token, now, grant.lifetime)
        return grant

    def _may_log_in(self, now: Moment) -> bool:
        if self.failures is not None:
            return now.monotonic >= self.failures.until - A_MOMENT
        held = self.held
        return held is None or not self.may_give(held.value) or held.may_be_due(now)

    def _adopt(self, kept: Kept, *more: Any) -> None:
        super()._adopt(kept, *more)
        now = self.world.clock()
        if self.own is not None and self.own.value == kept.value and self.own.obtained_at.wall == kept.obtained_at:
            self.held = self.own
        else:
            age = max(0.0, now.wall - kept.obtained_at)
            obtained_at = Moment(kept.obtained_at, now.monotonic - age)
            self.held = Life(kept.value, obtained_at, kept.expires_at - kept.obtained_at)
        self.world.expect(self.may_give(kept.value), "a rejected token was taken from the store")
        self.condemned.pop(kept.value, None)
        self.failures = None

    def _fail(self, error: LoginError) -> LoginError:
        self.failures = self.failures or Failures()
        self.failures.add(error, self.world.clock(), self.used)
        return super()._fail(error)

    def reject(self, rejected: Token) -> bool:
        now = self.world.clock()
        value = rejected.value
        causes_one = (
            self.held is not None
            and self.held.value == value
            and self.may_give(value)
            and self._login is None
            and not self.held.may_be_due(now)
        )
        before = self.condemned
        self.condemned = before | {value: self.world.grants[value]}
        renewable = super().reject(rejected)
        if not renewable:
            self.condemned = before
        elif causes_one:
            self.world.expect(self.bucket.take(now.monotonic), "401s cause more logins than the floor allows")
        return renewable

    def stop(self) -> None:
        self.ended = True
        super().stop()

    def may_give(self, value: str) -> bool:
        """A token that was rejected is not given again, unless it was granted again."""
        return value not in self.condemned or self.world.grants[value] > self.condemned[value]

    def serves(self) -> bool:
        return (
            self.held is not None
            and self.held.surely_lasts(self.world.clock())
            and self.held.value not in self.condemned
        )


class Waiter(NamedTuple):
    replica: Replica
    began: float
    task: asyncio.Task[None]


class World:
    """Two replicas, the login server and the clocks."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.violations: list[str] = []
        self.store = MemoryStore(self.clock)
        self.waiting = WaitingRoom(PLACES)
        self.credentials = Credentials("user", Secret(SECRETS[0]))
        self.unreadable = False
        self.wrong: set[Secret] = set()
        self.luck = 0.0
        self.takes = 0.5
        self.lifetime = 24 * HOUR
        self.does = "grants"
        self.grants: dict[str, int] = {}
        self.in_flight: dict[Credentials, int] = {}
        self.replicas = [Replica(self) for _ in range(REPLICAS)]
        self.given: list[tuple[Replica, Token]] = []
        self.waiters: list[Waiter] = []
        self.logins = 0

    def chance(self) -> float:
        return self.luck

    def expect(self, truth: object, otherwise: str) -> None:
        """Note what is wrong, from wherever it is seen: an error raised here might be taken for the login's."""
        if not truth:
            self.violations.append(otherwise)

    async def log_in(self, credentials: Credentials) -> Grant:
        self.logins += 1
        self.in_flight[credentials] = self.in_flight.get(credentials, 0) + 1
        self.expect(self.in_flight[credentials] == 1, "two logins of one key are in flight")
        try:
            if self.takes > PATIENCE:
                await asyncio.sleep(PATIENCE)
                raise LoginTimedOut("not within 15 s")
            await asyncio.sleep(self.takes)
            if credentials.password in self.wrong:
                raise CredentialsRefused("no")
            if self.does in FAILURES:
                failure = FAILURES[self.does]()
                raise failure
            again = self.does == "grants the same again" and self.grants
            value = next(reversed(self.grants)) if again else f"token-{len(self.grants) + 1}"
            self.grants[value] = self.grants.get(value, 0) + 1
            return Grant(value, self.lifetime)
        finally:
            self.in_flight[credentials] -= 1

    async def elsewhere(self, seconds: float) -> None:
        """A replica in another process logs in, with the store's lock held for so long."""
        credentials = self.credentials
        key = KEY.of(credentials)
        async with self.store.lock(key):
            asked_at = self.clock().wall
            self.expect(not self.in_flight.get(credentials), "a login goes on beside the lock")
            await asyncio.sleep(seconds)
            value = f"token-{len(self.grants) + 1}"
            self.grants[value] = 1
            await self.store.save(key, Kept(value, len(self.grants), asked_at, asked_at + self.lifetime))

    def ask(self, replica: Replica, rejected: Token | None, crowd: int) -> None:
        for _ in range(crowd):
            task = asyncio.create_task(self._wait(replica, rejected))
            self.waiters.append(Waiter(replica, self.clock.monotonic, task))

    async def _wait(self, replica: Replica, rejected: Token | None) -> None:
        began = self.clock.monotonic
        try:
            await self._get(replica, rejected, began)
        finally:
            self.expect(self.clock.monotonic <= began + PATIENCE + A_MOMENT, "a request waited too long")

    async def _get(self, replica: Replica, rejected: Token | None, began: float) -> None:
        served = rejected is None and replica.serves()
        try:
            if rejected is not None:
                await replica.renew(rejected)
                return
            token = await replica.token()
        except Overloaded:
            self.expect(self.waiting.taken >= PLACES, "a place was free")
            self.expect(not served, "a request was turned away beside a valid token")
        except LoginError:
            self.expect(not served, "a valid token was lost to a failed login")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not for a request to see
            self.expect(truth=False, otherwise=f"a request got {error!r}")
        else:
            now = self.clock()
            self.expect(not served or now.monotonic == began, "a request waited beside a valid token")
            self.given.append((replica, token))
            held = replica.held
            self.expect(held is not None and token.value == held.value, "not the token that is held was given")
            self.expect(held is None or not held.is_over(now), "an expired token was given")
            self.expect(replica.may_give(token.value), "a rejected token was given again")


class RefresherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("proxy.tokens").setLevel(logging.CRITICAL)  # thousands of lines, all expected
        self.world = World()
        self.runner = asyncio.Runner(loop_factory=lambda: GuardedLoop(self.world.clock))
        self.loop = self.runner.get_loop()
        self.loop.set_exception_handler(lambda _loop, context: self.world.expect(truth=False, otherwise=str(context)))

    def do(self, act: Callable[[], object]) -> None:
        """Do something where a loop is running; what is ready runs by one turn."""

        async def inside() -> None:
            act()

        self.loop.run_until_complete(inside())

    @initialize(seconds=st.sampled_from([None, 1.0, HOUR]))
    def both_may_have_a_token_already(self, seconds: float | None) -> None:
        if seconds is not None:
            for name in range(REPLICAS):
                self.requests_come(name, 1)
            self.loop.run_until_complete(asyncio.sleep(seconds))

    # --- Those who ask ------------------------------------------------------------------------------------------------

    @rule(name=st.integers(0, REPLICAS - 1), crowd=st.sampled_from([1, 1, 3, PLACES + 1]))
    def requests_come(self, name: int, crowd: int) -> None:
        self.do(lambda: self.world.ask(self.world.replicas[name], None, crowd))

    @precondition(lambda self: self.world.given)
    @rule(back=st.sampled_from([1, 1, 1, 2, 5]), crowd=st.sampled_from([1, 1, 3]))
    def upstream_rejects(self, back: int, crowd: int) -> None:
        """Be it that the token was revoked, or that the path is forbidden to every token."""
        replica, token = self.world.given[-min(back, len(self.world.given))]
        self.do(lambda: self.world.ask(replica, token, crowd))

    @precondition(lambda self: self.world.given)
    @rule(back=st.sampled_from([1, 1, 2]))
    def upstream_rejects_and_no_caller_stays(self, back: int) -> None:
        replica, token = self.world.given[-min(back, len(self.world.given))]
        self.do(lambda: replica.reject(token))

    @rule(name=st.integers(0, REPLICAS - 1), times=st.integers(2, 5), rotating=st.booleans())
    def a_path_rejects_every_token(self, name: int, times: int, rotating: bool) -> None:
        for turn in range(times):
            self.requests_come(name, 1)
            self.loop.run_until_complete(asyncio.sleep(1))
            if rotating:
                self.the_secret_rotates(SECRETS[turn % len(SECRETS)])
            if self.world.given:
                self.upstream_rejects(1, 1)
                self.loop.run_until_complete(asyncio.sleep(1))

    @precondition(lambda self: self.world.waiters)
    @rule(which=st.lists(st.integers(0, 10), min_size=1, max_size=3))
    def waiters_leave(self, which: list[int]) -> None:
        for place in which:
            self.world.waiters[place % len(self.world.waiters)].task.cancel()

    @rule(name=st.integers(0, REPLICAS - 1))
    def a_replica_starts(self, name: int) -> None:
        self.do(self.world.replicas[name].start)

    @rule(name=st.integers(0, REPLICAS - 1), chances=st.integers(0, 9))
    def a_replica_stops(self, name: int, chances: int) -> None:
        if chances == 0:  # seldom: it ends half of what there is to see
            self.do(self.world.replicas[name].stop)

    # --- Time ---------------------------------------------------------------------------------------------------------

    @rule(turns=st.integers(1, 4))
    def the_loop_turns(self, turns: int) -> None:
        async def inside() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(inside())

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 5, 16, 60, 300, HOUR, 5 * HOUR, 13 * HOUR]))
    def time_passes(self, seconds: float) -> None:
        left = min(seconds, 30 * self.world.lifetime)
        while left > 0:
            step = min(left, 600)
            left -= step
            self.loop.run_until_complete(asyncio.sleep(step))
            if any(replica.failures for replica in self.world.replicas):
                return  # now something happens every second: hours of it show nothing that minutes do not

    @rule(name=st.integers(0, REPLICAS - 1), off=st.sampled_from([-1.0, -0.01, 0.0, 0.01, 1.0]), failing=st.booleans())
    def time_passes_until_a_token_ends(self, name: int, off: float, failing: bool) -> None:
        held = self.world.replicas[name].held
        if held is not None:
            if failing:
                self.world.does = "dies"
            left = held.obtained_at.monotonic + held.lifetime + off - self.world.clock.monotonic
            self.time_passes(max(0.0, left))

    @rule(seconds=st.sampled_from([1.0, 60, HOUR, 11.5 * HOUR, 23 * HOUR, 100 * HOUR]))
    def the_machine_sleeps(self, seconds: float) -> None:
        self.world.clock.sleep_through(seconds)

    @rule(seconds=st.sampled_from([-100 * HOUR, -13 * HOUR, -HOUR, -5, -1, 1, 5, HOUR, 13 * HOUR, 100 * HOUR]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        self.world.clock.wall += seconds

    @rule(
        seconds=st.sampled_from([-13 * HOUR, -HOUR, HOUR, 13 * HOUR, 30 * HOUR]),
        lasting=st.sampled_from([0.0, 0.3, 1.0, 60]),
        name=st.integers(0, REPLICAS - 1),
    )
    def the_wall_clock_is_wrong_for_a_while(self, seconds: float, lasting: float, name: int) -> None:
        self.world.clock.wall += seconds
        self.requests_come(name, 1)
        self.loop.run_until_complete(asyncio.sleep(lasting))
        self.world.clock.wall -= seconds

    @rule(luck=st.sampled_from([0.0, 0.5, 0.999]))
    def luck_turns(self, luck: float) -> None:
        self.world.luck = luck

    # --- The login server ---------------------------------------------------------------------------------------------

    @rule(takes=st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]))
    def the_login_server_takes(self, takes: float) -> None:
        self.world.takes = takes

    @rule(does=st.sampled_from(["grants", "grants", "grants", "grants the same again", *FAILURES]))
    def the_login_server_changes(self, does: str) -> None:
        self.world.does = does

    @rule(lifetime=st.sampled_from([0.5, 5.0, 100.0, HOUR, 92843.0]))
    def tokens_live(self, lifetime: float) -> None:
        self.world.lifetime = lifetime

    @rule(seconds=st.sampled_from([0.0, 0.3, 5.0, 20.0]))
    def another_process_logs_in(self, seconds: float) -> None:
        self.do(lambda: self.world.waiters.append(self._elsewhere(seconds)))

    def _elsewhere(self, seconds: float) -> Waiter:
        task = asyncio.create_task(self.world.elsewhere(seconds))
        return Waiter(self.world.replicas[0], float("inf"), task)

    # --- The secret ---------------------------------------------------------------------------------------------------

    @rule(secret=st.sampled_from(SECRETS))
    def the_secret_rotates(self, secret: str) -> None:
        self.world.credentials = Credentials("user", Secret(secret))

    @rule(wrong=st.sets(st.sampled_from(SECRETS), max_size=2))
    def the_server_knows_other_secrets(self, wrong: set[str]) -> None:
        self.world.wrong = {Secret(text) for text in wrong}

    @rule(unreadable=st.booleans())
    def the_secret_is_unreadable(self, unreadable: bool) -> None:
        self.world.unreadable = unreadable

    # --- What always holds --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self.world.violations

    @invariant()
    def a_valid_token_is_not_lost(self) -> None:
        for replica in self.world.replicas:
            if replica.serves():
                assert replica.report()[0]

    @invariant()
    def a_token_past_its_life_is_not_served(self) -> None:
        now = self.world.clock()
        for replica in self.world.replicas:
            if replica.held is not None and (replica.held.is_over(now) or not replica.may_give(replica.held.value)):
                assert not replica.report()[0]

    @invariant()
    def nobody_waits_longer_than_their_patience(self) -> None:
        waiting = [waiter for waiter in self.world.waiters if not waiter.task.done()]
        for waiter in waiting:
            assert self.world.clock.monotonic <= waiter.began + PATIENCE + A_MOMENT
        self.world.waiters = waiting

    def teardown(self) -> None:
        logging.getLogger("proxy.tokens").setLevel(logging.NOTSET)
        with contextlib.closing(self.runner):
            self.loop.run_until_complete(self._stop())
        assert not self.world.violations
        assert self.world.waiting.taken == 0

    async def _stop(self) -> None:
        for waiter in self.world.waiters:
            if waiter.began == float("inf"):
                waiter.task.cancel()  # the other process; what it holds is its own affair
        for replica in self.world.replicas:
            replica.stop()
        await settle()
        assert all(waiter.task.done() for waiter in self.world.waiters)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert pending_timers() == 0


TestRefresherMachine = RefresherMachine.TestCase
TestRefresherMachine.settings = settings(
    derandomize=bool(os.environ.get("CI")),  # the same steps in every run; elsewhere each run looks somewhere else
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    max_examples=300,
    stateful_step_count=50,
)
