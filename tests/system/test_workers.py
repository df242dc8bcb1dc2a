"""Several workers of one sidecar: one login, one operator's port, one end; what one meets, the others do not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from proxy.fake import PASSWORD, USERNAME
from proxy.tokens.schedule import REFUSAL
from tests.support.config import written
from tests.support.processes import Fake, Process, Sidecar, environment, sidecar
from tests.support.wire import PATIENCE, BrokenOff, ask, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLERS = 1000
LOOK = "/api/nfe/getbychaveSTD/1"
REQUESTS = "invoisys_proxy_requests_total"


@pytest.fixture
def proxy(fake: Fake) -> Iterator[Sidecar]:
    with sidecar(fake.url, WORKERS="2") as running:
        yield running


async def status(proxy: Sidecar) -> dict[str, Any]:
    return dict((await ask(proxy.admin, "GET", "/status")).json())


async def pids(proxy: Sidecar) -> list[int]:
    return [worker["pid"] for worker in (await status(proxy))["workers"]]


async def metrics(proxy: Sidecar) -> dict[str, float]:
    """Return every sample, by its name and labels."""
    lines = (await ask(proxy.admin, "GET", "/metrics")).body.decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def total(told: dict[str, float], name: str) -> float:
    return sum(value for sample, value in told.items() if sample.partition("{")[0] == name)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():  # noqa: ASYNC110 - what another process does has no event here
            await asyncio.sleep(0.02)


async def has_status(proxy: Sidecar, probe: str, status: int) -> bool:
    return (await ask(proxy.admin, "GET", probe)).status == status


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


async def all_gone(ids: list[int]) -> None:
    async def gone() -> bool:
        return not any(map(is_there, ids))

    await until(gone)


# --- One token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "file"])
async def test_a_thousand_calls_share_one_login_when_cold_and_one_after_a_revocation(
    fake: Fake, tmp_path: Path, store: str
) -> None:
    await fake.do("logins", mode="slow", delay=2)
    where = "memory" if store == "memory" else f"file:{tmp_path}/kept/tokens.json"
    config = written(tmp_path, tokens={"store": where}, limits={"waiting": CALLERS, "connections": 32})
    with sidecar(fake.url, "-c", config, WORKERS="3") as proxy:
        cold = await asyncio.gather(*(proxy.issue(number) for number in range(CALLERS)))
        assert Counter(reply.status for reply in cold) == {200: CALLERS}
        assert (await fake.state())["logins"] == 1
        await fake.do("revoke")
        again = await asyncio.gather(*(proxy.issue(number) for number in range(CALLERS, 2 * CALLERS)))
        assert Counter(reply.status for reply in again) == {200: CALLERS}
    state = await fake.state()
    assert (state["logins"], state["documents"], state["duplicates"]) == (2, 2 * CALLERS, 0)
    served = Counter(event["worker"] for event in proxy.process.events if event["event"] == "request")
    assert served.keys() == {1, 2, 3}
    assert sum(served.values()) == 2 * CALLERS


async def test_a_refresh_is_one_login_that_all_workers_take_over(fake: Fake, proxy: Sidecar) -> None:
    async def have_their_token() -> bool:
        return total(await metrics(proxy), "invoisys_proxy_logins_total") == 2

    await until(have_their_token)
    reply = await ask(proxy.admin, "POST", "/refresh", b"")
    assert reply.status == 200
    assert reply.json() == {"refreshed": [{"account": "default", "api": "2.0", "error": None, "detail": None}]}
    assert (await fake.state())["logins"] == 2
    told = await metrics(proxy)
    for reason in ("first", "asked"):
        for result in ("granted", "shared"):
            labels = f'account="default",api="2.0",reason="{reason}",result="{result}"'
            assert told[f"invoisys_proxy_logins_total{{{labels}}}"] == 1
    assert told['invoisys_proxy_token_generation{account="default",api="2.0"}'] == 2
    tokens = (await status(proxy))["tokens"]
    assert (tokens[0]["generation"], len(tokens[0]["logins"])) == (2, 4)


async def test_a_refresh_that_fails_says_why(fake: Fake, proxy: Sidecar) -> None:
    await fake.do("logins", mode="error")
    reply = await ask(proxy.admin, "POST", "/refresh", b"")
    assert reply.status == 503
    assert [each["error"] for each in reply.json()["refreshed"]] == ["login-server-failed"]
    assert (await ask(proxy.admin, "GET", "/readyz")).json()["status"] == "degraded"
    assert (await proxy.issue(1)).status == 200


async def test_a_wrong_password_is_tried_once_for_all(fake: Fake) -> None:
    with sidecar(fake.url, WORKERS="3", PASSWORD="errado-de-todo") as proxy:

        async def know_it() -> bool:
            told = await metrics(proxy)
            of_all = 'account="default",api="2.0",reason="first",result="credentials-refused"'
            return told.get(f"invoisys_proxy_logins_total{{{of_all}}}") == 3

        await until(know_it)
        assert (await proxy.issue(1)).status == 503
        assert (await ask(proxy.admin, "GET", "/readyz")).status == 503
    assert (await fake.state())["logins_refused"] == 1


async def test_a_wrong_password_is_tried_as_often_as_by_one_process_and_another_one_at_once(
    fake: Fake, tmp_path: Path
) -> None:
    """Slow on purpose: one process tries again after a minute."""
    password = tmp_path / "password"
    password.write_text("errado-de-todo")
    with sidecar(fake.url, WORKERS="4", PASSWORD="", PASSWORD_FILE=str(password)) as proxy:
        await fake.reached(logins_refused=1)
        for _ in range(2):
            reply = await ask(fake.url, "GET", f"/_fake/wait?logins=2&timeout={REFUSAL.first / 2 - 1:g}")
            assert reply.status == 408, "there is another login already"
        told = await metrics(proxy)
        assert total(told, "invoisys_proxy_logins_total") == 4, "each worker has asked once"
        password.write_text(PASSWORD)

        async def all_have_a_token() -> bool:
            return total(await metrics(proxy), "invoisys_proxy_logins_total") == 8

        await until(all_have_a_token)
        assert (await proxy.issue(1)).status == 200
    assert (await fake.state())["logins"] == 2


# --- One operator's port ----------------------------------------------------------------------------------------------


async def test_metrics_are_exact_sums(fake: Fake, proxy: Sidecar) -> None:
    replies = await asyncio.gather(*(proxy.issue(number) for number in range(200)))
    assert {reply.status for reply in replies} == {200}
    told = await metrics(proxy)
    labels = 'api="2.0",listener="127.0.0.1:0"'
    assert told[REQUESTS + f'{{{labels},method="POST",origin="upstream",status="200"}}'] == 200
    assert told[f'invoisys_proxy_request_outcomes_total{{{labels},method="POST",outcome="answered"}}'] == 200
    assert told[f"invoisys_proxy_request_duration_seconds_count{{{labels}}}"] == 200
    assert told['invoisys_proxy_request_duration_seconds_bucket{api="2.0",le="+Inf",listener="127.0.0.1:0"}'] == 200
    assert told['invoisys_proxy_pool_connections_limit{api="2.0"}'] == 100
    assert told["invoisys_proxy_held_limit_bytes"] == 64 * 1024 * 1024
    assert told["invoisys_proxy_workers"] == 2
    assert told["invoisys_proxy_worker_restarts_total"] == 0
    states = {
        state: told[f'invoisys_proxy_readiness{{state="{state}"}}'] for state in ("ready", "degraded", "draining")
    }
    assert states == {"ready": 1, "degraded": 0, "draining": 0}
    logins = [
        told[f'invoisys_proxy_login_state{{account="default",api="2.0",state="{state}"}}']
        for state in ("idle", "refused")
    ]
    assert logins == [1, 0]
    reply = await ask(proxy.admin, "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.body.endswith(b"# EOF\n")
    proxy.process.stop()
    served = Counter(event["worker"] for event in proxy.process.events if event["event"] == "request")
    assert served.keys() == {1, 2}
    assert sum(served.values()) == 200


async def test_the_status_is_that_of_all(fake: Fake, proxy: Sidecar) -> None:
    replies = await asyncio.gather(*(proxy.issue(number) for number in range(100)))
    ids = {reply["X-Request-Id"] for reply in replies if "X-Request-Id" in reply}
    told = await status(proxy)
    assert [(worker["number"], worker["serving"], worker["restarts"]) for worker in told["workers"]] == [
        (1, True, 0), (2, True, 0)
    ]  # fmt: skip
    assert len({worker["pid"] for worker in told["workers"]} | {proxy.process.child.pid}) == 3
    assert len(told["requests"]) == 100
    numbers = [request["number"] for request in told["requests"]]
    assert numbers == sorted(numbers, reverse=True)
    assert {request["request_id"] for request in told["requests"]} >= ids
    assert [(each["api"], each["limit"]) for each in told["connections"]] == [("2.0", 100), ("3.0", 100)]
    assert [(each["api"], each["generation"]) for each in told["tokens"]] == [("2.0", 1), ("3.0", 0)]
    assert told["traffic"]["points"][-1]["p50_ms"] is not None or told["traffic"]["points"][-2]["p50_ms"] is not None
    for request in told["requests"][:20]:
        page = await ask(proxy.admin, "GET", f"/requests/{request['request_id']}")
        assert page.status == 200
        assert request["request_id"] in page.body.decode()
        assert "fake-invoisys" in page.body.decode()  # the answer's header section
    assert (await ask(proxy.admin, "GET", "/requests/nobody-s")).status == 404
    page = await ask(proxy.admin, "GET", "/")
    assert "Workers that serve" in page.body.decode()
    assert "2 / 2" in page.body.decode()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_request_is_shown_whatever_bytes_its_target_has(fake: Fake, tmp_path: Path, workers: str) -> None:
    config = written(tmp_path, admin={"bind": "127.0.0.1:0", "inspect_bodies": True})
    with sidecar(fake.url, "-c", config, ADMIN="", WORKERS=workers) as proxy:
        await proxy.ask("GET", "/api/nfe/\xe1")  # one byte, and no UTF-8
        (request,) = (await status(proxy))["requests"]
        page = await ask(proxy.admin, "GET", f"/requests/{request['request_id']}")
        assert page.status == 200
        assert "/api/nfe/\\xe1" in page.body.decode()


async def test_the_news_tell_each_request_once(fake: Fake, proxy: Sidecar) -> None:
    at = urlsplit(proxy.admin)
    reader, writer = await asyncio.open_connection(at.hostname, at.port, limit=1 << 24)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    calls = asyncio.ensure_future(asyncio.gather(*(proxy.issue(number) for number in range(150))))
    told: Counter[str] = Counter()
    async with asyncio.timeout(PATIENCE):
        while len(told) < 150:
            line = (await reader.readline()).decode()
            if line.startswith("data: "):
                told.update(row.partition("/requests/")[2].partition('"')[0] for row in json.loads(line[6:])["rows"])
    assert {reply.status for reply in await calls} == {200}
    assert set(told.values()) == {1}
    writer.close()


async def test_health_asks_the_one_port(fake: Fake, proxy: Sidecar) -> None:
    env = environment(fake.url, ADMIN=proxy.admin.removeprefix("http://"), WORKERS="2")
    process = Process("health", env=env)
    assert await asyncio.to_thread(process.wait) == 0
    process.stop()


# --- Death ------------------------------------------------------------------------------------------------------------


async def test_a_worker_that_is_killed_costs_what_it_had_in_flight_and_is_replaced(fake: Fake, proxy: Sidecar) -> None:
    broken: Counter[int] = Counter()
    answered = 0
    stop = asyncio.Event()

    async def call(caller: int) -> None:
        """Ask over kept connections; one that breaks off is taken up anew."""
        nonlocal answered
        while not stop.is_set():
            reader, writer = await connect(proxy.url)
            try:
                while not stop.is_set():
                    writer.write(f"GET {LOOK} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    assert (await read_reply(reader)).status == 200
                    answered += 1
            except (BrokenOff, ConnectionError):
                broken[caller] += 1
            finally:
                writer.close()

    async def counted(wanted: int) -> None:
        async def enough() -> bool:
            return answered >= wanted

        await until(enough)

    async with asyncio.TaskGroup() as group:
        for caller in range(32):
            group.create_task(call(caller))
        await counted(2000)
        before = total(await metrics(proxy), REQUESTS)
        killed = (await pids(proxy))[0]
        os.kill(killed, signal.SIGKILL)
        told = await asyncio.to_thread(proxy.process.event, "worker-ended")
        assert (told["worker"], "signal 9" in told["message"]) == (1, True)
        during = await metrics(proxy)
        assert total(during, REQUESTS) >= before
        ready = (await ask(proxy.admin, "GET", "/readyz")).json()
        assert ready["status"] in {"degraded", "ready"}
        assert (await asyncio.to_thread(proxy.process.event, "worker-started"))["worker"] == 1
        await counted(answered + 2000)
        after = await metrics(proxy)
        assert total(after, REQUESTS) >= total(during, REQUESTS)
        stop.set()
    assert 0 < len(broken) < 32
    assert set(broken.values()) == {1}
    assert after["invoisys_proxy_worker_restarts_total"] == 1
    now = await pids(proxy)
    assert killed not in now
    assert len(set(now)) == 2
    assert (await fake.state())["logins"] == 1  # its successor finds the token


async def test_who_stands_at_the_door_of_a_worker_that_has_died_is_let_in_by_its_successor(
    fake: Fake, proxy: Sidecar
) -> None:
    victim = (await pids(proxy))[0]
    os.kill(victim, signal.SIGSTOP)
    callers = [await connect(proxy.url) for _ in range(64)]
    for _, writer in callers:
        writer.write(f"GET {LOOK} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        replies = await asyncio.gather(*(read_reply(reader) for reader, _ in callers))
    assert Counter(reply.status for reply in replies) == {200: 64}
    for _, writer in callers:
        writer.close()
    proxy.process.stop()
    served = Counter(event["worker"] for event in proxy.process.events if event["event"] == "request")
    assert served.keys() == {1, 2}


async def test_a_worker_that_stands_still_is_told_and_stops_nobody_else(fake: Fake, proxy: Sidecar) -> None:
    victim = (await pids(proxy))[1]
    os.kill(victim, signal.SIGSTOP)
    try:

        async def told() -> bool:
            reply = (await ask(proxy.admin, "GET", "/readyz")).json()
            return (reply["status"], reply["reasons"]) == ("degraded", ["worker 2 does not answer"])

        await until(told)
        assert (await status(proxy))["requests"] == []
        assert (await metrics(proxy))["invoisys_proxy_workers"] == 2
    finally:
        os.kill(victim, signal.SIGCONT)

    async def well() -> bool:
        return bool((await ask(proxy.admin, "GET", "/readyz")).json()["status"] == "ready")

    await until(well)


async def test_while_no_worker_s_event_loop_turns_the_sidecar_is_neither_ready_nor_alive(
    fake: Fake, proxy: Sidecar
) -> None:
    ids = await pids(proxy)
    for pid in ids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await until(lambda: has_status(proxy, "/livez", 503))
        told = (await ask(proxy.admin, "GET", "/livez")).json()
        assert (told["status"], told["reasons"]) == ("stuck", ["no worker's event loop turns"])
        assert told["next_steps"][0].startswith("Report it")
        ready = await ask(proxy.admin, "GET", "/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "not-ready")
        assert ready.json()["reasons"] == ["worker 1 does not answer", "worker 2 does not answer", "no worker serves"]
        assert (await ask(proxy.admin, "GET", "/status")).status == 503
        told = await metrics(proxy)
        assert told["invoisys_proxy_workers"] == 2
        assert told['invoisys_proxy_readiness{state="not-ready"}'] == 1
    finally:
        for pid in ids:
            os.kill(pid, signal.SIGCONT)
    await until(lambda: has_status(proxy, "/livez", 200))
    await until(lambda: has_status(proxy, "/readyz", 200))
    assert (await proxy.issue(1)).status == 200


async def test_the_workers_end_with_the_supervising_process_and_finish_what_they_have(fake: Fake) -> None:
    process = Process("run", env=environment(fake.url, WORKERS="2"))
    urls, admin = process.listening()
    proxy = Sidecar(process, urls[0], admin)
    ids = await pids(proxy)
    await fake.do("answers", mode="slow", delay=1, times=1)
    under_way = asyncio.create_task(proxy.issue(1))
    await fake.reached(requests=1)
    process.signal(signal.SIGKILL)
    assert (await under_way).status == 200
    await all_gone(ids)
    process.stop()
    with pytest.raises(ConnectionRefusedError):
        await connect(urls[0])


# --- Stop -------------------------------------------------------------------------------------------------------------


async def calls(proxy: Sidecar, first: int) -> list[int]:
    """Issue documents over kept connections until nobody takes a call any more."""
    statuses: list[int] = []
    while True:
        try:
            reader, writer = await connect(proxy.url)
        except (ConnectionRefusedError, FileNotFoundError):
            return statuses
        kept = True
        while kept:
            body = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"%d"}' % (first + len(statuses))
            head = b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            reply = await read_reply(reader)
            statuses.append(reply.status)
            kept = "Connection" not in reply or reply["Connection"] != "close"
        writer.close()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{}/s"])
async def test_no_request_is_lost_when_all_are_drained(fake: Fake, tmp_path: Path, listen: str) -> None:
    answered = 0
    for number in range(6):
        delay = ("0s", "300ms")[number % 2]
        config = written(tmp_path, drain={"delay": delay})
        with sidecar(fake.url, "-c", config, WORKERS="2", LISTEN=listen.format(tmp_path)) as proxy:
            ids = await pids(proxy)
            first = number * 10_000_000
            callers = [asyncio.create_task(calls(proxy, first + each * 100_000)) for each in range(16)]
            await fake.reached(documents=answered + 100)
            proxy.process.signal(signal.SIGTERM)
            statuses = [status for each in await asyncio.gather(*callers) for status in each]
            assert proxy.process.wait() == 0
        assert set(statuses) <= {200, 503}
        answered += statuses.count(200)
        state = await fake.state()
        assert (state["documents"], state["duplicates"]) == (answered, 0)
        assert not any(map(is_there, ids))


async def test_quit_ends_all(fake: Fake, proxy: Sidecar) -> None:
    ids = await pids(proxy)
    await fake.do("answers", mode="slow", delay=1, times=1)
    under_way = asyncio.create_task(proxy.issue(1))
    await fake.reached(requests=1)
    assert (await ask(proxy.admin, "POST", "/quit", b"")).status == 202
    assert (await ask(proxy.admin, "GET", "/readyz")).json()["status"] == "draining"
    assert (await under_way).status == 200
    assert await asyncio.to_thread(proxy.process.wait) == 0
    assert not any(map(is_there, ids))


async def test_a_second_signal_ends_all_at_once(fake: Fake, proxy: Sidecar) -> None:
    ids = await pids(proxy)
    await fake.do("answers", mode="slow", delay=60, times=1)
    under_way = asyncio.create_task(proxy.issue(1))
    await fake.reached(requests=1)
    proxy.process.signal(signal.SIGTERM)
    await asyncio.to_thread(proxy.process.event, "stopping")
    proxy.process.signal(signal.SIGTERM)
    reply = await under_way
    assert (reply.status, reply["X-Invoisys-Outcome"]) == (502, "unknown")
    assert await asyncio.to_thread(proxy.process.wait) == 0
    assert not any(map(is_there, ids))


async def test_a_worker_that_stands_still_does_not_keep_the_others_from_ending(fake: Fake, proxy: Sidecar) -> None:
    ids = await pids(proxy)
    os.kill(ids[0], signal.SIGSTOP)
    proxy.process.signal(signal.SIGTERM)
    await asyncio.to_thread(proxy.process.event, "stopping")
    proxy.process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(proxy.process.wait) == 0
    assert not any(map(is_there, ids))


async def test_signals_that_all_processes_get_count_once(fake: Fake, proxy: Sidecar) -> None:
    """systemd sends SIGTERM to every process of a service, a terminal SIGINT to those in the foreground."""
    await fake.do("answers", mode="slow", delay=1, times=1)
    under_way = asyncio.create_task(proxy.issue(1))
    await fake.reached(requests=1)
    for pid in [*await pids(proxy), proxy.process.child.pid]:
        os.kill(pid, signal.SIGTERM)
    assert (await under_way).status == 200
    assert await asyncio.to_thread(proxy.process.wait) == 0
    assert "stopped" not in {event["event"] for event in proxy.process.events}


# --- Change -----------------------------------------------------------------------------------------------------------


async def reloaded(proxy: Sidecar, event: str = "reloaded") -> dict[str, Any]:
    proxy.process.signal(signal.SIGHUP)
    return await asyncio.to_thread(proxy.process.event, event)


async def test_all_workers_take_a_configuration_and_one_that_starts_later_has_it(fake: Fake, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        binds = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other)]
    config = written(tmp_path, listeners=[{"bind": binds[0]}], workers=2)
    with sidecar(fake.url, "-c", config, LISTEN="") as proxy:
        ids = await pids(proxy)
        written(tmp_path, listeners=[{"bind": binds[1], "rules": ["POST /api/*"]}], workers=3)
        told = await reloaded(proxy)
        assert (told["taken"], told["need_restart"]) == (["listeners"], ["workers"])
        with pytest.raises(ConnectionRefusedError):
            await proxy.issue(1)
        moved = Sidecar(proxy.process, f"http://{binds[1]}", proxy.admin)
        replies = await asyncio.gather(*(moved.ask("GET", LOOK) for _ in range(64)))
        assert {reply.status for reply in replies} == {403}
        os.kill(ids[0], signal.SIGKILL)
        await asyncio.to_thread(proxy.process.event, "worker-started")
        replies = await asyncio.gather(*(moved.ask("GET", LOOK) for _ in range(64)))
        assert {reply.status for reply in replies} == {403}
        assert (await moved.issue(1)).status == 200
    requests = [event for event in proxy.process.events if event["event"] == "request"]
    assert {event["worker"] for event in requests} == {1, 2}


@pytest.mark.parametrize("text", ["nonsense: 1", "apis: {'2.0': {ca_file: /nowhere.pem}}", "listeners: [{bind: '%s'}]"])
async def test_a_broken_configuration_changes_no_worker(fake: Fake, tmp_path: Path, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        bind = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        config = written(tmp_path, listeners=[{"bind": bind}])
        with sidecar(fake.url, "-c", config, LISTEN="", WORKERS="2") as proxy:
            ids = await pids(proxy)
            (tmp_path / "config.yaml").write_text(text.replace("%s", f"127.0.0.1:{taken.getsockname()[1]}"))
            await reloaded(proxy, "reload-refused")
            replies = await asyncio.gather(*(proxy.ask("GET", LOOK) for _ in range(32)))
            assert {reply.status for reply in replies} == {200}
            assert await pids(proxy) == ids


# --- Start ------------------------------------------------------------------------------------------------------------


async def test_an_address_that_another_sidecar_listens_at_is_refused(fake: Fake, proxy: Sidecar) -> None:
    env = environment(fake.url, LISTEN=proxy.url.removeprefix("http://"), WORKERS="2")
    process = Process("run", env=env)
    assert await asyncio.to_thread(process.wait) == 1
    assert "address already in use" in process.errors
    process.stop()


async def test_a_configuration_that_cannot_be_used_is_told_once(fake: Fake, tmp_path: Path) -> None:
    config = written(tmp_path, apis={"2.0": {"ca_file": "/nowhere.pem", "url": fake.url, "token_url": fake.url}})
    process = Process("run", "-c", config, env=environment(fake.url, WORKERS="2"))
    assert await asyncio.to_thread(process.wait) == 2
    assert process.errors.count("/nowhere.pem") == 1
    process.stop()


async def test_a_name_with_several_addresses_is_listened_at_on_each(fake: Fake) -> None:
    with sidecar(fake.url, WORKERS="2", LISTEN="localhost:0") as proxy:
        for url in proxy.urls:
            replies = await asyncio.gather(*(ask(url, "GET", LOOK) for _ in range(16)))
            assert {reply.status for reply in replies} == {200}


async def test_it_tells_systemd_as_one_process_does(fake: Fake, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(PATIENCE)
        env = environment(fake.url, WORKERS="2") | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = Process("run", env=env)
        try:
            assert await asyncio.to_thread(told.recv, 1000) == b"READY=1\nSTATUS=serving"
            process.signal(signal.SIGTERM)
            assert await asyncio.to_thread(told.recv, 1000) == b"STOPPING=1"
        finally:
            process.stop()


def test_the_secrets_of_an_environment_reach_the_workers_alone(fake: Fake) -> None:
    """Nothing of the configuration stands in a command line or in a file: it goes over a socket without a name."""
    with sidecar(fake.url, WORKERS="2") as proxy:
        children = Path(f"/proc/{proxy.process.child.pid}/task/{proxy.process.child.pid}/children").read_text().split()
        assert len(children) == 2
        for pid in children:
            line = Path(f"/proc/{pid}/cmdline").read_text()
            assert PASSWORD not in line
            assert USERNAME not in line
