"""The image: what goes into it, and that it starts. Its base is a Debian with the Python of the official one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy import __version__
from proxy.fake import PASSWORD, USERNAME
from tests.deploy.manifests import run
from tests.support.pages import blocks
from tests.support.processes import ROOT, Fake
from tests.support.wire import PATIENCE, ask
from tools.dist import ANY_PORT, demonstrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOCKERFILE = (ROOT / "Dockerfile").read_text()
USER = 65532
(BASE,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)


def locked(name: str) -> dict[str, str]:
    """Return the version of each package, and what goes with it, by a lock file."""
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def test_the_image_has_what_the_program_has_and_every_extra() -> None:
    in_the_image = locked("requirements-image.lock")
    assert locked("requirements.lock").items() <= in_the_image.items()
    extras = ("redis", "cryptography", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
    assert set(extras) <= set(in_the_image)
    tested = locked("requirements-dev.lock")
    assert {name: tested[name] for name in extras}.items() <= in_the_image.items()


def test_what_is_copied_is_let_into_the_build() -> None:
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE))
    ignored, *let_in = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] in "*!"]
    assert ignored == "*"
    assert {line.removeprefix("!") for line in let_in if line.startswith("!")} == copied
    assert all((ROOT / each).exists() for each in copied)


def test_both_stages_have_one_base_pinned_by_version() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["python:${PYTHON}"] * 2
    assert BASE == "3.14-slim-trixie"


@pytest.mark.deploy
@pytest.mark.needs("hadolint")
def test_hadolint_finds_no_fault_in_the_dockerfile() -> None:
    assert run("hadolint", "--failure-threshold", "style", ROOT / "Dockerfile") == ""


# --- Built and started ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Builder:
    """buildah, with a store of its own."""

    store: Path

    def __call__(self, *arguments: str | Path) -> str:
        return run(*self.command(*arguments)).strip()

    def command(self, *arguments: str | Path) -> tuple[str | Path, ...]:
        folders = ("--root", self.store / "root", "--runroot", self.store / "run")
        return ("buildah", *folders, "--storage-driver", "vfs", *arguments)


@dataclass(frozen=True)
class Container:
    """A container of the image, not running yet, and what the image says of itself."""

    builder: Builder
    name: str
    image: dict[str, Any]

    def command(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[str | Path, ...]:
        variables = [part for name, value in (env or {}).items() for part in ("--env", f"{name}={value}")]
        return self.builder.command("run", "--isolation", "chroot", *variables, self.name, "--", *arguments)


PAGE = ROOT / "docs" / "deployment" / "image.md"
NAME = f"registry.example/invoisys-proxy:{__version__}"
DOCKER = """
builder=("$@")
docker() {
    test "$1" = build
    "${builder[@]}" bud --isolation chroot --pull=never --quiet --format docker "${@:2}"
}
"""
"""What takes the place of `docker build`, with its options. In Docker's format, as the other has no HEALTHCHECK."""


@pytest.fixture(scope="module")
def container(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    builder = Builder(tmp_path_factory.mktemp("store"))
    _, build = blocks(PAGE)[0]
    try:
        scratch = builder("from", "scratch")
        builder("add", "--quiet", scratch, base, "/")
        builder("commit", "--quiet", "--rm", scratch, f"docker.io/library/python:{BASE}")
        run("bash", "-euc", f"{DOCKER}\n{build}", "bash", *builder.command())
        told = json.loads(builder("inspect", "--type", "image", NAME))
        yield Container(builder, builder("from", "--pull=never", NAME), told["Docker"]["config"])
    finally:
        builder("rm", "--all")
        builder("rmi", "--all", "--force")


@pytest.mark.deploy
def test_it_runs_the_python_that_it_names(container: Container) -> None:
    version = run(*container.command("/app/bin/python", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"))
    assert f"{version.strip()}-slim-trixie" == BASE


@pytest.mark.deploy
def test_the_image_says_how_it_is_run(container: Container) -> None:
    image = container.image
    program = ["/app/bin/python", "-m", "proxy"]
    assert (image["Entrypoint"], image["Cmd"]) == (program, ["run"])
    assert image["Healthcheck"]["Test"] == ["CMD", *program, "health"]  # without a shell
    assert (image["User"], image["StopSignal"]) == (f"{USER}:{USER}", "SIGTERM")
    own = "org.opencontainers.image."
    labels = {name.removeprefix(own): value for name, value in image["Labels"].items() if name.startswith(own)}
    description = labels.pop("description")
    assert len(description) > 20
    assert labels == {
        "title": "invoisys-proxy",
        "licenses": "Apache-2.0",
        "version": __version__,
        "revision": run("git", "rev-parse", "HEAD").strip(),
        "base.name": f"docker.io/library/python:{BASE}",
    }


@pytest.mark.deploy
def test_the_image_holds_the_program_and_no_tool_to_install_another(container: Container) -> None:
    root = Path(container.builder("mount", container.name))
    app = root / "app"
    assert sorted(each.name for each in (app / "src").iterdir()) == ["proxy"]
    packages = {each.name for each in app.glob("lib/python*/site-packages/*")}
    assert {"redis", "cryptography", "uvloop"} <= packages
    assert not {"pip", "setuptools", "pytest"} & packages
    # All is compiled, and nothing is the user's to change.
    assert {each.stem for each in (app / "src").rglob("*.py")} == {
        each.name.partition(".")[0] for each in (app / "src").rglob("*.pyc")
    }
    assert [each for each in app.rglob("*") if each.lstat().st_uid == USER] == []
    container.builder("umount", container.name)


class Started:
    """The sidecar of the image as a process, which has logged in; `above` is what it is started by."""

    def __init__(self, above: subprocess.Popen[str]) -> None:
        self._above = above
        self._told: dict[str, dict[str, Any]] = {}
        assert above.stdout is not None
        for line in above.stdout:
            event = json.loads(line)
            self._told[event["event"]] = event
            if {"listening", "login"} <= set(self._told):
                break
        self.pid = program_below(above.pid)

    def assert_without_rights(self) -> None:
        assert status(self.pid, "Uid") == [str(USER)] * 4  # real, effective, saved, of the file system
        assert {int(each, 16) for field in ("CapPrm", "CapEff") for each in status(self.pid, field)} == {0}

    async def assert_serving(self) -> None:
        document = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1"}'
        reply = await ask(self._told["listening"]["listeners"][0], "POST", "/api/nfe/envio", document)
        assert (reply.status, reply.json()["dadosDoDocumento"]["codigoStatusSEFAZ"]) == (200, 100)

    @property
    def admin(self) -> dict[str, str]:
        """What a health check is told."""
        return {"INVOISYS_ADMIN": self._told["listening"]["admin"].removeprefix("http://")}

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        assert self._above.stdout is not None
        self._above.stdout.read()
        assert self._above.wait(PATIENCE) == 0


@contextlib.contextmanager
def started(command: Sequence[str | Path], env: dict[str, str] | None = None) -> Iterator[Started]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=env) as process:
        try:
            yield Started(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # where the test failed: what starts it, and itself


def environment(fake: Fake) -> dict[str, str]:
    return {
        "INVOISYS_USERNAME": USERNAME,
        "INVOISYS_PASSWORD": PASSWORD,
        "INVOISYS_LISTEN": "127.0.0.1:0",
        "INVOISYS_ADMIN": "127.0.0.1:0",
        "INVOISYS_API_2_0_URL": fake.url,
        "INVOISYS_API_2_0_TOKEN_URL": f"{fake.url}/api/token",
    }


@pytest.mark.deploy
async def test_the_sidecar_in_the_image_starts_serves_and_stops(container: Container, fake: Fake) -> None:
    env, image = environment(fake), container.image
    with started(container.command(*image["Entrypoint"], *image["Cmd"], env=env)) as sidecar:
        sidecar.assert_without_rights()
        await sidecar.assert_serving()
        health = container.command(*image["Healthcheck"]["Test"][1:], env=env | sidecar.admin)
        assert run(*health).strip() == "ready"
        sidecar.stop()
    root = Path(container.builder("mount", container.name))
    folders = [root / each for each in ("app", "etc", "home", "run", "tmp", "var")]
    assert [each for folder in folders for each in folder.rglob("*") if each.lstat().st_uid == USER] == []
    container.builder("umount", container.name)


READ_ONLY = """
set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -o remount,bind,ro "$0"
exec chroot --userspec="$USER_IN" --groups= "$0" "$@"
"""
"""A root file system that nobody can write to, for one command, which an engine gives with `--read-only`."""


def outcome(command: Sequence[str], env: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def read_only(container: Container) -> Iterator[tuple[str, ...]]:
    """What runs a command in the container's root file system, which it cannot write to."""
    yield ("unshare", "--mount", "sh", "-c", READ_ONLY, container.builder("mount", container.name))
    container.builder("umount", container.name)


@pytest.mark.deploy
async def test_a_root_file_system_that_cannot_be_written_to_is_enough(
    container: Container, read_only: tuple[str, ...], fake: Fake
) -> None:
    image = container.image
    env = variables(image) | environment(fake)
    code, _, complaint = outcome([*read_only, "touch", "/app/file"], env | {"USER_IN": "0:0"})
    assert (code, complaint.rpartition(": ")[2]) == (1, "Read-only file system")
    with started([*read_only, *image["Entrypoint"], *image["Cmd"]], env) as sidecar:
        sidecar.assert_without_rights()
        await sidecar.assert_serving()
        assert outcome([*read_only, *image["Healthcheck"]["Test"][1:]], env | sidecar.admin) == (0, "ready", "")
        sidecar.stop()


@pytest.mark.deploy
def test_its_demo_does_what_a_release_asks_of_it(container: Container, read_only: tuple[str, ...]) -> None:
    command = (*read_only, *container.image["Entrypoint"], "demo")
    assert demonstrate(*command, env=variables(container.image) | ANY_PORT) == "a document issued through its demo"


def variables(image: dict[str, Any]) -> dict[str, str]:
    """Return the image's variables, and its user for `READ_ONLY`."""
    return dict(each.split("=", 1) for each in image["Env"]) | {"USER_IN": image["User"]}


def program_below(pid: int) -> int:
    """Find the sidecar among the processes that were started: the last in the row."""
    # A child belongs to the thread that started it, and buildah has many.
    while children := " ".join(each.read_text() for each in Path("/proc").glob(f"{pid}/task/*/children")).split():
        pid = int(children[0])
    assert Path(f"/proc/{pid}/cmdline").read_text().startswith("/app/bin/python\0")
    return pid


def status(pid: int, field: str) -> list[str]:
    (values,) = re.findall(rf"^{field}:\s*(.+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return str(values).split()
