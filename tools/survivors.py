"""Compares the mutants that survived with those that docs/testing.md gives a reason for: `make mutants`.

A mutant is told by its function and by what became of its text, which stay when mutmut numbers it anew.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "mutants"
PAGE = ROOT / "docs" / "testing.md"
PACKAGE = "proxy/tokens"

# What mutmut keeps of a mutant: pytest's exit code, or the signal that ended it after its time.
RESULTS = {0: "survived", 1: "killed", 2: "killed", 3: "killed", -24: "timed out", 36: "timed out", -9: "timed out"}
TOKEN = re.compile(r"[\w.]+|[<>=!+*/-]+|\s+|.")
ROW = re.compile(r"\| `([\w.]+)`(, twice|, thrice)? \| (.*) \|")
CHANGE = re.compile(r"`([^`]+)` → (?:`([^`]+)`|nothing)|nothing → `([^`]+)`")


class Mutant(NamedTuple):
    """A function, and the text in it that became another."""

    function: str
    old: str
    new: str

    def __str__(self) -> str:
        old, new = (f"`{text}`".replace("|", r"\|") if text else "nothing" for text in (self.old, self.new))
        return f"| `{self.function}` | {old} → {new} |"


def changed(old: str, new: str) -> tuple[str, str]:
    """Return what is not the same at the start and at the end of two texts, in whole tokens."""
    olds, news = TOKEN.findall(old), TOKEN.findall(new)
    shorter = min(len(olds), len(news))
    start = next((at for at in range(shorter) if olds[at] != news[at]), shorter)
    end = next((at for at in range(shorter - start) if olds[-1 - at] != news[-1 - at]), shorter - start)
    parts = ("".join(tokens[start : len(tokens) - end]) for tokens in (olds, news))
    before, after = (re.sub(r"\s+", " ", part).strip() for part in parts)
    return before, after


def tested() -> Iterator[tuple[Mutant, str]]:
    """Read what mutmut left behind: each mutant with its result."""
    for meta in sorted((MUTANTS / PACKAGE).glob("*.py.meta")):
        source = meta.with_suffix("").read_text()
        functions = {
            node.name: "\n".join(map(ast.unparse, (node.args, *node.body)))
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            mutated = name.rpartition(".")[2]
            original = mutated.rpartition("__mutmut_")[0]
            function = original.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
            mutant = Mutant(
                f"{meta.name.partition('.')[0]}.{function}",
                *changed(functions[f"{original}__mutmut_orig"], functions[mutated]),
            )
            yield mutant, RESULTS.get(code, "not tested")


def listed() -> Iterator[Mutant]:
    """Read the mutants that the page lists."""
    for function, often, changes in ROW.findall(PAGE.read_text()):
        for old, new, added in CHANGE.findall(changes.replace(r"\|", "|")):
            yield from [Mutant(function, old, new or added)] * {"": 1, ", twice": 2, ", thrice": 3}[often]


def main() -> int:
    """Print the figures and the differences; return how many there are of the latter."""
    results = list(tested())
    counts = Counter(result for _, result in results)
    print(f"{len(results)} mutants:", ", ".join(f"{count} {result}" for result, count in sorted(counts.items())))
    survived = Counter(mutant for mutant, result in results if result == "survived")
    known = Counter(listed())
    for title, mutants in (("Survived, and has no reason yet:", survived - known), ("Is listed:", known - survived)):
        if mutants:
            print(title, *sorted(map(str, mutants.elements())), sep="\n")
    return (survived - known).total() + (known - survived).total() + counts["not tested"]


if __name__ == "__main__":
    sys.exit(min(main(), 1))
