"""Callers that leave, at every point where they can: each subset of three, cancelled before each callback of the loop.

A scenario is first run undisturbed, which counts the callbacks that the loop runs. Then it is run once for each of
them and for each subset of the three.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import chain, combinations
from typing import TYPE_CHECKING, NamedTuple, TypeVarTuple

import pytest

from proxy.config import Credentials, Secret
from proxy.errors import LoginError, LoginUnreachable
from proxy.observe import Metrics
from proxy.tokens import MemoryStore, Refresher, Schedule, Token, TokenKey
from proxy.tokens.login import Grant
from proxy.waiting import WaitingRoom
from tests.support.virtual import VirtualClock, VirtualLoop, pending_timers, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextvars import Context

_Ts = TypeVarTuple("_Ts")

KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token")
THREE = (0, 1, 2)
SUBSETS = list(chain.from_iterable(combinations(THREE, size) for size in (1, 2, 3)))


class CountingLoop(VirtualLoop):
    """Counts the callbacks that it runs, and does something before one of them."""

    def __init__(self, clock: VirtualClock) -> None:
        self.callbacks = 0
        self.before: tuple[int, Callable[[], object]] | None = None
        super().__init__(clock)

    def call_soon(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(lambda: self._count(callback, *args), context=context)

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, lambda: self._count(callback, *args), context=context)

    def _count(self, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        if self.before is not None and self.callbacks == self.before[0]:
            self.before[1]()
        self.callbacks += 1
        callback(*args)


class Case(NamedTuple):
    """One way to be disturbed; `before` no callback, it is none."""

    leaving: tuple[int, ...] = ()
    before: int = -1


@dataclass
class Bench:
    """A login server and a refresher, as many as asked for."""

    clock: VirtualClock
    logins: int = 0
    ended: list[str] = field(default_factory=list)
    failure: LoginError | None = None
    waiting: WaitingRoom = field(default_factory=lambda: WaitingRoom(10))

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.clock)
        self.refreshers: list[Refresher] = []

    def refresher(self) -> Refresher:
        made = Refresher(
            KEY,
            lambda: Credentials("user", Secret("secret")),
            self._log_in,
            self.store,
            schedule=Schedule(43200, 15, lambda: 0),
            clock=self.clock,
            waiting=self.waiting,
            meter=Metrics().token("default", "2.0"),
        )
        self.refreshers.append(made)
        return made

    async def _log_in(self, _credentials: Credentials) -> Grant:
        self.logins += 1
        number = self.logins
        ended = "cancelled"
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0.2)
            await asyncio.sleep(0)
            ended = "done"
        finally:
            self.ended.append(ended)
        if self.failure is not None:
            raise self.failure
        return Grant(f"token-{number}", 92843)

    def logged_in(self, times: int, results: list[object]) -> None:
        """Each login that began went through; there was one less if all left before they could ask."""
        assert self.ended == ["done"] * self.logins
        assert self.logins == times or (not results and self.logins == times - 1)


Scenario = tuple[list["Coroutine[None, None, object]"], "Callable[[list[object]], None]"]
"""What three callers do, and what is to be said of the results of those who stayed, or had theirs already."""


async def first_token(bench: Bench) -> Scenario:
    refresher = bench.refresher()

    def judge(results: list[object]) -> None:
        assert all(isinstance(result, Token) and result.value == "token-1" for result in results)
        bench.logged_in(1, results)

    return [refresher.token() for _ in THREE], judge


async def rejected_token(bench: Bench) -> Scenario:
    refresher = bench.refresher()
    rejected = await refresher.token()

    async def renewed() -> tuple[Token | None, Token]:
        return await refresher.renew(rejected), await refresher.token()

    def judge(results: list[object]) -> None:
        for result in results:
            assert isinstance(result, tuple)
            assert [token.value for token in result] == ["token-2", "token-2"]
        bench.logged_in(2, results)

    return [renewed() for _ in THREE], judge


async def token_and_renew_beside_each_other(bench: Bench) -> Scenario:
    refresher = bench.refresher()
    rejected = await refresher.token()
    refresher.reject(rejected)

    def judge(results: list[object]) -> None:
        assert all(result is True or (isinstance(result, Token) and result.value == "token-2") for result in results)
        bench.logged_in(2, results)

    return [refresher.renew(rejected), refresher.token(), refresher.renew(rejected)], judge


async def failing_login(bench: Bench) -> Scenario:
    refresher = bench.refresher()
    bench.failure = LoginUnreachable("it is down")

    def judge(results: list[object]) -> None:
        assert all(isinstance(result, LoginUnreachable) for result in results)
        bench.logged_in(1, results)

    return [refresher.token() for _ in THREE], judge


async def two_refreshers_with_one_store(bench: Bench) -> Scenario:
    one, other = bench.refresher(), bench.refresher()

    def judge(results: list[object]) -> None:
        assert all(isinstance(result, Token) and result.value == "token-1" for result in results)
        bench.logged_in(1, results)

    return [one.token(), other.token(), one.token()], judge


async def lock_of_the_store(bench: Bench) -> Scenario:
    holders = 0

    async def hold() -> str:
        nonlocal holders
        async with bench.store.lock(KEY):
            holders += 1
            assert holders == 1
            try:
                await asyncio.sleep(0)
                await asyncio.sleep(0.1)
                await asyncio.sleep(0)
            finally:
                holders -= 1
        return "held"

    def judge(results: list[object]) -> None:
        assert results == ["held"] * len(results)
        assert holders == 0

    return [hold() for _ in THREE], judge


async def whole(setting: Callable[[Bench], Awaitable[Scenario]], bench: Bench, case: Case) -> int:
    """Run a scenario, and return how many callbacks the loop ran for it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    works, judge = await setting(bench)
    began = loop.callbacks
    callers = [asyncio.create_task(work) for work in works]
    left: set[asyncio.Task[object]] = set()

    def leave() -> None:
        left.update(callers[caller] for caller in case.leaving if callers[caller].cancel())

    loop.before = (began + case.before, leave)
    async with asyncio.timeout(60):
        results = await asyncio.gather(*callers, return_exceptions=True)
    callbacks = loop.callbacks - began
    await asyncio.sleep(0.5)  # where all have left, the login goes on alone

    assert left == {caller for caller in callers if caller.cancelled()}
    judge([result for result, caller in zip(results, callers, strict=True) if caller not in left])
    assert bench.waiting.taken == 0
    async with asyncio.timeout(1), bench.store.lock(KEY):
        pass  # nobody left with it in hand
    for refresher in bench.refreshers:
        refresher.stop()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert pending_timers() == 0
    return callbacks


def run(setting: Callable[[Bench], Awaitable[Scenario]], case: Case) -> int:
    clock = VirtualClock()
    with asyncio.Runner(loop_factory=lambda: CountingLoop(clock)) as runner:
        return runner.run(whole(setting, Bench(clock), case))


@pytest.mark.parametrize(
    "setting",
    [
        first_token,
        rejected_token,
        token_and_renew_beside_each_other,
        failing_login,
        two_refreshers_with_one_store,
        lock_of_the_store,
    ],
)
def test_whoever_leaves_whenever_the_others_are_served(setting: Callable[[Bench], Awaitable[Scenario]]) -> None:
    callbacks = run(setting, Case())
    assert callbacks > 10
    for before in range(callbacks):
        for leaving in SUBSETS:
            run(setting, Case(leaving, before))
