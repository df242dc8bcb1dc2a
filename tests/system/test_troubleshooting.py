"""Every line of docs/troubleshooting.md: its symptom made for real, its words found in the log and in `doctor`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import trustme

from proxy.cli import main
from tests.support.config import written
from tests.support.origin import upstream
from tests.support.processes import ROOT, Fake, Process, Sidecar, environment, sidecar
from tests.support.redis import redis_server
from tests.support.wire import Reply, ask, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support.origin import Visit

    Symptom = Callable[["World"], Awaitable[None]]

PAGE = ROOT / "docs" / "troubleshooting.md"
_CODE = re.compile(r"`([^`]+)`")


class Row:
    """One line of the page."""

    def __init__(self, line: str) -> None:
        self.seen, self.cause, self.mend, log, doctor = (cell.strip() for cell in line.strip("|").split("|"))
        self.log = _CODE.findall(log)
        self.doctor = _CODE.findall(doctor)

    @property
    def code(self) -> int:
        """The exit code that the doctor's words promise."""
        if "failed configuration" in self.doctor:
            return 2
        return int(any(words.startswith(("failed ", "warning ")) for words in self.doctor))


def rows() -> Iterator[Row]:
    """The lines of the tables that have a column for the doctor."""
    within = False
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            within = False
        elif line.endswith("| `doctor` says |"):
            within = True
        elif within and not line.startswith("| ---"):
            yield Row(line)


class World:
    """A fake Invoisys and a folder; and what a sidecar and then the doctor said there."""

    def __init__(self, fake: Fake, folder: Path) -> None:
        self.fake = fake
        self.folder = folder
        self.log = ""
        self.doctor = ""
        self.code = -1
        self.open: list[asyncio.StreamWriter] = []
        """Connections of callers that stay open until the doctor has been."""
        self._path = ""
        self._env: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def sidecar(self, settings: dict[str, str] | None = None, **sections: Any) -> AsyncIterator[Sidecar]:
        """Run one; the doctor looks at it after the symptom was made, before it ends."""
        self._given(settings, sections)
        with sidecar(self.fake.url, "-c", self._path, **(settings or {})) as proxy:
            yield proxy
            self._env |= {
                "INVOISYS_LISTEN": proxy.url.removeprefix("http://"),
                "INVOISYS_ADMIN": proxy.admin.removeprefix("http://"),
            }
            await self.examine()
            for writer in self.open:
                writer.close()
        self.log += words(proxy.process)

    async def refused(self, settings: dict[str, str] | None = None, **sections: Any) -> int:
        """Run one that does not start, and then the doctor; return the exit code."""
        self._given(settings, sections)
        process = Process("run", "-c", self._path, env=self._env)
        try:
            code = await asyncio.to_thread(process.wait)
        finally:
            process.stop()
        self.log += words(process)
        await self.examine()
        return code

    async def examine(self) -> None:
        """Run the doctor's command here, and see that it gives nothing away; test_doctor.py starts it as a program."""
        said, errors = io.StringIO(), io.StringIO()
        env = {name: value for name, value in os.environ.items() if not name.startswith("INVOISYS_")} | self._env
        with (
            mock.patch.dict(os.environ, env, clear=True),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(errors),
        ):
            self.code = await asyncio.to_thread(main, ["doctor", "-c", self._path])
        self.doctor = said.getvalue()
        assert errors.getvalue() == ""
        assert "segredo" not in self.doctor

    def _given(self, settings: dict[str, str] | None, sections: dict[str, Any]) -> None:
        self._path = written(self.folder, **sections)
        self._env = environment(self.fake.url, **(settings or {}))


def words(process: Process) -> str:
    """What a process said, but of the doctor's visit: its lines as they are, and the texts in them."""
    lines = [line for line in process.lines if '"path":"/"' not in line]
    texts = (str(value) for line in lines for value in json.loads(line).values())
    return "\n".join((*lines, *texts, process.errors))


def pattern(said: str) -> str:
    """Words on the page stand for themselves, however far apart; `…` stands for anything within a line."""
    return r".*".join(r"\s+".join(map(re.escape, part.split())) for part in said.split("…"))


SYMPTOMS: dict[str, Symptom] = {}


def symptom(seen: str) -> Callable[[Symptom], Symptom]:
    def keep(make: Symptom) -> Symptom:
        SYMPTOMS[seen] = make
        return make

    return keep


NEEDS = {"`store-unreadable`": [pytest.mark.needs("redis-server")]}


@pytest.mark.parametrize("row", [pytest.param(row, id=row.seen, marks=NEEDS.get(row.seen, [])) for row in rows()])
async def test_a_line_of_the_page(row: Row, fake: Fake, tmp_path: Path) -> None:
    assert row.cause
    assert row.mend
    assert row.log
    assert row.doctor
    world = World(fake, tmp_path)
    await SYMPTOMS[row.seen](world)
    for said in row.log:
        assert re.search(pattern(said), world.log), world.log
    for said in row.doctor:
        assert re.search(pattern(said), world.doctor), world.doctor
    assert world.code == row.code, world.doctor
    assert (world.code == 0) is world.doctor.endswith("All is well.\n")


def test_every_line_has_its_symptom() -> None:
    assert [row.seen for row in rows()] == list(SYMPTOMS)


def is_refused(reply: Reply, status: int, name: str, outcome: str = "not-sent") -> None:
    assert (reply.status, reply["X-Invoisys-Outcome"]) == (status, outcome)
    assert reply.json()["type"] == f"urn:invoisys-proxy:{name}"


# --- The sidecar does not start ---------------------------------------------------------------------------------------


@symptom("Exit code 2, a key that is missing or wrong")
async def _(world: World) -> None:
    assert await world.refused({"PASSWORD": ""}) == 2


@symptom("Exit code 2, a server of the wrong environment")
async def _(world: World) -> None:
    production = "https://api.invoisys.com.br"
    assert await world.refused({"API_2_0_URL": production, "API_2_0_TOKEN_URL": f"{production}/api/token"}) == 2


@symptom("Exit code 2, an address beyond loopback")
async def _(world: World) -> None:
    assert await world.refused({"LISTEN": "0.0.0.0:8080"}) == 2


@symptom("Exit code 2, a file that cannot be read")
async def _(world: World) -> None:
    assert await world.refused({"PASSWORD": "", "PASSWORD_FILE": str(world.folder / "absent")}) == 2


@symptom("Exit code 2, a folder open to others")
async def _(world: World) -> None:
    folder = world.folder / "open"
    folder.mkdir()
    folder.chmod(0o755)
    assert await world.refused(tokens={"store": f"file:{folder}/tokens.json"}) == 2


@symptom("Exit code 1, cannot listen")
async def _(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        assert await world.refused({"LISTEN": taken}, timeouts={"connect": "300ms"}) == 1


@symptom("A warning of an unknown variable")
async def _(world: World) -> None:
    async with world.sidecar({"PASWORD": "x"}):
        pass


# --- Every request gets 502 or 504 ------------------------------------------------------------------------------------


async def fails_with(world: World, url: str, status: int, name: str, **sections: Any) -> None:
    async with world.sidecar({"API_2_0_URL": url}, **sections) as proxy:
        is_refused(await proxy.issue(1), status, name)


@symptom("502 `name-not-resolved`")
async def _(world: World) -> None:
    too_long = ".".join(["x" * 60] * 5)  # no name server is asked for it
    await fails_with(world, f"https://{too_long}", 502, "name-not-resolved")


@symptom("502 `connection-refused`")
async def _(world: World) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        await fails_with(world, f"http://127.0.0.1:{reserved.getsockname()[1]}", 502, "connection-refused")


@symptom("504 `connect-timeout`")
async def _(world: World) -> None:
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        await fails_with(world, url, 504, "connect-timeout", timeouts={"connect": "300ms"})


@symptom("502 `egress-proxy-refused`")
async def _(world: World) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    async with upstream(script) as origin:
        apis = {"2.0": {"proxy": f"http://somebody:segredo@127.0.0.1:{origin.port}"}}
        await fails_with(world, "https://localhost:1", 502, "egress-proxy-refused", apis=apis)


@symptom("502 `tls-failed`")
async def _(world: World) -> None:
    async def script(visit: Visit) -> None:
        await visit.take(1)
        await visit.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await visit.gone.wait()

    async with upstream(script) as origin:
        await fails_with(world, f"https://localhost:{origin.port}", 502, "tls-failed")


async def has_certificate(world: World, *, trusted: bool = True, name: str = "localhost", ended: bool = False) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(world.folder / "ca.pem"))
    end = datetime.now(UTC) + timedelta(days=-1 if ended else 365)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, not_before=end - timedelta(days=400), not_after=end).configure_cert(tls)

    async def script(visit: Visit) -> None:
        await visit.gone.wait()

    async with upstream(script, tls=tls) as origin:
        apis = {"2.0": {"ca_file": str(world.folder / "ca.pem")}} if trusted else {}
        await fails_with(world, f"https://localhost:{origin.port}", 502, "certificate-rejected", apis=apis)


@symptom("502 `certificate-rejected`, expired")
async def _(world: World) -> None:
    await has_certificate(world, ended=True)


@symptom("502 `certificate-rejected`, of another name")
async def _(world: World) -> None:
    await has_certificate(world, name="invoisys.test")


@symptom("502 `certificate-rejected`, of an unknown authority")
async def _(world: World) -> None:
    await has_certificate(world, trusted=False)


# --- Every request gets 503 -------------------------------------------------------------------------------------------


def login(mode: str, *, status: int = 503) -> Symptom:
    async def make(world: World) -> None:
        name = re.findall("`([^`]+)`", next(seen for seen, each in SYMPTOMS.items() if each is make))[0]
        await world.fake.do("logins", mode=mode, **({"delay": 5} if mode == "slow" else {}))
        async with world.sidecar(timeouts={"login": "300ms"} if mode == "slow" else {}) as proxy:
            is_refused(await proxy.issue(1), status, name)

    return make


symptom("503 `credentials-refused`")(login("refuse"))
symptom("503 `grant-refused`")(login("grant"))
symptom("503 `login-throttled`")(login("throttle"))
symptom("503 `login-server-failed`")(login("error"))
symptom("503 `login-unreachable`")(login("cut"))
symptom("503 `login-nonsense`")(login("html"))
symptom("504 `login-timeout`")(login("slow", status=504))


@symptom("503 `draining`")
async def _(world: World) -> None:
    async with world.sidecar() as proxy:
        kept, other = await connect(proxy.url), await connect(proxy.url)
        get = b"GET /api/nfe/getbychaveSTD/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        kept[1].write(get)
        assert (await read_reply(kept[0])).status == 200
        await world.fake.do("answers", mode="slow", delay=20)
        other[1].write(get)
        await world.fake.reached(requests=2)
        proxy.process.signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # the listener closes when the sidecar takes no further requests
            while True:
                (await connect(proxy.url))[1].close()
        kept[1].write(get)
        is_refused(await read_reply(kept[0]), 503, "draining")
        world.open += [kept[1], other[1]]


@symptom("`/readyz` says `degraded`")
async def _(world: World) -> None:
    async with world.sidecar(tokens={"refresh_every": "1s"}) as proxy:
        await world.fake.reached(logins_granted=1)
        await world.fake.do("logins", mode="cut")
        await asyncio.to_thread(proxy.process.event, "login-failed")
        ready = await ask(proxy.admin, "GET", "/readyz")
        assert (ready.status, ready.json()["status"]) == (200, "degraded")
        assert (await proxy.issue(1)).status == 200


# --- Some requests are refused ----------------------------------------------------------------------------------------


def one_request(
    status: int, name: str, method: str, path: str, headers: dict[str, str] | None = None, **listener: Any
) -> Symptom:
    async def make(world: World) -> None:
        section = {"bind": "127.0.0.1:0"} | listener
        if "caller_token_file" in section:
            file = world.folder / section["caller_token_file"]
            file.write_text("a-caller-token-of-some-length")
            section["caller_token_file"] = str(file)
        async with world.sidecar(listeners=[section]) as proxy:
            is_refused(await proxy.ask(method, path, headers=headers), status, name)

    return make


PATH = "/api/nfe/getbychaveSTD/1"
symptom("421 `misdirected-request`")(one_request(421, "misdirected-request", "GET", PATH, {"Host": "invoisys:8080"}))
symptom("403 `forbidden`, from a browser")(
    one_request(403, "forbidden", "GET", PATH, {"Origin": "https://erp.example"})
)
symptom("403 `forbidden`, for a path")(one_request(403, "forbidden", "GET", PATH, rules=["POST /api/nfe/envio"]))
symptom("401 `caller-token`")(one_request(401, "caller-token", "GET", PATH, caller_token_file="callers"))
symptom("400 `bad-target`")(one_request(400, "bad-target", "GET", "http://api.invoisys.com.br/api/nfe"))
symptom("404 `no-such-api`")(one_request(404, "no-such-api", "GET", "/invoisys/api/nfe"))


@symptom("404 `no-such-api`, in production for `/v1/`")
async def _(world: World) -> None:
    unknown = {"API_3_0_URL": "", "API_3_0_TOKEN_URL": ""}
    async with world.sidecar({"ENVIRONMENT": "production", **unknown}) as proxy:
        is_refused(await proxy.ask("GET", "/v1/nfe-entrada"), 404, "no-such-api")


symptom("414 `target-too-long`")(one_request(414, "target-too-long", "GET", f"{PATH}?{'x' * 17_000}"))
symptom("431 `headers-too-large`")(
    one_request(431, "headers-too-large", "GET", PATH, {"Cookie": "x" * 40_000, "X-Cookie": "x" * 40_000})
)


@symptom("503 `overloaded`")
async def _(world: World) -> None:
    await world.fake.do("answers", mode="slow", delay=1)
    async with world.sidecar(limits={"connections": 1, "waiting": 1}) as proxy:
        await world.fake.reached(logins_granted=1)
        replies = await asyncio.gather(*(proxy.issue(number) for number in range(3)))
        (refused,) = (reply for reply in replies if reply.status != 200)
        is_refused(refused, 503, "overloaded")


@symptom("401 from Invoisys for one path, over and over")
async def _(world: World) -> None:
    await world.fake.do("answers", mode="unauthorized")
    async with world.sidecar() as proxy:
        for number in range(3):
            assert (await proxy.issue(number)).status == 401


@symptom("401 from Invoisys for a large body, once")
async def _(world: World) -> None:
    async with world.sidecar(limits={"replay_body": "1KiB"}) as proxy:
        await world.fake.reached(logins_granted=1)
        await world.fake.do("revoke")
        assert (await proxy.ask("POST", "/api/nfe/envio", b"x" * 2000)).status == 401
        await world.fake.reached(logins_granted=2)


@symptom("401 from Invoisys while logins fail")
async def _(world: World) -> None:
    async with world.sidecar() as proxy:
        await world.fake.reached(logins_granted=1)
        await world.fake.do("revoke")
        await world.fake.do("logins", mode="error")
        assert (await proxy.issue(1)).status == 401


# --- Answers that do not come -----------------------------------------------------------------------------------------


@symptom("502 `connection-lost`")
async def _(world: World) -> None:
    await world.fake.do("answers", mode="cut-before")
    async with world.sidecar() as proxy:
        is_refused(await proxy.issue(1), 502, "connection-lost", "unknown")


@symptom("502 `malformed-answer`")
async def _(world: World) -> None:
    async def script(visit: Visit) -> None:
        while True:
            asked = await visit.head()
            well = asked.startswith(b"HEAD ")
            await visit.say(b"HTTP/1.1 204 No Content\r\n\r\n" if well else b"220 mail.example ESMTP\r\n\r\n")

    async with (
        upstream(script) as origin,
        world.sidecar({"API_2_0_URL": f"http://127.0.0.1:{origin.port}"}) as proxy,
    ):
        is_refused(await proxy.issue(1), 502, "malformed-answer", "unknown")


@symptom("504 `answer-timeout`")
async def _(world: World) -> None:
    await world.fake.do("answers", mode="slow", delay=10)
    async with world.sidecar(timeouts={"response": "300ms"}) as proxy:
        is_refused(await proxy.issue(1), 504, "answer-timeout", "unknown")


# --- Warnings in the log ----------------------------------------------------------------------------------------------


@symptom("`clock-skew`")
async def _(world: World) -> None:
    async def script(visit: Visit) -> None:
        grant = b'{"access_token":"abc","token_type":"bearer","expires_in":92843}'
        while True:
            asked = await visit.head()
            if found := re.search(rb"(?i)content-length: ([0-9]+)", asked):
                await visit.take(int(found[1]))
            ahead = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True).encode()
            head = b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: %d\r\n\r\n" % (ahead, len(grant))
            await visit.say(head if asked.startswith(b"HEAD ") else head + grant)

    async with upstream(script) as origin:
        url = f"http://127.0.0.1:{origin.port}"
        async with world.sidecar({"API_2_0_URL": url, "API_2_0_TOKEN_URL": f"{url}/api/token"}) as proxy:
            await asyncio.to_thread(proxy.process.event, "clock-skew")


@symptom("`store-degraded`")
async def _(world: World) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        store = f"redis://user:segredo@127.0.0.1:{reserved.getsockname()[1]}/0"
        async with world.sidecar(tokens={"store": store}) as proxy:
            assert (await proxy.issue(1)).status == 200


@symptom("`store-unreadable`")
async def _(world: World) -> None:
    with redis_server() as redis:
        for name in ("one", "other"):
            (world.folder / name).write_text(f"the key of {name}, long enough")
        tokens = [{"store": redis.url, "key_file": str(world.folder / name)} for name in ("one", "other")]
        with sidecar(world.fake.url, "-c", written(world.folder, tokens=tokens[0])) as first:
            assert (await first.issue(1)).status == 200
        async with world.sidecar(tokens=tokens[1]) as proxy:
            assert (await proxy.issue(2)).status == 200
            written(world.folder, tokens=tokens[0])  # it is the doctor's turn to be the other one


@symptom("`store-damaged`")
async def _(world: World) -> None:
    folder = world.folder / "own"
    folder.mkdir(mode=0o700)
    tokens = folder / "tokens.json"

    def damage() -> None:
        tokens.write_text("not JSON")
        tokens.chmod(0o600)

    damage()
    async with world.sidecar(tokens={"store": f"file:{tokens}"}) as proxy:
        assert (await proxy.issue(1)).status == 200
        proxy.process.stop()
        damage()


@symptom("`expires-in-unusable`")
async def _(world: World) -> None:
    await world.fake.do("expire", say="none")
    async with world.sidecar() as proxy:
        assert (await proxy.issue(1)).status == 200
