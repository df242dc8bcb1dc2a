"""The commands, their exit codes, and the addresses they listen at."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.fake import PASSWORD, USERNAME
from tests.support.config import written
from tests.support.processes import Fake, Process, Sidecar, sidecar
from tests.support.wire import ask, connect, read_reply, send

if TYPE_CHECKING:
    from collections.abc import Iterator

CREDENTIALS = {"INVOISYS_USERNAME": "someone", "INVOISYS_PASSWORD": "a-secret"}


def ended(*arguments: str, **env: str) -> tuple[int, str, str]:
    """Run a command to its end: its exit code, output and errors."""
    process = Process(*arguments, env=env)
    try:
        code = process.wait()
        return code, "".join(process.lines), process.errors
    finally:
        process.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_cleanly(proxy: Sidecar, number: int) -> None:
    proxy.process.signal(number)
    assert proxy.process.wait() == 0
    assert proxy.process.errors == ""


async def test_a_second_signal_stops_at_once(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, drain={"delay": "1h"})) as proxy:
        proxy.process.signal(signal.SIGTERM)
        proxy.process.event("stopping")
        ready = await ask(proxy.admin, "GET", "/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "draining")
        assert (await proxy.issue(1))["Connection"] == "close"
        proxy.process.signal(signal.SIGTERM)
        assert proxy.process.wait() == 0


async def test_a_request_that_takes_longer_than_the_drain_is_cut(fake: Fake, tmp_path: Path) -> None:
    await fake.do("answers", mode="slow", delay=30)
    with sidecar(fake.url, "-c", written(tmp_path, drain={"timeout": "200ms"})) as proxy:
        with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as caller:
            caller.sendall(b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
            await fake.reached(requests=1)
            assert proxy.process.stop() == 0
            told = caller.recv(1000)
        assert told.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b"\r\nX-Invoisys-Outcome: unknown\r\n" in told
        (line,) = (event for event in proxy.process.events if event["event"] == "request")
        assert line["outcome"] == "unknown"
        assert line["detail"] == "the sidecar stopped before the answer was whole"
        (cut,) = (event for event in proxy.process.events if event["event"] == "drain-cut")
        assert (cut["cut"], cut["finished"], cut["level"]) == (1, 0, "warning")
        assert "by access key" in cut["next_step"]


async def test_an_upload_that_takes_longer_than_the_drain_is_cut_with_a_word(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, drain={"timeout": "200ms"})) as proxy:
        reader, writer = await connect(proxy.url)
        writer.write(b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n")
        writer.write(b"Expect: 100-continue\r\n\r\n{")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        proxy.process.signal(signal.SIGTERM)
        reply = await read_reply(reader)
        assert (reply.status, reply["X-Invoisys-Outcome"], reply["Connection"]) == (503, "not-sent", "close")
        assert proxy.process.wait() == 0
        writer.close()
    assert (await fake.state())["requests"] == 0


async def test_a_caller_that_reads_slowly_gets_its_answer_whole_while_the_sidecar_stops(
    fake: Fake, proxy: Sidecar
) -> None:
    await fake.do("inbox", documents=50, size=200_000)
    reader, writer = await connect(proxy.url)
    writer.write(b"GET /v1/nfe-entrada/eventos-nsui/12345678000195/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await fake.reached(requests=1)
    proxy.process.signal(signal.SIGTERM)
    proxy.process.event("stopping")
    reply = await read_reply(reader)
    assert len(reply.body) > 10_000_000
    assert proxy.process.event("drained")["finished"] == 1
    assert proxy.process.wait() == 0
    writer.close()


def test_wrong_usage() -> None:
    code, _, errors = ended("dance")
    assert code == 2
    assert "dance" in errors


def test_a_configuration_without_credentials() -> None:
    code, output, errors = ended("run")
    assert code == 2
    assert "accounts.default.username" in errors
    assert "accounts.default.password" in errors
    told = json.loads(output)
    assert (told["event"], told["level"]) == ("configuration-refused", "error")
    assert told["message"] == errors.rstrip("\n")
    assert told["next_step"].startswith("Correct what the message names")


def test_a_faulty_configuration_is_told_in_the_form_that_it_asks_for(tmp_path: Path) -> None:
    code, output, _ = ended("run", "-c", written(tmp_path, unknown=1, log={"format": "text"}))
    assert code == 2
    first, *_, last = output.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d error   .*config\.yaml:\d:\d: unknown: unknown key", first)
    assert last.lstrip() == "Correct what the message names, until check is content."


def test_a_password_file_that_is_not_there(tmp_path: Path) -> None:
    code, _, errors = ended("run", INVOISYS_USERNAME="x", INVOISYS_PASSWORD_FILE=str(tmp_path / "absent"))
    assert code == 2
    assert "password_file" in errors
    assert str(tmp_path / "absent") in errors


def test_binding_beyond_loopback_must_be_said() -> None:
    code, _, errors = ended("check", **CREDENTIALS, INVOISYS_LISTEN="0.0.0.0:8080")
    assert code == 2
    assert 'listeners[0].bind: expected a loopback address or a Unix socket, found "0.0.0.0:8080"' in errors
    assert "set listeners[0].expose to true, or listeners[0].caller_token_file" in errors


async def test_an_address_that_is_taken(proxy: Sidecar) -> None:
    code, output, errors = ended("run", **CREDENTIALS, INVOISYS_LISTEN=proxy.url.removeprefix("http://"))
    assert code == 1
    assert "cannot listen" in errors
    told = json.loads(output.splitlines()[-1])
    assert (told["event"], told["message"]) == ("start-failed", errors.rstrip("\n"))
    assert told["next_step"].startswith("End what has the address")


def test_check_prints_the_effective_configuration_without_secrets() -> None:
    code, output, _ = ended("check", **CREDENTIALS)
    assert code == 0
    assert "someone" in output
    assert "a-secret" not in output
    assert "https://sandbox-api.invoisys.com.br" in output


@pytest.fixture
def unsafe() -> Iterator[str]:
    """A configuration that all can read, with a password in it; pytest's own folders keep others out."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = written(folder, accounts={"a": {"username": USERNAME, "password": PASSWORD}})
        Path(file).chmod(0o644)
        yield file


def test_check_warns_of_what_is_unsafe(unsafe: str) -> None:
    code, output, errors = ended("check", "-c", unsafe)
    assert code == 0
    assert f"warning: {unsafe}: holds a secret (accounts.a.password) and can be read by every user; " in errors
    assert f"chmod 600 {unsafe}, or name a file that holds it\n" in errors
    assert PASSWORD not in output + errors


def test_check_strict_takes_it_for_an_error(unsafe: str) -> None:
    code, output, errors = ended("check", "--strict", "-c", unsafe)
    assert code == 2
    assert f"error: {unsafe}: holds a secret" in errors
    assert f"username: {USERNAME}" in output
    Path(unsafe).write_text("listeners: [{bind: 'unix:/tmp/x'}]\nadmin: {bind: 'unix:/tmp/y'}")
    Path(unsafe).chmod(0o600)
    code, _, errors = ended("check", "--strict", "-c", unsafe, **CREDENTIALS)
    assert (code, errors) == (0, "")


async def test_run_warns_of_what_is_unsafe_and_serves(fake: Fake, unsafe: str) -> None:
    with sidecar(fake.url, "-c", unsafe, USERNAME="", PASSWORD="") as proxy:
        assert (await proxy.issue(1)).status == 200
        proxy.process.stop()
    (line,) = (event for event in proxy.process.events if event["event"] == "unsafe-config")
    assert line["level"] == "warning"
    assert line["message"] == f"{unsafe}: holds a secret (accounts.a.password) and can be read by every user"
    assert line["next_step"] == f"chmod 600 {unsafe}, or name a file that holds it"


def test_a_sidecar_leaves_no_core_dump(proxy: Sidecar) -> None:
    limits = Path(f"/proc/{proxy.process.child.pid}/limits").read_text().splitlines()
    (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
    assert core[4] == "0"


def test_schema_is_json() -> None:
    code, output, _ = ended("schema")
    assert code == 0
    assert json.loads(output)["$id"] == "urn:invoisys-proxy:config"


async def test_health(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    where = proxy.admin.removeprefix("http://")
    assert ended("health", **CREDENTIALS, INVOISYS_ADMIN=where) == (0, "ready\n", "")
    proxy.process.stop()
    code, _, errors = ended("health", **CREDENTIALS, INVOISYS_ADMIN=where)
    assert code == 1
    assert "no sidecar answers" in errors


async def test_health_of_a_sidecar_without_a_token(fake: Fake, tmp_path: Path) -> None:
    await fake.do("logins", mode="refuse")
    admin = f"unix:{tmp_path}/admin.sock"
    with sidecar(fake.url, ADMIN=admin) as proxy:
        assert (await proxy.issue(1)).status == 503
        code, _, errors = ended("health", **CREDENTIALS, INVOISYS_ADMIN=admin)
    assert code == 1
    assert errors == (
        "not-ready; Invoisys refused the credentials (400: Credenciais inválidas.)\n"
        "to do: Put the right user name and password in place; a file is read again at once.\n"
    )


@pytest.mark.parametrize(
    "refused", ["limits: {conections: 3}\n", "accounts: {}\nlisteners: 3\n", "environment: moon\ntokens: {store: x}\n"]
)
async def test_health_after_a_configuration_was_refused(fake: Fake, tmp_path: Path, refused: str) -> None:
    """The sidecar goes on with the one that it has; `health` wants no credentials either."""
    path = tmp_path / "config.yaml"
    path.write_text(f"admin: {{bind: 'unix:{tmp_path}/admin.sock'}}\n")
    with sidecar(fake.url, "-c", str(path), ADMIN="") as proxy:
        await fake.reached(logins_granted=1)
        path.write_text(path.read_text() + refused)
        proxy.process.signal(signal.SIGHUP)
        proxy.process.event("reload-refused")
        assert ended("health", "-c", str(path)) == (0, "ready\n", "")
        assert ended("health", INVOISYS_CONFIG=str(path)) == (0, "ready\n", "")
        path.write_text("{")
        assert ended("health", "-c", str(path), INVOISYS_ADMIN=proxy.admin) == (0, "ready\n", "")


def test_health_never_ends_as_for_wrong_usage(tmp_path: Path) -> None:
    """Docker keeps exit code 2 of a health check to itself."""
    path = tmp_path / "config.yaml"
    path.write_text(f"admin: {{bind: 'unix:{tmp_path}/nobody.sock'}}\nunknown: 1\n")
    for settings in ({"INVOISYS_CONFIG": str(path)}, {"INVOISYS_ADMIN": f"unix:{tmp_path}/nobody.sock"}):
        code, output, errors = ended("health", **settings)
        assert (code, output) == (1, "")
        assert f"no sidecar answers at unix:{tmp_path}/nobody.sock: " in errors


async def test_the_probes(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    for path, status, reasons in (
        ("/livez", "ok", ["the event loop turns"]),
        ("/startupz", "ok", ["the configuration is loaded, and the listeners are open"]),
        ("/readyz", "ready", []),
    ):
        reply = await ask(proxy.admin, "GET", path, headers={"Host": "10.1.2.3:9090"})
        assert reply.status == 200
        assert reply.json() == {"status": status, "reasons": reasons}


async def test_readyz_says_why_and_what_to_do_as_the_log_does(fake: Fake) -> None:
    await fake.do("logins", mode="refuse")
    with sidecar(fake.url) as proxy:
        logged = proxy.process.event("login-failed")
        reply = await ask(proxy.admin, "GET", "/readyz")
        told = (await ask(proxy.admin, "GET", "/status")).json()
    assert reply.status == 503
    assert "Credenciais inválidas." in reply.body.decode()  # to be read by a person
    assert reply.json()["next_steps"] == told["next_steps"] == [logged["next_step"]]


async def test_a_unix_socket(fake: Fake, tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with sidecar(fake.url, LISTEN=f"unix:{path}") as proxy:
        assert proxy.url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        reply = await send(proxy.url, b"GET /api/nfe/getbychaveSTD/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reply.status == 200
        code, _, errors = ended("run", **CREDENTIALS, INVOISYS_LISTEN=f"unix:{path}", INVOISYS_ADMIN="127.0.0.1:0")
        assert code == 1
        assert "in use" in errors
    assert not path.exists()


async def test_an_abstract_socket(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, LISTEN=f"unix:@{tmp_path.name}") as proxy:
        assert proxy.url == f"unix:@{tmp_path.name}"


async def test_several_listeners_each_with_its_account(fake: Fake, tmp_path: Path) -> None:
    config = written(
        tmp_path,
        accounts={
            "one": {"username": "integracao@empresa.com.br", "password": "segredo"},
            "two": {"username": "integracao@empresa.com.br", "password": "wrong"},
        },
        listeners=[{"bind": "127.0.0.1:0", "account": "one"}, {"bind": "127.0.0.2:0", "account": "two"}],
    )
    with sidecar(fake.url, "-c", config, USERNAME="", PASSWORD="", LISTEN="") as proxy:
        one, two = proxy.urls
        assert (await ask(one, "GET", "/api/nfe/getbychaveSTD/1")).status == 200
        assert (await ask(two, "GET", "/api/nfe/getbychaveSTD/1")).status == 503


async def test_the_demo_needs_nothing() -> None:
    demo = Process("demo", env={"INVOISYS_LISTEN": "127.0.0.1:0", "INVOISYS_ADMIN": "127.0.0.1:0"})
    try:
        said = demo.event("listening")
        (url,) = said["listeners"]
        banner = "".join(demo.lines)
        (issue, document), (query, _) = re.findall(rf"curl {re.escape(url)}(\S+)(?: -d '(.+)')?", banner)
        issued = (await ask(url, "POST", issue, document.encode())).json()
        assert issued["dadosDoDocumento"]["codigoStatusSEFAZ"] == 100
        assert (await ask(url, "GET", query)).json() == issued
        revoke = re.search(r"curl -X POST (\S+)(/_fake/revoke)", banner)
        assert revoke
        assert (await ask(revoke[1], "POST", revoke[2], b"")).status == 200
        assert (await ask(url, "GET", query)).status == 200
        told = (await ask(said["admin"], "GET", "/status")).json()
        assert [request.get("replayed", False) for request in told["requests"]] == [True, False, False]
        assert (await ask(said["admin"], "GET", "/")).status == 200
    finally:
        assert demo.stop() == 0
    assert "in a browser:\n\n    http://127.0.0.1:" in banner


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("listen", "admin"), [("unix:{}/a b.sock", "unix:@{}"), ("127.0.0.1:0", "127.0.0.1:0")])
async def test_every_line_that_the_demo_prints_works(tmp_path: Path, listen: str, admin: str) -> None:
    named = f"{tmp_path.name}-{os.getpid()}"
    addresses = {"INVOISYS_LISTEN": listen.format(tmp_path), "INVOISYS_ADMIN": admin.format(named)}
    demo = Process("demo", env=addresses)
    try:
        demo.event("listening")
        banner = "".join(demo.lines)
        said = {}
        for line in re.findall(r"^ {4}(curl .+)$", banner, re.MULTILINE):
            run = await asyncio.create_subprocess_exec("sh", "-c", f"{line} -sf", stdout=asyncio.subprocess.PIPE)
            said[line], _ = await run.communicate()
            assert run.returncode == 0, line
    finally:
        assert demo.stop() == 0
    issued, queried, _, ready = said.values()
    assert json.loads(issued)["dadosDoDocumento"]["codigoStatusSEFAZ"] == 100
    assert queried == issued
    assert json.loads(ready)["status"] == "ready"
    assert ("none opens a Unix socket" in banner) is admin.startswith("unix:")


def test_the_fake_refuses_a_bad_script(tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    script.write_text("- {do: dance}\n")
    code, _, errors = ended("fake", "--listen", "127.0.0.1:0", "--script", str(script))
    assert code == 2
    assert "dance" in errors
    assert ended("fake", "--listen", "nowhere")[0] == 2


async def test_text_lines_for_a_person(fake: Fake) -> None:
    with sidecar(fake.url) as proxy:
        await proxy.issue(1)
    config = {"INVOISYS_LOG_FORMAT": "text", "INVOISYS_LISTEN": "127.0.0.1:0", "INVOISYS_ADMIN": "127.0.0.1:0"}
    demo = Process("demo", env=config)
    try:
        while "listening at" not in (line := demo.next_line()):
            pass
        url = line.split("listening at ")[1].split(",")[0]
        await ask(url, "POST", "/api/nfe/envio?senha=oculta", b"{}")
        while "POST" not in (line := demo.next_line()):
            pass
    finally:
        demo.stop()
    assert "200 POST /api/nfe/envio?senha=***" in line
