"""Every event that the code tells of is explained, with its level, its fields and what to do; and no other is."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from proxy.errors import ProxyError
from proxy.observe import RequestLine
from proxy.observe.events import EVENTS
from proxy.observe.log_page import page
from proxy.observe.requests import REPLAYS
from proxy.observe.steps import ERRORS, PASSED_ON
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}
SOURCES = [path for path in (ROOT / "proxy").rglob("*.py") if not {"observe", "fake"} & set(path.parts)]


class Told(NamedTuple):
    """One place in the code that writes an event."""

    event: str
    level: str
    fields: set[str]


def told_in(source: str) -> Iterator[Told]:
    tree = ast.parse(source)
    given_by_name = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr == "_warn" and isinstance(call.args[0], ast.Constant):
            yield Told(str(call.args[0].value), "warning", set())
        if call.func.attr not in LEVELS:
            continue
        level = LEVELS[call.func.attr]
        for extra in (keyword.value for keyword in call.keywords if keyword.arg == "extra"):
            said = given_by_name[extra.id] if isinstance(extra, ast.Name) else extra
            found = _told(said, given_by_name)
            if found is not None:
                event, fields = found
                raised = call.func.attr == "exception" or any(keyword.arg == "exc_info" for keyword in call.keywords)
                yield Told(event, level, fields | {"exception"} if raised else fields)


def _told(said: ast.expr, names: dict[str, ast.expr]) -> tuple[str, set[str]] | None:
    if isinstance(said, ast.Dict):
        entries = {
            key.value: value for key, value in zip(said.keys, said.values, strict=True) if isinstance(key, ast.Constant)
        }
        event = entries.pop("event")
        return (str(event.value), {str(key) for key in entries}) if isinstance(event, ast.Constant) else None
    assert isinstance(said, ast.Call), ast.dump(said)  # `_about`, which adds whose token it is
    (event,) = said.args
    assert isinstance(event, ast.Constant)
    fields = {"api", "account"}
    for keyword in said.keywords:
        if keyword.arg is not None:
            fields.add(keyword.arg)
        else:
            assert isinstance(keyword.value, ast.Name)
            spread = names[keyword.value.id]
            assert isinstance(spread, ast.Dict)
            fields |= {str(key.value) for key in spread.keys if isinstance(key, ast.Constant)}
    return str(event.value), fields


PLACES = [(path.relative_to(ROOT), told) for path in SOURCES for told in told_in(path.read_text())]


@pytest.mark.parametrize(("path", "told"), PLACES, ids=[f"{path}-{told.event}" for path, told in PLACES])
def test_an_event_is_explained(path: object, told: Told) -> None:
    event = EVENTS[told.event]
    assert event.level == told.level
    assert set(event.fields) == told.fields


def test_only_events_that_happen_are_explained() -> None:
    code = "".join(path.read_text() for path in SOURCES)
    assert [name for name in EVENTS if name != "request" and f'"{name}"' not in code] == []
    assert {told.event for _, told in PLACES} <= set(EVENTS)


def test_a_requests_line_has_the_fields_that_are_told() -> None:
    assert set(EVENTS["request"].fields) == set(RequestLine.__struct_fields__)
    assert isinstance(RequestLine, msgspec.StructMeta)


# --- What to do next --------------------------------------------------------------------------------------------------


def errors(kind: type[ProxyError] = ProxyError) -> set[str]:
    return {kind.name}.union(*(errors(below) for below in kind.__subclasses__()))


def test_every_error_says_what_to_do() -> None:
    assert set(ERRORS) == errors() | {"caller-gone"}
    assert [name for name, step in ERRORS.items() if not re.fullmatch(r"[A-Z].*\.", step)] == []


def test_every_401_that_was_passed_on_says_what_to_do() -> None:
    assert {*PASSED_ON, "replayed"} == set(REPLAYS)
    assert [name for name, (_, step) in PASSED_ON.items() if not re.fullmatch(r"[A-Z].*\.", step)] == []


def test_where_the_outcome_is_unknown_the_document_is_queried_first() -> None:
    def unknown(kind: type[ProxyError]) -> set[str]:
        own = {kind.name} if kind.outcome == "unknown" else set()
        return own.union(*(unknown(below) for below in kind.__subclasses__()))

    assert unknown(ProxyError)
    assert [name for name in unknown(ProxyError) if "by access key" not in ERRORS[name]] == []
    assert [name for name in errors() - unknown(ProxyError) if "by access key" in ERRORS[name]] == []


@pytest.mark.parametrize("name", [name for name, event in EVENTS.items() if "info" not in event.level])
def test_every_warning_says_what_to_do(name: str) -> None:
    event = EVENTS[name]
    assert event.next_step.endswith(".") or "error" in event.fields


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "logs.md").read_text() == page(), "make docs writes it anew"
