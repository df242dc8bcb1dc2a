from __future__ import annotations

import asyncio
import base64
import io
import json
import resource
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from yarl import URL

from proxy.fake import PASSWORD, USERNAME, ActionError, FakeInvoisys, keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

FORM = {"grant_type": "password", "username": USERNAME, "password": PASSWORD}
NOTE = {"cnpj": "12345678000195", "modelo": 55, "serie": 1, "numero": 7}
EMIT = "/api/nfe/envio"
DELAYS = {"slow": {"delay": 0.01}}


class Client:
    """A caller that has logged in to one API."""

    def __init__(self, fake: FakeInvoisys, session: aiohttp.ClientSession, base: str) -> None:
        self.fake = fake
        self.url = URL(base)
        self.session = session
        self.headers: dict[str, str] = {}

    async def log_in(self, path: str = "/api/token", **form: str) -> tuple[int, Any]:
        async with self.session.post(path, data=FORM | form) as answer:
            body = await answer.read()
            parsed = json.loads(body) if answer.content_type == "application/json" else body
        if isinstance(parsed, dict) and "access_token" in parsed:
            self.headers = {"Authorization": f"bearer {parsed['access_token']}"}
        return answer.status, parsed

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        async with self.session.request(method, path, headers=self.headers, allow_redirects=False, **options) as answer:
            return answer.status, await answer.read()

    async def emit(self, note: object = None) -> tuple[int, bytes]:
        return await self.call("POST", EMIT, json=note or NOTE)

    async def control(self, method: str, target: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, f"/_fake/{target}", **options) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def caller() -> AsyncIterator[Client]:
    fake = FakeInvoisys()
    base = await fake.start()
    try:
        async with aiohttp.ClientSession(base) as session:
            client = Client(fake, session, base)
            await client.log_in()
            yield client
    finally:
        await fake.stop()


def scenario(test: Callable[[Client], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test as a caller that has logged in to 2.0."""

    async def run() -> None:
        async with caller() as client:
            await test(client)

    def plain() -> None:
        asyncio.run(run())

    return plain


async def exchange(client: Client, path: str, body: bytes = b"{}", *, declared: int | None = None) -> bytes:
    """All bytes that come back on a connection of its own until the fake closes it."""
    reader, writer = await asyncio.open_connection(client.url.host, client.url.port)
    fields = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {declared or len(body)}"]
    fields += [f"{name}: {value}" for name, value in client.headers.items()]
    writer.write("\r\n".join([*fields, "", ""]).encode() + body)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


# --- Logins ---------------------------------------------------------------------------------------------------------


@scenario
async def test_a_login_is_granted_in_the_documented_shape(client: Client) -> None:
    async with client.session.post("/api/token", data=FORM) as answer:
        body = await answer.read()
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    assert [answer.headers[name] for name in ("Cache-Control", "Pragma", "Expires")] == ["no-cache", "no-cache", "-1"]
    token = json.loads(body)["access_token"]
    assert body == b'{"access_token":"%s","token_type":"bearer","expires_in":92843}' % token.encode()


@scenario
async def test_a_login_is_refused_in_the_documented_shapes(client: Client) -> None:
    wrong = {"error": "credenciais_invalidas", "error_description": "Credenciais inválidas."}
    assert await client.log_in(password="x") == (400, wrong)
    assert await client.log_in(grant_type="x") == (400, {"error": "unsupported_grant_type"})
    assert await client.log_in("/v1/token", password="x") == (
        400,
        {"mensagem": "Credenciais inválidas.", "token": None},
    )
    assert (await client.log_in("/v1/token", grant_type=""))[0] == 200
    state = client.fake.state()
    assert (state["logins"], state["logins_granted"], state["logins_refused"]) == (5, 2, 3)


@scenario
async def test_a_login_can_be_made_to_fail(client: Client) -> None:
    seen = {}
    for mode in ("refuse", "grant", "throttle", "error", "empty", "html", "no-token", "slow"):
        client.fake.do("logins", mode=mode, times=1, **({"delay": 0} if mode == "slow" else {}))
        status, body = await client.log_in()
        seen[mode] = status, body
    assert {mode: status for mode, (status, _) in seen.items()} == {
        **dict.fromkeys(("refuse", "grant"), 400),
        "throttle": 429,
        "error": 500,
        **dict.fromkeys(("empty", "html", "no-token", "slow"), 200),
    }
    assert seen["refuse"][1]["error"] == "credenciais_invalidas"
    assert seen["grant"][1]["error"] == "unsupported_grant_type"
    assert seen["empty"][1] == b""
    assert seen["html"][1].startswith(b"<html>")
    assert "access_token" not in seen["no-token"][1]
    assert "access_token" in seen["slow"][1]
    assert (await client.log_in())[0] == 200


@scenario
async def test_a_login_can_be_cut(client: Client) -> None:
    client.fake.do("logins", mode="cut")
    assert await exchange(client, "/api/token") == b""


@scenario
async def test_the_tokens_of_the_two_apis_are_kept_apart(client: Client) -> None:
    receipt = "/v1/nfe-entrada/eventos-nsui/12345678000195/0"
    assert (await client.call("GET", receipt))[0] == 401
    await client.log_in("/v1/token")
    assert (await client.call("GET", receipt))[0] == 200
    assert (await client.emit())[0] == 401


# --- The API --------------------------------------------------------------------------------------------------------


@scenario
async def test_a_document_is_issued_once_and_known_again(client: Client) -> None:
    status, body = await client.emit()
    first, second = json.loads(body), json.loads((await client.emit())[1])
    assert (status, body[:36]) == (200, b'{"dadosDoDocumento":{"chaveDeAcesso"')
    chave = first["dadosDoDocumento"]["chaveDeAcesso"]
    assert chave[43] == keys.check_digit(chave[:43])
    assert first["dadosDoDocumento"]["codigoStatusSEFAZ"] == 100
    assert second["dadosDoDocumento"] == first["dadosDoDocumento"] | {
        "codigoStatusSEFAZ": 204,
        "documentoJaEmitidoAnteriormente": True,
    }
    for path in ("nfe/getbychave", "nfe/getbychaveSTD", "nfce/getbychavedeacesso"):
        assert await client.call("GET", f"/api/{path}/{chave}") == (200, body)
        assert await client.call("GET", f"/api/{path}/{'0' * 44}") == (200, b"null")
    state = client.fake.state(documents=True)
    assert (state["documents"], state["duplicates"]) == (1, 1)
    assert state["emissions"] == {"12345678000195/55/1/7": 2}
    assert state["requests"] == 8
    assert isinstance(state["paths"], dict)
    assert state["paths"][f"POST {EMIT}"] == 2


@scenario
async def test_a_contingency_xml_keeps_its_own_key(client: Client) -> None:
    chave = keys.make_access_key(keys.Natural("12345678000195", "65", "1", "9"))
    path, xml = "/api/nfce/envioxmlcontingencia", f'<infNFe Id="NFe{chave}">'
    _, body = await client.call("POST", path, json={"ambiente": 1, "xml": xml})
    assert json.loads(body)["dadosDoDocumento"]["chaveDeAcesso"] == chave
    asked = {"cnpj": "12345678000195", "serie": "1", "numero": "9"}
    assert await client.call("GET", "/api/nfce/consultarsefazpornumeroserie", json=asked) == (302, body)
    assert await client.call("GET", "/api/nfce/consultarsefazpornumeroserie?numero=8") == (302, b"null")
    _, body = await client.call("POST", path, data=b"\xff no json")
    assert json.loads(body)["dadosDoDocumento"]["chaveDeAcesso"][20:22] == "65"


@scenario
async def test_a_cancellation_is_created(client: Client) -> None:
    assert (await client.call("POST", "/api/nfce/cancelarnfce", json={"numeroNFe": 1}))[0] == 201


@scenario
async def test_events_come_in_pages_of_fifty(client: Client) -> None:
    await client.log_in("/v1/token")
    client.fake.do("inbox", documents=60, size=1000)
    _, body = await client.call("GET", "/v1/cte-entrada/eventos-nsui/12345678000195/5")
    page = json.loads(body)
    assert (page["tipoDoc"], page["nsuiMaxDisponivel"]) == ("CTe", 60)
    assert [event["nsui"] for event in page["documentos"]] == list(range(6, 56))
    xml = base64.b64decode(page["documentos"][0]["xmlEvento"])
    assert len(xml) in {1000, 1001}
    assert xml.startswith(b"<?xml")


@scenario
async def test_an_unknown_path_is_told_only_to_who_is_let_in(client: Client) -> None:
    status, body = await client.call("PUT", "/api/coffee")
    assert (status, body[:42]) == (404, b'{"Message":"No HTTP resource was found tha')
    client.fake.do("revoke")
    assert (await client.call("PUT", "/api/coffee"))[0] == 401


@scenario
async def test_a_long_upload_is_read_and_known_by_its_digest(client: Client) -> None:
    body = b'{"numero":1}'.ljust(33 << 20)
    assert (await client.call("POST", EMIT, data=io.BytesIO(body)))[0] == 200
    emissions = client.fake.state(documents=True)["emissions"]
    assert isinstance(emissions, dict)
    assert len(next(iter(emissions))) == 64


@pytest.mark.parametrize(
    ("shape", "nfe", "nfce"), [("by-path", True, False), ("json", True, True), ("empty", False, False)]
)
def test_a_denial_has_one_of_two_shapes(shape: str, nfe: bool, nfce: bool) -> None:
    async def run(client: Client) -> None:
        client.fake.do("denials", shape=shape)
        for path, full in ((EMIT, nfe), ("/api/nfce/cancelarnfce", nfce)):
            async with client.session.post(path) as answer:
                body = await answer.read()
            assert answer.status == 401
            assert (b"Authorization has been denied" in body, "WWW-Authenticate" in answer.headers) == (full, full)
            assert answer.headers["Content-Length"] == str(len(body))
        assert client.fake.state()["unauthorized"] == 2

    scenario(run)()


# --- Faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "status", "documents"),
    [("error", 500, 0), ("throttle", 429, 0), ("empty", 200, 1), ("unauthorized", 401, 0), ("slow", 200, 1)],
)
def test_an_answer_can_be_disturbed(mode: str, status: int, documents: int) -> None:
    async def run(client: Client) -> None:
        await client.control(
            "POST", "answers", json={"mode": mode, "times": 1, "path": "/api/nfe"} | DELAYS.get(mode, {})
        )
        assert (await client.call("POST", "/api/nfce/cancelarnfce"))[0] == 201
        assert (await client.emit())[0] == status
        assert client.fake.state()["documents"] == documents
        assert (await client.emit())[0] == 200

    scenario(run)()


@scenario
async def test_sefaz_can_be_made_to_say_anything(client: Client) -> None:
    client.fake.do("answers", mode="verdict", times=1)
    data = json.loads((await client.emit())[1])["dadosDoDocumento"]
    assert (data["codigoStatusSEFAZ"], data["status"]["key"]) == (225, 3)
    query = f"/api/nfe/getbychaveSTD/{data['chaveDeAcesso']}"
    client.fake.do("answers", mode="verdict", code=217, times=1)
    assert json.loads((await client.call("GET", query))[1])["dadosDoDocumento"]["codigoStatusSEFAZ"] == 217
    assert (await client.call("GET", query))[1] == b"null"
    client.fake.do("answers", mode="verdict", code=103, issue=True, times=1)
    data = json.loads((await client.emit())[1])["dadosDoDocumento"]
    assert (data["codigoStatusSEFAZ"], data["status"]["key"]) == (103, 4)
    status, body = await client.call("GET", f"/api/nfe/getbychaveSTD/{data['chaveDeAcesso']}")
    assert (status, json.loads(body)["dadosDoDocumento"]["codigoStatusSEFAZ"]) == (200, 100)
    client.fake.do("answers", mode="verdict", code=573)
    status, body = await client.call("POST", "/api/nfce/cancelarnfce")
    assert (status, json.loads(body)["dadosDoDocumento"]["codigoStatusSEFAZ"]) == (201, 573)


@pytest.mark.parametrize("issue", [True, False])
def test_a_cut_before_the_answer(issue: bool) -> None:
    async def run(client: Client) -> None:
        client.fake.do("answers", mode="cut-before", issue=issue)
        assert await exchange(client, EMIT) == b""
        assert client.fake.state()["documents"] == issue

    scenario(run)()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_cut_amid_the_answer(framing: str) -> None:
    async def run(client: Client) -> None:
        client.fake.do("answers", mode="cut-during", framing=framing)
        head, _, body = (await exchange(client, EMIT)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert (b"Transfer-Encoding: chunked" in head) == (framing == "chunked")
        assert b'{"dadosDoDocumento"' in body
        assert b"excecao" not in body
        assert not body.endswith(b"0\r\n\r\n")

    scenario(run)()


@scenario
async def test_a_cut_after_the_answer(client: Client) -> None:
    client.fake.do("answers", mode="cut-after")
    answer = await exchange(client, EMIT)
    assert answer.endswith(b'"excecao":null}')
    assert b"Connection: close" not in answer


@scenario
async def test_an_early_401_comes_before_the_body_and_closes(client: Client) -> None:
    client.fake.do("answers", mode="early-401")
    answer = await exchange(client, EMIT, declared=1 << 20)
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized")
    assert b"Connection: close" in answer


@scenario
async def test_a_denial_comes_before_the_body_and_the_connection_stays(client: Client) -> None:
    client.headers = {}
    reader, writer = await asyncio.open_connection(client.url.host, client.url.port)
    writer.write(b"POST /api/nfce/cancelarnfce HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
    writer.write(b"{}GET /_fake/state HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


# --- Control --------------------------------------------------------------------------------------------------------


@scenario
async def test_actions_come_by_query_by_json_and_by_code(client: Client) -> None:
    status, state = await client.control("POST", "expire?in=60&say=abc")
    assert (status, state["logins"]) == (200, 1)
    assert (await client.log_in())[1]["expires_in"] == "abc"
    await client.control("POST", "expire", json={"in": 60, "say": 0})
    assert (await client.log_in())[1]["expires_in"] == 0
    client.fake.do("expire", **{"in": 60}, say="none")
    assert "expires_in" not in (await client.log_in())[1]
    await client.control("POST", "only-newest?on=true")
    assert client.fake.state() == (await client.control("GET", "state"))[1]
    assert (await client.control("GET", "state?documents=1"))[1]["emissions"] == {}


@scenario
async def test_a_wrong_action_is_refused_with_the_reason(client: Client) -> None:
    assert await client.control("POST", "explode") == (
        400,
        {"error": "no action `explode`; there are reset, revoke, expire, only-newest, denials, inbox, logins, answers"},
    )
    assert await client.control("POST", "reset", json=[1]) == (400, {"error": "the body is no JSON object"})
    status, body = await client.control("GET", "logins")
    assert status == 404
    assert "POST /_fake/logins" in body["error"]
    with pytest.raises(ActionError):
        client.fake.do("explode")


@scenario
async def test_one_can_wait_for_a_count(client: Client) -> None:
    waiting = asyncio.create_task(client.control("GET", "wait?requests=2&logins=1&timeout=5"))
    await client.emit()
    await client.emit()
    status, state = await waiting
    assert (status, state["requests"]) == (200, 2)


@scenario
async def test_waiting_ends(client: Client) -> None:
    status, state = await client.control("GET", "wait?requests=1&timeout=0.01")
    assert (status, state["requests"]) == (408, 0)
    assert (await client.control("GET", "wait?coffee=1"))[0] == 400
    assert (await client.control("GET", "wait?timeout=long"))[0] == 400


# --- Life -----------------------------------------------------------------------------------------------------------


def test_it_can_be_stopped_and_started_again_and_keeps_what_it_knows() -> None:
    async def run() -> None:
        fake = FakeInvoisys(username="a@b.c", password="d", idle_timeout=1)
        await fake.stop()
        for _ in range(2):
            async with aiohttp.ClientSession(await fake.start()) as session:
                await session.post("/api/token", data=FORM | {"username": "a@b.c", "password": "d"})
            await fake.stop()
        assert fake.state()["logins_granted"] == 2

    asyncio.run(run())


def test_stopping_does_not_wait_for_a_slow_answer() -> None:
    async def run() -> None:
        async with caller() as client:
            client.fake.do("answers", mode="slow", delay=60)
            slow = asyncio.create_task(client.emit())
            await client.fake.wait(requests=1)
            async with asyncio.timeout(5):
                await client.fake.stop()
            with pytest.raises(aiohttp.ClientError):
                await slow

    asyncio.run(run())


def test_it_speaks_tls() -> None:
    async def run() -> None:
        authority = trustme.CA()
        server, trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(server)
        authority.configure_trust(trust)
        fake = FakeInvoisys()
        base = await fake.start(ssl_context=server)
        connector = aiohttp.TCPConnector(ssl=trust)
        async with aiohttp.ClientSession(base, connector=connector) as session:
            client = Client(fake, session, base)
            assert (await client.log_in())[0] == 200
            fake.do("answers", mode="early-401")
            assert (await client.emit())[0] == 401
        await fake.stop()
        assert base.startswith("https://127.0.0.1:")

    asyncio.run(run())


def test_an_idle_connection_is_closed_in_time() -> None:
    async def run() -> None:
        fake = FakeInvoisys(idle_timeout=0.05)
        url = URL(await fake.start())
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /_fake/state HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            assert b'"logins":0' in await reader.read()
        writer.close()
        await fake.stop()

    asyncio.run(run())


def test_it_logs_nothing_even_of_malformed_requests(caplog: pytest.LogCaptureFixture) -> None:
    async def run(client: Client) -> None:
        reader, writer = await asyncio.open_connection(client.url.host, client.url.port)
        writer.write(b"no http\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()

    scenario(run)()
    assert [record for record in caplog.records if record.name != "asyncio"] == []


@scenario
async def test_a_thousand_connections_at_once(client: Client) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    streams = await asyncio.gather(*(asyncio.open_connection(client.url.host, client.url.port) for _ in range(1000)))
    for _, writer in streams:
        writer.write(b"POST /api/nfce/cancelarnfce HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    heads = await asyncio.gather(*(reader.readline() for reader, _ in streams))
    assert set(heads) == {b"HTTP/1.1 401 Unauthorized\r\n"}
    for _, writer in streams:
        writer.close()
