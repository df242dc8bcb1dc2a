"""Distinctive secrets go through everything that can happen; no byte that comes out of the sidecar holds one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import json
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import pytest
import yaml

from tests.support.canary import Canaries, spellings
from tests.support.processes import ROOT, Process, Sidecar, sidecar
from tests.support.redis import redis_server
from tests.support.wire import PATIENCE, ask, connect
from tests.system.hostile import Hostile, bearer, plain
from tests.system.test_egress import FROM_FILE, Tunnels, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

USERNAME = "canario.usuario@empresa.example"
PASSWORD = 'c4n4ry-Passw0rd &+/="<ção>%41'
FIRST = "first.canary-token_QWxwaGE0MjEzNzY1NDM/MTIz+NDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODk=="
SECOND = "second.canary-token_QmV0YQ5NjU4NzQzMjE/YWJj+ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo=="
CALLER = "caller-canary-9f8e7d6c5b4a39281706"
KEY = "store-key-canary-0a1b2c3d4e5f60718293"
EGRESS = "egress-canary-4f3e2d1c0b"
CANARIES = Canaries(username=USERNAME, password=PASSWORD, first=FIRST, second=SECOND, caller=CALLER, key=KEY)


class Watched:
    """A sidecar whose every byte is kept: what callers got of it, and what it said."""

    def __init__(self, proxy: Sidecar) -> None:
        self.proxy = proxy
        self.answers = b""
        self.command = Path(f"/proc/{proxy.process.child.pid}/cmdline").read_bytes()

    async def send(self, request: bytes, *, to: str | None = None, keep: bool = True) -> bytes:
        """Send raw bytes, and keep everything that comes back until the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await connect(to or self.proxy.url)
            writer.write(request)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(65536):
                    answer += piece
            writer.close()
        self.answers += answer if keep else b""
        return answer

    async def call(self, method: str = "GET", path: str = "/api/x", body: bytes = b"", caller: str = CALLER) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {caller}\r\nConnection: close\r\n"
        return await self.send(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def probe(self) -> None:
        """Ask the operator's port for all it has, and for what it has not."""
        told: dict[str, Any] = {}
        for path in ("/livez", "/readyz", "/startupz", "/metrics", "/status", "/", f"/{FIRST}"):
            reply = await ask(self.proxy.admin, "GET", path, headers={"Authorization": f"Bearer {FIRST}"})
            self.answers += repr(reply).encode() if FIRST not in path else b""
            if path == "/status":
                told = reply.json()
        for request in told["requests"]:
            reply = await ask(self.proxy.admin, "GET", f"/requests/{request['request_id']}")
            assert reply.status == 200
            self.answers += reply.body
        async with asyncio.timeout(PATIENCE):
            reader, writer = await connect(self.proxy.admin)
            writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.answers += await reader.readuntil(b"data: ") + await reader.readuntil(b"\n\n")
            writer.close()
        for line in MALFORMED:
            # aiohttp's own answer tells the sender what it has sent, and nobody else; what is logged is another matter.
            await self.send(line, to=self.proxy.admin, keep=False)

    def places(self) -> dict[str, bytes]:
        process = self.proxy.process
        return {
            "standard output": "".join(process.lines).encode("utf-8", "surrogateescape"),
            "standard error": process.errors.encode("utf-8", "surrogateescape"),
            "answers": self.answers,
            "command line": self.command,
        }


def config(folder: Path, **sections: Any) -> str:
    """A configuration with every secret in a file of its own."""
    for name, secret in (("password", PASSWORD), ("caller", CALLER), ("key", KEY)):
        (folder / name).write_text(secret)
    listener = {"bind": "127.0.0.1:0", "caller_token_file": str(folder / "caller")}
    account = {"username": USERNAME, "password_file": str(folder / "password")}
    everything = {"accounts": {"default": account}, "listeners": [listener], "timeouts": {"login": "2s"}, **sections}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(everything))
    return str(path)


@contextlib.asynccontextmanager
async def watched(
    folder: Path, url: str, *, canaries: Canaries = CANARIES, sections: dict[str, Any] | None = None, **settings: str
) -> AsyncIterator[Watched]:
    """Run a sidecar at its most talkative; at its end, search all that came out of it."""
    by_default = {"USERNAME": "", "PASSWORD": "", "LISTEN": "", "LOG_LEVEL": "debug", "PYTHONASYNCIODEBUG": "1"}
    with sidecar(url, "-c", config(folder, **(sections or {})), **by_default | settings) as proxy:
        here = Watched(proxy)
        yield here
        proxy.process.stop()
    canaries.assert_absent(here.places())


def offending(line: bytes) -> bytes:
    return b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + line + b"\r\n\r\n"


MALFORMED = [
    offending(b"Authorization Bearer " + CALLER.encode()),
    offending(b"Authorization : Bearer " + CALLER.encode()),
    offending(b"Authorization: Bearer " + CALLER.encode() + b"\x00"),
    offending(b"Authorization: Bearer " + CALLER.encode() + b"\r\n folded " + CALLER.encode()),
    offending(b"Authorization: Bearer " + CALLER.encode() + b"\x7f\x01"),
    offending(b"Content-Length: " + CALLER.encode()),
    offending(b"Transfer-Encoding: " + CALLER.encode()),
    offending(b"Host: " + CALLER.encode()),
    offending(b"Origin: " + CALLER.encode()),
    offending(b"Authorization: Bearer " + CALLER.encode() + b"x" * 70_000),
    b"Bearer " + CALLER.encode() + b"\r\n\r\n",
    b"GET /api/x " + CALLER.encode() + b"\r\n\r\n",
    b"GET /api/x HTTP/" + CALLER.encode() + b"\r\n\r\n",
    CALLER.encode() + b" /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %b\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%b\r\n" % (CALLER.encode(), CALLER.encode()),
]


def echoing(target: str, head: bytes, body: bytes, *before: bytes) -> bytes:
    """Quote the token wherever a head has room, and those before it: an Invoisys may remember the rejected one."""
    fields = b""
    for token in (bearer(head), *before):
        in_url = quote(token, safe="").encode()
        fields += b"X-Echo: Bearer %b\r\nSet-Cookie: s=%b; Secure\r\nLocation: /?t=%b\r\nX-%d: %b, b\r\n" % (
            token,
            token,
            in_url,
            len(fields),
            token,
        )
    answer = b"HTTP/1.1 302 Found %b\r\n%bTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n" % (bearer(head), fields)
    return answer + b'2;ext="%b"\r\n{}\r\n0\r\nT: %b\r\n\r\n' % (bearer(head), bearer(head))


def rejecting(once: str) -> Callable[[str, bytes, bytes], bytes]:
    """Say 401 to one token, quoting it, and echo after any other."""

    def answer(target: str, head: bytes, body: bytes) -> bytes:
        if bearer(head) == once.encode():
            return plain("401 Unauthorized", b"", b'WWW-Authenticate: Bearer token="%b"\r\n' % bearer(head))
        return echoing(target, head, body, once.encode())

    return answer


def spoilt(broken: bytes, target: str, head: bytes, body: bytes) -> bytes:
    """Answer in a way that is not HTTP, with the token in it."""
    return broken.replace(b"%b", bearer(head))


BROKEN = [
    b"HTTP/1.1 2x0 %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n%b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: %b\x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\r\n %b\r\n\r\n",
    b"HTTP/1.1 200 %b\x01\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n",
    b"HTTP/1.1 101 %b\r\nUpgrade: %b\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: %b",
    b"%b",
    b"",
]


@pytest.mark.parametrize("form", ["json", "text"])
async def test_calls_of_every_kind(tmp_path: Path, form: str) -> None:
    invoisys = Hostile(FIRST, SECOND)
    async with invoisys.open() as url, watched(tmp_path, url, LOG_FORMAT=form) as here:
        assert b" 200 OK" in await here.call()
        invoisys.answer = echoing
        assert b" 302 \r\n" in await here.call("POST", "/api/nfe/envio", b"{}")
        invoisys.answer = rejecting(FIRST)
        assert b" 302 \r\n" in await here.call("POST", "/api/nfe/envio", b"{}")
        assert {bearer(heard) for heard in invoisys.heard} == {b"", FIRST.encode(), SECOND.encode()}
        invoisys.answer = rejecting(SECOND)
        assert b" 401 " in await here.call()
        for broken in BROKEN:
            invoisys.answer = partial(spoilt, broken)
            assert b" 502 " in await here.call("POST", "/api/nfe/envio", b"{}")
        for request in MALFORMED:
            await here.send(request)
        await here.call("POST", "/api/token", f"username={quote(USERNAME)}&password={quote(PASSWORD)}".encode())
        assert b" 401 " in await here.call(caller=f"{CALLER}-")
        assert b" 404 " in await here.call(path=f"/other?token={CALLER}")
        await here.call(path=f"/api/{CALLER}{CALLER}?token={FIRST}")
        await here.probe()
        invoisys.answer = echoing
        invoisys.go_on.clear()
        invoisys.arrived.clear()
        under_way = asyncio.create_task(here.call("POST", "/api/nfe/envio", b"{}"))
        await invoisys.arrived.wait()
        here.proxy.process.signal(signal.SIGTERM)
        invoisys.go_on.set()
        assert b" 302 \r\n" in await under_way
        assert here.proxy.process.wait() == 0
    said = "".join(here.proxy.process.lines)
    assert "token-echoed" in said or "quotes the token" in said


def quoting(form: str) -> Callable[[str, bytes, bytes], bytes]:
    """A login server that gives back what it was sent, in a form of its own."""

    def answer(target: str, head: bytes, body: bytes) -> bytes:
        sent = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        words = f"{sent['username']} / {sent['password']}"
        page = f"<html>{words}</html>".encode()
        refused: dict[str, object] = {"error": "credenciais_invalidas", "error_description": f"{words} is wrong"}
        in_json: dict[str, dict[str, object]] = {
            "json": refused,
            "json, encoded": refused | {"error_description": body.decode()},
            "json, escaped": refused | {"error_description": html.escape(words)},
            "json, cut": refused | {"error_description": "x " * ((204 - len(words)) // 2) + words},
            "message": {"mensagem": words, "token": None},
            "code": {"error": words},
            "token": {"access_token": words, "token_type": words},
            "type": {"access_token": FIRST, "token_type": words},
            "lifetime": {"access_token": FIRST, "expires_in": words},
        }
        granting = form in {"token", "type", "lifetime"}
        status = {"html": "200 OK", "error": "500 X", "throttle": "429 X", "redirect": "307 X"}.get(form, "400 X")
        fields = b"X-Sent: %b\r\nRetry-After: %b\r\n" % (body, quote(words).encode())
        if form == "malformed":
            return b"HTTP/1.1 200 %b\r\n%b: %b\r\nX\x00: %b\r\n\r\n" % (page, body, body, body)
        if form == "redirect":
            fields += b"Location: /elsewhere?%b\r\n" % body
        content = json.dumps(in_json[form]).encode() if form in in_json else page
        return plain("200 OK" if granting else status, content, fields)

    return answer


FORMS = [
    "json",
    "json, encoded",
    "json, escaped",
    "json, cut",
    "message",
    "code",
    "html",
    "error",
    "throttle",
    "redirect",
    "token",
    "type",
    "lifetime",
    "malformed",
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_login_server_that_quotes_what_it_was_sent(tmp_path: Path, form: str) -> None:
    invoisys = Hostile(FIRST)
    invoisys.login = quoting(form)
    async with invoisys.open() as url, watched(tmp_path, url) as here:
        assert (b" 200 " if form == "lifetime" else b" 503 ") in await here.call()
        await here.probe()
    logins = [heard for heard in invoisys.heard if b"grant_type=password" in heard]
    assert logins
    assert all(heard.startswith(b"POST /api/token ") for heard in logins)


async def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    invoisys = Hostile(FIRST)
    async with invoisys.open() as url:
        async with watched(tmp_path, url, API_2_0_URL="http://127.0.0.1:1") as here:
            assert b" 502 " in await here.call("POST", "/api/nfe/envio", b"{}")
        async with watched(tmp_path, url, API_2_0_TOKEN_URL="http://127.0.0.1:1/api/token") as here:
            assert b" 503 " in await here.call("POST", "/api/nfe/envio", b"{}")


SABOTAGE = """
import proxy.forward.answer
import proxy.tokens.source

def broken(*arguments, **options):
    raise RuntimeError("sabotage")

if {what!r} == "answer":
    proxy.forward.answer.answer_head = broken
else:
    proxy.tokens.source.Token = broken
"""


@pytest.mark.parametrize("what", ["answer", "token"])
async def test_a_defect_and_an_abort(tmp_path: Path, what: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE.format(what=what))
    invoisys = Hostile(FIRST)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONFAULTHANDLER": "1"}
    async with invoisys.open() as url:
        with sidecar(
            url, "-c", config(tmp_path), USERNAME="", PASSWORD="", LISTEN="", LOG_LEVEL="debug", **env
        ) as proxy:
            here = Watched(proxy)
            assert (b" 500 " if what == "answer" else b" 503 ") in await here.call("POST", "/api/nfe/envio", b"{}")
            proxy.process.signal(signal.SIGABRT)
            assert proxy.process.wait() == -signal.SIGABRT
    CANARIES.assert_absent(here.places())
    assert "RuntimeError: sabotage" in "".join(proxy.process.lines)
    assert "Fatal Python error: Aborted" in proxy.process.errors


async def test_the_other_commands(tmp_path: Path) -> None:
    path = config(tmp_path, tokens={"store": "redis://u:%s@127.0.0.1:6379/0" % KEY})  # noqa: UP031 - it reads better
    shown = Canaries(password=PASSWORD, caller=CALLER, key=KEY)  # a user name is no secret to whoever asks `check`
    for arguments in (("check",), ("check", "--strict"), ("health",)):
        process = Process(*arguments, "-c", path, env={"INVOISYS_ADMIN": "127.0.0.1:1"})
        try:
            process.wait()
        finally:
            process.stop()
        shown.assert_absent({"said": ("".join(process.lines) + process.errors).encode()})
        assert ("no sidecar answers" in process.errors) is (arguments == ("health",))


async def test_a_configuration_with_faults_beside_its_secrets(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    account = {"username": USERNAME, "password": PASSWORD, "pasword": PASSWORD}
    api = {"url": f"https://u:{CALLER}@h/", "token_url": f"https://u:{CALLER}@h/", "proxy": f"socks://u:{CALLER}@h"}
    sections = {"accounts": {"default": account}, "apis": {"2.0": api}, "tokens": {"store": f"redi://u:{KEY}@h"}}
    for text in (yaml.safe_dump(sections), f"accounts: {{default: {{password: {PASSWORD}\n: &{KEY}"):
        path.write_text(text)
        process = Process("run", "-c", str(path))
        try:
            assert process.wait() == 2
        finally:
            process.stop()
        secrets = Canaries(password=PASSWORD, caller=CALLER, key=KEY)
        secrets.assert_absent({"said": ("".join(process.lines) + process.errors).encode()})


async def test_a_store_in_a_file(tmp_path: Path) -> None:
    invoisys = Hostile(FIRST, SECOND)
    invoisys.answer = rejecting(FIRST)
    store = tmp_path / "own" / "tokens.json"
    async with invoisys.open() as url:
        async with watched(tmp_path, url, sections={"tokens": {"store": f"file:{store}"}}) as here:
            assert b" 302 \r\n" in await here.call()
        kept = {file.name: file.read_bytes() for file in store.parent.iterdir()}
        assert SECOND.encode() in kept["tokens.json"]  # by design; docs/tokens.md says so
        store.write_text(f'{{"version": 1, "tokens": {{"x": "{SECOND}"}}}}')  # damaged
        invoisys.answer = echoing
        async with watched(tmp_path, url, sections={"tokens": {"store": f"file:{store}"}}) as here:
            assert b" 302 \r\n" in await here.call()
    Canaries(username=USERNAME, password=PASSWORD, caller=CALLER).assert_absent(kept)


@pytest.mark.needs("redis-server")
async def test_a_store_in_redis_with_a_key(tmp_path: Path) -> None:
    invoisys = Hostile(FIRST, SECOND)
    invoisys.answer = rejecting(FIRST)
    with redis_server() as redis:
        tokens = {"store": redis.url, "key_file": str(tmp_path / "key")}
        async with invoisys.open() as url, watched(tmp_path, url, sections={"tokens": tokens}) as here:
            assert b" 302 \r\n" in await here.call()
        names = redis.names()
        assert any(":token:" in name for name in names)
        values = {name: bytes(redis.ask("DUMP", name)) + bytes(redis.ask("GET", name)) for name in names}
    CANARIES.assert_absent({"names": "\n".join(names).encode(), **values})


@pytest.mark.parametrize("status", [b"200 Connection established", b"407 Proxy Authentication Required"])
async def test_an_egress_proxy_that_quotes_its_credentials(tmp_path: Path, status: bytes) -> None:
    tunnels = Tunnels()
    basic = base64.b64encode(f"user:{EGRESS}".encode())
    tunnels.answer = b"HTTP/1.1 %b\r\nX-Echo: %b user:%b\r\n\r\n" % (status, basic, EGRESS.encode())
    async with upstream(tmp_path) as (fake, url), tunnels.open() as where:
        fake.username, fake.password = USERNAME, PASSWORD
        api = {"url": url, "token_url": f"{url}/api/token", "ca_file": str(tmp_path / "ca.pem")}
        sections = {"apis": {"2.0": api | {"proxy": f"http://user:{EGRESS}@{where}"}}}
        canaries = Canaries(egress=EGRESS, username=USERNAME, password=PASSWORD, basic=basic.decode())
        async with watched(tmp_path, url, canaries=canaries, sections=sections, **FROM_FILE) as here:
            answer = await here.call("GET", "/api/nfe/getbychaveSTD/1")
            assert (b" 200 " if status.startswith(b"200") else b" 503 ") in answer
    assert tunnels.asked
    assert all(EGRESS.encode() not in piece and PASSWORD.encode() not in piece for piece in tunnels.inside)


# --- The search itself ------------------------------------------------------------------------------------------------


def test_the_search_finds_what_is_there() -> None:
    assert len(spellings(FIRST)) > len(FIRST) - 12
    for form in (
        PASSWORD.encode(),
        quote(PASSWORD).encode(),
        json.dumps({"p": PASSWORD}).encode(),
        repr(PASSWORD.encode()).encode(),
        PASSWORD.encode().hex().encode(),
        base64.b64encode(b"user:" + PASSWORD.encode()),
        base64.b64encode(b"us:" + PASSWORD.encode() + b"?"),
        base64.b64encode(b"u:" + PASSWORD.encode()),
        PASSWORD[3:15].encode(),
    ):
        assert CANARIES.found_in(b"..." + form + b"...") == ["password"], form
    assert CANARIES.found_in(re.sub(rb"[^ ]{8}", b"........ ", PASSWORD.encode())) == []
    assert CANARIES.found_in(sys.version.encode()) == []
