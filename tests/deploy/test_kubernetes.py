"""The files for Kubernetes, as kustomize and Helm make them: valid, hardened, and true to what the program does."""

from __future__ import annotations

import json
import re
import subprocess
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from proxy import __version__
from proxy.config import Config
from proxy.config.environment import CONFIG, VARIABLES
from tests.deploy import manifests
from tests.deploy.manifests import (
    CHART,
    GUIDE,
    HELM,
    KUBERNETES,
    OURS,
    RENDERINGS,
    SECRETS,
    Object,
    Pod,
    of_kind,
    pods,
    rendered,
    run,
    selects,
    template,
    with_sidecar,
)
from tests.support.pages import blocks
from tests.support.processes import ROOT, Sidecar
from tests.support.wire import ask
from tools.manifest import FILE, manifest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.deploy, pytest.mark.needs("helm", "kubectl", "kubernetes-validate")]

everywhere = pytest.mark.parametrize("name", RENDERINGS)
OVERLAYS = {path.name for path in (KUBERNETES / "overlays").iterdir()}
IN_THE_SANDBOX = {
    "sidecar-sandbox",
    "sidecar-file",
    "sidecar-guide",
    "central-sandbox",
    "helm-central-fixed",
    "helm-example",
}
where_the_sidecar_is = pytest.mark.parametrize("name", [name for name in RENDERINGS if name != "helm-sidecar"])
in_a_pod = pytest.mark.parametrize("name", [name for name in RENDERINGS if name.startswith(("side", "helm-ex"))])
as_a_service = pytest.mark.parametrize("name", [name for name in RENDERINGS if "central" in name])


# --- Valid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", range(3))
@everywhere
def test_the_newest_versions_of_kubernetes_take_it(name: str, back: int) -> None:
    major, minor = re.findall(r"\d+", run("kubernetes-validate", "--version"))[:2]
    native = [each for each in rendered(name) if each["kind"] != "CiliumNetworkPolicy"]
    said = run(
        "kubernetes-validate", "--strict", "-k", f"{major}.{int(minor) - back}", "-", text=yaml.safe_dump_all(native)
    )
    assert [line.split()[0] for line in said.splitlines()] == ["INFO"] * len(native), said
    assert f"against version {major}.{int(minor) - back}" in said


@pytest.mark.parametrize("values", sorted((CHART / "ci").iterdir()), ids=lambda path: path.stem)
def test_helm_finds_no_fault_in_the_chart(values: Path) -> None:
    run("helm", "lint", "--strict", CHART, "--values", values)


@everywhere
def test_what_is_mounted_and_referred_to_is_there(name: str) -> None:
    objects = rendered(name)
    there = {(each["kind"], each["metadata"]["name"]) for each in objects} | {("Secret", each) for each in SECRETS}
    for pod in pods(objects):
        volumes = {each["name"]: each for each in pod.spec.get("volumes", [])}
        for volume in volumes.values():
            wanted = ("Secret", volume["secret"]["secretName"]) if "secret" in volume else None
            assert (wanted or ("ConfigMap", volume["configMap"]["name"])) in there
        mounts = [each for container in pod.containers for each in container.get("volumeMounts", [])]
        assert {each["name"] for each in mounts} == set(volumes)
        assert all(each["readOnly"] for each in mounts)
        # What one container mounts stays its own.
        assert len(mounts) == len(volumes)


# --- Hardened ------------------------------------------------------------------------------------------------------


@everywhere
def test_every_container_is_hardened(name: str) -> None:
    for pod in pods(rendered(name)):
        assert pod.spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(pod.spec)
        for container in pod.containers:
            rules = container["securityContext"]
            assert rules["runAsNonRoot"] is True
            assert rules["runAsUser"] > 0
            assert rules["readOnlyRootFilesystem"] is True
            assert rules["allowPrivilegeEscalation"] is False
            assert rules["capabilities"] == {"drop": ["ALL"]}
            assert rules["seccompProfile"] == {"type": "RuntimeDefault"}
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@where_the_sidecar_is
def test_the_sidecar_runs_as_the_user_of_its_image(name: str) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for pod in with_sidecar(rendered(name)):
        assert pod.ours is not None
        rules = pod.ours["securityContext"]
        assert (rules["runAsUser"], rules["runAsGroup"]) == (int(user[1]), int(user[2]))


# --- True to the program -------------------------------------------------------------------------------------------


@where_the_sidecar_is
def test_its_configuration_is_one_the_program_takes(name: str, tmp_path: Path) -> None:
    for number, pod in enumerate(with_sidecar(rendered(name))):
        config = pod.configured(tmp_path / str(number))
        assert config.environment == ("sandbox" if name in IN_THE_SANDBOX else "production")


@where_the_sidecar_is
def test_its_variables_are_known_to_the_program(name: str) -> None:
    for pod in with_sidecar(rendered(name)):
        assert pod.ours is not None
        assert {each["name"] for each in pod.ours["env"]} <= {CONFIG, *VARIABLES}


def probes(pod: Pod) -> dict[str, Any]:
    assert pod.ours is not None
    return {kind: probe["httpGet"] for kind, probe in pod.ours.items() if kind.endswith("Probe")}


def port_of(container: Object, port: object) -> object:
    return {each["name"]: each["containerPort"] for each in container["ports"]}.get(port, port)


@where_the_sidecar_is
def test_probes_go_where_the_program_listens_for_them(name: str, tmp_path: Path) -> None:
    for number, pod in enumerate(with_sidecar(rendered(name))):
        admin = pod.configured(tmp_path / str(number)).admin
        assert admin.bind.host == "0.0.0.0"  # not its loopback address, at which no kubelet comes in
        assert {port_of(pod.ours or {}, probe["port"]) for probe in probes(pod).values()} == {admin.bind.port}


async def test_probes_ask_for_what_the_program_answers(proxy: Sidecar) -> None:
    found = [probe for name in RENDERINGS for pod in with_sidecar(rendered(name)) for probe in probes(pod).items()]
    asked = {(kind, probe["path"]) for kind, probe in found}
    assert asked == {("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")}
    proxy.process.event("login")
    for _, path in asked:
        assert (await ask(proxy.admin, "GET", path, headers={"Host": "10.244.0.7:9090"})).status == 200


@where_the_sidecar_is
def test_it_is_killed_only_after_the_drain(name: str, tmp_path: Path) -> None:
    for number, pod in enumerate(with_sidecar(rendered(name))):
        drain = pod.configured(tmp_path / str(number)).drain
        assert pod.spec["terminationGracePeriodSeconds"] > drain.delay + drain.timeout


@everywhere
def test_there_is_one_image_of_one_version(name: str) -> None:
    images = {pod.ours["image"] for pod in with_sidecar(rendered(name)) if pod.ours}
    assert len(images) <= 1
    for image in images:
        assert re.fullmatch(rf"(registry\.example/)?invoisys-proxy:{re.escape(__version__)}", image)


def test_the_charts_have_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    example = yaml.safe_load((HELM / "example-erp" / "Chart.yaml").read_text())
    assert [(each["name"], each["version"]) for each in example["dependencies"]] == [(chart["name"], __version__)]


def test_the_file_to_copy_is_in_step_with_its_parts() -> None:
    assert FILE.read_text() == manifest(), "make manifest"


# --- In a pod ------------------------------------------------------------------------------------------------------


@in_a_pod
def test_the_sidecar_starts_first_and_goes_on_running(name: str) -> None:
    found = with_sidecar(rendered(name))
    assert {pod.workload["kind"] for pod in found} == ({"Deployment", "Job"} if name in OVERLAYS else {"Deployment"})
    for pod in found:
        first = pod.spec["initContainers"][0]
        assert (first["name"], first["restartPolicy"]) == (OURS, "Always")
        assert "readinessProbe" not in first  # it would decide over the ERP's


@in_a_pod
def test_callers_outside_the_pod_find_no_port(name: str, tmp_path: Path) -> None:
    for number, pod in enumerate(with_sidecar(rendered(name))):
        (listener,) = pod.configured(tmp_path / str(number)).listeners
        assert listener.bind.is_loopback
        assert pod.ours is not None
        assert [each["name"] for each in pod.ours["ports"]] == ["operator"]
        (erp,) = pod.spec["containers"]
        assert {each["value"] for each in erp["env"]} == {f"http://{listener.bind}"}


def test_a_pod_with_containers_of_its_own_to_begin_with_gets_the_sidecar_before_them(tmp_path: Path) -> None:
    (tmp_path / "sidecar").symlink_to(KUBERNETES / "sidecar")
    stateful = yaml.safe_load((KUBERNETES / "erp" / "deployment.yaml").read_text())
    stateful["kind"] = "StatefulSet"
    stateful["spec"]["serviceName"] = "erp"
    stateful["spec"]["template"]["spec"]["initContainers"] = [{"name": "migrate", "image": "your-erp:1.0"}]
    stateful["spec"]["template"]["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    (tmp_path / "erp.yaml").write_text(yaml.safe_dump(stateful))
    (tmp_path / "kustomization.yaml").write_text("resources: [erp.yaml]\ncomponents: [sidecar]\n")
    made = tuple(yaml.safe_load_all(run("kubectl", "kustomize", "--load-restrictor=LoadRestrictionsNone", tmp_path)))
    (pod,) = with_sidecar(made)
    assert [each["name"] for each in pod.spec["initContainers"]] == [OURS, "migrate"]
    assert {each["name"] for each in pod.spec["volumes"]} == {"data", "invoisys-proxy", "invoisys-credentials"}


# --- As a service --------------------------------------------------------------------------------------------------


def service_of(pod: Pod) -> Object:
    (service,) = [each for each in of_kind(pod.objects, "Service") if selects_all(each["spec"]["selector"], pod)]
    return service


def selects_all(labels: dict[str, str], pod: Pod) -> bool:
    return selects({"matchLabels": labels}, pod.labels)


@as_a_service
def test_the_service_leads_to_the_listener_by_each_of_its_names(name: str, tmp_path: Path) -> None:
    (pod,) = with_sidecar(rendered(name))
    (listener,) = pod.configured(tmp_path).listeners
    service = service_of(pod)
    (port,) = service["spec"]["ports"]
    assert port_of(pod.ours or {}, port["targetPort"]) == listener.bind.port
    short = service["metadata"]["name"]
    space = service["metadata"].get("namespace", "invoisys")
    names = {short, f"{short}.{space}", f"{short}.{space}.svc", f"{short}.{space}.svc.cluster.local"}
    assert names <= {str(each) for each in listener.hosts}
    assert listener.caller_token_file is not None
    assert not listener.expose


@as_a_service
def test_replicas_share_their_token(name: str, tmp_path: Path) -> None:
    objects = rendered(name)
    (pod,) = with_sidecar(objects)
    tokens = pod.configured(tmp_path).tokens
    assert tokens.store.shared_over_a_network
    if not name.startswith("helm"):
        assert tokens.key_file is not None
        (redis,) = [each for each in pods(objects) if not each.ours]
        assert service_of(redis)["metadata"]["name"] in str(tokens.store)


@as_a_service
def test_some_replicas_stay(name: str) -> None:
    objects = rendered(name)
    (pod,) = with_sidecar(objects)
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert selects(budget["spec"]["selector"], pod.labels)
    scalers = of_kind(objects, "HorizontalPodAutoscaler")
    if name == "helm-central-fixed":
        assert not scalers
        assert pod.workload["spec"]["replicas"] == 2
    else:
        (scaler,) = scalers
        assert scaler["spec"]["scaleTargetRef"]["name"] == pod.workload["metadata"]["name"]
        assert scaler["spec"]["minReplicas"] >= 2
        assert "replicas" not in pod.workload["spec"]  # each would undo what the other sets


def test_kustomize_and_helm_make_the_same_pod() -> None:
    made = []
    for name in ("central-production", "helm-central"):
        (pod,) = with_sidecar(rendered(name))
        assert pod.ours is not None
        container = {key: value for key, value in pod.ours.items() if key not in {"env", "image", "imagePullPolicy"}}
        spec = {key: value for key, value in pod.spec.items() if key not in {"containers", "volumes"}}
        for spread in spec["topologySpreadConstraints"]:
            assert selects(spread.pop("labelSelector"), pod.labels)
        made.append((container, spec, pod.workload["spec"]["strategy"]))
    assert made[0] == made[1]


def test_kustomize_and_helm_make_the_same_sidecar() -> None:
    first, second = (
        next(pod.ours for pod in with_sidecar(rendered(name)) if pod.ours)
        for name in ("sidecar-production", "helm-example")
    )
    left_out = {"env", "image", "imagePullPolicy"}
    assert {k: v for k, v in first.items() if k not in left_out} == {
        k: v for k, v in second.items() if k not in left_out
    }


# --- The chart -----------------------------------------------------------------------------------------------------

SHARED = ("config.tokens.store=redis://redis:6379/0",)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ((), "config.tokens.store: expected redis"),
        (("config.tokens.store=file:/tokens",), "config.tokens.store: expected redis"),
        (SHARED, "networkPolicy.redis: expected the egress rule"),
        (("mode=both",), "mode"),
        (("environment=homologacao",), "environment"),
        (("conifg.log.level=debug",), "conifg"),
        (("config.listeners=",), "listeners"),
    ],
)
def test_the_chart_refuses_what_could_not_work(values: tuple[str, ...], complaint: str) -> None:
    command = ["helm", "template", "fiscal", str(CHART), *(part for value in values for part in ("--set", value))]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode != 0
    assert complaint in refused.stderr


def test_the_chart_hands_on_the_keys_that_the_program_has() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    made_by_the_chart = {"environment", "accounts", "listeners", "admin"}
    known = {field.name for field in msgspec.structs.fields(Config)}
    assert set(schema["properties"]["config"]["properties"]) == known - made_by_the_chart
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) == {*values, "global"}


def test_another_configuration_makes_other_pods() -> None:
    def annotations(*more: str) -> object:
        values = ("--values", CHART / "ci" / "central-values.yaml")
        (workload,) = of_kind(tuple(yaml.safe_load_all(template(*values, *more))), "Deployment")
        return workload["spec"]["template"]["metadata"]["annotations"]

    assert annotations() == annotations()
    assert annotations() != annotations("--set", "config.limits.connections=7")


# --- The guide -----------------------------------------------------------------------------------------------------


KUBECTL = """
kubectl() {
    case "$1 $2" in
        "apply -k") command kubectl kustomize "$3" ;;
        "apply -f") cat "$3" ;;
        "create secret") command kubectl "$@" --dry-run=client --output yaml ;;
        *) command kubectl "$@" ;;
    esac
    echo ---
}
"""
"""Shows what a cluster would be given."""


def test_the_guide_s_commands_make_what_the_pods_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "password").write_text("segredo\n")
    typed = [text for language, text in blocks(GUIDE) if language == "console" and not text.startswith("helm")]
    commands = "\n".join(typed).replace("/path/to/password", "password")
    made = tuple(yaml.safe_load_all(run("bash", "-euc", KUBECTL + commands, cwd=tmp_path)))
    secrets = {
        each["metadata"]["name"]: {key: b64decode(value).decode() for key, value in each["data"].items()}
        for each in made
        if each and each["kind"] == "Secret"
    }
    assert {name: set(data) for name, data in secrets.items()} == {name: set(data) for name, data in SECRETS.items()}
    monkeypatch.setattr(manifests, "SECRETS", secrets)
    for name in ("central-production", "sidecar-production"):
        for pod in with_sidecar(rendered(name)):
            assert pod.configured(tmp_path / pod.workload["metadata"]["name"]).accounts
    workloads = {each["metadata"]["name"] for each in made if each and each["kind"] == "Deployment"}
    assert workloads == {"erp", "invoisys-proxy", "invoisys-redis"}
