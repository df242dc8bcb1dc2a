"""The way out through an HTTP proxy: a tunnel, inside which everything is TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from proxy.fake import FakeInvoisys
from tests.support.config import written
from tests.support.processes import sidecar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

AUTHORITY = trustme.CA()


class Tunnels:
    """An HTTP proxy that tunnels, and keeps the heads of what it was asked and the first bytes inside."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.inside: list[bytes] = []
        self.answer = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n"

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            writer.write(self.answer)
            if b" 200 " in self.answer:
                host, _, port = head.split()[1].decode().rpartition(":")
                there, onward = await asyncio.open_connection(host, int(port))
                writers.append(onward)
                await asyncio.gather(self._pump(reader, onward, keep=True), self._pump(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            for each in writers:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keep: bool = False) -> None:
        while data := await reader.read(65536):
            if keep:
                self.inside.append(data)
            writer.write(data)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def upstream(folder: Path) -> AsyncIterator[tuple[FakeInvoisys, str]]:
    """A fake Invoisys over TLS at localhost, with its authority in `ca.pem`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    AUTHORITY.cert_pem.write_to_path(str(folder / "ca.pem"))
    fake = FakeInvoisys()
    url = await fake.start("localhost", ssl_context=context)
    try:
        yield fake, url
    finally:
        await fake.stop()


def config(folder: Path, url: str, **api: object) -> str:
    section = {"url": url, "token_url": f"{url}/api/token", "ca_file": str(folder / "ca.pem"), **api}
    return written(folder, apis={"2.0": section})


FROM_FILE = {"API_2_0_URL": "", "API_2_0_TOKEN_URL": "", "API_3_0_URL": "", "API_3_0_TOKEN_URL": ""}


async def test_requests_and_logins_go_through_the_proxy_with_its_credentials(tmp_path: Path) -> None:
    tunnels = Tunnels()
    async with upstream(tmp_path) as (fake, url), tunnels.open() as where:
        path = config(tmp_path, url, proxy=f"http://user:hunter%402@{where}")
        with sidecar(url, "-c", path, **FROM_FILE) as proxy:
            assert (await proxy.issue(1)).status == 200
            assert (await proxy.issue(2)).status == 200
            proxy.process.stop()
        assert fake.state()["documents"] == 2
    basic = base64.b64encode(b"user:hunter@2")
    authority = url.removeprefix("https://").encode()
    assert len(tunnels.asked) == 2  # one for the login, one for both requests
    for head in tunnels.asked:
        assert head.startswith(b"CONNECT %b HTTP/1.1\r\n" % authority)
        assert b"Proxy-Authorization: Basic %b\r\n" % basic in head
        assert b"earer" not in head
    through = b"".join(tunnels.inside)
    assert b"HTTP/1.1" not in through
    assert b"segredo" not in through
    assert "hunter" not in "".join(proxy.process.lines)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answered 407 to CONNECT; it wants other credentials"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "answered 403 to CONNECT"),
        (b"SSH-2.0\r\n\r\n", "answered nonsense to CONNECT"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000 + b"\r\n", "gave no answer to CONNECT"),
    ],
    ids=["407", "403", "nonsense", "endless"],
)
async def test_a_proxy_that_makes_no_tunnel(tmp_path: Path, answer: bytes, said: str) -> None:
    tunnels = Tunnels()
    async with upstream(tmp_path) as (fake, url), tunnels.open() as where:
        section = {"url": url, "token_url": f"{url}/api/token", "ca_file": str(tmp_path / "ca.pem")}
        path = written(tmp_path, apis={"2.0": section | {"proxy": f"http://user:hunter2@{where}"}})
        with sidecar(url, "-c", path, **FROM_FILE) as proxy:
            # The login goes through while the proxy still tunnels, and this call, after which the connection is closed.
            fake.do("answers", mode="cut-after")
            assert (await proxy.ask("GET", "/api/nfe/getbychaveSTD/1")).status == 200
            tunnels.answer = answer
            refused = await proxy.issue(1)
            proxy.process.stop()
        assert fake.state()["documents"] == 0
    problem = refused.json()
    assert (refused.status, problem["outcome"]) == (502, "not-sent")
    assert problem["type"] == "urn:invoisys-proxy:egress-proxy-refused"
    assert said in problem["detail"]
    assert "hunter2" not in "".join(proxy.process.lines) + problem["detail"]


async def test_a_login_that_the_proxy_refuses(tmp_path: Path) -> None:
    tunnels = Tunnels()
    tunnels.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
    async with upstream(tmp_path) as (_, url), tunnels.open() as where:
        with sidecar(url, "-c", config(tmp_path, url, proxy=f"http://{where}"), **FROM_FILE) as proxy:
            reply = await proxy.issue(1)
    assert (reply.status, reply.json()["outcome"]) == (503, "not-sent")
    assert "the egress proxy refused the tunnel" in reply.json()["detail"]


async def test_the_environment_is_trusted_only_where_it_is_said(tmp_path: Path) -> None:
    tunnels = Tunnels()
    async with upstream(tmp_path) as (_, url), tunnels.open() as where:
        for trust_env, no_proxy, tunnelled in ((True, "", True), (True, "localhost", False), (False, "", False)):
            tunnels.asked.clear()
            env = {"HTTPS_PROXY": f"http://{where}", "NO_PROXY": no_proxy}
            with sidecar(url, "-c", config(tmp_path, url, trust_env=trust_env), **env, **FROM_FILE) as proxy:
                assert (await proxy.issue(1)).status == 200
            assert bool(tunnels.asked) is tunnelled


async def test_the_way_so_far_is_told_only_where_it_is_said(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                seen.append(head)
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(origin, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    listeners = [
        {"bind": "127.0.0.1:0"},
        {"bind": "127.0.0.1:0", "via": True, "forwarded": "forwarded"},
        {"bind": "127.0.0.1:0", "forwarded": "x-forwarded"},
    ]
    fake = FakeInvoisys()
    async with server:
        login = await fake.start()
        settings = {"API_2_0_URL": url, "LISTEN": ""}
        with sidecar(login, "-c", written(tmp_path, listeners=listeners), **settings) as proxy:
            for address in proxy.urls:
                proxy.url = address
                assert (
                    await proxy.ask("GET", "/api/x", headers={"Host": "localhost:1", "Via": "1.0 mine"})
                ).status == 204
        await fake.stop()
    plain, rfc, de_facto = (head.decode() for head in seen)
    assert "orwarded" not in plain
    assert plain.count("Via: ") == rfc.count("Via: ") - 1 == de_facto.count("Via: ") == 1
    assert 'Forwarded: for=127.0.0.1;host="localhost:1";proto=http\r\nVia: 1.1 invoisys-proxy\r\n' in rfc
    assert "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: localhost:1\r\nX-Forwarded-Proto: http\r\n" in de_facto
