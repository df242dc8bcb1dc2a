"""Thirty days in virtual time, with everything that goes wrong in a month, many times over.

Every single request is made: it asks the refresher for a token, shows it to an upstream that knows which tokens count,
and has it renewed once if that says 401. What makes it fast is that a request that is served at once needs no task: its
coroutine is run by hand.

An oracle goes through the same events with no refresher at all. It tells the fewest logins with which the promises of
`docs/tokens.md` can be kept, and when no usable token could exist.
"""

from __future__ import annotations

import asyncio
import logging
import random
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytest

from proxy.config import Credentials, Secret
from proxy.errors import LoginError, LoginServerFailed, LoginThrottled, LoginTimedOut, LoginUnreachable
from proxy.observe import Metrics
from proxy.tokens import MemoryStore, Moment, Refresher, Schedule, Token, TokenKey
from proxy.tokens.login import Grant
from proxy.waiting import WaitingRoom
from tests.support.virtual import VirtualClock, is_idle, next_timer, pending_timers, run, settle

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.no_cover  # millions of steps through what other tests cover, at a third of the time

MINUTE = 60.0
HOUR = 3600.0
DAY = 24 * HOUR
MONTH = 30 * DAY
NEVER = float("inf")

LIFETIME = 92843.0
REFRESH_EVERY = 12 * HOUR
PATIENCE = 15.0
LOGIN_TAKES = 0.4
GRACE = 60 + PATIENCE + 2
"""Seconds after an outage: the longest pause between two logins, a login that began in the outage, and one after it."""

KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token")
CREDENTIALS = Credentials("user", Secret("secret"))


# --- What happens -----------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    begin: float
    end: float


class Outage(NamedTuple):
    """The login server gives no tokens. Times in true seconds since the month began, here and everywhere below."""

    begin: float
    end: float
    kind: str


class ClockStep(NamedTuple):
    """The wall clock is set."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Month:
    """One list of events, for the world and for the oracle. Sleeps overlap neither each other nor a clock's step."""

    revocations: list[float]
    outages: list[Outage]
    sleeps: list[Span]
    steps: list[ClockStep]

    def outage(self, at: float) -> Outage | None:
        place = bisect_right(self.outages, at, key=lambda outage: outage.begin) - 1
        return self.outages[place] if place >= 0 and at < self.outages[place].end else None

    def disturbances(self) -> list[tuple[float, float, float]]:
        """Return where the clocks part: when, for how long the machine sleeps, by how much the wall clock is set."""
        sleeps = [(span.begin, span.end - span.begin, 0.0) for span in self.sleeps]
        return sorted(sleeps + [(step.at, 0.0, step.seconds) for step in self.steps])


def random_month(seed: int) -> Month:
    chance = random.Random(seed)

    def spread(times: int, within: float = 0.9) -> list[float]:
        """Return moments of the month, one in each of so many equal parts of it, not too near to that part's end."""
        part = MONTH / times
        return [part * (number + within * chance.random()) for number in range(times)]

    sleeps = [Span(at, at + chance.choice([MINUTE, HOUR, 10 * HOUR, 27 * HOUR])) for at in spread(15, 0.4)]
    steps = [ClockStep(at, chance.choice([-DAY, -HOUR, -5, 5, HOUR, 13 * HOUR, 26 * HOUR])) for at in spread(25)]
    lasting = (MINUTE, 10 * MINUTE, HOUR, 8 * HOUR)
    kinds = ("unreachable", "failing", "throttling", "silent")
    return Month(
        revocations=spread(60),
        outages=[Outage(at, at + chance.choice(lasting), chance.choice(kinds)) for at in spread(40)],
        sleeps=sleeps,
        steps=[step for step in steps if not any(span.begin - 1 <= step.at <= span.end + 1 for span in sleeps)],
    )


QUIET = Month([], [], [], [])


# --- The oracle -------------------------------------------------------------------------------------------------------


class Oracle:
    """Keeps the promises with as few logins as can be, knowing all that will happen.

    It replaces a token when it must, and not a moment before: when it is due, or when a request finds it revoked. By
    the promises, a moment has come as soon as either clock says so. In an outage it logs in as soon as that ends.
    """

    def __init__(self, month: Month, every: float, chance: Callable[[int], float] = lambda _number: 0) -> None:
        """`every` so many seconds there is a request; `chance` is by how much the token of each number is due early."""
        self._month = month
        self._every = every
        self._clocks = _clocks(month)
        self.logins = 0
        self.without: list[Span] = []
        """When no usable token may exist, for an outage or for the pauses of a sidecar that has met one."""
        wanted = unusable = every
        while (sent := self._server_back(wanted)) < MONTH:
            self._note(wanted, unusable, sent)
            self.logins += 1
            wanted, unusable = self._outlived(sent, chance(self.logins))
        self._note(wanted, unusable, sent)

    def excuses(self, at: float) -> bool:
        """Tell whether a failure at that time was unavoidable."""
        return any(span.begin <= at < span.end for span in self.without)

    def _note(self, wanted: float, unusable: float, sent: float) -> None:
        """Note an outage in a login's way, if the token does not last until the sidecar has got over it."""
        over = self._awake_after(sent, GRACE)
        if wanted < sent and unusable < over:
            self.without.append(Span(unusable, over))

    def _outlived(self, sent: float, chance: float) -> tuple[float, float]:
        """Return when a token is to be replaced, and when it is of no use any more."""
        login = self._moment(sent)
        due = self._first(login.plus(REFRESH_EVERY * (1 - 0.05 * chance)), sent)
        ends = self._first(login.plus(LIFETIME), sent)
        got = self._awake(sent + LOGIN_TAKES)
        revoked = next((at for at in self._month.revocations if at >= got), NEVER)
        found = NEVER if revoked == NEVER else self._awake((revoked // self._every + 1) * self._every)
        return min(due, found), min(ends, found)

    def _server_back(self, at: float) -> float:
        while (outage := self._month.outage(at)) is not None:
            at = self._awake(outage.end)
        return at

    def _awake(self, at: float) -> float:
        return next((span.end for span in self._month.sleeps if span.begin <= at < span.end), at)

    def _awake_after(self, at: float, seconds: float) -> float:
        """Return the time that lies so many seconds of being awake behind another."""
        for span in self._month.sleeps:
            if at <= span.begin < at + seconds:
                seconds += span.end - span.begin
        return at + seconds

    def _moment(self, at: float) -> Moment:
        """Return what both clocks say at a true time."""
        begin, moment = self._clocks[bisect_right(self._clocks, at, key=lambda stretch: stretch[0]) - 1]
        return moment.plus(at - begin)

    def _first(self, end: Moment, after: float) -> float:
        """Return the first time after another at which either clock says that a moment has come."""
        stops = [begin for begin, _ in self._clocks[1:]] + [NEVER]
        for (begin, moment), stop in zip(self._clocks, stops, strict=True):
            came = max(after, begin + min(end.wall - moment.wall, end.monotonic - moment.monotonic))
            if max(came, begin) < stop and stop > after:
                return self._awake(max(came, begin))
        raise AssertionError("time does not end")


def _clocks(month: Month) -> list[tuple[float, Moment]]:
    """Return the stretches of time between the disturbances: when each begins, and what both clocks say then."""
    stretches = [(0.0, VirtualClock()())]
    for at, asleep, step in month.disturbances():
        begin, moment = stretches[-1]
        wall, monotonic = moment.plus(at - begin)
        stretches.append((at + asleep, Moment(wall + asleep + step, monotonic)))
    return stretches


# --- The world --------------------------------------------------------------------------------------------------------


class World:
    """The machine with its sidecars, the login server and upstream."""

    def __init__(self, month: Month, every: float, chances: list[Callable[[int], float]]) -> None:
        """There is one sidecar for each of the `chances`; they share a store."""
        self._month = month
        self._every = every
        self.clock = VirtualClock()
        self._began = self.clock.monotonic
        self._asleep = 0.0  # for so long in all
        self._next = every
        self._live: dict[str, float] = {}  # the tokens that count, and until when
        self._asking: set[asyncio.Task[None]] = set()
        self.requests = 0
        self.logins = 0
        self.failures: list[tuple[float, str]] = []
        store = MemoryStore(self.clock)
        store.shared = len(chances) > 1
        self._refreshers = [self._refresher(store, chance) for chance in chances]

    def _refresher(self, store: MemoryStore, chance: Callable[[int], float]) -> Refresher:
        return Refresher(
            KEY,
            lambda: CREDENTIALS,
            self._log_in,
            store,
            schedule=Schedule(REFRESH_EVERY, PATIENCE, lambda: chance(self.logins)),
            clock=self.clock,
            waiting=WaitingRoom(1000),
            meter=Metrics().token("default", "2.0"),
        )

    def time(self) -> float:
        return self.clock.monotonic - self._began + self._asleep

    # --- The login server and upstream --------------------------------------------------------------------------------

    async def _log_in(self, _credentials: Credentials) -> Grant:
        asked_at = self.time()
        outage = self._month.outage(asked_at)
        kind = None if outage is None else outage.kind
        await asyncio.sleep(PATIENCE if kind == "silent" else LOGIN_TAKES)
        match kind:
            case "silent":
                raise LoginTimedOut("nothing")
            case "failing":
                raise LoginServerFailed("500")
            case "throttling":
                raise LoginThrottled("slower", retry_after=30)
            case "unreachable":
                raise LoginUnreachable("gone")
        self.logins += 1
        value = f"token-{self.logins}"
        self._live[value] = asked_at + LIFETIME
        return Grant(value, LIFETIME)

    def _rejects(self, token: Token) -> bool:
        return self.time() >= self._live.get(token.value, 0)

    # --- Requests -----------------------------------------------------------------------------------------------------

    def _request(self) -> None:
        """Make a request: here and now if nothing has to be waited for, and otherwise in a task."""
        refresher = self._refreshers[self.requests % len(self._refreshers)]
        self.requests += 1
        asking = refresher.token()
        try:
            asking.send(None)
        except StopIteration as answered:
            if not self._rejects(answered.value):
                return
        except LoginError as error:
            self._fails(error.name)
            return
        asking.close()
        task = asyncio.create_task(self._forward(refresher))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _forward(self, refresher: Refresher) -> None:
        try:
            token = await refresher.token()
            if self._rejects(token) and not (
                await refresher.renew(token) and not self._rejects(await refresher.token())
            ):
                self._fails("401")
        except LoginError as error:
            self._fails(error.name)

    def _fails(self, how: str) -> None:
        self.failures.append((self.time(), how))

    # --- Time ---------------------------------------------------------------------------------------------------------

    async def live_through(self) -> None:
        revocations = [(at, 0.0, 0.0) for at in self._month.revocations]
        for at, asleep, step in sorted(revocations + self._month.disturbances()):
            await self._until(min(at, MONTH))
            if not asleep and not step:
                self._live.clear()
            self.clock.wall += asleep + step
            self._asleep += asleep
            self._next = max(self._next, (self.time() // self._every + 1) * self._every)
        await self._until(MONTH)
        await asyncio.gather(*self._asking)
        for refresher in self._refreshers:
            refresher.stop()
        await settle()
        assert pending_timers() == 0

    async def _until(self, end: float) -> None:
        """Make the requests until then; the loop runs whenever it has something to do."""
        while (now := self.time()) < end:
            busy = min(end, now + next_timer() - self.clock.monotonic)
            while self._next < busy and is_idle():
                self.clock.advance(max(0.0, self._next - self.time()))
                self._request()
                self._next += self._every
            if is_idle():
                await asyncio.sleep(max(1e-6, busy - self.time()))
            await settle()


def chances(seed: int, sidecars: int) -> list[Callable[[int], float]]:
    """Return each sidecar's chance. It goes by the number of the token, so that the oracle can know it too."""
    drawn = random.Random(seed)
    return [[drawn.random() for _ in range(1000)].__getitem__ for _ in range(sidecars)]


def live_through(month: Month, every: float, chances: list[Callable[[int], float]]) -> World:
    world = World(month, every, chances)
    run(world.live_through(), world.clock)
    oracle = Oracle(month, every, lambda number: max(chance(number) for chance in chances))
    assert world.requests > 0.65 * MONTH / every  # a machine that sleeps makes none
    assert [failure for failure in world.failures if not oracle.excuses(failure[0])] == []
    assert oracle.logins <= world.logins <= 1.05 * oracle.logins
    assert world.logins <= 1.05 * Oracle(month, every).logins  # who would refresh to the second, all of them at once
    return world


@pytest.fixture(autouse=True)
def _without_a_thousand_expected_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "proxy.tokens")


def test_a_month_at_one_request_a_second() -> None:
    live_through(random_month(1), 1, chances(1, 1))


@pytest.mark.parametrize("seed", [2, 5, 7])
def test_a_month_at_six_requests_a_minute(seed: int) -> None:
    live_through(random_month(seed), 10, chances(seed, 1))


@pytest.mark.parametrize("seed", [1, 2])
def test_three_sidecars_that_share_a_store(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _look_every(60, monkeypatch)
    live_through(random_month(seed), 10, chances(seed, 3))


def test_ten_sidecars_that_share_a_store_log_in_hardly_more_often_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _look_every(600, monkeypatch)
    ten = live_through(QUIET, 10, chances(1, 10))
    one = live_through(QUIET, 10, chances(1, 1))
    assert one.failures == ten.failures == []
    assert ten.logins <= 1.05 * one.logins


def _look_every(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store looked into more seldom: once a second is millions of times a month, and easier to live with."""
    monkeypatch.setattr("proxy.tokens.refresher._LOOK_EVERY", seconds)
