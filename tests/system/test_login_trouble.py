"""What callers notice of a login that fails: everything where there is no token, nothing where there is one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tests.support.config import written
from tests.support.processes import Fake, sidecar
from tests.support.wire import ask

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_wrong_password_costs_few_logins_and_mends_by_itself(fake: Fake) -> None:
    """Runs with the real delays, so it takes a minute and a little more."""
    await fake.do("logins", mode="refuse")
    with sidecar(fake.url) as proxy:
        began = time.monotonic()
        await fake.reached(logins=1)
        while time.monotonic() - began < 55:
            reply = await proxy.issue(1)
            assert reply.status == 503
            assert "Credenciais inválidas." in reply.json()["detail"]
            # The fake's long poll paces the loop; it ends early should another login come.
            logins = (await ask(fake.url, "GET", "/_fake/wait?logins=4&timeout=5")).json()["logins"]
            assert logins <= 3
        await fake.do("logins", mode="accept")
        # Nobody calls now: it is the sidecar that tries again.
        await fake.reached(logins_granted=1)
        assert (await proxy.issue(1)).status == 200
    assert (await fake.state())["documents"] == 1


async def test_requests_that_fail_alike_share_lines_of_the_log_and_are_all_on_the_page(fake: Fake) -> None:
    await fake.do("logins", mode="refuse")
    with sidecar(fake.url) as proxy:
        replies = [await proxy.issue(number) for number in range(40)]
        assert {(reply.status, reply["X-Invoisys-Outcome"]) for reply in replies} == {(503, "not-sent")}
        told = (await ask(proxy.admin, "GET", "/status")).json()
        assert len(told["requests"]) == 40
        proxy.process.stop()
    lines = [event for event in proxy.process.events if event["event"] == "request"]
    assert len(lines) < 10
    assert sum(line.get("repeated", 1) for line in lines) == 40
    assert all(line["next_step"].startswith("Put the right user name") for line in lines)


async def test_callers_notice_nothing_of_a_login_server_that_is_down_while_the_token_is_valid(
    fake: Fake, tmp_path: Path
) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, tokens={"refresh_every": "1s"})) as proxy:
        await fake.reached(logins_granted=1)
        await fake.do("logins", mode="cut")
        number = 0
        while (await fake.state())["logins"] < 4:
            number += 1
            assert (await proxy.issue(number)).status == 200
        ready = await ask(proxy.admin, "GET", "/readyz")
        assert (ready.status, ready.json()["status"]) == (200, "degraded")
        assert "broke off" in ready.json()["reasons"][0]


async def test_an_expired_token_is_never_sent(fake: Fake, tmp_path: Path) -> None:
    tokens = tmp_path / "kept" / "tokens.json"
    config = written(tmp_path, timeouts={"login": "1s"}, tokens={"store": f"file:{tokens}"})
    with sidecar(fake.url, "-c", config) as first:
        first.process.event("login")
    _let_expire(tokens, time.time() + 4)
    await fake.do("logins", mode="cut")
    with sidecar(fake.url, "-c", config) as proxy:
        served = 0
        while (reply := await proxy.issue(served)).status == 200:
            served += 1
        assert (reply.status, reply.json()["outcome"]) == (503, "not-sent")
    assert served > 0
    assert (await fake.state())["unauthorized"] == 0


def _let_expire(tokens: Path, at: float) -> None:
    contents = json.loads(tokens.read_bytes())
    for token in contents["tokens"].values():
        token["expires_at"] = at
    tokens.write_text(json.dumps(contents))


async def test_a_token_without_a_lifetime_is_used_with_a_warning(fake: Fake) -> None:
    await fake.do("expire", say="none")
    with sidecar(fake.url) as proxy:
        assert (await proxy.issue(1)).status == 200
        proxy.process.stop()
        (warning,) = (event for event in proxy.process.events if event["event"] == "expires-in-unusable")
        (login,) = (event for event in proxy.process.events if event["event"] == "login")
    assert warning["level"] == "warning"
    assert login["expires_in"] == 3600
