"""The Compose files: understood by Compose, hardened, and true to what the program does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from proxy.config.environment import CONFIG, VARIABLES
from proxy.fake import PASSWORD, USERNAME
from tests.deploy.composed import COMPOSE, FILES, GIVEN, IMAGE, OURS, configured, read
from tests.deploy.manifests import run
from tests.support.pages import blocks

everywhere = pytest.mark.parametrize("name", FILES)


@everywhere
def test_every_container_of_ours_is_hardened(name: str) -> None:
    ours = [service for service in read(name)["services"].values() if service["image"] == IMAGE]
    assert ours
    for service in ours:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "user", "cap_add"} & set(service)  # the image has a user of its own


@everywhere
def test_the_configuration_is_one_the_program_takes(name: str, tmp_path: Path) -> None:
    assert configured(name, tmp_path).environment == "sandbox"


@everywhere
def test_the_variables_are_known_to_the_program(name: str) -> None:
    assert set(read(name)["services"][OURS]["environment"]) <= {CONFIG, *VARIABLES}


@everywhere
def test_what_is_mounted_and_joined_is_there(name: str) -> None:
    parts = read(name)
    for service in parts["services"].values():
        assert set(service.get("secrets", [])) <= set(parts.get("secrets", {}))
        assert {each["source"] for each in service.get("configs", [])} <= set(parts.get("configs", {}))
        assert set(service.get("networks", [])) <= {*parts.get("networks", {}), "default"}
        for each in service.get("depends_on", {}):
            assert each in parts["services"]


@everywhere
def test_it_is_killed_only_after_the_drain(name: str, tmp_path: Path) -> None:
    drain = configured(name, tmp_path).drain
    patience = read(name)["services"][OURS]["stop_grace_period"]
    assert int(patience.removesuffix("s")) > drain.delay + drain.timeout


@everywhere
def test_the_erp_waits_for_a_token(name: str) -> None:
    erp = read(name)["services"].get("erp")
    assert (erp is None) == (name == "demo")
    if erp:
        assert erp["depends_on"] == {OURS: {"condition": "service_healthy"}}


def test_beside_the_erp_nobody_else_can_call(tmp_path: Path) -> None:
    services = read("compose")["services"]
    assert [each["network_mode"] for each in (services[OURS], services["erp"])] == ["service:network"] * 2
    (listener,) = configured("compose", tmp_path).listeners
    assert listener.bind.is_loopback
    assert not any("ports" in each for each in services.values())


def test_as_a_service_it_is_called_by_its_name_and_with_a_token(tmp_path: Path) -> None:
    parts = read("service")
    (listener,) = configured("service", tmp_path).listeners
    assert OURS in [str(each) for each in listener.hosts]
    assert listener.caller_token_file is not None
    assert not listener.expose
    erp = parts["services"]["erp"]
    assert erp["environment"] == {"INVOISYS_URL": f"http://{OURS}:{listener.bind.port}"}
    assert erp["secrets"] == ["caller_token"]  # and not the password
    # They meet on one network only, which has no way out.
    shared = set(erp["networks"]) & set(parts["services"][OURS]["networks"])
    assert [parts["networks"][each] for each in shared] == [{"internal": True}]
    assert not any("ports" in each for each in parts["services"].values())


def test_the_demo_is_published_on_loopback_and_logs_in_at_the_fake(tmp_path: Path) -> None:
    services = read("demo")["services"]
    config = configured("demo", tmp_path)
    fake = services["fake"]["command"][-1].rpartition(":")[2]
    ports = {str(config.listeners[0].bind.port), fake}
    assert set(services["fake"]["ports"]) == {f"127.0.0.1:{port}:{port}" for port in ports}
    assert services[OURS]["network_mode"] == "service:fake"
    assert (services[OURS]["environment"]["INVOISYS_USERNAME"], services[OURS]["environment"]["INVOISYS_PASSWORD"]) == (
        USERNAME,
        PASSWORD,
    )
    for api in config.apis.values():
        assert str(api.url) == f"http://127.0.0.1:{fake}"
        assert str(api.token_url).startswith(f"{api.url}/")


def test_the_readme_sets_every_variable() -> None:
    asked = {found for path in FILES.values() for found in re.findall(r"\$\{(\w+):\?", path.read_text())}
    assert asked == set(GIVEN)
    page = (COMPOSE / "README.md").read_text()
    assert all(f"{variable}=" in page for variable in asked)
    assert all(f"({path.name})" in page for path in COMPOSE.glob("*.yaml"))


def test_the_readme_builds_the_image_that_the_files_name() -> None:
    assert f"docker build -t {IMAGE} ." in (COMPOSE / "README.md").read_text()
    for path in FILES.values():
        images = set(re.findall(r"image: (.*)", path.read_text()))
        assert {each for each in images if OURS in each} == {f"${{PROXY_IMAGE:-{IMAGE}}}"}


# --- By those who judge Compose files ------------------------------------------------------------------------------


@pytest.mark.deploy
@everywhere
def test_the_schema_of_compose_takes_it(name: str) -> None:
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    jsonschema.validate(read(name), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(read(name) | {"service": {}}, schema)


def copied(name: str, folder: Path) -> Path:
    """Copy a file into a folder that is empty, and beside it what stands in its row of the README's table."""
    (row,) = re.findall(rf"^\| \[{name}\.yaml\].*?\|", (COMPOSE / "README.md").read_text(), re.MULTILINE)
    for each in re.findall(r"\]\((\S+)\)", row):
        shutil.copy(COMPOSE / each, folder)
    return folder / f"{name}.yaml"


@pytest.mark.deploy
@everywhere
def test_compose_itself_takes_it_where_nothing_else_is(name: str, compose: Path, tmp_path: Path) -> None:
    given = {key: value for key, value in os.environ.items() if not key.startswith("INVOISYS_")} | GIVEN
    command: list[str | Path] = [compose, "-f", copied(name, tmp_path), "config", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert set(told["services"]) == set(read(name)["services"])
    assert not any({"build", "volumes", "env_file"} & set(each) for each in told["services"].values())
    files = {each["file"] for kind in ("configs", "secrets") for each in told.get(kind, {}).values()}
    assert {Path(each) for each in files - set(GIVEN.values())} == {*tmp_path.iterdir()} - {tmp_path / f"{name}.yaml"}
    assert name != "compose" or [path.name for path in tmp_path.iterdir()] == ["compose.yaml"]
    if name != "demo":
        without = {key: value for key, value in given.items() if key != "INVOISYS_USERNAME"}
        refused = subprocess.run(command, env=without, capture_output=True, text=True, check=False, timeout=60)
        assert "the Invoisys user" in refused.stderr


DOCKER = """
client=$1
sudo() { "$@"; }
docker() {
    test "$1" = compose
    local each options=()
    for each in "${@:2}"; do
        if test "$each" = up; then options+=(config --quiet); else options+=("$each"); fi
    done
    "$client" "${options[@]}"
}
"""
"""What takes the place of `docker compose up`: the client reads the file, and starts nothing."""


@pytest.mark.deploy
@everywhere
def test_the_lines_of_the_readme_bring_all_that_a_file_asks_for(name: str, compose: Path, tmp_path: Path) -> None:
    copied(name, tmp_path)
    file = "up" if name == "compose" else f"-f {name}.yaml up"
    (lines,) = [text for _, text in blocks(COMPOSE / "README.md") if text.endswith(f"docker compose {file}")]
    assert run("bash", "-euc", DOCKER + lines, "bash", compose, cwd=tmp_path) == ""
    if name == "service":
        token = tmp_path / "caller_token"
        assert (token.stat().st_uid, token.stat().st_mode & 0o777) == (65532, 0o400)
        assert re.fullmatch("[0-9a-f]{64}\n", token.read_text())
