from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
import trustme

from proxy.config import EgressProxy
from proxy.errors import (
    CannotConnect,
    CertificateRejected,
    ConfigError,
    ConnectionLost,
    ConnectionRefused,
    ConnectTimedOut,
    EgressRefused,
    NameNotResolved,
    Outcome,
    TlsFailed,
)
from proxy.upstream import Dialler, Pool, trust
from proxy.upstream.egress import egress_from
from proxy.waiting import WaitingRoom
from tests.support.origin import Limits, Visit, assert_free, client, read_all, releasing, upstream
from tests.support.ports import free_port
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.upstream.connection import Connection

GET = b"GET /api/nfe HTTP/1.1\r\nHost: invoisys.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def answer(visit: Visit) -> None:
    while True:
        await visit.head()
        await visit.say(OK)


async def say_nothing(visit: Visit) -> None:
    await visit.gone.wait()


class Authority(NamedTuple):
    """Who certifies upstream, and where that is written."""

    ca: trustme.CA
    file: str

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["h2", "http/1.1"])
        self.ca.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    ca = trustme.CA()
    file = tmp_path_factory.mktemp("trust") / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return Authority(ca, str(file))


def resolve_with(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """Have a name resolved to these addresses, or to this error."""
    loop = asyncio.get_running_loop()
    resolve: Any = loop.getaddrinfo

    async def getaddrinfo(host: str, *more: object, **named: object) -> object:
        if host != "invoisys.test":
            return await resolve(host, *more, **named)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)


# --- Names and addresses ----------------------------------------------------------------------------------------------


async def test_nothing_listens() -> None:
    port = free_port()
    async with client(port) as pool:
        for _ in range(2):
            with pytest.raises(ConnectionRefused, match=rf"^127.0.0.1:{port} refused the connection$") as error:
                await pool.begin()
            assert error.value.outcome is Outcome.NOT_SENT
        assert_free(pool, 1)


async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_with(monkeypatch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    async with client(443, host="invoisys.test") as pool:
        with pytest.raises(
            NameNotResolved, match=r"^the name of invoisys.test:443 could not be resolved: Name or service not known$"
        ) as error:
            await pool.begin()
        assert error.value.outcome is Outcome.NOT_SENT


async def test_a_name_that_is_none() -> None:
    async with client(443, host=f"{'x' * 64}.test") as pool:
        with pytest.raises(NameNotResolved, match=r"could not be resolved: it is no host name$"):
            await pool.begin()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
async def test_whatever_else_goes_wrong(monkeypatch: pytest.MonkeyPatch, raised: OSError, said: str) -> None:
    resolve_with(monkeypatch, raised)
    async with client(443, host="invoisys.test") as pool:
        with pytest.raises(CannotConnect, match=rf"^no connection to invoisys.test:443: {said}$") as error:
            await pool.begin()
        assert type(error.value) is CannotConnect
        assert error.value.outcome is Outcome.NOT_SENT


async def test_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with client(443, host="invoisys.test", connect=0.05) as pool:
        for _ in range(2):
            with pytest.raises(ConnectTimedOut, match=r"^no connection to invoisys.test:443 within 0\.05 s$") as error:
                await pool.begin()
            assert error.value.outcome is Outcome.NOT_SENT


async def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(answer) as origin:
        ports = (free_port(), origin.port)
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        resolve_with(monkeypatch, addresses)
        async with client(443, host="invoisys.test") as pool:
            with releasing(await pool.begin()) as exchange:
                await exchange.send(GET, b"")
                assert await read_all(exchange) == b"hello"
        assert origin.seen == [GET]


async def test_a_connection_that_is_closed_at_once() -> None:
    class Closing:
        host, port = "invoisys.test", 443

        async def __call__(self, make: Any) -> Connection:
            connection = cast("Connection", make())
            connection.closed = True
            return connection

    pool = Pool(cast("Dialler", Closing()), Limits(), 1, WaitingRoom(0))
    with pytest.raises(CannotConnect, match=r"^invoisys.test:443 closed the connection at once$") as error:
        await pool.begin()
    assert error.value.outcome is Outcome.NOT_SENT
    assert_free(pool, 1)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_trusted_certificate(authority: Authority, host: str) -> None:
    tls = authority.server("localhost", "127.0.0.1")
    async with (
        upstream(answer, tls=tls) as origin,
        client(origin.port, host=host, tls=trust(authority.file)) as pool,
    ):
        for _ in range(3):
            with releasing(await pool.begin()) as exchange:
                await exchange.send(GET, b"")
                assert await read_all(exchange) == b"hello"
        assert origin.seen == [GET * 3]
        protocol = origin.visit._transport.get_extra_info("ssl_object").selected_alpn_protocol()
        assert protocol == "http/1.1"


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_end_of_a_body_that_only_the_connection_tells(authority: Authority, loop: str, announced: bool) -> None:
    """A truncated document must never look whole; asyncio's own loop cannot tell the one end from the other."""
    factory = asyncio.SelectorEventLoop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\nno length")
        if announced:
            visit.close()
        else:
            visit.end_unnoticed()
        await visit.gone.wait()

    async def play() -> bytes | None:
        async with (
            upstream(script, tls=authority.server("localhost")) as origin,
            client(origin.port, host="localhost", tls=trust(authority.file)) as pool,
        ):
            with releasing(await pool.begin()) as exchange:
                await exchange.send(GET, b"")
                try:
                    return await read_all(exchange)
                except ConnectionLost:
                    return None

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(play()) == (b"no length" if loop == "uvloop" and announced else None)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_whole_answer_needs_no_announced_end(authority: Authority, announced: bool) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(OK)
        if announced:
            visit.close()
        else:
            visit.end_unnoticed()
        await visit.gone.wait()

    async with (
        upstream(script, tls=authority.server("localhost")) as origin,
        client(origin.port, host="localhost", tls=trust(authority.file)) as pool,
    ):
        for _ in range(2):
            with releasing(await pool.begin()) as exchange:
                await exchange.send(GET, b"")
                assert await read_all(exchange) == b"hello"
                await origin.visits[-1].gone.wait()
        assert origin.seen == [GET, GET]


async def test_large_bodies_both_ways_through_tls(authority: Authority) -> None:
    size = 4 * 1024 * 1024
    body = bytes(range(256)) * (size // 256)

    async def script(visit: Visit) -> None:
        await visit.head()
        taken = await visit.take(size)
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await visit.say(taken)

    async with (
        upstream(script, tls=authority.server("localhost")) as origin,
        client(origin.port, host="localhost", tls=trust(authority.file)) as pool,
    ):
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, body)
            assert await read_all(exchange) == body
            assert exchange.reusable


async def test_a_certificate_of_nobody_we_trust(authority: Authority) -> None:
    async with (
        upstream(answer, tls=authority.server("localhost")) as origin,
        client(origin.port, host="localhost", tls=trust(None)) as pool,
    ):
        with pytest.raises(
            CertificateRejected, match=rf"^the certificate of localhost:{origin.port} was rejected: "
        ) as e:
            await pool.begin()
        assert e.value.outcome is Outcome.NOT_SENT
        assert_free(pool, 1)
        assert b"".join(origin.seen) == b""


async def test_a_certificate_for_another_host(authority: Authority) -> None:
    async with (
        upstream(answer, tls=authority.server("invoisys.test")) as origin,
        client(origin.port, host="localhost", tls=trust(authority.file)) as pool,
    ):
        with pytest.raises(CertificateRejected, match=r"[Hh]ostname mismatch") as error:
            await pool.begin()
        assert error.value.outcome is Outcome.NOT_SENT
        assert b"".join(origin.seen) == b""


async def test_a_server_that_speaks_no_tls(authority: Authority) -> None:
    async def script(visit: Visit) -> None:
        await visit.take(1)
        await visit.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await visit.gone.wait()

    async with (
        upstream(script) as origin,
        client(origin.port, host="localhost", tls=trust(authority.file)) as pool,
    ):
        with pytest.raises(TlsFailed, match=rf"^the TLS handshake with localhost:{origin.port} failed: ") as error:
            await pool.begin()
        assert type(error.value) is TlsFailed
        assert error.value.outcome is Outcome.NOT_SENT
        await origin.visit.gone.wait()
        assert b"GET" not in origin.seen[0]


async def test_a_connection_cut_in_the_handshake(authority: Authority) -> None:
    async def script(visit: Visit) -> None:
        await visit.take(1)
        visit.cut()

    async with (
        upstream(script) as origin,
        client(origin.port, host="localhost", tls=trust(authority.file)) as pool,
    ):
        with pytest.raises(CannotConnect) as error:
            await pool.begin()
        assert error.value.outcome is Outcome.NOT_SENT


async def test_a_handshake_that_takes_too_long(authority: Authority) -> None:
    async with (
        upstream(say_nothing) as origin,
        client(origin.port, host="localhost", tls=trust(authority.file), connect=0.05) as pool,
    ):
        with pytest.raises(ConnectTimedOut) as error:
            await pool.begin()
        assert error.value.outcome is Outcome.NOT_SENT
        await origin.visit.gone.wait()


async def test_a_handshake_may_be_given_up(authority: Authority) -> None:
    async with (
        upstream(say_nothing) as origin,
        client(origin.port, host="localhost", tls=trust(authority.file)) as pool,
    ):
        beginning = asyncio.create_task(pool.begin())
        await origin.arrived.wait()
        await origin.visit.take(1)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        await origin.visit.gone.wait()
        assert_free(pool, 1)


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trust(str(tmp_path / "absent.pem"))
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        trust(str(empty))


def test_certificate_and_name_are_always_checked(authority: Authority) -> None:
    for context in (trust(None), trust(authority.file)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


# --- Through a proxy --------------------------------------------------------------------------------------------------


def through(port: int, *, credentials: str = "", tls: ssl.SSLContext | None = None, connect: float = PATIENCE) -> Pool:
    egress = EgressProxy.parse(f"http://{credentials}127.0.0.1:{port}")
    return Pool(Dialler("localhost", 443, tls, connect, egress), Limits(), 1, WaitingRoom(0))


async def test_a_tunnel_through_a_proxy() -> None:
    async def script(visit: Visit) -> None:
        assert await visit.head() == (
            b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
        )
        await visit.say(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 squid\r\n\r\n")
        await answer(visit)

    async with upstream(script) as origin:
        pool = through(origin.port, credentials="user:p%40ss@")
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert await read_all(exchange) == b"hello"
        assert_free(pool, 1)
        pool.close()


@pytest.mark.parametrize(
    ("env", "host", "expected"),
    [
        ({}, "api.invoisys.test", None),
        ({"HTTPS_PROXY": ""}, "api.invoisys.test", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "api.invoisys.test", "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, "api.invoisys.test", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://one:1", "https_proxy": "http://two:2"}, "api.invoisys.test", "http://one:1"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "api.invoisys.test", None),
        ({"HTTPS_PROXY": "http://u:p@proxy:3128"}, "api.invoisys.test", "http://***@proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.test"}, "api.invoisys.test", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a.test, invoisys.test"}, "api.invoisys.test", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "*"}, "api.invoisys.test", None),
    ],
)
def test_the_proxy_that_the_environment_names(env: dict[str, str], host: str, expected: str | None) -> None:
    egress = egress_from(env, host)
    assert (None if egress is None else str(egress)) == expected


def test_a_proxy_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"^environment variable HTTPS_PROXY: expected a proxy such as ") as error:
        egress_from({"HTTPS_PROXY": "socks5://user:secret@proxy"}, "api.invoisys.test")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "answered 403 to CONNECT$"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 to CONNECT; it wants other credentials$"),
        (b"SSH-2.0-x\r\n\r\n", "answered nonsense to CONNECT$"),
        (b"", "gave no answer to CONNECT$"),
        (b"HTTP/1.1 200 OK\r\n", "gave no answer to CONNECT$"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 16384, "gave no answer to CONNECT$"),
    ],
)
async def test_a_proxy_that_makes_no_tunnel(said: bytes, expected: str) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        if said:
            await visit.say(said)
        visit.close()

    async with upstream(script) as origin:
        pool = through(origin.port, credentials="user:secret@")
        with pytest.raises(EgressRefused, match=expected) as error:
            await pool.begin()
        assert error.value.outcome is Outcome.NOT_SENT
        assert "secret" not in error.value.detail
        assert_free(pool, 1)


async def test_a_proxy_that_is_not_there() -> None:
    port = free_port()
    pool = through(port)
    with pytest.raises(ConnectionRefused, match=rf"^the egress proxy http://127.0.0.1:{port} refused the connection$"):
        await pool.begin()


async def test_a_proxy_that_is_silent() -> None:
    async with upstream(say_nothing) as origin:
        pool = through(origin.port, connect=0.05)
        with pytest.raises(ConnectTimedOut, match=r"^no connection to the egress proxy http://"):
            await pool.begin()
        await origin.visit.gone.wait()
        assert_free(pool, 1)
