"""A configuration that is read again: what can change does, without a request lost; the rest is said."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.config import written
from tests.support.ports import free_port
from tests.support.processes import ROOT, Fake, Sidecar, sidecar
from tests.support.wire import PATIENCE, ask, connect, read_reply

REQUEST = b"GET /api/nfe/getbychaveSTD/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def reloaded(proxy: Sidecar, event: str = "reloaded") -> dict[str, object]:
    proxy.process.signal(signal.SIGHUP)
    return await asyncio.to_thread(proxy.process.event, event)


async def test_rules_change_while_callers_stay_connected(fake: Fake, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    config = written(tmp_path, listeners=[{"bind": bind}])
    with sidecar(fake.url, "-c", config, LISTEN="") as proxy:
        reader, writer = await connect(proxy.url)
        writer.write(REQUEST)
        assert (await read_reply(reader)).status == 200
        written(tmp_path, listeners=[{"bind": bind, "rules": ["POST /api/nfe/envio"]}], log={"level": "info"})
        told = await reloaded(proxy)
        assert (told["taken"], told["need_restart"]) == (["listeners"], [])
        writer.write(REQUEST)
        assert (await read_reply(reader)).status == 403
        assert (await proxy.issue(1)).status == 200
        writer.close()
    assert (await fake.state())["logins"] == 1  # the token has stayed


async def test_a_request_under_way_is_finished_by_what_it_began_with(fake: Fake, tmp_path: Path) -> None:
    await fake.do("answers", mode="slow", delay=2, times=1)
    config = written(tmp_path, timeouts={"response": "60s"})
    with sidecar(fake.url, "-c", config) as proxy:
        under_way = asyncio.create_task(proxy.issue(1))
        await fake.reached(requests=1)
        written(tmp_path, timeouts={"response": "1s"})
        assert (await reloaded(proxy))["taken"] == ["timeouts.response"]
        assert (await proxy.issue(2)).status == 200
        assert not under_way.done()
        assert (await under_way).status == 200


async def test_what_is_under_way_outlives_the_end_of_an_earlier_configuration(fake: Fake, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"

    def with_(rule: str, response: str) -> str:
        return written(tmp_path, listeners=[{"bind": bind, "rules": [rule]}], timeouts={"response": response})

    with sidecar(fake.url, "-c", with_("* /api/*", "60s"), LISTEN="") as proxy:
        await fake.do("answers", mode="slow", delay=2, times=1)
        first = asyncio.create_task(proxy.issue(1))
        await fake.reached(requests=1)
        with_("POST /api/*", "60s")
        await reloaded(proxy)  # shares the connections of the one before
        await fake.do("answers", mode="slow", delay=5, times=1)
        second = asyncio.create_task(proxy.issue(2))
        await fake.reached(requests=2)
        with_("POST /api/*", "50s")
        await reloaded(proxy)  # has its own
        assert (await first).status == 200
        assert not second.done()
        assert (await second).status == 200


async def test_listeners_come_and_go(fake: Fake, tmp_path: Path) -> None:
    first, second = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = written(tmp_path, listeners=[{"bind": first}])
    with sidecar(fake.url, "-c", config, LISTEN="") as proxy:
        await fake.do("answers", mode="slow", delay=2, times=1)
        under_way = asyncio.create_task(proxy.issue(1))
        await fake.reached(requests=1)
        written(tmp_path, listeners=[{"bind": second}])
        await reloaded(proxy)
        assert (await ask(f"http://{second}", "GET", "/api/nfe/getbychaveSTD/1")).status == 200
        with pytest.raises(ConnectionRefusedError):
            await proxy.issue(2)
        assert (await under_way).status == 200
    assert (await fake.state())["logins"] == 1


async def test_another_password_is_used_at_once(fake: Fake, tmp_path: Path) -> None:
    accounts = {"default": {"username": "integracao@empresa.com.br", "password": "errado-de-todo"}}
    config = written(tmp_path, accounts=accounts)
    with sidecar(fake.url, "-c", config, USERNAME="", PASSWORD="") as proxy:
        assert (await proxy.issue(1)).status == 503
        written(tmp_path, accounts={"default": accounts["default"] | {"password": "segredo"}})
        assert (await reloaded(proxy))["taken"] == ["accounts.default.password"]
        assert (await proxy.issue(1)).status == 200


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("listeners: [{bind: 8080}]", "listeners[0].bind"),
        ("nonsense: 1", "nonsense"),
        ("environment: production", "a running sidecar stays in sandbox"),
        ("listeners: [{bind: '%s'}]", "address already in use"),
    ],
)
async def test_a_broken_one_is_refused_and_the_old_one_stays(fake: Fake, tmp_path: Path, text: str, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{free_port()}"
        config = written(tmp_path, listeners=[{"bind": bind}])
        with sidecar(fake.url, "-c", config, LISTEN="") as proxy:
            port = taken.getsockname()[1]
            (tmp_path / "config.yaml").write_text(text.replace("%s", f"127.0.0.1:{port}"))
            told = await reloaded(proxy, "reload-refused")
            assert why in str(told["message"])
            assert (await proxy.issue(1)).status == 200
            written(tmp_path, listeners=[{"bind": bind}])
            assert (await reloaded(proxy))["taken"] == []


SABOTAGE = """
from proxy.listener import Listener

take_over, calls = Listener.take_over, []

def broken(self, *arguments):
    calls.append(self)
    if len(calls) == 2:
        raise RuntimeError("sabotage")
    take_over(self, *arguments)

Listener.take_over = broken
"""


async def test_a_defect_leaves_everything_as_it_was(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    binds = [f"127.0.0.1:{free_port()}" for _ in range(3)]

    def with_(rule: str, *binds: str) -> str:
        return written(tmp_path, listeners=[{"bind": bind, "rules": [rule]} for bind in binds])

    path = f"{tmp_path}:{ROOT}"
    with sidecar(fake.url, "-c", with_("GET /api/*", *binds[:2]), LISTEN="", PYTHONPATH=path) as proxy:
        reader, writer = await connect(proxy.url)
        writer.write(REQUEST)
        assert (await read_reply(reader)).status == 200
        with_("POST /api/*", *binds)
        told = await reloaded(proxy, "reload-failed")
        assert "RuntimeError: sabotage" in str(told["exception"])
        assert str(told["next_step"]).startswith("Report it")
        writer.write(REQUEST)  # the one that had been taken over already
        assert (await read_reply(reader)).status == 200
        for url in proxy.urls:
            assert (await ask(url, "GET", "/api/nfe/getbychaveSTD/1")).status == 200
            assert (await ask(url, "POST", "/api/nfe/envio", b"{}")).status == 403
        with pytest.raises(ConnectionRefusedError):
            await connect(f"http://{binds[2]}")
        await reloaded(proxy)
        for bind in binds:
            assert (await ask(f"http://{bind}", "GET", "/api/nfe/getbychaveSTD/1")).status == 403
        writer.close()
    assert (await fake.state())["logins"] == 1


async def test_what_needs_a_restart_is_said(fake: Fake, tmp_path: Path) -> None:
    config = written(tmp_path, drain={"timeout": "20s"})
    with sidecar(fake.url, "-c", config) as proxy:
        written(tmp_path, tokens={"store": f"file:{tmp_path}/kept/tokens.json"}, drain={"timeout": "20s"})
        told = await reloaded(proxy)
        assert told["need_restart"] == ["tokens.store"]
        assert "a restart is needed for tokens.store" in str(told["message"])
        assert (await proxy.issue(1)).status == 200


async def test_a_unix_socket_keeps_its_file_and_takes_other_users(fake: Fake, tmp_path: Path) -> None:
    path, uid = str(tmp_path / "s"), str(os.getuid())

    def with_(mode: str, *uids: str) -> str:
        return written(tmp_path, listeners=[{"bind": f"unix:{path}", "socket": {"mode": mode}, "uids": list(uids)}])

    with sidecar(fake.url, "-c", with_("0600", uid), LISTEN="") as proxy:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(REQUEST)
        assert (await read_reply(reader)).status == 200
        with_("0660", str(int(uid) + 1))
        told = await reloaded(proxy)
        assert (told["taken"], told["need_restart"]) == (["listeners"], ["listeners[0].socket"])
        assert await reader.read() == b""  # they would not be let in any more
        writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(REQUEST)
        assert (await read_reply(reader)).status == 403
        writer.close()
        assert mode_of(Path(path)) == 0o600


async def test_listeners_whose_port_is_chosen_are_kept_each_for_one(fake: Fake, tmp_path: Path) -> None:
    two = [{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.1:0"}]
    with sidecar(fake.url, "-c", written(tmp_path, listeners=two), LISTEN="") as proxy:
        await reloaded(proxy)
        for url in proxy.urls:
            assert (await ask(url, "GET", "/api/nfe/getbychaveSTD/1")).status == 200


async def test_fewer_callers_are_let_in_from_now_on(fake: Fake, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    with sidecar(fake.url, "-c", written(tmp_path, listeners=[{"bind": bind}]), LISTEN="") as proxy:
        _, first = await connect(proxy.url)
        assert (await proxy.issue(1)).status == 200
        written(tmp_path, listeners=[{"bind": bind}], limits={"caller_connections": 1})
        assert (await reloaded(proxy))["taken"] == ["limits.caller_connections"]
        assert (await proxy.issue(2)).json()["detail"] == "1 callers are connected already"
        first.close()


async def test_who_is_cut_short_at_a_listener_that_is_gone_is_told_what_is_known(fake: Fake, tmp_path: Path) -> None:
    first, second = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    drain = {"timeout": "1s"}
    with sidecar(fake.url, "-c", written(tmp_path, listeners=[{"bind": first}], drain=drain), LISTEN="") as proxy:
        assert (await proxy.issue(1)).status == 200
        idle_reader, idle = await connect(proxy.url)
        idle.write(REQUEST)
        assert (await read_reply(idle_reader)).status == 200
        await fake.do("answers", mode="slow", delay=3, times=1)
        under_way = asyncio.create_task(proxy.issue(2))
        await fake.reached(requests=3)
        uploading_reader, uploading = await connect(proxy.url)
        uploading.write(b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        async with asyncio.timeout(PATIENCE):
            while (await shown(proxy))[f'requests_in_flight{{listener="{first}"}}'] < 2:
                pass
        written(tmp_path, listeners=[{"bind": second}], drain=drain)
        await reloaded(proxy)
        while True:  # until it is closed to others
            try:
                (await connect(proxy.url))[1].close()
            except ConnectionRefusedError:
                break
        idle.write(REQUEST)
        assert ((late := await read_reply(idle_reader)).status, late.json()["outcome"]) == (503, "not-sent")
        reply = await read_reply(uploading_reader)
        assert (reply.status, reply["Connection"], reply.json()["outcome"]) == (503, "close", "not-sent")
        reply = await under_way
        assert (reply.status, reply["Connection"], reply.json()["outcome"]) == (502, "close", "unknown")
        assert (await ask(f"http://{second}", "GET", "/api/nfe/getbychaveSTD/1")).status == 200
        for writer in (idle, uploading):
            writer.close()


async def test_it_is_read_again_and_again_under_load_and_no_request_is_lost(fake: Fake, tmp_path: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    config = written(tmp_path, listeners=[{"bind": bind}])
    with sidecar(fake.url, "-c", config, LISTEN="") as proxy:
        going = True

        async def caller(first: int) -> list[int]:
            statuses: list[int] = []
            while going:
                statuses.append((await proxy.issue(first + len(statuses))).status)
            return statuses

        callers = [asyncio.create_task(caller(number * 100_000)) for number in range(8)]
        for number in range(20):
            written(tmp_path, listeners=[{"bind": bind}], timeouts={"response": f"{60 + number}s"})
            await reloaded(proxy)
        going = False
        statuses = [status for each in await asyncio.gather(*callers) for status in each]
    assert set(statuses) == {200}
    state = await fake.state()
    assert (state["documents"], state["duplicates"], state["logins"]) == (len(statuses), 0, 1)


async def test_what_is_limited_together_is_so_whatever_configuration_a_request_began_with(
    fake: Fake, tmp_path: Path
) -> None:
    bind = f"127.0.0.1:{free_port()}"

    def with_(waiting: int, *binds: str, response: str = "60s", level: str = "info") -> str:
        return written(
            tmp_path,
            listeners=[{"bind": each} for each in (bind, *binds)],
            limits={"connections": 1, "waiting": waiting},
            timeouts={"response": response},
            drain={"timeout": "1s"},
            log={"level": level},
        )

    async def assert_full(proxy: Sidecar, number: int) -> None:
        told = await shown(proxy)
        assert (told["requests_waiting"], told["requests_waiting_limit"]) == (1, 1)
        assert told["held_bytes"] > 0
        reply = await proxy.issue(number)
        assert (reply.status, reply.json()["detail"]) == (503, "1 requests are waiting already")

    with sidecar(fake.url, "-c", with_(2), LISTEN="") as proxy, socket.create_server(("127.0.0.1", 0)) as taken:
        await fake.do("answers", mode="slow", delay=60, times=1)
        first = asyncio.create_task(proxy.issue(1))
        await fake.reached(requests=1)
        waits = asyncio.create_task(proxy.issue(2))
        async with asyncio.timeout(PATIENCE):
            while (await shown(proxy))["requests_waiting"] == 0:
                pass
        with_(1, level="debug")
        await reloaded(proxy)  # the same connections
        await assert_full(proxy, 3)
        with_(1, response="50s")
        await reloaded(proxy)  # others
        await fake.do("answers", mode="slow", delay=60, times=1)
        second = asyncio.create_task(proxy.issue(4))
        await fake.reached(requests=2)
        await assert_full(proxy, 5)
        with_(9, f"127.0.0.1:{taken.getsockname()[1]}")
        await reloaded(proxy, "reload-refused")
        await assert_full(proxy, 6)
        waits.cancel()
        async with asyncio.timeout(PATIENCE):
            while (await shown(proxy))["requests_waiting"] == 1:
                pass
    assert {reply.status for reply in await asyncio.gather(first, second)} == {502}


async def test_what_has_grown_goes_on_growing_where_connections_and_tokens_are_others(
    fake: Fake, tmp_path: Path
) -> None:
    bind = f"127.0.0.1:{free_port()}"

    def with_(response: str) -> str:
        return written(tmp_path, listeners=[{"bind": bind}], timeouts={"response": response})

    grown = [
        'pool_connections_opened_total{api="2.0"}',
        'pool_connections_reused_total{api="2.0"}',
        'token_rejections_total{account="default",api="2.0"}',
    ]
    stopped = 'pool_connections_closed_total{api="2.0",cause="stopped"}'
    with sidecar(fake.url, "-c", with_("60s"), LISTEN="") as proxy:
        assert (await proxy.issue(1)).status == 200
        await fake.do("revoke")
        assert (await proxy.issue(2)).status == 200
        before = await shown(proxy)
        assert [before[each] for each in grown] == [1, 2, 1]
        for number in (1, 2):
            with_(f"{50 + number}s")
            await reloaded(proxy)
            told = await shown(proxy)
            assert [told[each] for each in grown] == [number, 2, 1]
            assert (await proxy.issue(2 + number)).status == 200
            async with asyncio.timeout(PATIENCE):
                while (told := await shown(proxy))[stopped] < number:
                    pass
            assert [told[each] for each in grown] == [1 + number, 2, 1]
            assert told['pool_connections{api="2.0",state="idle"}'] == 1


async def test_a_refused_one_leaves_no_trace_in_the_metrics(fake: Fake, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{free_port()}"
        config = written(tmp_path, listeners=[{"bind": bind}])
        with sidecar(fake.url, "-c", config, LISTEN="") as proxy:
            assert (await proxy.issue(1)).status == 200
            before = await shown(proxy)
            other = {"username": "outra@empresa.com.br", "password": "segredo"}
            written(
                tmp_path,
                listeners=[{"bind": bind}, {"bind": f"127.0.0.1:{taken.getsockname()[1]}", "account": "other"}],
                accounts={"default": {"username": "x", "password": "y"}, "other": other},
                timeouts={"response": "50s"},
            )
            await reloaded(proxy, "reload-refused")
            after = await shown(proxy)
            assert after.keys() == before.keys()
            assert after[token := 'token_generation{account="default",api="2.0"}'] == before[token] == 1
            assert after['pool_connections_opened_total{api="2.0"}'] == 1


async def test_an_account_that_is_gone_is_gone_from_the_metrics(fake: Fake, tmp_path: Path) -> None:
    def with_(*names: str) -> str:
        accounts = {name: {"username": "integracao@empresa.com.br", "password": "segredo"} for name in names}
        listeners = [{"bind": f"127.0.0.1:{port}", "account": name} for name, port in zip(names, ports, strict=False)]
        return written(tmp_path, listeners=listeners, accounts=accounts)

    ports = [free_port(), free_port()]
    with sidecar(fake.url, "-c", with_("default", "branch"), LISTEN="", USERNAME="", PASSWORD="") as proxy:
        assert (await proxy.issue(1)).status == 200
        counted = 'logins_total{account="default",api="2.0",reason="first",result="granted"}'
        assert (await shown(proxy))[counted] == 1
        with_("default")
        await reloaded(proxy)
        gone = (f'listener="127.0.0.1:{ports[1]}"', 'account="branch"')
        async with asyncio.timeout(PATIENCE):
            while gone[0] in (told := await told_by(proxy)):
                assert gone[1] not in told
        assert gone[1] not in told
        assert (await shown(proxy))[counted] == 1


async def shown(proxy: Sidecar) -> dict[str, float]:
    """Return what the metrics of our own tell, by name and labels."""
    lines = (await told_by(proxy)).splitlines()
    ours = [line.removeprefix("invoisys_proxy_").rpartition(" ") for line in lines if line.startswith("invoisys_")]
    return {name: float(number) for name, _, number in ours}


def mode_of(file: Path) -> int:
    return file.stat().st_mode & 0o777


async def told_by(proxy: Sidecar) -> str:
    return (await ask(proxy.admin, "GET", "/metrics")).body.decode()
