"""Every YAML, JSON and unit file of the repository is judged by some test, and a new one has to be."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from bench import report, workers
from bench.templates import filled
from proxy.config import load
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("*.yaml", "*.yml", "*.json", "*.service", "*.socket", "*.timer", "*.path", "*.mount", "*.target")

HERE = "tests/test_files.py"
COMPOSE = "tests/deploy/test_compose.py"
KUBERNETES = "tests/deploy/test_kubernetes.py"
MONITORING = "tests/system/test_monitoring.py"
SCHEMA = "tests/config/test_schema.py"
_LINT = f"{KUBERNETES}::test_helm_finds_no_fault_in_the_chart"

JUDGES: dict[str, tuple[str, ...]] = {
    "config.example.yaml": (f"{SCHEMA}::test_it_takes_the_example", f"{SCHEMA}::test_the_example_holds_the_defaults"),
    "config.schema.json": (f"{SCHEMA}::test_the_file_is_current", f"{SCHEMA}::test_it_is_a_schema"),
    "deploy/compose/*.yaml": (
        f"{COMPOSE}::test_compose_itself_takes_it_where_nothing_else_is",
        f"{COMPOSE}::test_the_schema_of_compose_takes_it",
        f"{COMPOSE}::test_the_configuration_is_one_the_program_takes",
        f"{HERE}::test_a_configuration_for_compose_is_mounted_by_one_of_its_files",
    ),
    "deploy/kubernetes/**": (
        f"{KUBERNETES}::test_the_newest_versions_of_kubernetes_take_it",
        "tests/deploy/test_network_policies.py::test_by_name_it_gets_to_invoisys_only",
        f"{KUBERNETES}::test_the_file_to_copy_is_in_step_with_its_parts",
        f"{HERE}::test_every_file_for_kubernetes_is_part_of_an_overlay",
    ),
    "deploy/helm/*/Chart.yaml": (f"{KUBERNETES}::test_the_charts_have_the_version_of_the_program", _LINT),
    "deploy/helm/*/values.yaml": (f"{KUBERNETES}::test_the_newest_versions_of_kubernetes_take_it", _LINT),
    "deploy/helm/*/values.schema.json": (
        f"{KUBERNETES}::test_the_chart_hands_on_the_keys_that_the_program_has",
        f"{KUBERNETES}::test_the_chart_refuses_what_could_not_work",
    ),
    "deploy/helm/*/templates/*.yaml": (f"{KUBERNETES}::test_the_newest_versions_of_kubernetes_take_it", _LINT),
    "deploy/helm/*/ci/*-values.yaml": (f"{KUBERNETES}::test_the_newest_versions_of_kubernetes_take_it", _LINT),
    "deploy/monitoring/alerts*.yaml": (f"{MONITORING}::test_promtool_agrees",),
    "deploy/monitoring/prometheus.yaml": (f"{MONITORING}::test_promtool_agrees",),
    "deploy/monitoring/dashboard.json": (
        f"{MONITORING}::test_the_queries_of_the_dashboard_can_be_read",
        f"{MONITORING}::test_the_panels_are_what_grafana_expects",
    ),
    ".github/workflows/*.yml": (
        "tests/test_workflows.py::test_the_schemas_of_github_take_them",
        "tests/test_workflows.py::test_what_is_called_is_there",
    ),
    ".github/dependabot.yml": ("tests/test_workflows.py::test_the_schemas_of_github_take_them",),
    "deploy/systemd/*": ("tests/deploy/test_systemd.py::test_the_units_are_understood",),
    "bench/peers/sidecar.yaml": (f"{HERE}::test_the_sidecar_to_be_measured_has_a_configuration_that_it_takes",),
    "bench/peers/envoy*.yaml": (f"{HERE}::test_it_can_be_read",),  # Envoy itself judges it, in `make bench`
    "bench/results/*.json": (f"{HERE}::test_the_page_on_performance_tells_the_results_that_are_kept",),
    "bench/peers/node/package*.json": (f"{HERE}::test_what_npm_fetches_is_locked_by_its_hash",),
    "tests/axe/package*.json": (f"{HERE}::test_what_npm_fetches_is_locked_by_its_hash",),
}
"""Who judges which files. A `*` stands for no `/`; `**` stands for everything below."""


def tracked(*patterns: str) -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"left out: not a clone: {done.stderr}")
    return [name for name in done.stdout.split("\0") if name]


def fits(name: str, pattern: str) -> bool:
    if pattern.endswith("/**"):
        return name.startswith(pattern.removesuffix("**"))
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


@pytest.mark.needs("git")
def test_every_file_has_its_judge_and_every_judge_its_files() -> None:
    found = {name: [pattern for pattern in JUDGES if fits(name, pattern)] for name in tracked(*KINDS)}
    assert {name: patterns for name, patterns in found.items() if len(patterns) != 1} == {}
    assert {pattern for (pattern,) in found.values()} == set(JUDGES)


@pytest.mark.parametrize("judge", sorted({judge for judges in JUDGES.values() for judge in judges}))
def test_the_judge_is_there(judge: str) -> None:
    module, _, name = judge.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / module).read_text(), re.MULTILINE)


@pytest.mark.needs("git")
def test_it_can_be_read() -> None:
    for name in tracked("*.json"):
        json.loads((ROOT / name).read_text())
    for name in tracked("*.yaml", "*.yml"):
        if "/templates/" not in name:  # Helm's become YAML only when they are rendered
            text = re.sub(r"@[a-z_]+@", "1", (ROOT / name).read_text())  # the peers' are filled in by a run
            assert list(yaml.safe_load_all(text)), name


def test_a_configuration_for_compose_is_mounted_by_one_of_its_files() -> None:
    folder = ROOT / "deploy" / "compose"
    configurations = {path.name for path in folder.glob("*.config.yaml")}
    files = [yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml") if path.name not in configurations]
    assert configurations == {each["file"] for file in files for each in file.get("configs", {}).values()}


def parts_of(folder: Path) -> set[Path]:
    """The files that kustomize reads for a folder."""
    file = folder / "kustomization.yaml"
    told: dict[str, Any] = yaml.safe_load(file.read_text())
    names = [*told.get("resources", []), *told.get("components", [])]
    names += [each["path"] for each in told.get("patches", []) if "path" in each]
    names += [name for each in told.get("configMapGenerator", []) for name in each.get("files", [])]
    found = {file}
    for name in names:
        path = (folder / name).resolve()
        found |= parts_of(path) if path.is_dir() else {path}
    return found


def test_every_file_for_kubernetes_is_part_of_an_overlay() -> None:
    root = ROOT / "deploy" / "kubernetes"
    parts = {path for overlay in (root / "overlays").iterdir() for path in parts_of(overlay)}
    assert parts == {path for path in root.rglob("*") if path.is_file()} - {root / "sidecar.yaml"}  # made of them


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_sidecar_to_be_measured_has_a_configuration_that_it_takes(scheme: str, tmp_path: Path) -> None:
    values = {
        "port": 8080,
        "admin_port": 9090,
        "upstream": f"{scheme}://127.0.0.1:1",
        "ca": "ca.pem",
        "refresh_every": "12h",
        "waiting": 1000,
    }
    file = tmp_path / "sidecar.yaml"
    file.write_text(filled((ROOT / "bench" / "peers" / "sidecar.yaml").read_text(), values))
    assert load(str(file), {}).listeners[0].bind.port == 8080


def test_the_page_on_performance_tells_the_results_that_are_kept() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    forms = {
        "comparison": report.comparison,
        "tokens": report.tokens,
        "limits": report.limits,
        "workers": workers.report,
    }
    kept = {path.stem: path for path in (ROOT / "bench" / "results").glob("*.json") if path.stem != "quick"}
    assert set(kept) == set(forms)
    for name, form in forms.items():
        assert form(json.loads(kept[name].read_text())).strip() in page


@pytest.mark.needs("git")
def test_what_npm_fetches_is_locked_by_its_hash() -> None:
    folders = {(ROOT / name).parent for name in tracked("*package.json", "*package-lock.json")}
    assert folders
    for folder in folders:
        wanted = json.loads((folder / "package.json").read_text())["dependencies"]
        locked = json.loads((folder / "package-lock.json").read_text())["packages"]
        assert locked.pop("")["dependencies"] == wanted
        assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
        assert all(package["integrity"].startswith("sha512-") for package in locked.values())
