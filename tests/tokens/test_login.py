"""What the token endpoint may answer, and how each answer is read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from proxy.config import Credentials, Secret
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
from proxy.tokens.login import Answer, clock_skew, read_grant

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
        ({"access_token": "abc", "expires_in": 0.5}, 0.5),
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


def test_a_retry_after_is_read() -> None:
    for value, seconds in (("7", 7), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)):
        with pytest.raises(LoginThrottled) as caught:
            read_grant(answer(429, b"", Retry_After=value))
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


async def test_a_redirect_is_not_followed_with_the_password() -> None:
    error = await serve(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", failing
    )
    assert type(error) is LoginNonsense


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


async def test_a_clock_that_is_wrong_is_warned_of_once_until_it_is_right(caplog: pytest.LogCaptureFixture) -> None:
    wrong = [90.0]

    def clock() -> Moment:
        now = system_clock()
        return Moment(now.wall + wrong[0], now.monotonic)

    fake = FakeInvoisys()
    url = await fake.start()
    try:
        login = Login(f"{url}/api/token", None, 5, clock=clock)
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
    assert [record.message for record in caplog.records] == [
        "the login gave no usable expires_in; the token is taken to live 3600 s"
    ]


async def test_an_endless_answer_is_read_to_a_limit() -> None:
    error = await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000, failing)
    assert type(error) is LoginNonsense


async def test_a_server_that_says_nothing() -> None:
    async def impatiently(url: str) -> LoginError:
        return await failing(url, limit=0.05)

    assert type(await serve(b"", impatiently)) is LoginTimedOut


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
        assert "broke off" in (await failing(f"http://127.0.0.1:{port}/")).detail
    for url, cause in (
        (f"http://127.0.0.1:{port}/", "Connect call failed"),
        ("http://name.invalid/", "could not be resolved"),
    ):
        error = await failing(url)
        assert type(error) is LoginUnreachable
        assert cause in error.detail


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
    url = await fake.start("localhost", ssl_context=serving)
    try:
        assert (await login(f"{url}/api/token", tls=trusting)(CREDENTIALS)).lifetime > 0
        untrusted = await failing(f"{url}/api/token")
        assert "its certificate was rejected" in untrusted.detail
        misnamed = await failing(f"{url.replace('localhost', '127.0.0.1')}/api/token", tls=trusting)
        assert "its certificate was rejected" in misnamed.detail
        assert fake.state()["logins"] == 1
    finally:
        await fake.stop()
