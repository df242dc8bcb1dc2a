"""From a tree of places to the typed configuration; every fault is gathered, none ends the reading."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec.inspect as mi
from msgspec import UNSET

from proxy.config.model import Config
from proxy.config.secret import Secret
from proxy.config.tree import Faults, Node, Path, did_you_mean, one_of
from proxy.config.values import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONFIG = cast("mi.StructType", mi.type_info(Config))
_TEXT = mi.StrType(min_length=1)
_SHOWN = 80


def convert(tree: Node, faults: Faults) -> Config:
    """Make the typed configuration; where a value is at fault its default stands in, so that the rest can be judged."""
    config: Config = _Conversion(faults).section(_CONFIG, tree, ())
    return config


class _Conversion:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def section(self, kind: mi.StructType, node: Node, path: Path) -> Any:
        keys = self._keys(node, path)
        fields = {field.name: field.type for field in kind.fields}
        self._refuse_unknown(keys, list(fields), path)
        values = {name: self._value(field, keys[name], (*path, name)) for name, field in fields.items() if name in keys}
        return kind.cls(**{name: value for name, value in values.items() if value is not UNSET})

    def _value(self, kind: mi.Type, node: Node, path: Path, extra: Mapping[str, Any] | None = None) -> Any:
        match kind:
            case mi.Metadata(type=inner, extra=extra):
                return self._value(inner, node, path, extra)
            case mi.UnionType(types=types):
                inner = next(each for each in types if not isinstance(each, mi.NoneType))
                return None if node.value is None else self._value(inner, node, path, extra)
            case mi.StructType():
                return self.section(kind, node, path)
            case mi.DictType():
                return self._dict(kind, node, path, extra or {})
            case mi.VarTupleType():
                return self._tuple(kind, node, path)
            case _:
                return self._leaf(kind, node, path, extra or {})

    def _keys(self, node: Node, path: Path) -> dict[str, Node]:
        if isinstance(node.value, dict):
            return node.value
        self._faults.add(node.place, path, f"expected keys, found {_found(node)}")
        return {}

    def _dict(self, kind: mi.DictType, node: Node, path: Path, extra: Mapping[str, Any]) -> dict[str, Any]:
        keys = self._keys(node, path)
        names = extra.get("names", list(keys))
        self._refuse_unknown(keys, names, path)
        return {key: self._value(kind.value_type, keys[key], (*path, key)) for key in names if key in keys}

    def _refuse_unknown(self, keys: dict[str, Node], known: list[str], path: Path) -> None:
        for key, node in keys.items():
            if key not in known:
                self._faults.add(node.key_place, (*path, key), f"unknown key{did_you_mean(key, known)}")

    def _tuple(self, kind: mi.VarTupleType, node: Node, path: Path) -> Any:
        if not isinstance(node.value, list):
            self._faults.add(node.place, path, f"expected a list, found {_found(node)}")
            return UNSET
        if len(node.value) < (kind.min_length or 0):
            self._faults.add(node.place, path, "expected a list that is not empty")
            return UNSET
        values = (self._value(kind.item_type, item, (*path, index)) for index, item in enumerate(node.value))
        return tuple(value for value in values if value is not UNSET)

    def _leaf(self, kind: mi.Type, node: Node, path: Path, extra: Mapping[str, Any]) -> Any:
        try:
            return _read(kind, node, extra)
        except ValueError as error:
            found = _hidden(node) if _is_secret(kind) else _found(node) + _hint(error, node)
            self._faults.add(node.place, path, f"expected {extra.get('expected', error)}, found {found}")
            return UNSET


def _read(kind: mi.Type, node: Node, extra: Mapping[str, Any]) -> Any:
    """Read one value; a ValueError says what was expected."""
    if _is_secret(kind):
        value: Any = Secret(_judge(_TEXT, node.value))
    elif isinstance(kind, mi.CustomType | mi.DataclassType):
        value = cast("Any", kind.cls).parse(node.text)
    else:
        value = _judge(kind, node.value)
    if isinstance(value, Duration | Size) and not value and not extra.get("zero"):
        raise ValueError("more than 0")
    if node.doubt or (isinstance(kind, mi.DataclassType) and not isinstance(node.value, str)):
        raise ValueError("text")
    return value


def _is_secret(kind: mi.Type) -> bool:
    return isinstance(kind, mi.CustomType) and kind.cls is Secret


def _judge(kind: mi.Type, value: Any) -> Any:
    """Give back a value of a plain type; a ValueError says what was expected."""
    match kind:
        case mi.StrType(min_length=least, pattern=pattern):
            good = isinstance(value, str) and len(value) >= (least or 0) and _matches(pattern, value)
            expected = "text"
        case mi.IntType(ge=least):
            good = type(value) is int and value >= (least or 0)
            expected = f"a whole number, at least {least or 0}"
        case mi.BoolType():
            good = isinstance(value, bool)
            expected = "true or false"
        case mi.LiteralType(values=values):
            good = isinstance(value, str) and value in values
            expected = one_of(str(each) for each in values)
        case _:
            good = value is None
            expected = "null"
    if not good:
        raise ValueError(expected)
    return value


def _matches(pattern: str | None, text: str) -> bool:
    return pattern is None or re.fullmatch(pattern, text) is not None


def _found(node: Node) -> str:
    """Name what stands in the place of what was expected."""
    match node.value:
        case None:
            return "nothing"
        case dict():
            return "keys"
        case list():
            return "a list"
        case bool(value):
            return str(value).lower()
        case str(text) if not node.doubt:
            text = re.sub(r"(?s):(//)?.+@", r":\1***@", text)  # a URL may hold a password
            return json.dumps(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…", ensure_ascii=False)
        case _:
            return f"{node.text}, {node.doubt}" if node.doubt else f"the number {node.text}"


def _hint(error: ValueError, node: Node) -> str:
    return "; put it in quotes" if str(error) == "text" and isinstance(node.value, int | float) else ""


def _hidden(node: Node) -> str:
    if node.value is None or isinstance(node.value, dict | list):
        return _found(node)
    return "an empty one" if node.value == "" else "another kind of value (not shown); put it in quotes"
