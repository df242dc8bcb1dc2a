# ruff: noqa: ASYNC240 - the files are small, and nothing else waits for the loop
"""Sidecars of one host that share their tokens in a file: one login between them, whatever happens to any of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.wire import BrokenOff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALLERS = 1000
"""Of each sidecar."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "tokens.json"


@pytest.fixture
def config(tmp_path: Path, file: Path) -> str:
    return written(tmp_path, tokens={"store": f"file:{file}"})


@contextlib.contextmanager
def sidecars(fake: Fake, config: str, count: int) -> Iterator[list[Sidecar]]:
    """Run so many, all from the same configuration, and all listening."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(sidecar(fake.url, "-c", config)) for _ in range(count)]


def looks(proxy: Sidecar, path: str = "/api/nfe/getbychaveSTD") -> list[asyncio.Task[int]]:
    async def look(number: int) -> int:
        return (await proxy.ask("GET", f"{path}/{number}")).status

    return [asyncio.create_task(look(number)) for number in range(CALLERS)]


async def test_three_thousand_calls_on_a_cold_start_share_one_login(fake: Fake, config: str, file: Path) -> None:
    await fake.do("logins", mode="slow", delay=4)  # long enough for all three to be there
    with sidecars(fake, config, 3) as three:
        assert (await fake.state())["logins"] == 1
        replies = await asyncio.gather(*(task for proxy in three for task in looks(proxy)))
    assert replies == [200] * 3 * CALLERS
    assert (await fake.state())["logins"] == 1
    assert len(json.loads(file.read_bytes())["tokens"]) == 1


async def test_three_thousand_calls_at_the_first_need_of_the_other_api_share_one_login(fake: Fake, config: str) -> None:
    with sidecars(fake, config, 3) as three:
        await fake.do("logins", mode="slow", delay=1)
        path = "/v1/nfe-entrada/eventos-nsui/12345678000195"
        replies = await asyncio.gather(*(task for proxy in three for task in looks(proxy, path)))
    assert replies == [200] * 3 * CALLERS
    assert (await fake.state())["logins"] == 2


async def test_three_thousand_documents_after_a_revocation_cost_one_login_and_none_is_issued_twice(
    fake: Fake, config: str
) -> None:
    await fake.do("only-newest")  # a login too many would end the token of the others
    with sidecars(fake, config, 3) as three:
        assert [(await proxy.issue(0)).status for proxy in three] == [200] * 3
        assert (await fake.state())["logins"] == 1
        await fake.do("revoke")
        await fake.do("logins", mode="slow", delay=1)
        numbers = range(1, CALLERS + 1)
        replies = await asyncio.gather(
            *(proxy.issue(nth * CALLERS + number) for nth, proxy in enumerate(three) for number in numbers)
        )
    assert [reply.status for reply in replies] == [200] * 3 * CALLERS
    state = await fake.state(documents=True)
    assert state["logins"] == 2
    assert state["documents"] == 3 * CALLERS + 1
    assert {number for name, number in state["emissions"].items() if number > 1} == {3}  # the one before, of each


async def test_another_takes_over_from_one_that_is_killed_in_mid_login(fake: Fake, config: str) -> None:
    await fake.do("logins", mode="slow", delay=60, times=1)
    with sidecars(fake, config, 1) as (killed,):
        await fake.reached(logins=1)
        lost = asyncio.create_task(killed.ask("GET", "/api/nfe/getbychaveSTD/1"))
        with sidecars(fake, config, 2) as others:
            calls = [task for proxy in others for task in looks(proxy)]
            for proxy in others:
                await asyncio.to_thread(proxy.process.event, "login-elsewhere")
            assert (await fake.state())["logins"] == 1
            killed.process.signal(signal.SIGKILL)
            assert await asyncio.gather(*calls) == [200] * 2 * CALLERS
        with pytest.raises((BrokenOff, ConnectionError)):
            await lost
    assert (await fake.state())["logins"] == 2


async def test_one_that_is_killed_finds_its_token_again(fake: Fake, config: str) -> None:
    with sidecars(fake, config, 1) as (killed,):
        assert (await killed.issue(1)).status == 200
        killed.process.signal(signal.SIGKILL)
        killed.process.wait()
    with sidecars(fake, config, 1) as (again,):
        assert (await again.issue(2)).status == 200
    assert (await fake.state())["logins"] == 1


async def test_a_token_that_was_revoked_while_nobody_ran_is_replaced_at_the_first_401(fake: Fake, config: str) -> None:
    for number in (1, 2):
        with sidecars(fake, config, 1) as (proxy,):
            assert (await proxy.issue(number)).status == 200
        await fake.do("revoke")
    state = await fake.state()
    assert (state["logins"], state["documents"], state["duplicates"]) == (2, 2, 0)


async def test_a_changed_password_never_finds_the_old_token(fake: Fake, config: str) -> None:
    with sidecars(fake, config, 1) as (proxy,):
        assert (await proxy.issue(1)).status == 200
    with sidecar(fake.url, "-c", config, PASSWORD="another") as proxy:
        assert (await proxy.issue(2)).status == 503
    assert (await fake.state())["logins_refused"] == 1


async def test_a_damaged_file_costs_one_login(fake: Fake, config: str, file: Path) -> None:
    file.parent.mkdir(mode=0o700)
    file.touch(mode=0o600)
    file.write_text("{")
    with sidecars(fake, config, 3) as three:
        assert [(await proxy.issue(number)).status for number, proxy in enumerate(three)] == [200] * 3
    events = [event["event"] for proxy in three for event in proxy.process.events]
    assert events.count("store-damaged") == 1
    assert (await fake.state())["logins"] == 1
    assert len(list(file.parent.glob("tokens.json.damaged-*"))) == 1


def test_a_folder_that_others_get_into_stops_the_start(fake: Fake, config: str, file: Path) -> None:
    file.parent.mkdir()
    file.parent.chmod(0o755)
    with pytest.raises(AssertionError) as caught, sidecar(fake.url, "-c", config):
        pytest.fail("it started")
    assert "the process ended: 2\n" in str(caught.value)
    assert f"tokens.store: the folder {file.parent} is open to others (mode 0755)" in str(caught.value)
