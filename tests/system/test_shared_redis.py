"""Three sidecars that share one token through a real Redis, and what its troubles cost their callers: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.redis import Redis, redis_server
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("redis-server")

SIDECARS = 3
CALLERS = 1000
LOGIN_TIMEOUT = 30
"""Long enough for three sidecars to start within one login, on a machine that is busy as well."""
TAKEN_OVER_WITHIN = 10


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_server() as running:
        yield running


@pytest.fixture
def config(redis: Redis, tmp_path: Path) -> str:
    key = tmp_path / "key"
    key.write_text("of the replicas, and of nobody else")
    tokens = {"store": redis.url, "key_file": str(key)}
    return written(tmp_path, tokens=tokens, timeouts={"login": f"{LOGIN_TIMEOUT}s"})


@contextlib.contextmanager
def replicas(fake: Fake, config: str, count: int = SIDECARS) -> Iterator[list[Sidecar]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(sidecar(fake.url, "-c", config)) for _ in range(count)]


class Load:
    """Callers that ask one sidecar or another, each again as soon as it was answered."""

    def __init__(self, proxies: list[Sidecar], callers: int = 10) -> None:
        self.statuses: list[int] = []
        self._over = False
        self._news = asyncio.Event()
        self._numbers = itertools.count()
        self._callers = [asyncio.ensure_future(self._call(proxy)) for proxy in proxies for _ in range(callers)]

    async def _call(self, proxy: Sidecar) -> None:
        while not self._over:
            reply = await proxy.ask("GET", f"/api/nfe/getbychaveSTD/{next(self._numbers)}")
            self.statuses.append(reply.status)
            self._news.set()

    async def more(self, answers: int = 300) -> None:
        """Wait for so many more answers."""
        wanted = len(self.statuses) + answers
        while len(self.statuses) < wanted:
            self._news.clear()
            await self._news.wait()

    async def end(self) -> None:
        self._over = True
        await asyncio.gather(*self._callers)


@contextlib.asynccontextmanager
async def under_load(proxies: list[Sidecar]) -> AsyncIterator[Load]:
    """Keep the sidecars busy; in the end every request must have been served."""
    load = Load(proxies)
    try:
        async with asyncio.timeout(PATIENCE):
            await load.more()
            yield load
            await load.more()
    finally:
        await load.end()
    assert set(load.statuses) == {200}


async def everywhere(event: str, proxies: list[Sidecar]) -> None:
    """Wait until each sidecar has said it."""
    await asyncio.gather(*(asyncio.to_thread(proxy.process.event, event) for proxy in proxies))


async def test_three_thousand_calls_on_a_cold_start_and_after_a_revocation_cost_one_login_each(
    fake: Fake, config: str
) -> None:
    await fake.do("logins", mode="slow", delay=1)
    with replicas(fake, config) as proxies:
        path = "/api/nfe/getbychaveSTD"
        replies = await asyncio.gather(*(proxy.ask("GET", f"{path}/{n}") for n in range(CALLERS) for proxy in proxies))
        assert [reply.status for reply in replies] == [200] * SIDECARS * CALLERS
        assert (await fake.state())["logins"] == 1
        await fake.do("revoke")
        replies = await asyncio.gather(
            *(proxy.issue(n * SIDECARS + which) for n in range(CALLERS) for which, proxy in enumerate(proxies))
        )
        assert [reply.status for reply in replies] == [200] * SIDECARS * CALLERS
    state = await fake.state(documents=True)
    assert state["logins"] == 2
    assert state["documents"] == SIDECARS * CALLERS
    assert state["duplicates"] == 0


async def test_a_sidecar_that_starts_later_finds_the_token(fake: Fake, config: str, redis: Redis) -> None:
    for number in range(2):
        with replicas(fake, config, 1) as (proxy,):
            assert (await proxy.issue(number)).status == 200
    assert (await fake.state())["logins"] == 1
    assert redis.names("*lock*") == []


async def test_when_the_holder_of_the_lock_is_killed_in_its_login_the_next_takes_over_and_no_caller_fails(
    fake: Fake, config: str, redis: Redis
) -> None:
    await fake.do("logins", mode="slow", delay=2 * LOGIN_TIMEOUT, times=1)
    with sidecar(fake.url, "-c", config) as holder:
        await fake.reached(logins=1)
        with replicas(fake, config, 2) as proxies:
            await redis.wanted_by(SIDECARS)
            numbers = range(CALLERS // 4)
            calls = [asyncio.ensure_future(proxy.issue(n)) for n in numbers for proxy in proxies]
            holder.process.signal(signal.SIGKILL)
            killed = time.monotonic()
            replies = await asyncio.gather(*calls)
            assert time.monotonic() - killed < TAKEN_OVER_WITHIN  # long before the life of the lock ends
    assert [reply.status for reply in replies] == [200] * len(calls)
    assert (await fake.state())["logins"] == 2


@pytest.mark.parametrize("trouble", ["stop", "freeze"])
async def test_while_the_server_does_not_answer_each_logs_in_for_itself_and_no_request_fails(
    trouble: str, fake: Fake, config: str, redis: Redis
) -> None:
    with replicas(fake, config) as proxies:
        async with under_load(proxies) as load:
            if trouble == "stop":
                redis.stop()
            else:
                redis.freeze()
            await load.more()
            assert (await fake.state())["logins"] == 1
            await fake.do("revoke")
            await everywhere("store-degraded", proxies)
            await fake.reached(logins=1 + SIDECARS)
            await load.more()
            if trouble == "stop":
                redis.start()
            else:
                redis.thaw()
            await everywhere("store-back", proxies)
        assert (await fake.state())["logins"] == 1 + SIDECARS
        with replicas(fake, config, 1) as (late,):
            assert (await late.issue(1)).status == 200
        assert (await fake.state())["logins"] == 1 + SIDECARS


@pytest.mark.parametrize("trouble", ["restart", "empty"])
async def test_a_server_that_loses_everything_costs_no_request_and_no_more_than_one_login(
    trouble: str, fake: Fake, config: str, redis: Redis
) -> None:
    with replicas(fake, config) as proxies:
        async with under_load(proxies) as load:
            getattr(redis, trouble)()
            await load.more()
            assert (await fake.state())["logins"] == 1
            await fake.do("revoke")
            await fake.reached(logins=2)
            await load.more()
        said = [event for proxy in proxies for event in proxy.process.events]
        assert [event for event in said if event["event"] == "store-degraded"] == []
        assert (await fake.state())["logins"] == 2


async def test_a_server_that_is_down_at_the_start_keeps_no_sidecar_from_serving(
    fake: Fake, config: str, redis: Redis
) -> None:
    redis.stop()
    with replicas(fake, config, 1) as (proxy,):
        assert (await proxy.issue(1)).status == 200
        redis.start()
        await everywhere("store-back", [proxy])
        with replicas(fake, config, 1) as (late,):
            assert (await late.issue(2)).status == 200
    assert (await fake.state())["logins"] == 1
