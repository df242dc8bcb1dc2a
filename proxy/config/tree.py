"""The configuration as it was written: values, each with its place, and the faults found in them."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Path = tuple[str | int, ...]
"""The way from the root to a value: `("listeners", 0, "bind")`."""


@dataclass(slots=True)
class Node:
    """A value that somebody wrote."""

    value: str | int | float | bool | dict[str, Node] | list[Node] | None
    place: str = ""
    """`file:line:col` or `environment variable X`; empty where nobody wrote it."""
    text: str = ""
    """A scalar as it stands in the file."""
    doubt: str = ""
    """Why a plain scalar is not taken as it stands: what YAML reads in its stead."""
    key_place: str = ""
    """Where the key before it stands."""

    def child(self, step: str | int) -> Node | None:
        """Give what stands one step down."""
        if isinstance(self.value, dict):
            return self.value.get(str(step))
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def find(self, path: Path) -> Node | None:
        """Give what stands at `path`."""
        here: Node | None = self
        for step in path:
            here = here and here.child(step)
        return here

    def place_of(self, path: Path) -> str:
        """Give the place of `path`, or of what encloses it where it is missing."""
        ways = (path[:length] for length in range(len(path), -1, -1))
        return next((node.place for way in ways if (node := self.find(way)) and node.place), "")

    def put(self, path: Path, leaf: Node) -> None:
        """Set what stands at `path`; a text that stands in the way is left as it is, for the conversion to refuse."""
        here = self
        for step, following in pairwise(path):
            below = here.child(step)
            if below is None:
                below = Node([] if isinstance(following, int) else {})
                here.set_child(step, below)
            here = below
        here.set_child(path[-1], leaf)

    def set_child(self, step: str | int, node: Node) -> None:
        """Set what stands one step down; a list grows at its end."""
        if isinstance(self.value, dict):
            self.value[str(step)] = node
        elif isinstance(self.value, list):
            self.value.append(node)


class Faults:
    """What is wrong with a configuration, gathered so that it is told all at once."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._lines: list[str] = []

    def add(self, place: str, path: Path, text: str) -> None:
        """Note a fault of the value at `path`."""
        self._paths.append(path)
        self._lines.append(": ".join(part for part in (place, spelled(path), text) if part))

    def touches(self, path: Path) -> bool:
        """Tell whether there is a fault at `path`, below it, or in what encloses it."""
        return any(fault[: len(path)] == path[: len(fault)] for fault in self._paths)

    def raise_any(self) -> None:
        """End with all faults, one a line, if there are any.

        Raises:
            ConfigError: there are.
        """
        if self._lines:
            raise ConfigError("\n".join(self._lines))


def spelled(path: Path) -> str:
    """Write a path as people do: `apis."2.0".url`, `listeners[0].bind`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{_key(step)}" for step in path)
    return "".join(steps).removeprefix(".")


def _key(key: str) -> str:
    return key if key.replace("-", "_").isidentifier() else json.dumps(key, ensure_ascii=False)


def one_of(words: Iterable[str], last: str = "or") -> str:
    """Join words into `a, b or c`."""
    *first, final = words
    return f"{', '.join(first)} {last} {final}" if first else final


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Give the end of a sentence that offers the known word nearest to an unknown one, or all of them."""
    if close := difflib.get_close_matches(word, known, n=1):
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}"
