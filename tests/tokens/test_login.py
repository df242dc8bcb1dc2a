"""What the token endpoint may answer, and how each answer is read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey

from proxy.config import Credentials, EgressProxy, Secret
from proxy.errors import (
    CredentialsRefused,
    GrantRefused,
    LoginError,
    LoginNonsense,
    LoginServerFailed,
    LoginThrottled,
    LoginTimedOut,
    LoginUnreachable,
)
from proxy.fake import FakeInvoisys
from proxy.tokens import Login, Moment, system_clock
from proxy.tokens.login import Answer, Grant, _cause, _spellings, clock_skew, read_grant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CREDENTIALS = Credentials("integracao@empresa.com.br", Secret("segredo"))


def answer(status: int, body: object, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


@pytest.mark.parametrize(
    ("given", "lifetime"),
    [
        ({"access_token": "abc", "token_type": "bearer", "expires_in": 92843}, 92843),
        ({"access_token": "a.b-c_d~e+f/g==", "token_type": "Bearer", "expires_in": "60"}, 60),
        ({"access_token": "abc", "expires_in": 1.5}, 1.5),
        ({"access_token": "abc", "expires_in": 1}, 1),
        ({"access_token": "abc", "expires_in": 0.9}, 3600),
        ({"access_token": "abc", "expires_in": 0.001}, 3600),
        ({"access_token": "abc", "expires_in": 604800}, 604800),
        ({"access_token": "abc"}, 3600),
        ({"access_token": "abc", "expires_in": 0}, 3600),
        ({"access_token": "abc", "expires_in": -5}, 3600),
        ({"access_token": "abc", "expires_in": True}, 3600),
        ({"access_token": "abc", "expires_in": "soon"}, 3600),
        ({"access_token": "abc", "expires_in": 604801}, 3600),
        ({"access_token": "abc", "expires_in": None}, 3600),
        ({"access_token": "abc", "expires_in": "9" * 5000}, 3600),
    ],
)
def test_a_grant(given: dict[str, object], lifetime: float) -> None:
    grant = read_grant(answer(200, given))
    assert grant.access_token == given["access_token"]
    assert grant.lifetime == lifetime
    assert grant.assumed == (lifetime == 3600)


def test_a_grant_with_a_byte_order_mark() -> None:
    assert read_grant(answer(200, b'\xef\xbb\xbf{"access_token":"abc","expires_in":60}')).lifetime == 60


@pytest.mark.parametrize(
    ("said", "error", "detail"),
    [
        (
            answer(400, {"error": "credenciais_invalidas", "error_description": "Credenciais inválidas."}),
            CredentialsRefused,
            "Invoisys refused the credentials (400: Credenciais inválidas.)",
        ),
        (
            answer(400, {"mensagem": "Credenciais inválidas.", "token": None}),
            CredentialsRefused,
            "Invoisys refused the credentials (400: Credenciais inválidas.)",
        ),
        (
            answer(400, {"error": "invalid_grant"}),
            CredentialsRefused,
            "Invoisys refused the credentials (400: invalid_grant)",
        ),
        (
            answer(400, {"error": "invalid_client"}),
            CredentialsRefused,
            "Invoisys refused the credentials (400: invalid_client)",
        ),
        (answer(401, b""), CredentialsRefused, "Invoisys refused the credentials (401)"),
        (
            answer(400, '{"mensagem":"Usuário inválido"}'.encode("latin-1")),
            CredentialsRefused,
            "Invoisys refused the credentials (400: Usuário inválido)",
        ),
        (
            answer(400, {"error": "unsupported_grant_type"}),
            GrantRefused,
            "the token URL does not take grant_type=password (400: unsupported_grant_type)",
        ),
        (answer(429, b"", Retry_After="7"), LoginThrottled, "the login server asks for fewer logins"),
        (answer(500, b"<html>"), LoginServerFailed, "the login server answered 500"),
        (answer(503, b"<html>"), LoginServerFailed, "the login server answered 503"),
        (answer(404, b"<html>"), LoginNonsense, "the login answered 404"),
        (answer(302, b""), LoginNonsense, "the login answered 302"),
        (answer(400, {"error": "x" * 300 + "\n"}), LoginNonsense, "the login answered 400: " + "x" * 200),
        (answer(200, b""), LoginNonsense, "the login answered with an empty body"),
        (answer(200, b"<html>"), LoginNonsense, "the login answered with something that is not a JSON object"),
        (answer(200, b"[" * 60_000), LoginNonsense, "the login answered with something that is not a JSON object"),
        (
            answer(200, b'{"a":' + b"[" * 60_000),
            LoginNonsense,
            "the login answered with something that is not a JSON object",
        ),
        (answer(200, b"\xff\xfe{"), LoginNonsense, "the login answered with something that is not a JSON object"),
        (answer(200, ["abc"]), LoginNonsense, "the login answered with something that is not a JSON object"),
        (answer(200, {}), LoginNonsense, "the login answered 200 without a usable access_token"),
        (answer(200, {"access_token": 7}), LoginNonsense, "the login answered 200 without a usable access_token"),
        (
            answer(200, {"access_token": "a\r\nX: y"}),
            LoginNonsense,
            "the login answered 200 without a usable access_token",
        ),
        (answer(200, {"access_token": "á"}), LoginNonsense, "the login answered 200 without a usable access_token"),
        (
            answer(200, {"access_token": "a", "token_type": "mac"}),
            LoginNonsense,
            "the login gave a token that is not a bearer token",
        ),
    ],
)
def test_what_is_not_a_grant(said: Answer, error: type[LoginError], detail: str) -> None:
    with pytest.raises(LoginError) as caught:
        read_grant(said)
    assert type(caught.value) is error
    assert caught.value.detail == detail


@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        ("Wed, 21 Oct 2026 07:29:30 GMT", 90),
        ("Wed, 21 Oct 2026 07:00:00 GMT", 0),
        ("Wed, 21 Oct 99999 07:00:00 GMT", None),
        ("soon", None),
    ],
)
def test_a_retry_after_that_is_a_date_is_held_against_the_answers_own(until: str, seconds: float | None) -> None:
    with pytest.raises(LoginThrottled) as caught:
        read_grant(answer(429, b"", Retry_After=until, Date="Wed, 21 Oct 2026 07:28:00 GMT"))
    assert caught.value.retry_after == seconds


async def test_a_password_is_sent_byte_for_byte_even_where_it_is_no_text() -> None:
    async def use(url: str) -> LoginError:
        mine = Credentials("a b&c=d", Secret(b"\xff+%/".decode("utf-8", "surrogateescape")))
        with pytest.raises(LoginError) as caught:
            await Login(url, None, 5)(mine)
        return caught.value

    sent: list[bytes] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
        sent.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    async with server:
        await use(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert b"\r\nContent-Type: application/x-www-form-urlencoded\r\n" in sent[0]
    assert sent[0].endswith(b"\r\n\r\ngrant_type=password&username=a+b%26c%3Dd&password=%FF%2B%25%2F")


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_is_read(status: int) -> None:
    for value, seconds in (("7", 7), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)):
        with pytest.raises((LoginThrottled, LoginServerFailed)) as caught:
            read_grant(answer(status, b"", Retry_After=value))
        assert caught.value.retry_after == seconds


def login(url: str, *, tls: ssl.SSLContext | None = None, limit: float = 10) -> Login:
    return Login(url, tls, limit)


async def failing(url: str, *, tls: ssl.SSLContext | None = None, limit: float = 10) -> LoginError:
    with pytest.raises(LoginError) as caught:
        await login(url, tls=tls, limit=limit)(CREDENTIALS)
    return caught.value


async def test_a_login_in_both_apis() -> None:
    fake = FakeInvoisys()
    url = await fake.start()
    try:
        for path in ("/api/token", "/v1/token"):
            grant = await login(url + path)(CREDENTIALS)
            assert grant.lifetime > 0
            with pytest.raises(CredentialsRefused, match="Credenciais"):
                await login(url + path)(Credentials(CREDENTIALS.username, Secret("wrong")))
        assert fake.state()["logins"] == 4
    finally:
        await fake.stop()


GRANTED = b'{"access_token":"abc","expires_in":60}'


async def test_what_is_sent() -> None:
    sent = bytearray()

    async def grant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.extend(await reader.readuntil(b"\r\n\r\n"))
        sent.extend(await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", sent)[1])))  # type: ignore[index]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(GRANTED), GRANTED))
        writer.close()

    server = await asyncio.start_server(grant, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await login(f"http://127.0.0.1:{port}/api/token")(CREDENTIALS) == Grant("abc", 60)
    head, _, body = bytes(sent).partition(b"\r\n\r\n")
    assert body == b"grant_type=password&username=integracao%40empresa.com.br&password=segredo"
    line, *fields = head.decode().split("\r\n")
    assert line == "POST /api/token HTTP/1.1"
    assert sorted(field for field in fields if not field.startswith("User-Agent:")) == [
        "Accept-Encoding: gzip, deflate",
        "Accept: application/json",
        "Connection: close",
        f"Content-Length: {len(body)}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Host: 127.0.0.1:{port}",
    ]


async def test_a_proxy_on_the_way_out_is_asked_with_its_own_credentials() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    asked: list[bytes] = []
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        for credentials in (None, Secret("user:with:coração")):
            egress = EgressProxy("127.0.0.1", server.sockets[0].getsockname()[1], credentials)
            with pytest.raises(LoginUnreachable, match="the egress proxy refused the tunnel"):
                await Login("https://name.invalid/api/token", None, 10, egress)(CREDENTIALS)
    without, proven = asked
    assert without.startswith(b"CONNECT name.invalid:443 HTTP/1.1\r\n")
    assert b"Authorization" not in without
    assert b"\r\nProxy-Authorization: Basic dXNlcjp3aXRoOmNvcmHDp8Ojbw==\r\n" in proven


async def in_pieces(monkeypatch: pytest.MonkeyPatch, *pieces: bytes) -> Grant:
    """Log in where the body of the answer comes in pieces, each of them once the one before has been read."""
    taken = asyncio.Event()
    read = aiohttp.StreamReader.read

    async def told(self: aiohttp.StreamReader, n: int = -1) -> bytes:
        piece = await read(self, n)
        taken.set()
        return piece

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(map(len, pieces)))
        for piece in pieces:
            writer.write(piece)
            await taken.wait()
            taken.clear()
        writer.close()

    monkeypatch.setattr(aiohttp.StreamReader, "read", told)
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        return await login(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")(CREDENTIALS)


async def test_an_answer_that_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = (b'{"access_token":', b'"abc","expires', b'_in":60}')
    assert await in_pieces(monkeypatch, *pieces) == Grant("abc", 60)


async def test_an_answer_past_64_kib_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = b'{"pad":"' + b"x" * 40_000, b"x" * 30_000 + b'","access_token":"abc"}'
    with pytest.raises(LoginNonsense):
        await in_pieces(monkeypatch, start, end)


async def test_a_redirect_is_not_followed_with_the_password() -> None:
    error = await serve(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", failing
    )
    assert type(error) is LoginNonsense


def test_in_which_ways_credentials_may_be_quoted_the_longer_ones_first() -> None:
    ways = list(_spellings(Credentials("a\udce9", Secret("p@/ &"))))
    password, username = ways[:8], ways[8:]
    assert set(password) == {
        "p@/ &",
        "p@/ &amp;",
        "p%40/%20%26",
        "p%40%2F%20%26",
        "p%40%2F+%26",
        "p@/%20%26",
        "p@%2F%20%26",
        "p@%2F+%26",
    }
    assert [len(way) for way in password] == sorted(map(len, password), reverse=True)
    assert username == ["a%E9", "a\udce9"]


async def test_secrets_that_the_answer_repeats_are_masked() -> None:
    body = b'{"error":"invalid_grant","error_description":"integracao@empresa.com.br/segredo is wrong"}'
    error = await serve(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), failing)
    assert error.detail == "Invoisys refused the credentials (400: ***/*** is wrong)"


@pytest.mark.parametrize(
    "words",
    [
        "username=integracao%40empresa.com.br&password=segredo",
        "x " * 90 + "integracao@empresa.com.br/segredo",
        "INTEGRACAO of integracao@empresa.com.br&#x2F;segredo",
    ],
)
async def test_secrets_are_masked_in_other_spellings_and_before_a_long_text_is_cut(words: str) -> None:
    body = json.dumps({"error": "invalid_grant", "error_description": words}).encode()
    error = await serve(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), failing)
    assert "***" in error.detail
    assert "integr" not in error.detail
    assert "segr" not in error.detail


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
        ("Sun, 06 Nov 1994 08:51:37 GMT", -120.0),
        ("Sun, 06 Nov 1994 07:49:37 GMT", 3600.0),
        ("yesterday", None),
        ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_the_date_of_the_login_server_tells_the_skew(date: str | None, skew: float | None) -> None:
    asked = 784111777.0
    assert clock_skew(date, asked, asked + 1) == skew


@pytest.mark.parametrize("date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_a_date_is_read_alike_wherever_this_machine_stands(date: str, time_of_brasilia: None) -> None:
    assert clock_skew(date, 784111777.0, 784111778.0) == 0.0


async def test_a_clock_that_is_wrong_is_warned_of_once_until_it_is_right(caplog: pytest.LogCaptureFixture) -> None:
    wrong = [90.0]

    def clock() -> Moment:
        now = system_clock()
        return Moment(now.wall + wrong[0], now.monotonic)

    fake = FakeInvoisys()
    url = await fake.start()
    try:
        login = Login(f"{url}/api/token", None, 5, clock=clock)
        assert login.skew is None
        mine = Credentials(fake.username, Secret(fake.password))
        for seconds in (90.0, 90.0, 0.0, -90.0, -90.0):
            wrong[0] = seconds
            await login(mine)
            assert login.skew == pytest.approx(seconds, abs=1.5)
    finally:
        await fake.stop()
    said = [re.sub(r"(89|9[01]) s", "90 s", record.message) for record in caplog.records]
    assert said == [
        "this machine's clock is 90 s ahead of the login server's; let it be set by NTP",
        "this machine's clock is 90 s behind the login server's; let it be set by NTP",
    ]
    assert {vars(record)["event"] for record in caplog.records} == {"clock-skew"}


async def test_a_lifetime_that_is_not_given_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"access_token":"abc"}'
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        login = Login(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", None, 5)
        for _ in range(3):
            assert (await login(CREDENTIALS)).assumed
    assert [(vars(record)["event"], record.message) for record in caplog.records] == [
        ("expires-in-unusable", "the login gave no usable expires_in; the token is taken to live 3600 s")
    ]


async def test_an_endless_answer_is_read_to_a_limit() -> None:
    error = await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000, failing)
    assert type(error) is LoginNonsense


async def test_a_server_that_says_nothing() -> None:
    async def impatiently(url: str) -> LoginError:
        return await failing(url, limit=0.05)

    error = await serve(b"", impatiently)
    assert type(error) is LoginTimedOut
    assert error.detail == "the login was not answered within 0.05 s"


async def serve(reply: bytes, use: Callable[[str], Awaitable[LoginError]]) -> LoginError:
    """Answer one request with the given bytes while `use` runs."""
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        error = await use(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await gone.wait()
    return error


async def test_what_keeps_a_connection_from_being_made() -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        error = await failing(f"http://127.0.0.1:{port}/")
        assert error.detail == "the login server could not be reached: the connection broke off"
    for url, cause in (
        (f"http://127.0.0.1:{port}/", "Connect call failed"),
        ("http://name.invalid/", "could not be resolved"),
    ):
        error = await failing(url)
        assert type(error) is LoginUnreachable
        assert cause in error.detail


def test_a_connection_that_fails_without_a_reason() -> None:
    nowhere = ConnectionKey("localhost", 1, False, True, None, None, None)
    several = OSError("Multiple exceptions: one for each address")
    assert _cause(aiohttp.ClientConnectorError(nowhere, several)) == "the connection failed"


async def test_a_server_that_does_not_speak_tls() -> None:
    fake = FakeInvoisys()
    url = await fake.start()
    try:
        error = await failing(url.replace("http:", "https:"))
    finally:
        await fake.stop()
    assert error.detail == "the login server could not be reached: the TLS handshake failed"


async def test_tls_is_checked() -> None:
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    fake = FakeInvoisys()
    url = await fake.start("127.0.0.1", ssl_context=serving)  # not by its name, which may have a second address
    named = url.replace("127.0.0.1", "localhost")
    try:
        assert (await login(f"{named}/api/token", tls=trusting)(CREDENTIALS)).lifetime > 0
        untrusted = await failing(f"{named}/api/token")
        assert "its certificate was rejected" in untrusted.detail
        misnamed = await failing(f"{url}/api/token", tls=trusting)
        assert "its certificate was rejected" in misnamed.detail
        assert fake.state()["logins"] == 1
    finally:
        await fake.stop()
