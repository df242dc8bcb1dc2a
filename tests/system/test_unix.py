"""Unix sockets of the real program: whose they are, and who may call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.config import written
from tests.support.processes import Process, sidecar
from tests.support.wire import PATIENCE, ask, connect, read_reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Fake

ME = os.getuid()
ANOTHER = ME + 1
PATH = "/api/nfe/getbychaveSTD/1"


async def test_who_called_is_in_the_log(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, LISTEN=f"unix:{tmp_path}/s") as proxy:
        assert (await proxy.ask("GET", PATH)).status == 200
        assert proxy.process.event("request")["peer_uid"] == ME


async def test_who_called_over_tcp_is_not_known(fake: Fake) -> None:
    with sidecar(fake.url) as proxy:
        assert (await proxy.ask("GET", PATH)).status == 200
        assert "peer_uid" not in proxy.process.event("request")


async def test_users_of_the_listener_are_let_in(fake: Fake, tmp_path: Path) -> None:
    listeners = [{"bind": f"unix:{tmp_path}/s", "uids": [ANOTHER, ME]}]
    with sidecar(fake.url, "-c", written(tmp_path, listeners=listeners), LISTEN="") as proxy:
        assert (await proxy.ask("GET", PATH)).status == 200


async def test_other_users_are_told_why_not(fake: Fake, tmp_path: Path) -> None:
    name = tmp_path.name
    listeners = [{"bind": f"unix:{tmp_path}/s", "uids": ["nobody"]}, {"bind": f"unix:@{name}", "uids": [ANOTHER]}]
    with sidecar(fake.url, "-c", written(tmp_path, listeners=listeners), LISTEN="") as proxy:
        for url in proxy.urls:
            reader, writer = await connect(url.replace("@", "\0"))
            writer.write(b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            reply = await read_reply(reader)
            assert (reply.status, reply["X-Invoisys-Outcome"], reply["Connection"]) == (403, "not-sent", "close")
            assert reply.json()["type"] == "urn:invoisys-proxy:forbidden"
            assert f"uid {ME} is not among" in reply.json()["detail"]
            assert await reader.read() == b""
            writer.close()
            said = proxy.process.event("cut-short")
            assert (said["listener"], said["connections"], said["status"]) == (url, 1, 403)
        assert (await fake.state())["requests"] == 0


async def test_the_operators_port_has_the_same(fake: Fake, tmp_path: Path) -> None:
    admin = tmp_path / "admin"
    config = written(tmp_path, admin={"bind": f"unix:{admin}", "socket": {"mode": "0600", "group": os.getgid()}})
    with sidecar(fake.url, "-c", config, ADMIN="") as proxy:
        assert admin.stat().st_mode & 0o777 == 0o600
        assert (await ask(proxy.admin, "GET", "/livez")).status == 200
        second = Process("run", "-c", config, env={"INVOISYS_USERNAME": "a", "INVOISYS_PASSWORD": "b"})
        try:
            assert second.child.wait(PATIENCE) == 1
        finally:
            second.stop()
        assert (await ask(proxy.admin, "GET", "/livez")).status == 200
    assert not admin.exists()


def test_a_user_that_is_not_there(tmp_path: Path) -> None:
    config = written(tmp_path, listeners=[{"bind": f"unix:{tmp_path}/s", "uids": ["nobody-here"]}])
    process = Process("run", "-c", config, env={"INVOISYS_USERNAME": "a", "INVOISYS_PASSWORD": "b"})
    try:
        assert process.wait() == 2
        assert "no user here is named nobody-here" in process.errors
    finally:
        process.stop()
