"""The rules and the dashboard in deploy/monitoring ask for what there is, and the alerts speak when they should."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from proxy.observe.families import FAMILIES
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MONITORING = ROOT / "deploy" / "monitoring"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
COLUMNS = 24

FROM_PROMETHEUS = {"instance", "job"}
FROM_THE_LIBRARY: dict[str, set[str]] = {
    "up": set(),
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds_total": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
}

_SELECTOR = re.compile(r"\b([a-z_:]+)\{([^}]*)\}")
_NAME = re.compile(r"\binvoisys_proxy_[a-z_]+")
_LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)")


def known() -> dict[str, set[str]]:
    """Every name that can stand in a query, with its labels."""
    names: dict[str, set[str]] = dict(FROM_THE_LIBRARY)
    for kind in FAMILIES:
        labels = set(kind.labels)
        if kind.kind == "histogram":
            names |= {f"{kind.name}_sum": labels, f"{kind.name}_count": labels}
            names[f"{kind.name}_bucket"] = labels | {"le"}
        else:
            names[kind.name] = labels
    return names


def queries() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_asks_for_what_there_is(where: str, query: str) -> None:
    names = known()
    asked = {*_NAME.findall(query), *(name for name, _ in _SELECTOR.findall(query))}
    assert asked
    assert asked <= set(names)
    for name, selectors in _SELECTOR.findall(query):
        assert set(_LABEL.findall(re.sub(r'"[^"]*"', "", selectors))) <= names[name] | FROM_PROMETHEUS
    there = set.union(*(names[name] for name in asked)) | FROM_PROMETHEUS
    for grouping in _GROUPING.findall(query):
        assert {label.strip() for label in grouping.split(",")} <= there


# --- Alerts -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml"), ("check", "config", "prometheus.yaml")],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_each_alert_is_shown_to_speak_and_to_be_silent() -> None:
    cases = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    shown: dict[str, list[bool]] = {}
    for case in cases:
        (asked,) = case["promql_expr_test"]
        alert = re.findall(r'alertname="(\w+)"', asked["expr"])[0]
        assert case["name"] == f"{alert} {'speaks' if asked['exp_samples'] else 'is silent'}"
        shown.setdefault(alert, []).append(bool(asked["exp_samples"]))
    assert shown == {rule["alert"]: [True, False] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.search(
        r"\b(Have|See|Look|Ask|Put|Find|Let|Tell|Raise|raise|report|let|wants|mend)\b",
        rule["annotations"]["description"],
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_the_labels_that_its_words_name(rule: dict[str, Any]) -> None:
    cases = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    (case,) = [case for case in cases if case["name"] == f"{rule['alert']} speaks"]
    had = set(_LABEL.findall(case["promql_expr_test"][0]["exp_samples"][0]["labels"]))
    named = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
    assert set(named) <= had


def test_the_log_has_the_events_that_alerts_name() -> None:
    told = (ROOT / "docs" / "logs.md").read_text()
    texts = " ".join(rule["annotations"]["description"] for rule in RULES)
    named = re.findall(r"\b(?:login|store|token|clock)-[a-z-]+\b", texts)
    assert named
    assert [event for event in named if f"`{event}`" not in told] == []


# --- The dashboard ----------------------------------------------------------------------------------------------------


@pytest.mark.needs("promtool")
def test_the_queries_of_the_dashboard_can_be_read(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": re.sub(r"\$__\w+", "5m", query)}
        for number, (_, query) in enumerate(queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_panels_lie_beside_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        for square in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(square, panel["title"]) == panel["title"]


def test_the_panels_are_what_grafana_expects() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries")
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            own = {name for name in re.findall(r"\$(\w+)", target["expr"]) if not name.startswith("__")}
            assert own <= variables


def test_the_dashboard_is_nobodys_in_particular() -> None:
    assert "id" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] >= 36
    assert {"title", "uid", "time", "timezone", "tags", "version"} <= set(DASHBOARD)
