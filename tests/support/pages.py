"""The documents as programs see them: blocks of code, tables, links, headings."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = re.compile(r"^([ ]*)```(\w*)\n(.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]+`")


class Step(NamedTuple):
    """A block of commands, and the answer that the page shows right after it."""

    commands: str
    answer: str | None


@functools.cache
def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks, or is about to."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path) -> list[tuple[str, str]]:
    """The blocks of code, each with its language, without the indent of a list that it stands in."""
    return [
        (language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE).strip())
        for indent, language, text in _BLOCK.findall(document.read_text())
    ]


def steps(document: Path) -> list[Step]:
    """The `sh` blocks of a page, in their order; a `text` block that follows under the same heading is the answer."""
    found: list[Step] = []
    pending = False
    for block in re.finditer(rf"{_BLOCK.pattern}|^#", document.read_text(), re.MULTILINE | re.DOTALL):
        language, text = block[2], (block[3] or "").strip()
        if language == "sh":
            found.append(Step(text, None))
        elif language == "text" and pending:
            found[-1] = found[-1]._replace(answer=text)
        pending = language == "sh"
    return found


def prose(document: Path) -> str:
    return _BLOCK.sub("", document.read_text())


def links(document: Path) -> list[str]:
    return _LINK.findall(_CODE.sub("", prose(document)))


def headings(document: Path) -> list[tuple[int, str]]:
    """Level and text of each heading."""
    return [(len(marks), text) for marks, text in _HEADING.findall(prose(document))]


def anchors(document: Path) -> set[str]:
    """What a link to a heading may end in: its letters, digits, `-` and `_` in lower case."""
    found: dict[str, int] = {}
    for _, text in headings(document):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).lower().replace(" ", "-")
        slug = "".join(each for each in plain if each in "-_" or unicodedata.category(each)[0] in "LN")
        found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{number}" if number else slug for slug, last in found.items() for number in range(last + 1)}


def rows(document: Path) -> list[list[str]]:
    """The cells of every table row."""
    lines = document.read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def surroundings() -> dict[str, str]:
    """The environment of somebody who just opened a terminal: nothing of ours, nothing of the `make` we run under."""
    ours = ("INVOISYS_", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"NO_PROXY": "127.0.0.1"}


def as_pattern(answer: str) -> str:
    """An answer on the page stands for itself; `…` stands for anything."""
    return ".*".join(re.escape(part) for part in answer.split("…"))
