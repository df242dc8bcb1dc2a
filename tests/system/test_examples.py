"""The ready examples do the right thing about every outcome: the fake says how often each document came."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.processes import ROOT, Fake, Sidecar, fake_invoisys, sidecar
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = ROOT / "examples"
NUMBER = "7"
FILES = {"curl": "emit.sh", "php": "emit.php", "java": "Emit.java", "python": "emit.py", "node": "emit.mjs"}
PROGRAMS = {"curl": "bash", "php": "php", "java": "java", "python": sys.executable, "node": "node"}
NEEDS = {"curl": ("bash", "curl"), "java": ("java", "javac"), "php": ("php",), "node": ("node",), "python": ()}
READ_ONLY = ("Emit.cs", "Emit.pas", "emit.abap")
"""Their compilers are not to be had here."""

each_language = pytest.mark.parametrize(
    "language", [pytest.param(name, marks=pytest.mark.needs(*NEEDS[name])) for name in FILES]
)


class Scene(NamedTuple):
    """What befalls a document on its way, what the example is to say of it, and whether it is issued."""

    says: str
    fault: dict[str, object] | None = None
    documents: int = 1


ENVIO = "/api/nfe/envio"
SCENES = {
    "all is well": Scene(r"issued \d{44}"),
    "the answer is lost": Scene(r"issued \d{44}", {"mode": "cut-before", "times": 1, "path": ENVIO}),
    "the answer breaks off": Scene(r"issued \d{44}", {"mode": "cut-during", "times": 1, "path": ENVIO}),
    "it breaks off in chunks": Scene(
        r"issued \d{44}", {"mode": "cut-during", "framing": "chunked", "times": 1, "path": ENVIO}
    ),
    "the answer comes too late": Scene(r"issued \d{44}", {"mode": "slow", "delay": 7, "times": 1, "path": ENVIO}),
    "a 500 after it was issued": Scene(r"issued \d{44}", {"mode": "error", "issue": "true", "times": 1, "path": ENVIO}),
    "a 200 that says nothing": Scene(r"issued \d{44}", {"mode": "empty", "times": 1, "path": ENVIO}),
    "the request is lost": Scene(
        r"pending \d{44}", {"mode": "cut-before", "issue": "false", "times": 1, "path": ENVIO}, 0
    ),
    "it is forbidden": Scene(r"refused 401", {"mode": "unauthorized", "path": ENVIO}, 0),
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


async def run(language: str, base: str, **settings: str) -> str:
    """Run an example, and return the one line that it prints."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        *command(language),
        base,
        NUMBER,
        env=env | {"PAUSE": "0.1", "TIMEOUT": "20"} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 2 * PATIENCE)
    assert (process.returncode, errors.decode()) == (0, "")
    return output.decode().removesuffix("\n")


class Stage(NamedTuple):
    """A fake and a sidecar that scenes share."""

    fake: Fake
    proxy: Sidecar


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with fake_invoisys() as fake, sidecar(fake.url) as proxy:
        yield Stage(fake, proxy)


@each_language
@pytest.mark.parametrize("name", SCENES)
async def test_a_document_is_sent_once_and_its_verdict_is_found(stage: Stage, language: str, name: str) -> None:
    (fake, proxy), scene = stage, SCENES[name]
    await fake.do("reset")
    if scene.fault is not None:
        await fake.do("answers", **scene.fault)
    said = await run(language, proxy.url, TIMEOUT="3" if scene.fault and scene.fault["mode"] == "slow" else "20")
    assert re.fullmatch(scene.says, said)
    state = await fake.state(documents=True)
    assert (state["documents"], state["duplicates"]) == (scene.documents, 0)
    # A 401 may have cost a login, and then the sidecar's own replay.
    assert state["paths"][f"POST {ENVIO}"] in ({1, 2} if scene.says == "refused 401" else {1})
    if found := re.search(r"\d{44}", said):
        reply = await proxy.ask("GET", f"/api/nfe/getbychave/{found[0]}")
        assert (reply.json() is not None) == bool(scene.documents), "the key is not that of the document"


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
    assert re.fullmatch(r"issued \d{44}", await run(language, locked_out.url))
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
    for part in ("X-Invoisys-Outcome", "Retry-After", "/api/nfe/envio", "/api/nfe/getbychaveSTD/", "not-sent"):
        assert part.lower() in text.lower(), part
    for part in ("240", "429", "204", "contingency", "pending", "codigoAleatorioNF"):
        assert part in text, part


def test_every_example_is_run_or_said_not_to_be() -> None:
    there = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert there == {*READ_ONLY, *FILES.values()}
    for name in READ_ONLY:
        assert "Not compiled by this project's tests" in re.sub(r"\s+(//|\*&)?\s*", " ", (EXAMPLES / name).read_text())
