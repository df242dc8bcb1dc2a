"""Every failure says what is known of the document, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.wire import BrokenOff, Reply, connect, read_reply, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def assert_problem(reply: Reply, status: int, name: str, outcome: str, origin: str) -> None:
    problem = reply.json()
    assert reply["Content-Type"] == "application/problem+json"
    assert (reply.status, problem["status"]) == (status, status)
    assert problem["type"] == f"urn:invoisys-proxy:{name}"
    assert problem["outcome"] == reply["X-Invoisys-Outcome"] == outcome
    assert problem["origin"] == origin
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"]
    assert reply["Proxy-Status"].startswith("invoisys-proxy; error=")


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where connections are not accepted, nor refused: the queue is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_upstream_that_refuses_the_connection_was_not_sent_anything(fake: Fake, nobody: str) -> None:
    with sidecar(fake.url, API_2_0_URL=nobody) as proxy:
        reply = await proxy.issue(1)
    assert_problem(reply, 502, "connection-refused", "not-sent", "upstream")


async def test_a_connection_that_is_not_made_in_time(fake: Fake, deaf: str, tmp_path: Path) -> None:
    config = written(tmp_path, timeouts={"connect": "200ms"})
    with sidecar(fake.url, "-c", config, API_2_0_URL=deaf) as proxy:
        reply = await proxy.issue(1)
    assert_problem(reply, 504, "connect-timeout", "not-sent", "upstream")


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
async def test_a_request_that_upstream_read_before_it_cut_is_never_repeated(
    fake: Fake, proxy: Sidecar, method: str
) -> None:
    await fake.do("answers", mode="cut-before")
    reply = await proxy.ask(method, "/api/nfe/envio", None if method == "GET" else b"{}")
    assert_problem(reply, 502, "connection-lost", "unknown", "upstream")
    assert (await fake.state())["requests"] == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_truncated_answer_is_truncated_for_the_caller(fake: Fake, proxy: Sidecar, framing: str) -> None:
    await fake.do("answers", mode="cut-during", framing=framing)
    with pytest.raises(BrokenOff):
        await proxy.issue(1)
    proxy.process.stop()
    (line,) = (event for event in proxy.process.events if event["event"] == "request")
    assert (line["status"], line["outcome"], line["error"]) == (200, "unknown", "connection-lost")


async def test_a_truncated_answer_to_an_old_caller_does_not_end_as_if_it_were_whole(fake: Fake, proxy: Sidecar) -> None:
    await fake.do("answers", mode="cut-during", framing="chunked")
    reader, writer = await connect(proxy.url)
    writer.write(b"GET /api/nfe/getbychaveSTD/1 HTTP/1.0\r\n\r\n")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await read_reply(reader)
    writer.close()


async def test_an_answer_that_does_not_come_in_time(fake: Fake, tmp_path: Path) -> None:
    await fake.do("answers", mode="slow", delay=20)
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"response": "300ms"})) as proxy:
        reply = await proxy.issue(1)
    assert_problem(reply, 504, "answer-timeout", "unknown", "upstream")
    assert (await fake.state())["requests"] == 1


async def test_an_answer_that_is_not_http(fake: Fake) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with sidecar(fake.url, API_2_0_URL=url) as proxy:
            reply = await proxy.ask("GET", "/api/nfe/getbychaveSTD/1")
    assert_problem(reply, 502, "malformed-answer", "unknown", "upstream")


async def test_a_login_that_does_not_come_in_time(fake: Fake, tmp_path: Path) -> None:
    await fake.do("logins", mode="slow", delay=20)
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"login": "300ms"})) as proxy:
        waited = await proxy.issue(1)
        later = await proxy.issue(2)
    assert_problem(waited, 504, "login-timeout", "not-sent", "login")
    assert_problem(later, 503, "login-failed", "not-sent", "login")
    assert 1 <= int(later["Retry-After"]) <= 2
    assert (await fake.state())["requests"] == 0


@pytest.mark.parametrize(
    ("mode", "name", "reason"),
    [
        ("refuse", "credentials-refused", "Credenciais inválidas."),
        ("grant", "grant-refused", "unsupported_grant_type"),
        ("throttle", "login-throttled", "fewer logins"),
        ("error", "login-server-failed", "500"),
        ("empty", "login-nonsense", "an empty body"),
        ("html", "login-nonsense", "not a JSON object"),
        ("no-token", "login-nonsense", "without a usable access_token"),
        ("cut", "login-unreachable", "broke off"),
    ],
)
async def test_a_login_that_fails_is_told_with_its_reason(fake: Fake, mode: str, name: str, reason: str) -> None:
    await fake.do("logins", mode=mode)
    with sidecar(fake.url) as proxy:
        reply = await proxy.issue(1)
    assert_problem(reply, 503, name, "not-sent", "login")
    assert reason in reply.json()["detail"]
    assert int(reply["Retry-After"]) >= 1
    assert (await fake.state())["requests"] == 0


async def test_a_login_server_that_is_not_there(fake: Fake, nobody: str) -> None:
    with sidecar(fake.url, API_2_0_TOKEN_URL=f"{nobody}/api/token") as proxy:
        reply = await proxy.issue(1)
    assert_problem(reply, 503, "login-unreachable", "not-sent", "login")


async def test_more_waiting_than_may(fake: Fake, tmp_path: Path) -> None:
    await fake.do("logins", mode="slow", delay=1)
    with sidecar(fake.url, "-c", written(tmp_path, limits={"waiting": 5})) as proxy:
        replies = await asyncio.gather(*(proxy.issue(number) for number in range(8)))
    refused = [reply for reply in replies if reply.status != 200]
    assert len(refused) == 3
    for reply in refused:
        assert_problem(reply, 503, "overloaded", "not-sent", "proxy")
        assert reply["Retry-After"] == "1"


async def refused(proxy: Sidecar) -> None:
    """Wait until the listener is closed: what comes on kept connections from then on is refused."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            _, writer = await connect(proxy.url)
            writer.close()


async def test_a_request_that_comes_while_the_sidecar_stops(fake: Fake, proxy: Sidecar) -> None:
    await fake.do("answers", mode="slow", delay=1, times=1)
    kept_reader, kept = await connect(proxy.url)
    under_way = asyncio.create_task(proxy.issue(1))
    await fake.reached(requests=1)
    proxy.process.signal(15)
    await refused(proxy)
    kept.write(b"GET /api/nfe/getbychaveSTD/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    reply = await read_reply(kept_reader)
    assert_problem(reply, 503, "draining", "not-sent", "proxy")
    assert reply["Retry-After"] == "1"
    assert reply["Connection"] == "close"
    finished = await under_way
    assert (finished.status, finished["Connection"]) == (200, "close")
    assert proxy.process.wait() == 0
    kept.close()


REFUSALS = [
    (b"GET http://evil.example/api/x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "bad-target"),
    (b"GET /api/x#y HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "bad-target"),
    (b"CONNECT api.invoisys.com.br:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "method-not-allowed"),
    (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 501, "not-implemented"),
    (
        b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        501,
        "not-implemented",
    ),
    (
        b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
        "not-implemented",
    ),
    (b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "no-such-api"),
    (b"GET /api/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, "misdirected-request"),
    (b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n", 403, "forbidden"),
    (b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403, "forbidden"),
    (b"GET /api/x HTTP/1.1\r\n\r\n", 400, "malformed-request"),
    (b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nsegredo segredo\r\n\r\n", 400, "malformed-request"),
    (
        b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed-request",
    ),
    (b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed-request"),
]


async def test_what_may_not_pass_is_refused_and_never_sent(fake: Fake, proxy: Sidecar) -> None:
    for request, status, name in REFUSALS:
        assert_problem(await send(proxy.url, request), status, name, "not-sent", "caller")
    assert (await fake.state())["requests"] == 0
    proxy.process.stop()
    assert "segredo" not in "".join(proxy.process.lines)


async def test_an_offered_h2c_upgrade_is_ignored(proxy: Sidecar) -> None:
    reply = await send(
        proxy.url,
        b"GET /api/nfe/getbychaveSTD/1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    )
    assert (reply.status, reply.body) == (200, b"null")


async def test_a_listener_with_a_caller_token_and_rules(fake: Fake, tmp_path: Path) -> None:
    token = tmp_path / "caller-token"
    token.write_text("first-token-of-two\nsecond-token-of-two\n")
    listener = {
        "bind": "127.0.0.1:0",
        "caller_token_file": str(token),
        "rules": ["GET /api/nfe/*"],
        "token_endpoint": "deny",
    }
    config = written(tmp_path, listeners=[listener])
    with sidecar(fake.url, "-c", config) as proxy:
        wrong = await proxy.ask("GET", "/api/nfe/getbychaveSTD/1", headers={"Authorization": "Bearer wrong"})
        assert_problem(wrong, 401, "caller-token", "not-sent", "caller")
        assert wrong["WWW-Authenticate"].startswith("Bearer")
        assert_problem(await proxy.ask("GET", "/api/nfe/x"), 401, "caller-token", "not-sent", "caller")
        for word in ("first-token-of-two", "second-token-of-two"):
            right = {"Authorization": f"Bearer {word}"}
            assert (await proxy.ask("GET", "/api/nfe/getbychaveSTD/1", headers=right)).status == 200
            beyond = await proxy.ask("POST", "/api/nfe/envio", b"{}", right)
            assert_problem(beyond, 403, "forbidden", "not-sent", "caller")
    assert (await fake.state())["requests"] == 2


async def test_production_of_the_other_api_is_said_to_be_unknown(fake: Fake) -> None:
    settings = {
        "ENVIRONMENT": "production",
        "API_2_0_URL": fake.url,
        "API_2_0_TOKEN_URL": f"{fake.url}/api/token",
        "API_3_0_URL": "",
        "API_3_0_TOKEN_URL": "",
    }
    with sidecar(fake.url, **settings) as proxy:
        reply = await proxy.ask("GET", "/v1/nfe-entrada/eventos-nsui/1/0")
    assert_problem(reply, 404, "no-such-api", "not-sent", "caller")
    assert "documented" in reply.json()["detail"]


async def test_a_401_is_passed_on_where_no_newer_token_can_be_had(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await fake.do("logins", mode="refuse")
    await fake.do("revoke")
    first = await proxy.issue(2)
    assert first.status == 401
    assert "X-Invoisys-Outcome" not in first
    assert first.json() == {"Message": "Authorization has been denied for this request."}
    assert_problem(await proxy.issue(3), 503, "credentials-refused", "not-sent", "login")


async def test_a_path_that_always_answers_401_cannot_become_a_login_storm(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(0)
    await fake.do("answers", mode="unauthorized", path="/api/nfce")
    replies = [await proxy.ask("GET", "/api/nfce/getbychavedeacesso/1") for _ in range(20)]
    assert {reply.status for reply in replies} == {401}
    assert (await fake.state())["logins"] == 3  # the first, and the two that the floor allows
    assert (await proxy.issue(1)).status == 200
