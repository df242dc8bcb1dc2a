"""A hypothesis state machine over two refreshers that share a store, in virtual time, before adversaries.

The machine sees of a refresher what goes in and what comes out: what it is asked, what it gives, what it loads from the
store, when it asks for the credentials and when it logs in. From that it keeps its own account of what is held, was
rejected and has failed, by both clocks, and holds whatever happens against the account.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVarTuple

import pytest
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
from proxy.observe import Metrics
from proxy.tokens import MemoryStore, Moment, Refresher, Schedule, Token, TokenKey
from proxy.tokens.login import Grant
from proxy.tokens.store import Kept
from proxy.waiting import WaitingRoom
from tests.support.virtual import VirtualClock, VirtualLoop, pending_timers, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

pytestmark = pytest.mark.no_cover  # millions of steps through what other tests cover, at a third of the time

_Ts = TypeVarTuple("_Ts")

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "300"))
"""Runs of up to 50 steps; `MACHINE_EXAMPLES=10000` finds what is rare."""

HOUR = 3600.0
PATIENCE = 15.0
REFRESH_EVERY = 12 * HOUR
PLACES = 5
A_MOMENT = 1e-6
MOST_AHEAD = 300.0
KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token")
SECRETS = ("first", "second")
NAMES = st.sampled_from([0, 1])

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
        if self.turns > 1000:
            raise RecursionError("a timer is set for now, again and again")
        return super().call_at(when, callback, *args, context=context)


# --- The account ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A token that a replica has, as far as that replica can know when it was obtained."""

    value: str
    obtained_at: Moment
    lifetime: float

    def lasted(self, now: Moment) -> float:
        """Return for how long, by the clock that counts more."""
        return max(now.wall - self.obtained_at.wall, now.monotonic - self.obtained_at.monotonic)

    def surely_lasts(self, now: Moment) -> bool:
        return self.lasted(now) < self.lifetime - A_MOMENT

    def is_over(self, now: Moment) -> bool:
        return self.lasted(now) >= self.lifetime + A_MOMENT

    @property
    def latest_refresh(self) -> float:
        """Return by when it is replaced, on the monotonic clock."""
        return self.obtained_at.monotonic + min(REFRESH_EVERY, 0.8 * self.lifetime)

    def may_be_due(self, now: Moment) -> bool:
        return self.lasted(now) >= 0.95 * min(REFRESH_EVERY, 0.8 * self.lifetime) - A_MOMENT


class Failures:
    """How long a replica has to leave the login server alone, at the least and at the latest."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.until = self.latest = float("-inf")
        self.refused: Credentials | None = None

    def add(self, error: LoginError, now: Moment, used: Credentials | None) -> None:
        self.in_a_row += 1
        first, longest = (60, 900) if error.final else (1, 60)
        wait = first * 2.0 ** min(self.in_a_row - 1, 10)
        asked = min(error.retry_after or 0, 900)
        self.until = now.monotonic + max(asked, min(wait, 0.75 * longest)) - A_MOMENT
        self.latest = now.monotonic + max(asked, min(wait / 0.75, longest)) + A_MOMENT
        self.refused = used if error.final else None


class Bucket:
    """Two, and one more every 30 s."""

    level = 2.0
    at = 0.0

    def fill(self, now: Moment) -> float:
        self.level = min(2.0, self.level + (now.monotonic - self.at) / 30)
        self.at = now.monotonic
        return self.level

    def take(self, now: Moment) -> bool:
        full = self.fill(now) >= 1 - A_MOMENT
        self.level -= full
        return full


class Glass:
    """A store through which a replica is seen to look into the true one."""

    failures = 0
    failing = False

    def __init__(self, store: MemoryStore, replica: Replica) -> None:
        self.save, self.lock, self.close = store.save, store.lock, store.close
        self._store = store
        self._replica = replica

    @property
    def shared(self) -> bool:
        return self._store.shared

    @shared.setter
    def shared(self, shared: bool) -> None:
        self._store.shared = shared

    async def load(self, key: TokenKey) -> Kept | None:
        kept = await self._store.load(key)
        if kept is not None:
            self._replica.sees(kept)
        return kept


class Replica:
    """A refresher, its view of the store, and the account of both."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held: Held | None = None
        self.offered: dict[str, Held] = {}  # what a login or the store has given last, by its value
        self.condemned: dict[str, int] = {}  # rejected values, and how often they had been granted by then
        self.failures: Failures | None = None
        self.bucket = Bucket()
        self.was_due = False  # or asked for, before a clock was changed; nothing has run since
        self.needs_login = False
        self.floor_holds = False
        self.busy = False  # with a login, or waiting for the lock
        self.ended = False
        self.key: TokenKey | None = None
        self.waits: dict[tuple[str, object], float] = {}  # for what, since when
        self._adopted: Token | None = None
        self.refresher = Refresher(
            KEY,
            self._read_credentials,
            self._log_in,
            Glass(world.store, self),
            schedule=Schedule(REFRESH_EVERY, PATIENCE, lambda: world.luck),
            clock=world.clock,
            waiting=world.waiting,
            meter=world.metrics.token("default", "2.0"),
        )

    def observe(self) -> None:
        """See whether another token is held than before."""
        token = self.refresher._life.token
        if token is None or token is self._adopted:
            return
        self._adopted = token
        self.world.expect(token.value in self.offered, "a token was taken that must not be trusted")
        self.world.expect(self.may_give(token.value), "a rejected token was taken from the store")
        self.held = self.offered.get(token.value)
        self.condemned.pop(token.value, None)
        self.failures = None
        self.busy = self.was_due = False

    def may_give(self, value: str) -> bool:
        """A token that was rejected is not given again, unless it was granted again."""
        return value not in self.condemned or self.world.grants[value] > self.condemned[value]

    def serves(self) -> bool:
        """Tell whether a request must get a token at once."""
        held = self.held
        return held is not None and held.surely_lasts(self.world.clock()) and held.value not in self.condemned

    def check_that_nothing_is_late(self) -> None:
        """What has its time must happen by itself, about a second later at the latest."""
        now, held, failures, world = self.world.clock(), self.held, self.failures, self.world
        kept = self.key and world.store._tokens.get(self.key)
        waits: set[tuple[str, object]] = set()
        needed = held is None or held.value in self.condemned or now.monotonic > held.latest_refresh
        if failures is not None:  # what was wanted once is made up for
            if now.monotonic > failures.latest:
                waits.add(("a retry", failures.in_a_row))
            if failures.refused not in (None, world.credentials) and not world.unreadable:
                waits.add(("a login with other credentials", world.rotations))
        if failures is None and held is not None and needed:
            waits.add(("a refresh", held))
        if (
            kept
            and world.store.shared
            and self.is_news(kept)
            and (not held or kept.obtained_at > held.obtained_at.wall)
        ):
            waits.add(("a look into the store", kept.value))
        idle = not self.busy and not self.ended
        self.waits = {what: self.waits.get(what, now.monotonic) for what in waits if idle}
        late = [what for (what, _), since in self.waits.items() if now.monotonic > since + 1.2]
        world.expect(not late, f"late: {late}")

    def is_due(self) -> bool:
        return self.held is None or self.held.may_be_due(self.world.clock())

    # --- What goes in -------------------------------------------------------------------------------------------------

    def _read_credentials(self) -> Credentials:
        self.observe()
        failures = self.failures
        looks = self.refresher._login is None  # whether those that were refused are others by now
        if not looks:
            self.waits.clear()  # a login may begin and end within a rule, where no check sees that nothing waited then
        if self.world.unreadable:
            if not looks:
                self._fails(LoginError("the file is gone"), None)
            raise ConfigError("the file is gone")
        used = self.world.credentials
        if failures is not None and failures.refused not in (None, used):
            self.failures = Failures()  # other credentials may be tried at once, and the count begins anew
        if looks:
            return used
        rejected = self.held is not None and self.held.value in self.condemned
        self.busy, self.key = True, KEY.of(used)
        due = self.was_due or self.is_due()
        self.needs_login = due or rejected or failures is not None
        self.floor_holds = rejected and not due and failures is None
        self.was_due = False
        return used

    async def _log_in(self, credentials: Credentials) -> Grant:
        now, kept = self.world.clock(), await self.world.store.load(KEY.of(credentials))
        world, failures = self.world, self.failures
        world.expect(not self.ended, "a login begins after the stop")
        world.expect(self.needs_login, "a login that nobody needs")
        world.expect(failures is None or now.monotonic >= failures.until, "a login comes before its time")
        world.expect(not self.is_news(kept), "a login beside a good token in the store")
        if self.held is not None and self.held.value in self.condemned:
            in_bucket = self.bucket.take(now)
            world.expect(in_bucket or not self.floor_holds, "401s cause more logins than the floor allows")
        try:
            grant = await world.log_in(credentials)
        except LoginError as error:
            self._fails(error, credentials)
            raise
        except ZeroDivisionError:
            self._fails(LoginError("a defect"), credentials)
            raise
        self.offered[grant.access_token] = Held(grant.access_token, now, grant.lifetime)
        asyncio.get_running_loop().call_soon(self.observe)
        return grant

    def _fails(self, error: LoginError, used: Credentials | None) -> None:
        self.failures = self.failures or Failures()
        self.failures.add(error, self.world.clock(), used)
        self.busy = False

    def sees(self, kept: Kept) -> None:
        """A token was found in the store, where only the wall clock tells its age."""
        now = self.world.clock()
        if kept.obtained_at <= now.wall + MOST_AHEAD:
            obtained_at = Moment(kept.obtained_at, now.monotonic - max(0.0, now.wall - kept.obtained_at))
            self.offered[kept.value] = Held(kept.value, obtained_at, kept.expires_at - kept.obtained_at)
        asyncio.get_running_loop().call_soon(self.observe)

    def is_news(self, kept: Kept | None) -> bool:
        """Tell whether a token in the store is as good as one from a login."""
        if kept is None or kept.value in self.condemned or kept.obtained_at > self.world.clock().wall + MOST_AHEAD:
            return False
        if self.held is None:
            return True
        before = kept.generation <= self.refresher._life.generation and kept.obtained_at < self.held.obtained_at.wall
        return kept.value != self.held.value and not before

    # --- What comes out -----------------------------------------------------------------------------------------------

    async def ask(self, rejected: Token | None) -> None:
        """Ask for a token, or for another than the one that upstream has answered 401 to."""
        world, began = self.world, self.world.clock.monotonic
        self.observe()
        before = dict(self.condemned)
        if rejected is not None:
            self.condemned[rejected.value] = world.grants[rejected.value]
        served = self.serves()
        try:
            if rejected is None:
                token: Token | None = await self.refresher.token()
            elif await self.refresher.renew(rejected):
                token = self.refresher.current()
            else:
                self._stays(before)
                return
        except Overloaded:
            world.expect(world.waiting.taken >= PLACES, "a place was free")
            world.expect(not served, "a request was turned away beside a valid token")
        except LoginError:
            world.expect(not served, "a valid token was lost to a failed login")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not for a request to see
            world.expect(False, f"a request got {error!r}")
        else:
            world.expect(not served or world.clock.monotonic == began, "a request waited beside a valid token")
            self._check(token)
        finally:
            world.expect(world.clock.monotonic <= began + PATIENCE + A_MOMENT, "a request waited too long")

    def reject(self, token: Token) -> None:
        """Have a token replaced, without waiting for another."""
        self.observe()
        before = dict(self.condemned)
        self.condemned[token.value] = self.world.grants[token.value]
        if not self.refresher.reject(token):
            self._stays(before)

    async def refresh(self) -> None:
        """An operator wants another token now, whatever there is; but refused credentials are not tried for that."""
        self.observe()
        self.was_due = True
        if self.failures is not None and self.failures.refused is None:
            self.failures.until = float("-inf")
        with contextlib.suppress(LoginError):
            await self.refresher.refresh()

    def stop(self) -> None:
        self.ended = True
        self.refresher.stop()

    def _stays(self, condemned: dict[str, int]) -> None:
        """A 401 is passed on, and the token stays in service."""
        self.condemned = condemned
        now = self.world.clock()
        pausing = self.failures is not None and now.monotonic < self.failures.latest
        self.world.expect(pausing or self.bucket.fill(now) < 1 + A_MOMENT, "a 401 was passed on without need")

    def _check(self, token: Token | None) -> None:
        self.observe()
        world, now, held = self.world, self.world.clock(), self.held
        if token is None or held is None:
            world.expect(False, "a request got nothing")
            return
        world.given.append((self, token))
        world.expect(token.value == held.value, "not the token that is held was given")
        world.expect(not held.is_over(now), "an expired token was given")
        world.expect(self.may_give(token.value), "a rejected token was given again")


# --- The world --------------------------------------------------------------------------------------------------------


class Waiter(NamedTuple):
    began: float
    task: asyncio.Task[None]


class World:
    """Two replicas on one machine, the login server and the clocks."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.violations: list[str] = []
        self.store = MemoryStore(self.clock)
        self.metrics = Metrics()
        self.waiting = WaitingRoom(PLACES)
        self.credentials = Credentials("user", Secret(SECRETS[0]))
        self.rotations = 0
        self.unreadable = False
        self.wrong: set[str] = set()
        self.luck = 0.0
        self.takes = 0.5
        self.lifetime = 24 * HOUR
        self.does = "grants"
        self.grants: dict[str, int] = {}
        self.in_flight: set[Credentials] = set()
        self.replicas = (Replica(self), Replica(self))
        self.given: list[tuple[Replica, Token]] = []
        self.waiters: list[Waiter] = []
        self.others: list[asyncio.Task[None]] = []

    def expect(self, truth: object, otherwise: str) -> None:
        """Note what is wrong, from wherever it is seen: an error raised here might be taken for the login's."""
        if not truth:
            self.violations.append(otherwise)

    async def log_in(self, credentials: Credentials) -> Grant:
        with self._alone(credentials):
            await asyncio.sleep(min(self.takes, PATIENCE))
            if self.takes > PATIENCE:
                raise LoginTimedOut("not within 15 s")
            if credentials.password.reveal() in self.wrong:
                raise CredentialsRefused("no")
            if self.does in FAILURES:
                failure = FAILURES[self.does]()
                raise failure
            return Grant(self._grant(), self.lifetime)

    async def log_in_elsewhere(self, seconds: float) -> None:
        """A replica in another process logs in, with the store's lock held for so long."""
        credentials = self.credentials
        key = KEY.of(credentials)
        async with self.store.lock(key):
            asked_at = self.clock().wall
            with self._alone(credentials):
                await asyncio.sleep(seconds)
            await self.store.save(key, Kept(self._grant(), 1, asked_at, asked_at + self.lifetime))

    @contextlib.contextmanager
    def _alone(self, credentials: Credentials) -> Iterator[None]:
        self.expect(credentials not in self.in_flight, "two logins of one key are in flight")
        self.in_flight.add(credentials)
        try:
            yield
        finally:
            self.in_flight.discard(credentials)

    def _grant(self) -> str:
        again = self.does == "grants the same again" and self.grants
        value = next(reversed(self.grants)) if again else f"token-{len(self.grants) + 1}"
        self.grants[value] = self.grants.get(value, 0) + 1
        return value

    def ask(self, replica: Replica, rejected: Token | None, crowd: int) -> None:
        for _ in range(crowd):
            task = asyncio.create_task(replica.ask(rejected))
            self.waiters.append(Waiter(self.clock.monotonic, task))

    def set_clock(self, change: Callable[[], None]) -> None:
        for replica in self.replicas:
            replica.observe()
            replica.was_due |= replica.is_due()
            replica.waits.clear()
        change()


class RefresherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.runner = asyncio.Runner(loop_factory=lambda: GuardedLoop(self.world.clock))
        self.loop = self.runner.get_loop()
        self.loop.set_exception_handler(lambda _loop, context: self.world.expect(False, str(context)))

    def do(self, act: Callable[[], object]) -> None:
        """Do something where a loop is running; what is ready runs by one turn."""

        async def inside() -> None:
            act()

        self.loop.run_until_complete(inside())

    def pass_time(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @initialize(shared=st.booleans(), seconds=st.sampled_from([None, 1.0, HOUR]))
    def the_day_begins(self, shared: bool, seconds: float | None) -> None:
        """With a store into which all look every second, or not; with tokens, or without."""
        self.world.store.shared = shared
        if seconds is not None:
            for name in (0, 1):
                self.requests_come(name, 1)
            self.time_passes(seconds)

    # --- Those who ask ------------------------------------------------------------------------------------------------

    @rule(name=NAMES, crowd=st.sampled_from([1, 1, 3, PLACES + 1]))
    def requests_come(self, name: int, crowd: int) -> None:
        self.do(lambda: self.world.ask(self.world.replicas[name], None, crowd))

    @precondition(lambda self: self.world.given)
    @rule(back=st.sampled_from([1, 1, 1, 2, 5]), crowd=st.sampled_from([0, 1, 1, 3]))
    def upstream_rejects(self, back: int, crowd: int) -> None:
        """Be it that the token was revoked, or that the path is forbidden to every token; its caller may be gone."""
        replica, token = self.world.given[-min(back, len(self.world.given))]
        self.do(lambda: self.world.ask(replica, token, crowd) if crowd else replica.reject(token))

    @rule(name=NAMES, times=st.integers(2, 5), rotating=st.booleans())
    def a_path_rejects_every_token(self, name: int, times: int, rotating: bool) -> None:
        for turn in range(times):
            self.requests_come(name, 1)
            self.pass_time(1)
            if rotating:
                self.the_secret_rotates(SECRETS[turn % len(SECRETS)])
            if self.world.given:
                self.upstream_rejects(1, 1)
                self.pass_time(1)

    @precondition(lambda self: self.world.waiters)
    @rule(which=st.lists(st.integers(0, 10), min_size=1, max_size=3))
    def waiters_leave(self, which: list[int]) -> None:
        for place in which:
            self.world.waiters[place % len(self.world.waiters)].task.cancel()

    @rule(name=NAMES)
    def an_operator_wants_another_token(self, name: int) -> None:
        replica, now = self.world.replicas[name], self.world.clock.monotonic
        self.do(lambda: self.world.waiters.append(Waiter(now, asyncio.create_task(replica.refresh()))))

    @rule(name=NAMES)
    def a_replica_starts(self, name: int) -> None:
        self.do(self.world.replicas[name].refresher.start)

    @rule(name=NAMES, chances=st.integers(0, 9))
    def a_replica_stops(self, name: int, chances: int) -> None:
        if chances == 0:  # seldom: it ends half of what there is to see
            self.do(self.world.replicas[name].stop)

    # --- Time ---------------------------------------------------------------------------------------------------------

    @rule(turns=st.integers(1, 4))
    def the_loop_turns(self, turns: int) -> None:
        for _ in range(turns):
            self.pass_time(0)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 5, 16, 60, 300, HOUR, 5 * HOUR, 13 * HOUR]))
    def time_passes(self, seconds: float) -> None:
        """Where something happens every second, minutes show what hours would."""
        if self.world.store.shared:
            seconds = min(seconds, 60)
        left = min(seconds, 30 * self.world.lifetime)
        while left > 0:
            self.pass_time(min(left, 600))
            left -= 600
            if any(replica.failures for replica in self.world.replicas):
                return

    @rule(name=NAMES, off=st.sampled_from([-1.0, -0.01, 0.0, 0.01, 1.0]), failing=st.booleans())
    def time_passes_until_a_token_ends(self, name: int, off: float, failing: bool) -> None:
        held = self.world.replicas[name].held
        if held is not None:
            if failing:
                self.world.does = "dies"
            self.time_passes(max(0.0, held.lifetime - held.lasted(self.world.clock()) + off))

    @rule(seconds=st.sampled_from([1.0, 60, HOUR, 11.5 * HOUR, 23 * HOUR, 100 * HOUR]))
    def the_machine_sleeps(self, seconds: float) -> None:
        self.world.set_clock(lambda: self.world.clock.sleep_through(seconds))

    @rule(seconds=st.sampled_from([-100 * HOUR, -13 * HOUR, -HOUR, -5, -1, 1, 5, HOUR, 13 * HOUR, 100 * HOUR]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        self.world.set_clock(lambda: self.world.clock.set_wall(seconds))

    @rule(
        seconds=st.sampled_from([-30 * HOUR, -13 * HOUR, -HOUR, HOUR, 13 * HOUR, 30 * HOUR]),
        lasting=st.sampled_from([0.0, 0.3, 1.0, 60]),
        early=st.booleans(),
        name=NAMES,
    )
    def the_wall_clock_is_wrong_for_a_while(self, seconds: float, lasting: float, early: bool, name: int) -> None:
        """From before a login, or from the midst of it."""
        if early:
            self.the_wall_clock_is_set(seconds)
        self.requests_come(name, 1)
        if self.world.given:
            self.upstream_rejects(1, 1)
        if not early:
            self.pass_time(0.1)
            self.the_wall_clock_is_set(seconds)
        self.pass_time(lasting)
        self.the_wall_clock_is_set(-seconds)

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
        work = self.world.log_in_elsewhere(seconds)
        self.do(lambda: self.world.others.append(asyncio.create_task(work)))

    @precondition(lambda self: self.world.given)
    @rule(back=st.sampled_from([1, 2, 3]))
    def an_older_token_comes_back(self, back: int) -> None:
        """A store was restored, or a replica that was cut off shares what it has."""
        _, token = self.world.given[-min(back, len(self.world.given))]
        kept = Kept(token.value, token.generation, token.obtained_at.wall, token.expires_at.wall)
        self.world.store._tokens[KEY.of(self.world.credentials)] = kept

    # --- The secret ---------------------------------------------------------------------------------------------------

    @rule(secret=st.sampled_from(SECRETS))
    def the_secret_rotates(self, secret: str) -> None:
        before, self.world.credentials = self.world.credentials, Credentials("user", Secret(secret))
        self.world.rotations += self.world.credentials != before

    @rule(wrong=st.sets(st.sampled_from(SECRETS), max_size=2))
    def the_server_knows_other_secrets(self, wrong: set[str]) -> None:
        self.world.wrong = wrong

    @rule(unreadable=st.booleans())
    def the_secret_is_unreadable(self, unreadable: bool) -> None:
        self.world.unreadable = unreadable

    # --- What always holds --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_went_wrong(self) -> None:
        now = self.world.clock()
        for replica in self.world.replicas:
            replica.observe()
            replica.check_that_nothing_is_late()
            usable, _ = replica.refresher.report()
            assert usable or not replica.serves(), "a valid token is lost"
            held = replica.held
            over = held is None or held.is_over(now) or not replica.may_give(held.value)
            assert not (usable and over), "a token past its life would be served"
        self.world.waiters = [waiter for waiter in self.world.waiters if not waiter.task.done()]
        for waiter in self.world.waiters:
            assert now.monotonic <= waiter.began + PATIENCE + A_MOMENT, "a request waits too long"
        assert self.world.violations == []

    def teardown(self) -> None:
        with contextlib.closing(self.runner):
            self.loop.run_until_complete(self._stop())
        assert self.world.violations == []
        assert self.world.waiting.taken == 0

    async def _stop(self) -> None:
        for task in self.world.others:
            task.cancel()
        for replica in self.world.replicas:
            replica.stop()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left after the stop"
        assert pending_timers() == 0, "a timer is left after the stop"


@pytest.fixture(autouse=True)
def _without_a_thousand_expected_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "proxy.tokens")


TestRefresherMachine = RefresherMachine.TestCase
TestRefresherMachine.settings = settings(
    derandomize=bool(os.environ.get("CI")),  # the same steps in every run; elsewhere each run looks somewhere else
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    max_examples=EXAMPLES,
    stateful_step_count=50,
)


# --- What chance has found in the account itself ----------------------------------------------------------------------


def a_machine() -> RefresherMachine:
    machine = RefresherMachine()
    machine.the_day_begins(shared=False, seconds=None)
    return machine


def test_credentials_that_were_tried_and_came_back_have_their_time_anew() -> None:
    """They are other ones before and after a rule within which they were tried and refused."""
    machine = a_machine()
    machine.the_login_server_takes(0.0)
    machine.the_server_knows_other_secrets(set(SECRETS))
    for _ in range(2):
        machine.a_path_rejects_every_token(name=0, times=2, rotating=True)
        machine.nothing_went_wrong()
    assert machine.world.rotations == 3
    machine.teardown()


def test_an_operator_with_refused_credentials_that_cannot_be_read_now_causes_no_login_that_could_fail() -> None:
    machine = a_machine()
    machine.a_replica_starts(0)
    machine.the_login_server_changes("refuses")
    machine.the_secret_is_unreadable(unreadable=True)
    machine.time_passes(1)
    machine.the_secret_rotates(SECRETS[1])
    machine.an_operator_wants_another_token(0)
    machine.nothing_went_wrong()
    machine.the_secret_is_unreadable(unreadable=False)
    machine.the_login_server_changes("grants")
    machine.time_passes(1)
    machine.time_passes(1)
    machine.nothing_went_wrong()
    assert machine.world.replicas[0].serves()
    machine.teardown()
