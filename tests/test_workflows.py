"""The workflows for GitHub: well-formed, with few rights, and calling what is there. They were never run here."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.support.page import PICTURES
from tests.support.processes import ROOT

WORKFLOWS = {path.name: path for path in sorted((ROOT / ".github" / "workflows").iterdir())}
ON = True
"""What YAML 1.1 reads the key `on` as."""

PINNED = re.compile(r"[\w-]+/[\w.-]+@(v[0-9]+(\.[0-9]+)*|[0-9a-f]{40})")

everywhere = pytest.mark.parametrize("name", WORKFLOWS)


def read(name: str) -> dict[Any, Any]:
    return dict(yaml.safe_load(WORKFLOWS[name].read_text()))


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job.get("steps", ())]


def before(name: str, job: str) -> set[str]:
    """Return the jobs that must have gone well before this one."""
    needs = read(name)["jobs"][job].get("needs", [])
    direct = {needs} if isinstance(needs, str) else set(needs)
    return direct.union(*(before(name, each) for each in direct))


@pytest.mark.deploy
@pytest.mark.needs("check-jsonschema")
def test_the_schemas_of_github_take_them() -> None:
    judge = ("check-jsonschema", "--builtin-schema")
    subprocess.run([*judge, "vendor.github-workflows", *WORKFLOWS.values()], check=True)
    subprocess.run([*judge, "vendor.dependabot", ROOT / ".github" / "dependabot.yml"], check=True)


@everywhere
def test_actions_of_others_have_a_version(name: str) -> None:
    used = [step["uses"] for step in steps(name) if "uses" in step]
    assert used
    assert [each for each in used if not PINNED.fullmatch(each)] == []


@everywhere
def test_rights_beyond_reading_are_given_to_single_jobs(name: str) -> None:
    assert read(name)["permissions"] == {"contents": "read"}


@everywhere
def test_no_expression_becomes_part_of_a_script(name: str) -> None:
    assert [step["run"] for step in steps(name) if "${{" in step.get("run", "")] == []


@everywhere
@pytest.mark.needs("bash")
def test_scripts_are_well_formed(name: str) -> None:
    for step in steps(name):
        if "run" in step:
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)


@everywhere
def test_what_is_called_is_there(name: str) -> None:
    scripts = "\n".join(step.get("run", "") for step in steps(name))
    makefile = (ROOT / "Makefile").read_text()
    assert [each for each in re.findall(r"make (\w+)", scripts) if f"\n{each}:" not in makefile] == []
    modules = [each.replace(".", "/") + ".py" for each in re.findall(r"python3? -m (tools\.\w+)", scripts)]
    local = [job["uses"] for job in read(name)["jobs"].values() if "uses" in job]
    files = [*modules, *local, *re.findall(r"bash (\S+)", scripts)]
    assert files
    assert [each for each in files if not (ROOT / each).is_file()] == []


def test_ci_runs_all_checks_and_nothing_else() -> None:
    *_, check, keep = steps("ci.yml")
    assert check == {"run": "bash .ci/run"}
    assert (keep["if"], keep["with"]["path"]) == ("always()", f"{PICTURES.relative_to(ROOT)}/")
    assert set(read("ci.yml")[ON]) == {"push", "pull_request", "workflow_call"}


def test_nothing_is_published_before_everything_was_checked() -> None:
    jobs = read("release.yml")["jobs"]
    assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
    for job in ("pypi", "image"):
        assert {"check", "build"} <= before("release.yml", job)
    assert {"pypi", "image"} <= before("release.yml", "publish")


def test_only_a_tag_makes_a_release() -> None:
    assert read("release.yml")[ON] == {"push": {"tags": ["v[0-9]*"]}}


def test_all_checks_run_with_the_python_of_the_image_too() -> None:
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    check = read("ci.yml")["jobs"]["check"]
    assert check["container"]["image"] == "${{ matrix.image }}"
    rows = check["strategy"]["matrix"]["include"]
    assert f"python:{base}" in [row["image"] for row in rows]
    assert set(re.findall(r"matrix\.(\w+)", WORKFLOWS["ci.yml"].read_text())) == {name for row in rows for name in row}
    *_, keep = steps("ci.yml")
    assert keep["with"]["name"] == "pictures-${{ matrix.name }}"
    assert len({row["name"] for row in rows}) == len(rows)  # two may not keep things under one name


IMAGE = read("release.yml")["jobs"]["image"]["steps"]
(PUSH,) = [step for step in IMAGE if step.get("id") == "push"]


def test_the_image_is_for_both_kinds_of_machine_and_is_signed_by_its_digest() -> None:
    assert PUSH["with"]["platforms"] == "linux/amd64,linux/arm64"
    sign = next(step for step in steps("release.yml") if "cosign sign --" in step.get("run", ""))
    assert sign["env"]["IMAGE"].endswith("@${{ steps.push.outputs.digest }}")


def test_nothing_is_pushed_that_was_not_started_on_each_kind_of_machine() -> None:
    before_push = IMAGE[: IMAGE.index(PUSH)]
    (trial,) = [step for step in before_push if "tools.image" in step.get("run", "")]
    built = [step["with"] for step in before_push[: before_push.index(trial)] if step.get("with", {}).get("load")]
    assert ",".join(each["platforms"] for each in built) == PUSH["with"]["platforms"]
    for each in built:
        machine = each["platforms"].removeprefix("linux/")
        assert re.search(rf"^for machine in .*\b{machine}\b.*; do$", trial["run"], re.MULTILINE)
        assert each["tags"] == f"invoisys-proxy:{machine}"
        assert (each["context"], each["build-args"]) == (PUSH["with"]["context"], PUSH["with"]["build-args"])
    assert 'python3 -m tools.image "invoisys-proxy:$machine" "linux/$machine"' in trial["run"]


def test_the_image_says_where_it_comes_from() -> None:
    labels = dict(line.split("=", 1) for line in PUSH["with"]["labels"].splitlines())
    assert {name.removeprefix("org.opencontainers.image.") for name in labels} == {
        "created",
        "documentation",
        "source",
        "url",
    }
    assert {*re.findall(r"ARG (\w+)=un", (ROOT / "Dockerfile").read_text())} == {
        line.split("=", 1)[0] for line in PUSH["with"]["build-args"].splitlines()
    }
