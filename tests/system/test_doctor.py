"""The doctor as a command: what it tries, what it leaves alone, what it says in which form."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme

from proxy.fake import PASSWORD
from tests.support.config import written
from tests.support.origin import upstream
from tests.support.ports import free_port
from tests.support.processes import ROOT, Fake, Process, Sidecar, environment, sidecar

if TYPE_CHECKING:
    from tests.support.origin import Visit

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


class Said(NamedTuple):
    """What `doctor --json` said."""

    code: int
    report: dict[str, Any]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The steps of that name."""
        return [step for step in self.report["steps"] if step["step"] == name]

    @property
    def findings(self) -> list[tuple[str, str]]:
        """Step and cause of each finding."""
        return [(step["step"], step["cause"]) for step in self.report["steps"] if step["cause"] is not None]


async def doctor(at: str, *arguments: str, **settings: str) -> Said:
    """Run it before `at`, with addresses of its own unless others are given."""
    env = environment(at, **settings)
    process = Process("doctor", "--json", *arguments, env=env)
    try:
        code = await asyncio.to_thread(process.wait)
        assert process.errors == ""
        output = "".join(process.lines)
    finally:
        process.stop()
    assert "segredo" not in output
    return Said(code, json.loads(output))


def beside(proxy: Sidecar) -> dict[str, str]:
    """The addresses of a sidecar that runs."""
    return {"LISTEN": proxy.url.removeprefix("http://"), "ADMIN": proxy.admin.removeprefix("http://")}


async def test_all_is_well(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    said = await doctor(fake.url, **beside(proxy))
    assert said.code == 0
    assert said.report["verdict"] == "ok"
    steps = [step["step"] for step in said.report["steps"]]
    assert steps == [
        *("configuration", "variables", "permissions", "store", "dns", "tcp", "clock", "login", "login"),
        *("sidecar", "metrics", "listener"),
    ]
    assert {step["verdict"] for step in said.report["steps"]} == {"ok"}
    assert all(step["duration_ms"] >= 0 for step in said.report["steps"])
    assert (await fake.state())["documents"] == 0


def open_to_all(folder: Path) -> Path:
    folder.chmod(0o755)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    return password


async def test_a_secret_that_others_can_read(fake: Fake) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders keep others out
        password = open_to_all(Path(name))
        said = await doctor(fake.url, PASSWORD="", PASSWORD_FILE=str(password))
    assert said.code == 1
    assert said.findings == [("permissions", "unsafe-file")]
    assert f"chmod 600 {password}" in said.of("permissions")[0]["text"]


async def test_the_form_is_the_one_that_is_documented(fake: Fake) -> None:
    said = await doctor(fake.url)
    (example,) = (json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    assert example.keys() == said.report.keys()
    assert example["steps"][0].keys() == said.report["steps"][0].keys()
    told = set(re.findall(r"^\| `([a-z-]+)` \| (?:\||each|the operator)", PAGE, re.MULTILINE))
    assert told >= {step["step"] for step in said.report["steps"]}


async def test_each_step_is_documented(fake: Fake, tmp_path: Path) -> None:
    """With TLS through an egress proxy, and beside a running sidecar, there are all steps there can be."""
    with sidecar(fake.url) as proxy:
        config = written(tmp_path, apis={"2.0": {"proxy": "http://127.0.0.1:9"}})
        said = await doctor(fake.url, "-c", config, API_2_0_URL="https://localhost:9", **beside(proxy))
    listed = re.findall(r"^\| `([a-z-]+)` \| (?:\||each|the operator)", PAGE, re.MULTILINE)
    assert list(dict.fromkeys(step["step"] for step in said.report["steps"])) == listed


async def test_what_needs_a_step_that_failed_is_not_tried_and_all_else_is(fake: Fake) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        said = await doctor(fake.url, API_2_0_URL=nobody, API_2_0_TOKEN_URL=f"{nobody}/api/token")
    assert said.code == 1
    assert said.findings == [("tcp", "connection-refused")]
    where = nobody.removeprefix("http://")
    for step in said.report["steps"]:
        of_it = step["about"] in (where, "default to API 2.0") and step["step"] not in ("dns", "tcp")
        assert (step["verdict"] == "not-tried") is of_it
        if of_it:
            assert step["text"] == f"not tried, since tcp of {where} failed"
    assert [step["verdict"] for step in said.of("login")] == ["not-tried", "ok"]


async def test_a_configuration_that_cannot_be_used_ends_it(fake: Fake) -> None:
    said = await doctor(fake.url, PASSWORD="", LISTEN="0.0.0.0:80")
    assert said.code == 2
    assert said.findings == [("configuration", "configuration")]
    (step,) = said.report["steps"]
    assert len(step["text"].splitlines()) == 2  # every fault at once
    assert "docs/configuration.md" in step["mend"]


async def test_a_token_in_a_shared_store_is_used_and_no_login_is_made(fake: Fake, tmp_path: Path) -> None:
    config = written(tmp_path, tokens={"store": f"file:{tmp_path}/own/tokens.json"})
    with sidecar(fake.url, "-c", config) as proxy:
        await fake.reached(logins_granted=1)
        await asyncio.to_thread(proxy.process.event, "login")
        said = await doctor(fake.url, "-c", config, **beside(proxy))
        assert (await proxy.issue(1)).status == 200
    assert said.code == 0
    known, new = said.of("login")
    assert known["text"].startswith("the store has a token that is good until ")
    assert known["text"].endswith("; no login was made")
    assert new["text"].startswith("Invoisys gave a token that is good until ")
    again = await doctor(fake.url, "-c", config)
    assert [step["text"].endswith("; no login was made") for step in again.of("login")] == [True, True]
    state = await fake.state()
    assert (state["logins"], state["unauthorized"]) == (2, 2)  # its own HEAD, which has no token, each time


async def test_a_login_beside_a_sidecar_loses_no_request_where_only_the_newest_token_counts(
    fake: Fake, proxy: Sidecar
) -> None:
    await fake.do("only-newest")
    assert (await proxy.issue(1)).status == 200
    assert (await doctor(fake.url, **beside(proxy))).code == 0
    assert (await proxy.issue(2)).status == 200
    state = await fake.state()
    assert (state["documents"], state["unauthorized"]) == (2, 2)  # one of them is its own HEAD


async def test_the_folder_of_a_store_is_left_for_the_sidecar_to_make(fake: Fake, tmp_path: Path) -> None:
    config = written(tmp_path, tokens={"store": f"file:{tmp_path}/not/there/tokens.json"})
    said = await doctor(fake.url, "-c", config)
    assert said.code == 0
    assert said.of("store")[0]["text"] == f"{tmp_path}/not/there is not there yet; the sidecar will make it"
    assert not (tmp_path / "not").exists()
    config = written(tmp_path, tokens={"store": "file:/proc/1/not/there/tokens.json"})
    said = await doctor(fake.url, "-c", config)
    assert said.findings == [("store", "store-failed")]
    assert "cannot be made in /proc/1" in said.of("store")[0]["text"]


async def certified(folder: Path, days: int, *, proxied: bool = False) -> Said:
    """Try a server whose certificate lasts so many days."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    authority.issue_cert("localhost", not_before=end - timedelta(days=90), not_after=end).configure_cert(tls)

    async def script(visit: Visit) -> None:
        while True:
            await visit.head()
            await visit.say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n")

    async with upstream(script, tls=tls) as origin:
        url = f"https://localhost:{origin.port}"
        config = written(folder, apis={"2.0": {"ca_file": str(folder / "ca.pem")}})
        said = await doctor("", "-c", config, **only(url))
    assert b"".join(origin.seen) == b"HEAD / HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % origin.port
    return said


def only(url: str) -> dict[str, str]:
    """One server for requests; logins go where nothing listens, and API 3.0 nowhere."""
    logins = {"API_2_0_TOKEN_URL": "http://127.0.0.1:9/api/token"}
    return {"ENVIRONMENT": "production", "API_2_0_URL": url, "API_3_0_URL": "", "API_3_0_TOKEN_URL": ""} | logins


@pytest.mark.parametrize(("days", "verdict"), [(15, "ok"), (13, "warning")])
async def test_a_certificate_is_warned_of_before_it_ends(tmp_path: Path, days: int, verdict: str) -> None:
    said = await certified(tmp_path, days)
    (tls,) = said.of("tls")
    assert tls["verdict"] == verdict
    assert tls["cause"] == (None if verdict == "ok" else "certificate-expires")
    clock = said.of("clock")[0]
    assert (clock["verdict"], clock["text"]) == ("ok", "the server does not tell its time")


async def test_a_tunnel_that_the_egress_proxy_makes(tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        assert (await visit.head()).startswith(b"CONNECT localhost:443 HTTP/1.1\r\n")
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\n")
        await visit.take(1)
        await visit.say(b"no TLS at all, and there is no end to it\r\n")
        await visit.gone.wait()

    async with upstream(script) as origin:
        proxy = f"http://somebody:segredo@127.0.0.1:{origin.port}"
        config = written(tmp_path, apis={"2.0": {"proxy": proxy}})
        said = await doctor("", "-c", config, **only("https://localhost"))
    (through,) = said.of("egress-proxy")
    assert through["text"] == f"http://***@127.0.0.1:{origin.port} lets us through"
    (tls,) = said.of("tls")
    assert tls["cause"] == "tls-failed"
    assert "localhost:443" in tls["mend"]
    assert said.of("dns")[0]["text"] == "127.0.0.1 is at 127.0.0.1"


async def test_a_server_that_is_slow_has_the_time_of_the_configuration(fake: Fake, tmp_path: Path) -> None:
    async def script(visit: Visit) -> None:
        await visit.gone.wait()

    async with upstream(script) as origin:
        config = written(tmp_path, timeouts={"login": "200ms", "connect": "200ms"})
        said = await doctor(fake.url, "-c", config, API_2_0_URL=f"http://127.0.0.1:{origin.port}")
    assert said.findings == [("clock", "answer-timeout")]
    assert [step["verdict"] for step in said.of("login")] == ["ok", "ok"]


# --- The sidecar's own addresses --------------------------------------------------------------------------------------


async def test_before_the_first_start(fake: Fake, tmp_path: Path) -> None:
    admin = f"127.0.0.1:{free_port()}"
    said = await doctor(fake.url, ADMIN=admin, LISTEN=f"unix:{tmp_path}/sidecar.sock")
    assert said.code == 0
    for step in (*said.of("sidecar"), *said.of("listener")):
        assert step["text"] == "nothing listens there: the sidecar does not run, and the address is free"


async def test_an_address_where_the_sidecar_could_not_listen(fake: Fake, tmp_path: Path) -> None:
    said = await doctor(fake.url, ADMIN=f"unix:{tmp_path}/absent/admin.sock", LISTEN="unix:@free-for-the-doctor")
    assert said.findings == [("sidecar", "cannot-listen")]
    assert "No such file or directory" in said.of("sidecar")[0]["text"]


async def test_unix_sockets(fake: Fake, tmp_path: Path) -> None:
    addresses = {"ADMIN": f"unix:{tmp_path}/admin.sock", "LISTEN": f"unix:@{tmp_path.name}"}
    with sidecar(fake.url, **addresses):
        await fake.reached(logins_granted=1)
        said = await doctor(fake.url, **addresses)
    assert said.code == 0
    assert said.of("sidecar")[0]["text"] == "the sidecar runs and is ready"
    assert said.of("listener")[0]["text"] == "a sidecar listens there"


async def test_a_sidecar_that_runs_with_another_configuration(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    said = await doctor(fake.url, ADMIN=proxy.admin.removeprefix("http://"), LISTEN=f"127.0.0.1:{free_port()}")
    assert said.findings == [("listener", "not-listening")]


async def test_a_sidecar_that_is_not_ready(fake: Fake, proxy: Sidecar) -> None:
    await fake.do("logins", mode="refuse")
    with sidecar(fake.url) as refused:
        assert (await refused.issue(1)).status == 503
        await fake.do("logins", mode="accept")
        said = await doctor(fake.url, **beside(refused))
    assert said.findings == [("sidecar", "not-ready")]
    assert "Invoisys refused the credentials" in said.of("sidecar")[0]["text"]


async def test_refused_credentials_are_one_thing_to_do_and_sent_once(fake: Fake, tmp_path: Path) -> None:
    await fake.do("logins", mode="refuse")
    accounts = {name: {"username": "integracao@empresa.com.br", "password": "segredo"} for name in ("one", "same")}
    listeners = [{"bind": f"127.0.0.1:{free_port()}", "account": name} for name in accounts]
    config = written(tmp_path, accounts=accounts, listeners=listeners)
    own = {"USERNAME": "", "PASSWORD": "", "LISTEN": ""}
    with sidecar(fake.url, "-c", config, **own) as proxy:
        await fake.reached(logins_refused=2)
        settings = environment(fake.url, **own, ADMIN=proxy.admin.removeprefix("http://"))
        process = Process("doctor", "-c", config, env=settings)
        assert await asyncio.to_thread(process.wait) == 1
        process.stop()
    said = "".join(process.lines)
    assert (await fake.state())["logins"] == 3
    assert "failed      login one to API 2.0 (" in said
    for login in ("one to API 3.0", "same to API 2.0", "same to API 3.0"):
        assert f"not-tried   login {login}: not tried, since login of one to API 2.0 failed\n" in said
    assert "; the cause stands at login of one to API 2.0\n" in said
    assert said.endswith("\n1 thing to do; first: login of one to API 2.0.\n")


async def test_other_programs_at_its_addresses(fake: Fake) -> None:
    other = fake.url.removeprefix("http://")  # it speaks HTTP, and in JSON
    said = await doctor(fake.url, ADMIN=other, LISTEN=f"127.0.0.1:{free_port()}")
    assert said.findings == [("sidecar", "port-taken")]
    said = await doctor(fake.url, ADMIN=f"127.0.0.1:{free_port()}", LISTEN=other)
    assert said.findings == [("listener", "port-taken")]
    (listener,) = said.of("listener")
    assert f"sport = :{other.rpartition(':')[2]}" in listener["mend"]
    assert "listeners[0].bind" in listener["mend"]
