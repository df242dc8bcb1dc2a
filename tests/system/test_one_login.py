"""One login per need, and no document twice, however many ask at once."""

from __future__ import annotations

import asyncio
import json

from tests.support.processes import Fake, Sidecar, sidecar

CALLERS = 1000


async def test_a_thousand_calls_on_a_cold_start_share_one_login(fake: Fake) -> None:
    await fake.do("logins", mode="slow", delay=1)
    with sidecar(fake.url) as proxy:
        replies = await asyncio.gather(*(proxy.ask("GET", f"/api/nfe/getbychaveSTD/{n}") for n in range(CALLERS)))
    assert [reply.status for reply in replies] == [200] * CALLERS
    assert (await fake.state())["logins"] == 1


async def test_the_other_api_logs_in_at_first_need_once(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins=1)
    path = "/v1/nfe-entrada/eventos-nsui/12345678000195/0"
    replies = await asyncio.gather(*(proxy.ask("GET", path) for _ in range(CALLERS)))
    assert [reply.status for reply in replies] == [200] * CALLERS
    assert (await fake.state())["logins"] == 2


async def test_a_thousand_documents_after_a_revocation_cost_one_login_and_none_is_issued_twice(
    fake: Fake, proxy: Sidecar
) -> None:
    await proxy.issue(0)
    await fake.do("revoke")
    replies = await asyncio.gather(*(proxy.issue(number) for number in range(1, CALLERS + 1)))
    assert [reply.status for reply in replies] == [200] * CALLERS
    state = await fake.state(documents=True)
    assert state["logins"] == 2
    assert state["documents"] == CALLERS + 1
    assert state["duplicates"] == 0
    assert set(state["emissions"].values()) == {1}


async def test_the_log_tells_of_the_replay(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await fake.do("revoke")
    await proxy.issue(2)
    proxy.process.stop()
    first, second = (event for event in proxy.process.events if event["event"] == "request")
    assert "replayed" not in first
    assert second["replayed"] is True
    assert second["status"] == 200
    assert second["outcome"] == "answered"
    assert json.dumps(second).count("numero") == 0
