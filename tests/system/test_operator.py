"""What an operator may ask of a running sidecar: a new token, an end."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from proxy.asking import ask as ask_plainly
from proxy.config import Bind
from tests.support.config import written
from tests.support.processes import ROOT, Fake, Sidecar, fake_invoisys, sidecar
from tests.support.wire import ask, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACTIONS = ["/refresh", "/quit"]
A_PROBE_WAITS = 3.0
"""Seconds, as deploy/kubernetes has it."""


class Pair(NamedTuple):
    fake: Fake
    proxy: Sidecar


@pytest.fixture(scope="module")
def untouched() -> Iterator[Pair]:
    """For all those tests that show that nothing happens to it."""
    with fake_invoisys() as fake, sidecar(fake.url) as proxy:
        yield Pair(fake, proxy)


async def test_a_token_is_replaced_at_once(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    reply = await ask(proxy.admin, "POST", "/refresh", b"")
    assert (reply.status, reply.json()) == (
        200,
        {"refreshed": [{"account": "default", "api": "2.0", "error": None, "detail": None}]},
    )
    assert (await fake.state())["logins"] == 2
    assert proxy.process.event("login")["reason"] == "first"
    assert proxy.process.event("login")["reason"] == "asked"
    assert (await proxy.issue(1)).status == 200


async def test_a_token_that_cannot_be_replaced_is_told_with_the_reason_and_stays(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    await fake.do("logins", mode="refuse")
    reply = await ask(proxy.admin, "POST", "/refresh", b"")
    (result,) = reply.json()["refreshed"]
    assert (reply.status, result["error"]) == (503, "credentials-refused")
    assert "Credenciais inválidas." in reply.body.decode()
    assert result["next_step"] == proxy.process.event("login-failed")["next_step"]
    assert (await proxy.issue(1)).status == 200


async def test_quit_ends_the_sidecar_as_sigterm_does(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, drain={"delay": "1h"})) as proxy:
        await fake.reached(logins_granted=1)
        assert (await ask(proxy.admin, "POST", "/quit", b"")).status == 202
        proxy.process.event("stopping")
        ready = await ask(proxy.admin, "GET", "/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "draining")
        assert (await ask(proxy.admin, "POST", "/quit", b"")).status == 202  # the second one ends it at once
        assert proxy.process.wait() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_signal_after_quit_cuts_no_request_and_the_next_one_does(fake: Fake, workers: str) -> None:
    """Kubernetes sends SIGTERM when the hook that has called `/quit` has ended."""
    with sidecar(fake.url, WORKERS=workers) as proxy:
        await fake.reached(logins_granted=1)
        await fake.do("answers", mode="slow", delay=1, times=1)
        under_way = asyncio.create_task(proxy.issue(1))
        await fake.reached(requests=1)
        assert (await ask(proxy.admin, "POST", "/quit", b"")).status == 202
        proxy.process.signal(signal.SIGTERM)
        assert (await under_way).status == 200
        assert await asyncio.to_thread(proxy.process.wait) == 0
    assert "stopped" not in {event["event"] for event in proxy.process.events}
    with sidecar(fake.url, WORKERS=workers) as proxy:
        await fake.do("answers", mode="slow", delay=60, times=1)
        under_way = asyncio.create_task(proxy.issue(2))
        await fake.reached(requests=2)
        assert (await ask(proxy.admin, "POST", "/quit", b"")).status == 202
        await asyncio.to_thread(proxy.process.event, "stopping")
        proxy.process.signal(signal.SIGTERM)
        assert (await ask(proxy.admin, "GET", "/livez")).status == 200  # two signals that come at once are one
        assert not under_way.done()
        proxy.process.signal(signal.SIGTERM)
        assert (await under_way)["X-Invoisys-Outcome"] == "unknown"
        assert await asyncio.to_thread(proxy.process.wait) == 0


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_actions_are_post_only(untouched: Pair, action: str, method: str) -> None:
    assert (await ask(untouched.proxy.admin, method, action)).status == 405
    assert (await ask(untouched.proxy.admin, "GET", "/livez")).status == 200


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("fields", "status", "mend"),
    [
        ({"Host": "evil.example"}, 421, "; add it to `admin.hosts`"),
        ({"Host": "localhost.evil.example"}, 421, "; add it to `admin.hosts`"),
        ({"Origin": "http://evil.example"}, 403, "; only this port's own page is"),
        ({"Origin": "null"}, 403, "; only this port's own page is"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, " may not call the sidecar"),
        ({"Sec-Fetch-Site": "same-site"}, 403, " may not call the sidecar"),
    ],
)
async def test_actions_have_the_guard_of_a_listener(
    untouched: Pair, action: str, fields: dict[str, str], status: int, mend: str
) -> None:
    fake, proxy = untouched
    await fake.reached(logins_granted=1)
    reply = await ask(proxy.admin, "POST", action, b"", fields)
    assert reply.status == status
    assert reply["Content-Type"].startswith("application/problem+json")
    assert reply["X-Invoisys-Outcome"] == "not-sent"
    assert reply.json()["detail"].endswith(mend)
    assert (await fake.state())["logins"] == 1
    assert (await ask(proxy.admin, "GET", "/livez")).status == 200


async def test_a_page_of_the_port_itself_may_act(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    own = {"Origin": proxy.admin, "Sec-Fetch-Site": "same-origin"}
    assert (await ask(proxy.admin, "POST", "/refresh", b"", own)).status == 200


async def test_an_origin_is_not_the_port_s_own_because_a_host_says_so(fake: Fake, proxy: Sidecar) -> None:
    rebound = {"Host": "evil.example:9090", "Origin": "http://evil.example:9090"}
    assert (await ask(proxy.admin, "POST", "/quit", b"", rebound)).status == 421
    port = urlsplit(proxy.admin).port
    twice = f"POST /quit HTTP/1.1\r\nHost: localhost:{port}\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"
    assert (await send(proxy.admin, twice.encode())).status in {400, 421}
    assert (await ask(proxy.admin, "GET", "/livez")).status == 200


async def test_further_names_of_the_port(fake: Fake, tmp_path: Path) -> None:
    config = written(tmp_path, admin={"bind": "127.0.0.1:0", "hosts": ["invoisys-proxy"]})
    with sidecar(fake.url, "-c", config, ADMIN="") as proxy:
        await fake.reached(logins_granted=1)
        assert (await ask(proxy.admin, "POST", "/refresh", b"", {"Host": "invoisys-proxy:9090"})).status == 200


STUCK = """
import threading
import proxy.guard

def stand_still(*arguments):
    print("stuck", flush=True)
    threading.Event().wait()

proxy.guard.Guard.check = stand_still
"""


def test_a_stuck_event_loop_is_not_alive(fake: Fake, tmp_path: Path) -> None:
    """The probes are answered by the loop that serves callers, and by no thread beside it."""
    (tmp_path / "sitecustomize.py").write_text(STUCK)
    with sidecar(fake.url, PYTHONPATH=f"{tmp_path}:{ROOT}") as proxy:
        bind = Bind("127.0.0.1", urlsplit(proxy.admin).port or 0)
        assert ask_plainly(bind, "/livez", timeout=A_PROBE_WAITS)[0] == 200
        with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0)) as caller:
            caller.sendall(b"GET /api/nfe/getbychaveSTD/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert "stuck\n" in iter(proxy.process.next_line, "")
            with pytest.raises(TimeoutError):
                ask_plainly(bind, "/livez", timeout=A_PROBE_WAITS)
        proxy.process.child.kill()


def test_a_sidecar_that_stands_still_is_not_healthy(proxy: Sidecar) -> None:
    proxy.process.event("login")
    listen = {"INVOISYS_ADMIN": proxy.admin.removeprefix("http://"), "INVOISYS_USERNAME": "u", "INVOISYS_PASSWORD": "p"}
    proxy.process.signal(signal.SIGSTOP)
    try:
        health = subprocess.run(
            [sys.executable, "-m", "proxy", "health"],
            cwd=ROOT,
            env=listen,
            capture_output=True,
            check=False,
            timeout=30,
        )
    finally:
        proxy.process.signal(signal.SIGCONT)
    assert health.returncode == 1
    assert b"no sidecar answers" in health.stderr
