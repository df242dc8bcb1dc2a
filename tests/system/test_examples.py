"""The ready examples do the right thing about every outcome: the demo's fake says how often each document came."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import pytest

from proxy.fake import PASSWORD
from tests.support.canary import assert_discreet
from tests.support.config import written
from tests.support.origin import Visit, upstream
from tests.support.processes import ROOT, Fake, Process, Sidecar, sidecar
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES = ROOT / "examples"
NUMBER = "7"
FILES = {"curl": "emit.sh", "php": "emit.php", "java": "Emit.java", "python": "emit.py", "node": "emit.mjs"}
PROGRAMS = {"curl": "bash", "php": "php", "java": "java", "python": sys.executable, "node": "node"}
NEEDS = {"curl": ("bash", "curl"), "java": ("java", "javac"), "php": ("php",), "node": ("node",), "python": ()}
READ_ONLY = ("Emit.cs", "Emit.pas", "emit.abap")
"""Their compilers are not to be had here."""

ISSUED, PENDING = r"issued \d{44}", r"pending \d{44}"

each_language = pytest.mark.parametrize(
    "language", [pytest.param(name, marks=pytest.mark.needs(*NEEDS[name])) for name in FILES]
)


class Scene(NamedTuple):
    """What befalls a document on its way, what the example is to say of it, how often it asks, and what is issued."""

    says: str
    queries: int = 0
    fault: dict[str, object] | None = None
    documents: int = 1


ENVIO, CONSULTA = "/api/nfe/envio", "/api/nfe/getbychaveSTD/"
SCENES = {
    "all is well": Scene(ISSUED),
    "the answer is lost": Scene(ISSUED, 1, {"mode": "cut-before", "times": 1, "path": ENVIO}),
    "the answer breaks off": Scene(ISSUED, 1, {"mode": "cut-during", "times": 1, "path": ENVIO}),
    "it breaks off in chunks": Scene(
        ISSUED, 1, {"mode": "cut-during", "framing": "chunked", "times": 1, "path": ENVIO}
    ),
    "the answer comes too late": Scene(ISSUED, 1, {"mode": "slow", "delay": 7, "times": 1, "path": ENVIO}),
    "a 500 after it was issued": Scene(ISSUED, 1, {"mode": "error", "issue": "true", "times": 1, "path": ENVIO}),
    "a 429 after it was issued": Scene(ISSUED, 1, {"mode": "throttle", "issue": "true", "times": 1, "path": ENVIO}),
    "a 200 that says nothing": Scene(ISSUED, 1, {"mode": "empty", "times": 1, "path": ENVIO}),
    "a verdict that is none": Scene(ISSUED, 1, {"mode": "verdict", "code": 0, "issue": "true", "times": 1}),
    "the batch is received": Scene(ISSUED, 1, {"mode": "verdict", "code": 103, "issue": "true", "times": 1}),
    "the batch is processed": Scene(ISSUED, 1, {"mode": "verdict", "code": 104, "issue": "true", "times": 1}),
    "the batch is not found": Scene(ISSUED, 1, {"mode": "verdict", "code": 106, "issue": "true", "times": 1}),
    "SEFAZ takes its time": Scene(ISSUED, 3, {"mode": "verdict", "code": 105, "issue": "true", "times": 3}),
    "SEFAZ takes too long": Scene(PENDING, 6, {"mode": "verdict", "code": 105, "issue": "true"}),
    "it was there already": Scene(
        ISSUED, 1, {"mode": "verdict", "code": 204, "issue": "true", "times": 1, "path": ENVIO}
    ),
    "it is rejected": Scene("rejected 225", 0, {"mode": "verdict", "code": 225}, 0),
    "another key has the number": Scene("rejected 539", 0, {"mode": "verdict", "code": 539}, 0),
    "the request is lost": Scene(PENDING, 6, {"mode": "cut-before", "issue": "false", "times": 1, "path": ENVIO}, 0),
    "it is forbidden": Scene("refused 401", 0, {"mode": "unauthorized", "path": ENVIO}, 0),
}


@functools.cache
def command(language: str) -> list[str]:
    """Return how an example is started; Java's is compiled first, once, which its users need not do."""
    file = EXAMPLES / FILES[language]
    if language != "java":
        return [PROGRAMS[language], str(file)]
    classes = tempfile.mkdtemp(prefix="emit")
    atexit.register(shutil.rmtree, classes)
    subprocess.run(["javac", "-d", classes, file], check=True)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", classes, "Emit"]


class Ended(NamedTuple):
    """How a program ended, and what it said."""

    code: int | None
    output: str
    errors: str


async def ended(program: list[str], *arguments: str, given: str = "", **settings: str) -> Ended:
    """Run a program to its end. No HTTP proxy stands between it and the sidecar, whatever the environment says."""
    process = await asyncio.create_subprocess_exec(
        *program,
        *arguments,
        env=os.environ | {"PAUSE": "0.1", "TIMEOUT": "20", "http_proxy": "http://127.0.0.1:9"} | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(given.encode()), 2 * PATIENCE)
    return Ended(process.returncode, output.decode().removesuffix("\n"), errors.decode())


async def run(language: str, base: str, number: str = NUMBER, **settings: str) -> str:
    """Run an example, and return the one line that it prints."""
    done = await ended(command(language), base, number, **settings)
    assert (done.code, done.errors) == (0, "")
    return done.output


class Stage(NamedTuple):
    """The demo: a fake and a sidecar that scenes share."""

    fake: Fake
    proxy: Sidecar

    async def queries(self) -> int:
        """How often documents were asked for."""
        paths = (await self.fake.state())["paths"]
        return sum(times for path, times in paths.items() if path.startswith(f"GET {CONSULTA}"))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    demo = Process("demo", env={"INVOISYS_LISTEN": "127.0.0.1:0", "INVOISYS_ADMIN": "127.0.0.1:0"})
    try:
        (url,), admin = demo.listening()
        found = re.search(r"(\S+)/_fake/", "".join(demo.lines))
        assert found
        yield Stage(Fake(demo, found[1]), Sidecar(demo, url, admin))
    finally:
        demo.stop()
    assert_discreet("".join(demo.lines) + demo.errors, PASSWORD)


@each_language
@pytest.mark.parametrize("name", SCENES)
async def test_a_document_is_sent_once_and_its_verdict_is_found(stage: Stage, language: str, name: str) -> None:
    (fake, proxy), scene = stage, SCENES[name]
    await fake.do("reset")
    if scene.fault is not None:
        await fake.do("answers", **scene.fault)
    said = await run(language, proxy.url, TIMEOUT="3" if scene.fault and scene.fault["mode"] == "slow" else "20")
    assert re.fullmatch(scene.says, said)
    assert await stage.queries() == scene.queries
    state = await fake.state(documents=True)
    assert (state["documents"], state["duplicates"]) == (scene.documents, 0)
    # A 401 may have cost a login, and then the sidecar's own replay.
    assert state["paths"][f"POST {ENVIO}"] in ({1, 2} if scene.says == "refused 401" else {1})
    if found := re.search(r"\d{44}", said):
        await fake.do("answers")
        reply = await proxy.ask("GET", f"/api/nfe/getbychave/{found[0]}")
        assert (reply.json() is not None) == bool(scene.documents), "the key is not that of the document"


USED: dict[str, tuple[str, int, dict[str, object]]] = {
    "nothing is there under the new key": (PENDING, 6, {}),
    "SEFAZ says so with a code": (PENDING, 6, {"mode": "verdict", "code": 217, "path": CONSULTA}),
    "the query finds it rejected": ("rejected 225", 1, {"mode": "verdict", "code": 225, "path": CONSULTA}),
}


@each_language
@pytest.mark.parametrize("name", USED)
async def test_a_number_that_is_used_is_asked_for_and_never_sent_again(stage: Stage, language: str, name: str) -> None:
    fake, proxy = stage
    says, queries, fault = USED[name]
    await fake.do("reset")
    first = await run(language, proxy.url)
    await fake.do("answers", **fault)
    second = await run(language, proxy.url)
    assert re.fullmatch(says, second)
    assert first.split()[-1] != second.split()[-1]
    assert await stage.queries() == queries
    state = await fake.state()
    assert (state["documents"], state["paths"][f"POST {ENVIO}"]) == (1, 2)


@each_language
async def test_a_number_may_have_zeros_before_it(stage: Stage, language: str) -> None:
    await stage.fake.do("reset")
    said = await run(language, stage.proxy.url, number="08")
    assert re.fullmatch(r"issued \d{25}000000008\d{10}", said)
    assert list((await stage.fake.state(documents=True))["emissions"]) == ["12345678000195/55/1/8"]
    assert (await stage.proxy.ask("GET", f"{CONSULTA}{said.split()[1]}")).json() is not None


@each_language
async def test_what_is_no_number_is_not_sent(stage: Stage, language: str) -> None:
    await stage.fake.do("reset")
    done = await ended(command(language), stage.proxy.url, "7a")
    assert done.code != 0
    assert not re.search("issued|pending", done.output)
    assert (await stage.fake.state())["requests"] == 0


@each_language
async def test_the_date_is_local_and_its_month_is_in_the_key_whatever_the_answer_looks_like(
    tmp_path: Path, language: str
) -> None:
    """A date as `Retry-After`, a code in quotes and blanks around it are no reason to lose sight of a document."""
    answers = [
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n\r\n",
        b'HTTP/1.1 200 OK\r\n\r\n{\r\n "dadosDoDocumento" : {\r\n  "codigoStatusSEFAZ" : "100"\r\n }\r\n}\r\n',
    ]
    sent: list[bytes] = []

    async def script(visit: Visit) -> None:
        head = (await visit.head()).lower()
        size = re.search(rb"content-length: (\d+)", head)
        sent.append(await visit.take(int(size[1])) if size else b"")
        await visit.say(answers[len(sent) - 1])
        visit.close()

    (tmp_path / "zone.ini").write_text("date.timezone=Etc/GMT+2\n")  # PHP does not look at TZ
    async with upstream(script) as origin:
        base = f"http://127.0.0.1:{origin.port}"
        said = await run(language, base, TZ="Etc/GMT+2", PHP_INI_SCAN_DIR=f":{tmp_path}")
    date = json.loads(sent[0])["dataEmissao"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d-02:00", date)
    assert re.fullmatch(rf"issued 35{date[2:4]}{date[5:7]}\d{{38}}", said)


FORBIDDEN = [
    *(digit * 8 for digit in "0123456789"),
    *("12345678", "23456789", "34567890", "45678901", "56789012"),
    *("67890123", "78901234", "89012345", "90123456", "01234567"),
    f"{NUMBER:0>8}",
]
"""Codes that SEFAZ answers with rejection 897: the list of NT 2019.001, and the number itself."""

CHANCE = {
    "curl": ("$(od -An -N4 -tu4 /dev/urandom)", '$(read -r drawn; echo "$drawn")', ""),
    "python": ("secrets.randbelow(10**8)", "int(input())", ""),
    "php": ("random_int(0, 99999999)", "(int) fgets(STDIN)", ""),
    "java": (
        "chance.nextInt(100_000_000)",
        "Drawn.LINES.nextInt()",
        "class Drawn { static final java.util.Scanner LINES = new java.util.Scanner(System.in); }",
    ),
    "node": (
        "randomInt(10 ** 8)",
        r"Number((globalThis.lines ??= readFileSync(0, 'utf8').split('\n')).shift())",
        "import { readFileSync } from 'node:fs'",
    ),
}
"""Where each example draws its code, what reads the draw from its input instead, and what that wants at the end."""


@each_language
async def test_a_code_that_sefaz_forbids_is_drawn_again(stage: Stage, tmp_path: Path, language: str) -> None:
    chance, given, more = CHANCE[language]
    text = (EXAMPLES / FILES[language]).read_text()
    assert text.count(chance) == 1
    loaded = tmp_path / FILES[language]
    loaded.write_text(f"{text.replace(chance, given)}{more}")
    await stage.fake.do("reset")
    draws = "".join(f"{int(code)}\n" for code in [*FORBIDDEN, "84152607"])
    done = await ended([PROGRAMS[language], str(loaded)], stage.proxy.url, NUMBER, given=draws)
    assert re.fullmatch(r"issued \d{35}84152607\d", done.output), done.errors


# --- What was not sent ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar that wants a caller token."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "caller_token").write_text("token-of-one-caller\n")
    listener = {"bind": "127.0.0.1:0", "caller_token_file": str(folder / "caller_token")}
    with sidecar(stage.fake.url, "-c", written(folder, listeners=[listener])) as running:
        yield running


@each_language
async def test_the_caller_token_is_sent_where_there_is_one(stage: Stage, guarded: Sidecar, language: str) -> None:
    await stage.fake.do("reset")
    assert await run(language, guarded.url) == "refused 401"
    assert (await stage.fake.state())["requests"] == 0
    assert re.fullmatch(ISSUED, await run(language, guarded.url, CALLER_TOKEN="token-of-one-caller"))


@pytest.fixture
def locked_out(fake: Fake) -> Iterator[Sidecar]:
    """A sidecar whose first login failed."""
    asyncio.run(fake.do("logins", mode="error", times=1))
    with sidecar(fake.url) as running:
        asyncio.run(fake.reached(logins=1))
        yield running


@each_language
async def test_what_was_not_sent_is_sent_again_when_the_sidecar_says_so(
    fake: Fake, locked_out: Sidecar, language: str
) -> None:
    assert re.fullmatch(ISSUED, await run(language, locked_out.url))
    state = await fake.state()
    assert (state["documents"], state["duplicates"]) == (1, 0)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address at which nobody listens, for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@each_language
async def test_what_cannot_be_sent_goes_into_contingency(nowhere: str, language: str) -> None:
    assert await run(language, nowhere) == "contingency"
    with sidecar(nowhere) as proxy:
        assert await run(language, proxy.url) == "contingency"


@each_language
async def test_a_request_that_has_to_change_is_not_sent_again(stage: Stage, language: str) -> None:
    await stage.fake.do("reset")
    assert await run(language, f"{stage.proxy.url}/erp") == "refused 404"
    assert (await stage.fake.state())["requests"] == 0


@pytest.mark.parametrize("name", [*READ_ONLY, *FILES.values()])
def test_every_example_goes_by_the_same_rules(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    for part in ("X-Invoisys-Outcome", "Retry-After", ENVIO, CONSULTA, "not-sent", "caller_token"):
        assert part.lower() in text.lower(), part
    for part in ("240", "429", "contingency", "pending", "codigoAleatorioNF", "01234567890123456", "5 minutes"):
        assert part in text, part
    for code in ("103", "104", "105", "106", "204", "217"):
        assert re.search(rf"\b{code}\b", text), code


def test_every_example_is_run_or_said_not_to_be() -> None:
    there = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert there == {*READ_ONLY, *FILES.values()}
    for name in READ_ONLY:
        assert "Not compiled by this project's tests" in re.sub(r"\s+(//|\*&)?\s*", " ", (EXAMPLES / name).read_text())
