"""What kustomize and Helm make of the files in deploy/, and the parts of it that tests look at."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from proxy.config import load
from tests.support.pages import blocks
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.config import Config

KUBERNETES = ROOT / "deploy" / "kubernetes"
HELM = ROOT / "deploy" / "helm"
CHART = HELM / "invoisys-proxy"
GUIDE = ROOT / "docs" / "deployment" / "kubernetes.md"

Object = dict[str, Any]

OURS = "invoisys-proxy"
"""The name of the sidecar's container."""

SECRETS = {
    "invoisys": {"username": "integracao@empresa.com.br", "password": "segredo"},
    "invoisys-caller-token": {"token": "0123456789abcdef0123456789abcdef"},
    "invoisys-token-key": {"key": "c2VncmVkbyBzZWdyZWRvIHNlZ3JlZG8gc2VncmVkbyE="},
}
"""The Secrets that a user creates beforehand."""


PATIENT = 600.0
"""Seconds after which a program that may fetch or build something has failed."""


def require(*programs: str) -> None:
    """Leave a test out, by name, where it cannot be run; in CI, where nothing is left out, fail."""
    missing = [each for each in programs if shutil.which(each) is None] + ["root"] * (os.geteuid() != 0)
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"left out: {missing} missing")


def run(*command: str | Path, cwd: Path = ROOT, text: str = "") -> str:
    """Run a program to its good end and return what it wrote."""
    done = subprocess.run(command, cwd=cwd, input=text, capture_output=True, text=True, check=False, timeout=PATIENT)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def rendered(name: str) -> tuple[Object, ...]:
    """Render one of `RENDERINGS`."""
    return tuple(each for each in yaml.safe_load_all(RENDERINGS[name]()) if each)


def _overlay(name: str) -> str:
    return run("kubectl", "kustomize", KUBERNETES / "overlays" / name)


def template(*arguments: str | Path) -> str:
    return run("helm", "template", "fiscal", CHART, "--namespace", "invoisys", *arguments)


def _values(name: str) -> str:
    return template("--values", CHART / "ci" / f"{name}-values.yaml")


def _example() -> str:
    """Render the ERP's chart, with the sidecar's as its dependency."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "helm"
        shutil.copytree(HELM, copy)
        run("helm", "dependency", "update", copy / "example-erp")
        run("helm", "lint", "--strict", copy / "example-erp")
        return run("helm", "template", "shop", copy / "example-erp", "--namespace", "erp")


def _kustomization_of_the_guide() -> str:
    """Render the guide's kustomization, laid out as it says."""
    (kustomization,) = [text for language, text in blocks(GUIDE) if text.startswith("resources:")]
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder).resolve()
        shutil.copytree(KUBERNETES, own / "invoisys-proxy" / "deploy" / "kubernetes")
        shutil.copy(KUBERNETES / "erp" / "deployment.yaml", own / "erp.yaml")
        (own / "kustomization.yaml").write_text(kustomization)
        return run("kubectl", "kustomize", own)


def _values_of_the_guide() -> str:
    """Render what the guide installs, with the values that it shows."""
    (values,) = [text for language, text in blocks(GUIDE) if text.startswith("# values.yaml")]
    (install,) = [text for language, text in blocks(GUIDE) if text.startswith("helm install")]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "values.yaml").write_text(values)
        (Path(folder) / "deploy").symlink_to(HELM.parent)
        return run("bash", "-euc", f'helm() {{ command helm template "${{@:2}}"; }}\n{install}', cwd=Path(folder))


RENDERINGS: dict[str, Callable[[], str]] = {
    **{
        name: functools.partial(_overlay, name)
        for name in sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
    },
    "sidecar-file": (KUBERNETES / "sidecar.yaml").read_text,
    "sidecar-guide": _kustomization_of_the_guide,
    **{
        f"helm-{name}": functools.partial(_values, name)
        for name in sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())
    },
    "helm-central-guide": _values_of_the_guide,
    "helm-example": _example,
}


def space_of(each: Object) -> str:
    return str(each["metadata"].get("namespace", "default"))


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


@dataclass(frozen=True)
class Pod:
    """The pods of one workload, in a rendering."""

    workload: Object
    objects: tuple[Object, ...]

    @property
    def spec(self) -> Object:
        return dict(self.workload["spec"]["template"]["spec"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.workload["spec"]["template"]["metadata"]["labels"])

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ours(self) -> Object | None:
        return next((each for each in self.containers if each["name"] == OURS), None)

    @property
    def space(self) -> str:
        """The namespace."""
        return space_of(self.workload)

    def configured(self, folder: Path) -> Config:
        """Lay out what the sidecar finds at its mounts, have `check` judge it, and return the configuration."""
        env = self.laid_out(folder)
        assert warnings_of_check(env) == []
        return load(None, env)

    def laid_out(self, folder: Path) -> dict[str, str]:
        """Lay out what the sidecar finds at its mounts, and return its environment."""
        assert self.ours is not None
        env = {each["name"]: self._value(each) for each in self.ours["env"]}
        volumes = {each["name"]: each for each in self.spec["volumes"]}
        mounts = {each["mountPath"]: self._files(volumes[each["name"]]) for each in self.ours["volumeMounts"]}
        for path, files in mounts.items():
            for name, text in files.items():
                file = folder / path.lstrip("/") / name
                file.parent.mkdir(parents=True, exist_ok=True)
                for mounted in mounts:
                    text = text.replace(f" {mounted}/", f" {folder}{mounted}/")  # noqa: PLW2901 - one after another
                file.write_text(text)
        env["INVOISYS_CONFIG"] = f"{folder}{env['INVOISYS_CONFIG']}"
        return env

    def _value(self, variable: Object) -> str:
        if "value" in variable:
            return str(variable["value"])
        source = variable["valueFrom"]["configMapKeyRef"]
        return str(self._data("ConfigMap", source["name"])[source["key"]])

    def _files(self, volume: Object) -> dict[str, str]:
        if "configMap" in volume:
            data = self._data("ConfigMap", volume["configMap"]["name"])
            return {each["path"]: data[each["key"]] for each in volume["configMap"]["items"]}
        name = volume["secret"]["secretName"]
        return SECRETS[name] if name in SECRETS else self._data("Secret", name)

    def _data(self, kind: str, name: str) -> dict[str, str]:
        (found,) = [each for each in of_kind(self.objects, kind) if each["metadata"]["name"] == name]
        return dict(found.get("data") or found["stringData"])


def warnings_of_check(env: dict[str, str]) -> list[str]:
    """Have the program judge a configuration, as its user would, and return what it warns of.

    Tests may run as root; the sidecar in a container does not.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INVOISYS_")}
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check"],
        cwd=ROOT,
        env=clean | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "runs as root" not in line]


def pods(objects: tuple[Object, ...]) -> Iterator[Pod]:
    for workload in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield Pod(workload, objects)


def with_sidecar(objects: tuple[Object, ...]) -> list[Pod]:
    return [pod for pod in pods(objects) if pod.ours]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Tell whether a label selector takes those labels."""
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "In"
        if labels.get(wanted["key"]) not in wanted["values"]:
            return False
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
