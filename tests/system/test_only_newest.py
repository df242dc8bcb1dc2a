"""Where each login ends the tokens before it: those who share a store live in peace, the others are held in check."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.wire import ask

if TYPE_CHECKING:
    from pathlib import Path


async def generation(proxy: Sidecar) -> int:
    """Ask how many tokens there have been, as this sidecar knows it."""
    metrics = (await ask(proxy.admin, "GET", "/metrics")).body.decode()
    found = re.search(r'^invoisys_proxy_token_generation{account="default",api="2.0"} (\d+)', metrics, re.MULTILINE)
    assert found is not None, metrics
    return int(found[1])


async def test_those_who_share_hold_the_newest_token_without_being_asked(fake: Fake, tmp_path: Path) -> None:
    tokens = {"store": f"file:{tmp_path}/shared/tokens.json", "refresh_every": "3s"}
    config = written(tmp_path, tokens=tokens)
    with sidecar(fake.url, "-c", config) as one, sidecar(fake.url, "-c", config) as other:
        await fake.reached(logins=3)
        while (held := {await generation(one), await generation(other)}) != {3}:
            assert max(held) <= 4  # not slower than the next refresh
    assert (await fake.state())["logins"] <= 4


async def test_those_who_share_lose_no_call(fake: Fake, tmp_path: Path) -> None:
    await fake.do("only-newest")
    tokens = {"store": f"file:{tmp_path}/shared/tokens.json", "refresh_every": "2s"}
    config = written(tmp_path, tokens=tokens)

    async def caller(proxy: Sidecar, first: int) -> list[int]:
        statuses: list[int] = []
        while (await fake.state())["logins"] < 5:
            statuses.append((await proxy.issue(first + len(statuses))).status)
        return statuses

    with sidecar(fake.url, "-c", config) as one, sidecar(fake.url, "-c", config) as other:
        statuses = await asyncio.gather(caller(one, 0), caller(other, 100_000))
        events = [event["event"] for proxy in (one, other) for event in proxy.process.events]
    assert set(statuses[0] + statuses[1]) == {200}
    assert "tokens-lost" not in events
    state = await fake.state()
    assert state["documents"] == len(statuses[0] + statuses[1])
    assert state["duplicates"] == 0


async def test_those_who_do_not_share_are_held_to_few_logins_and_told_why(fake: Fake) -> None:
    await fake.do("only-newest")
    began = time.monotonic()
    with sidecar(fake.url) as one, sidecar(fake.url) as other:
        statuses = [(await proxy.issue(number)).status for number in range(50) for proxy in (one, other)]
        state = await fake.state()
        refills = (time.monotonic() - began) // 30
        events = [event["event"] for proxy in (one, other) for event in proxy.process.events]
    assert state["logins"] <= 2 + 2 * (2 + refills)
    assert set(statuses) == {200, 401}
    assert state["documents"] <= 50  # each was asked for at both
    assert 1 <= events.count("tokens-lost") <= 2  # once each; whoever has the last token may have nothing to tell
