"""YAML, read strictly: what it means is what it looks like."""

from __future__ import annotations

import math
import re
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, cast

import yaml
from yaml.constructor import SafeConstructor

from proxy.config.tree import Faults, Node, Path
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from yaml.error import Mark

_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_PLAIN_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,18}")
_PLAIN_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
# What PyYAML takes as text and another reader, of YAML 1.1 or 1.2, does not.
_OTHERS_OCTAL = re.compile(r"0o[0-7]{1,20}")
_OTHERS_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")
_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "y"), "true"),
    **dict.fromkeys(("false", "no", "off", "n"), "false"),
    "null": "null",
}
_LARGE = 10**18

_TAG = "tag:yaml.org,2002:"


def read(file: str, faults: Faults) -> Node:
    """Read a file into a tree of places; what is doubtful in it is marked there, duplicate keys are added to `faults`.

    Raises:
        ConfigError: the file cannot be read, or is not one YAML document without tags, anchors and aliases.
    """
    text = _text(file)
    try:
        _refuse_indirection(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = _Reader(file, faults).node(root, ()) if root else Node(None)
    except yaml.reader.ReaderError as error:
        place = _place(file, text[: error.position])
        raise ConfigError(f"{place}: expected text, found a control character") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax(file, error)) from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply") from None
    return Node({}, f"{file}:1:1") if tree.value is None else tree


def _text(file: str) -> str:
    try:
        data = File(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{_place(file, error.object[: error.start].decode())}: expected UTF-8 text") from None


def _refuse_indirection(text: str) -> None:
    """Refuse what makes a value mean something written elsewhere; a password may begin with such a sign by mistake."""
    event: Any
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            what = "anchors (&) and aliases (*)"
        elif getattr(event, "tag", None) is not None:
            what = "tags (!)"
        else:
            continue
        problem = f"{what} are not used here; put a text that begins so in quotes"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _syntax(file: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or ""
    if "another document" in problem:
        problem = "expected a single document, found another"
    elif r"'\t'" in problem:
        problem = "found a tab; indent with spaces"
    # PyYAML may quote a part of the value, and the value may be a password.
    problem = re.sub(r"'(?!<)[^']{2,}'", "a name", problem)
    return f"{_at(file, mark)}: {problem}" if mark else f"{file}: {problem}"


def _place(file: str, before: str) -> str:
    return f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _at(file: str, mark: Mark) -> str:
    return f"{file}:{mark.line + 1}:{mark.column + 1}"


class _Reader:
    """From PyYAML's nodes to ours."""

    def __init__(self, file: str, faults: Faults) -> None:
        self._file = file
        self._faults = faults

    def node(self, node: yaml.Node, path: Path) -> Node:
        place = _at(self._file, node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            value, doubt = (node.value, "") if node.style else _plain(node)
            return Node(value, place, node.value, doubt)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.node(item, (*path, index)) for index, item in enumerate(node.value)], place)
        return Node(self._keys(node, path), place)

    def _keys(self, node: yaml.Node, path: Path) -> dict[str, Node]:
        keys: dict[str, Node] = {}
        for key, value in node.value:
            place = _at(self._file, key.start_mark)
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                self._faults.add(place, path, "expected a name as key")
            elif key.tag == f"{_TAG}merge":
                self._faults.add(place, path, "merge keys (<<) are not used here; write the keys out")
            elif key.value in keys:
                first = keys[key.value].key_place.removeprefix(f"{self._file}:")
                self._faults.add(place, (*path, key.value), f"duplicate key, first at {first}")
            else:
                keys[key.value] = self.node(value, (*path, key.value))
                keys[key.value].key_place = place
        return keys


def _plain(node: yaml.ScalarNode) -> tuple[str | float | bool | None, str]:
    """Give the value of a scalar without quotes, and the doubt about it where it is not what it looks like."""
    text = node.value
    if text in _PLAIN_WORDS:
        return _PLAIN_WORDS[text], ""
    if _PLAIN_INTEGER.fullmatch(text):
        return int(text), ""
    if _PLAIN_FLOAT.fullmatch(text):
        return float(text), ""
    return text, _doubt(node, text)


def _doubt(node: yaml.ScalarNode, text: str) -> str:
    if meaning := _WORDS.get(text.lower()):
        return f'which YAML reads as {meaning}; write {meaning}, or "{text}" for the text'
    if node.tag == f"{_TAG}timestamp":
        return f'which YAML reads as a date; write "{text}"'
    if node.tag in {f"{_TAG}int", f"{_TAG}float"}:
        return _number_doubt(text, _number(node))
    if _OTHERS_OCTAL.fullmatch(text):
        return _number_doubt(text, int(text, 8))
    if _OTHERS_FLOAT.fullmatch(text):
        return _number_doubt(text, float(text))
    return ""


def _number(node: yaml.ScalarNode) -> float:
    """Read a number as PyYAML does, which takes `0b_` for one that it then fails at, and has no bound."""
    try:
        return cast("float", SafeConstructor().construct_object(node))
    except (ValueError, OverflowError):
        return math.nan


def _number_doubt(text: str, number: float) -> str:
    if not abs(number) < _LARGE:  # neither is NaN
        return f'which YAML reads as a number; write "{text}" for the text'
    plain = int(number) if number == int(number) else number
    return f'which YAML reads as the number {plain}; write {plain}, or "{text}" for the text'
