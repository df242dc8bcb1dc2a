"""The script: actions with a trigger each, read from YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import yaml

from proxy.fake.counts import Counts, Marks
from proxy.fake.faults import Action, ActionError, parse_action

if TYPE_CHECKING:
    from collections.abc import Hashable

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


class ScriptError(Exception):
    """The script cannot be used; the message names the file and what is wrong."""


class Step(NamedTuple):
    """One action, and when it falls due: at once unless a trigger is given."""

    action: Action
    after: Marks
    at: float

    def due(self, counts: Counts, elapsed: float) -> bool:
        """Whether its trigger has come."""
        return elapsed >= self.at and counts.reached(self.after)


class Script(NamedTuple):
    """The steps; each is taken once, when it falls due, and those due together in their order."""

    steps: tuple[Step, ...] = ()


def load_script(path: str | Path) -> Script:
    """The script in a YAML file.

    Raises:
        ScriptError: the file cannot be read, is not YAML, or a step is not one.
    """
    try:
        # The loader is a `BaseLoader`: it makes nothing but text, lists and mappings.
        steps = yaml.load(Path(path).read_bytes(), _Loader)  # noqa: S506
    except OSError as error:
        raise ScriptError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ScriptError(f"{path}: {error}") from error
    if not isinstance(steps, list):
        raise ScriptError(f"{path}: expected a list of steps")
    return Script(tuple(_step(step, f"{path}: step {place}") for place, step in enumerate(steps, 1)))


class _Loader(yaml.BaseLoader):
    """Every scalar is text, since YAML 1.1 reads the key `on` as true, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice in this mapping", node.start_mark)
        return mapping


def _step(step: object, where: str) -> Step:
    if not isinstance(step, dict) or not isinstance(step.get("do"), str):
        raise ScriptError(f"{where}: expected a mapping with `do: ACTION`")
    name, after, at = step["do"], step.get("after"), step.get("at")
    fields = {key: value for key, value in step.items() if key not in {"do", "after", "at"}}
    try:
        return Step(parse_action(name, fields), *_trigger(after, at))
    except ActionError as error:
        raise ScriptError(f"{where}: {error}") from error


def _trigger(after: object, at: object) -> tuple[Marks, float]:
    if after is not None and at is not None:
        raise ActionError("`after` and `at` exclude each other")
    return _marks(after), _duration(at)


def _marks(after: object) -> Marks:
    if after is None:
        return {}
    try:
        marks = msgspec.convert(after, Marks, strict=False)
    except msgspec.ValidationError as error:
        raise ActionError(f"after: {error}") from error
    if not marks:
        raise ActionError("after: expected a counter, as in `after: {requests: 3}`")
    return marks


def _duration(at: object) -> float:
    if at is None:
        return 0.0
    match = _DURATION.fullmatch(at) if isinstance(at, str) else None
    if match is None:
        raise ActionError("at: expected a duration such as `5s` or `500ms`")
    return float(match[1]) * _UNITS[match[2]]
