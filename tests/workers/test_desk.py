"""Tokens that several workers share in the memory of another process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from proxy.errors import CredentialsRefused, GrantRefused, LoginError, LoginUnreachable
from proxy.tokens import Moment, TokenKey, system_clock
from proxy.tokens.store import Kept
from proxy.workers.channel import Channel
from proxy.workers.desk import Desk, DeskStore, Visitor
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEY = TokenKey("sandbox", "default", "2.0", "https://login", credentials="digest")
OTHER = KEY._replace(api="3.0")


def kept(value: str, expires_in: float = 3600) -> Kept:
    now = system_clock().wall
    return Kept(value, 1, now, now + expires_in)


class Clock:
    """The system's, set ahead."""

    passed = 0.0

    def __call__(self) -> Moment:
        now = system_clock()
        return now._replace(monotonic=now.monotonic + self.passed)


class Visit:
    """A worker's store, and the ends of its channel."""

    def __init__(self, store: DeskStore, inside: Channel, outside: Channel) -> None:
        self.store = store
        self.inside = inside
        self.outside = outside


@contextlib.asynccontextmanager
async def visits(
    count: int, limit: float = PATIENCE, clock: Callable[[], Moment] = system_clock
) -> AsyncIterator[list[Visit]]:
    """Stores of so many workers, all at one desk."""
    desk, found, running = Desk(clock), [], []

    async def serve(channel: Channel, visitor: Visitor) -> None:
        await channel.run()
        visitor.leave()

    for _ in range(count):
        one, other = socket.socketpair()
        visitor = Visitor(desk)
        inside, outside = await Channel.over(one, {}), await Channel.over(other, visitor.handlers)
        running += [asyncio.create_task(inside.run()), asyncio.create_task(serve(outside, visitor))]
        found.append(Visit(DeskStore(inside, limit), inside, outside))
    try:
        async with asyncio.timeout(PATIENCE):
            yield found
    finally:
        for each in found:
            each.inside.close()
        await asyncio.wait(running)


async def test_what_one_keeps_the_other_finds() -> None:
    async with visits(2) as (one, other):
        assert await other.store.load(KEY) is None
        token = kept("a-token")
        await one.store.save(KEY, token)
        assert await other.store.load(KEY) == token
        assert await other.store.load(OTHER) is None


async def test_an_expired_token_is_not_found_and_not_kept() -> None:
    async with visits(1) as (one,):
        await one.store.save(KEY, kept("a-token", expires_in=-1))
        assert await one.store.load(KEY) is None


async def test_one_holds_the_lock_of_a_key_at_a_time() -> None:
    async with visits(3) as three:
        inside, most, turns = 0, 0, 0

        async def turn(visit: Visit) -> None:
            nonlocal inside, most, turns
            async with visit.store.lock(KEY):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                await visit.store.save(KEY, kept("a-token"))
                inside -= 1
                turns += 1

        await asyncio.gather(*(turn(visit) for visit in three for _ in range(20)))
        assert (most, turns) == (1, 60)


async def test_keys_do_not_keep_each_other_waiting() -> None:
    async with visits(2) as (one, other), one.store.lock(KEY), other.store.lock(OTHER):
        pass


async def test_a_holder_that_dies_lets_go() -> None:
    async with visits(2) as (dies, other):
        held = asyncio.Event()

        async def hold() -> None:
            async with dies.store.lock(KEY):
                held.set()
                await asyncio.Event().wait()

        holding = asyncio.create_task(hold())
        await held.wait()
        waiting = asyncio.create_task(other.store.load(KEY))
        await waiting
        dies.outside.close()
        async with other.store.lock(KEY):
            pass
        assert dies.store.failing
        assert not other.store.failing
        holding.cancel()
        await asyncio.wait([holding])


async def test_who_gives_up_waiting_leaves_nothing_locked() -> None:
    async with visits(3) as (one, impatient, other):

        async def take(visit: Visit) -> None:
            async with visit.store.lock(KEY):
                pass

        async with one.store.lock(KEY):
            waiting = asyncio.create_task(take(impatient))
            await impatient.store.load(KEY)  # the wish for the lock was there before
            waiting.cancel()
            await asyncio.wait([waiting])
        await take(other)


async def test_a_frozen_holder_is_not_waited_for_without_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with visits(3, limit=-4.9) as (one, impatient, other):
        async with one.store.lock(KEY), impatient.store.lock(KEY):
            pass
        async with other.store.lock(KEY):
            pass
    assert [record.__dict__["event"] for record in caplog.records] == ["store-lock-stuck"]


async def log_in(visit: Visit, key: TokenKey, *, fails: LoginError | None = None) -> None:
    async with visit.store.lock(key):
        if fails is not None:
            raise fails
        await visit.store.save(key, kept("a-token"))


@pytest.mark.parametrize("kind", [CredentialsRefused, GrantRefused])
async def test_a_refusal_to_one_is_one_to_all_until_the_next_login_of_one_process(kind: type[LoginError]) -> None:
    clock = Clock()
    async with visits(2, clock=clock) as (one, other):
        for expected in (60, 120, 240, 480, 675, 675):  # what the backoff leaves to chance is on top of that
            with pytest.raises(kind):
                await log_in(one, KEY, fails=kind("the user name or the password is wrong"))
            with pytest.raises(kind, match=r"^the user name or the password is wrong$") as told:
                await log_in(other, KEY)
            assert expected - PATIENCE < (told.value.retry_after or 0) <= expected
            clock.passed += expected
        await log_in(other, KEY)
        with pytest.raises(kind):
            await log_in(one, KEY, fails=kind("again"))
        with pytest.raises(kind) as told:
            await log_in(other, KEY)
        assert (told.value.retry_after or 0) <= 60, "the count begins anew after a success"


async def test_other_credentials_than_those_refused_are_tried_at_once_even_those_of_before() -> None:
    changed = KEY._replace(credentials="changed")
    refused = CredentialsRefused("the password is wrong")
    async with visits(2) as (one, other):
        for key in (KEY, changed, KEY):
            with pytest.raises(CredentialsRefused):
                await log_in(one, key, fails=refused)
            await log_in(other, OTHER)
            with pytest.raises(CredentialsRefused, match="the password is wrong"):
                await log_in(other, key)
        await log_in(one, changed)
        await log_in(one, KEY)


async def test_a_failure_that_may_pass_is_not_shared() -> None:
    async with visits(2) as (one, other):
        with pytest.raises(LoginUnreachable):
            await log_in(one, KEY, fails=LoginUnreachable("no"))
        await log_in(other, KEY)


async def test_a_worker_whose_supervisor_is_gone_stands_alone() -> None:
    async with visits(1) as (one,):
        one.inside.close()
        async with one.store.lock(KEY):
            await one.store.save(KEY, kept("a-token"))
            assert await one.store.load(KEY) is None
        assert one.store.failing
