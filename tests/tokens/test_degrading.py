"""A shared store that fails, hangs and comes back, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from proxy.tokens import TokenKey
from proxy.tokens.degrading import Degrading
from proxy.tokens.store import Kept
from tests.support.virtual import VirtualClock, pending_timers, run, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token")
OTHER = KEY._replace(api="3.0")


class Shared:
    """A shared store under the test's hand; it counts who asks."""

    def __init__(self) -> None:
        self.tokens: dict[TokenKey, Kept] = {}
        self.asked_for: list[TokenKey] = []
        self.trouble: Exception | None = None
        self.hangs = False
        self.asked = 0
        self.locked = 0
        self.unlocked = 0
        self.closed = False

    async def _work(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble

    async def load(self, key: TokenKey) -> Kept | None:
        self.asked_for.append(key)
        await self._work()
        return self.tokens.get(key)

    async def save(self, key: TokenKey, token: Kept) -> None:
        await self._work()
        self.tokens[key] = token

    @contextlib.asynccontextmanager
    async def lock(self, key: TokenKey) -> AsyncIterator[None]:
        await self._work()
        self.locked += 1
        try:
            yield
        finally:
            await self._work()
            self.unlocked += 1

    async def close(self) -> None:
        await self._work()
        self.closed = True


class Bench:
    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.shared = Shared()
        self.store = Degrading(self.shared, clock, chance=lambda: 0.0)

    def token(self, value: str) -> Kept:
        now = self.clock().wall
        return Kept(value, 1, now, now + 3600)

    async def passes(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await settle()


def in_virtual_time(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    clock = VirtualClock()

    async def whole() -> None:
        bench = Bench(clock)
        await scenario(bench)
        await bench.store.close()
        assert pending_timers() == 0

    run(whole(), clock)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", "") for record in caplog.records]


def test_a_store_that_works_is_asked_each_time(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bench: Bench) -> None:
        one, two = bench.token("one"), bench.token("two")
        async with bench.store.lock(KEY):
            assert await bench.store.load(KEY) is None
            await bench.store.save(KEY, one)
        assert bench.store.shared
        assert bench.shared.tokens == {KEY: one}
        assert (bench.shared.locked, bench.shared.unlocked) == (1, 1)
        bench.shared.tokens[KEY] = two
        assert await bench.store.load(KEY) == two
        assert not bench.store.failing
        assert bench.store.failures == 0

    in_virtual_time(scenario)
    assert events(caplog) == []


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (OSError("gone"), "OSError: gone"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("nobody knows"), "RuntimeError: nobody knows"),
    ],
)
def test_no_call_fails_with_the_shared_store_and_it_is_told_once(
    trouble: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.shared.trouble = trouble
        token = bench.token("one")
        async with bench.store.lock(KEY):
            assert await bench.store.load(KEY) is None
            await bench.store.save(KEY, token)
        assert await bench.store.load(KEY) == token
        assert bench.shared.asked == 1
        assert bench.store.failing
        assert bench.store.failures == 1

    in_virtual_time(scenario)
    assert events(caplog) == ["store-degraded"]
    text = f"the shared token store does not work, and memory stands in for it: {told}"
    assert caplog.messages == [text]


async def _load(bench: Bench) -> None:
    bench.shared.trouble = OSError("gone")
    await bench.store.load(OTHER)


async def _save(bench: Bench) -> None:
    bench.shared.trouble = OSError("gone")
    await bench.store.save(OTHER, bench.token("ours"))


async def _lock(bench: Bench) -> None:
    bench.shared.trouble = OSError("gone")
    async with bench.store.lock(OTHER):
        pass


async def _unlock(bench: Bench) -> None:
    async with bench.store.lock(OTHER):
        bench.shared.trouble = OSError("gone")


@pytest.mark.parametrize("fails", [_load, _save, _lock, _unlock])
def test_a_failure_is_told_and_what_failed_is_asked_for_first_when_it_is_tried_again(
    fails: Callable[[Bench], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bench: Bench) -> None:
        await fails(bench)
        assert bench.store.failing
        bench.shared.trouble = None
        bench.shared.asked_for = []
        await bench.passes(2)
        assert not bench.store.failing
        assert bench.shared.asked_for == [OTHER]

    caplog.set_level("INFO")
    in_virtual_time(scenario)
    assert caplog.messages == [
        "the shared token store does not work, and memory stands in for it: OSError: gone",
        "the shared token store works again",
    ]


def test_a_store_that_hangs_costs_one_second_once() -> None:
    async def scenario(bench: Bench) -> None:
        bench.shared.hangs = True
        begun = bench.clock.monotonic
        await bench.store.load(KEY)
        assert bench.clock.monotonic - begun == pytest.approx(1)
        async with bench.store.lock(KEY):
            await bench.store.save(KEY, bench.token("one"))
        assert bench.clock.monotonic - begun == pytest.approx(1)

    in_virtual_time(scenario)


def test_a_store_that_begins_to_hang_in_a_save_or_a_release_costs_one_second() -> None:
    async def scenario(bench: Bench) -> None:
        begun = bench.clock.monotonic
        token = bench.token("one")
        async with bench.store.lock(KEY):
            bench.shared.hangs = True
            await bench.store.save(KEY, token)
            assert bench.clock.monotonic - begun == pytest.approx(1)
            assert await bench.store.load(KEY) == token
        assert bench.clock.monotonic - begun == pytest.approx(2)  # the lock is given back, if it can be
        assert bench.store.failures == 1
        bench.shared.hangs = False
        await bench.passes(5)
        assert bench.shared.tokens == {KEY: token}

    in_virtual_time(scenario)


def test_the_pauses_grow_to_half_a_minute_and_nobody_else_asks() -> None:
    async def scenario(bench: Bench) -> None:
        bench.shared.trouble = OSError()
        await bench.store.load(KEY)
        at = []
        while bench.clock.monotonic < 1000 + 200:
            asked = bench.shared.asked
            await bench.store.save(KEY, bench.token("one"))
            assert bench.shared.asked == asked
            await bench.passes(0.5)
            if bench.shared.asked > asked:
                at.append(bench.clock.monotonic)
        pauses = [later - earlier for earlier, later in zip([1000.0, *at], at, strict=False)]
        assert pauses[0] == pytest.approx(1, abs=0.6)
        assert max(pauses) <= 30.5
        assert pauses[:5] == sorted(pauses[:5])
        assert len(pauses) > 8

    in_virtual_time(scenario)


def test_when_it_is_back_it_is_told_and_the_tokens_of_the_meantime_are_shared(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario(bench: Bench) -> None:
        bench.shared.tokens = {KEY: bench.token("before"), OTHER: bench.token("before")}
        bench.shared.trouble = OSError()
        await bench.passes(1)
        ours = bench.token("ours")
        await bench.store.save(KEY, ours)
        await bench.store.save(OTHER, ours)
        await bench.passes(0.5)
        theirs = bench.token("theirs")
        bench.shared.tokens[OTHER] = theirs
        bench.shared.trouble = None
        await bench.passes(2)
        assert not bench.store.failing
        assert bench.shared.tokens == {KEY: ours, OTHER: theirs}
        assert await bench.store.load(OTHER) == theirs
        bench.shared.trouble = OSError()
        await bench.store.load(KEY)
        assert bench.store.failures == 2

    in_virtual_time(scenario)
    assert events(caplog) == ["store-degraded", "store-back", "store-degraded"]


def test_a_store_that_hangs_when_it_is_asked_again_is_asked_once_more() -> None:
    async def scenario(bench: Bench) -> None:
        bench.shared.trouble = OSError()
        token = bench.token("ours")
        await bench.store.save(KEY, token)
        bench.shared.hangs = True
        await bench.passes(1.5)
        assert bench.shared.asked == 2
        bench.shared.hangs, bench.shared.trouble = False, None
        await bench.passes(5)
        assert not bench.store.failing
        assert bench.shared.tokens == {KEY: token}

    in_virtual_time(scenario)


def test_a_token_of_while_it_comes_back_is_shared_too() -> None:
    async def scenario(bench: Bench) -> None:
        bench.shared.trouble = OSError()
        await bench.store.save(KEY, bench.token("first"))
        bench.shared.trouble = None
        load = bench.shared.load

        async def meanwhile(key: TokenKey) -> Kept | None:
            bench.shared.load = load  # type: ignore[method-assign]
            await asyncio.sleep(0.5)
            await bench.store.save(key, bench.token("second"))
            return await load(key)

        bench.shared.load = meanwhile  # type: ignore[method-assign]
        await bench.passes(3)
        assert bench.shared.tokens[KEY].value == "second"
        assert not bench.store.failing

    in_virtual_time(scenario)


def test_memory_never_offers_an_older_token_than_the_shared_store_gave() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.store.save(KEY, bench.token("ours"))
        theirs = bench.token("theirs")
        bench.shared.tokens[KEY] = theirs
        assert await bench.store.load(KEY) == theirs
        bench.shared.trouble = OSError()
        assert await bench.store.load(KEY) == theirs

    in_virtual_time(scenario)


@pytest.mark.parametrize("works", [True, False])
def test_in_one_process_one_holds_the_lock_whether_the_store_works_or_not(works: bool) -> None:
    async def scenario(bench: Bench) -> None:
        inside = 0

        async def hold() -> None:
            nonlocal inside
            async with bench.store.lock(KEY):
                inside += 1
                assert inside == 1
                await asyncio.sleep(1)
                bench.shared.trouble = None if works else OSError()
                inside -= 1

        await asyncio.gather(*(hold() for _ in range(5)))

    in_virtual_time(scenario)


def test_what_goes_wrong_under_the_lock_comes_out_and_the_lock_is_given_back() -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(KeyError):
            async with bench.store.lock(KEY):
                raise KeyError
        assert bench.shared.unlocked == 1
        assert not bench.store.failing

    in_virtual_time(scenario)


def test_a_waiter_that_is_cancelled_leaves_the_lock_to_others() -> None:
    async def scenario(bench: Bench) -> None:
        bench.shared.hangs = True
        hanging = asyncio.ensure_future(bench.store.lock(KEY).__aenter__())
        behind = asyncio.ensure_future(bench.store.lock(KEY).__aenter__())
        await settle()
        for waiter in (hanging, behind):
            waiter.cancel()
        await asyncio.wait([hanging, behind])
        assert hanging.cancelled()
        assert behind.cancelled()
        bench.shared.hangs = False
        async with bench.store.lock(KEY):
            assert bench.shared.locked == 1
        assert bench.store.failures == 0

    in_virtual_time(scenario)


def test_closing_waits_a_second_at_most_and_never_fails() -> None:
    async def scenario(bench: Bench) -> None:
        bench.shared.trouble = OSError()
        await bench.store.load(KEY)
        await bench.store.close()
        bench.shared.hangs = True
        begun = bench.clock.monotonic
        await bench.store.close()
        assert bench.clock.monotonic - begun == pytest.approx(1)
        assert not bench.shared.closed
        bench.shared.hangs, bench.shared.trouble = False, None
        await bench.store.close()
        assert bench.shared.closed

    in_virtual_time(scenario)
