"""Each page in Portuguese keeps step with the English one: the same headings, blocks and tables, in the same order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import blocks, headings, links, prose, rows, tracked
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TRANSLATED = {
    ROOT / "README.md": ROOT / "README.pt-BR.md",
    ROOT / "docs" / "erp-guide.md": ROOT / "docs" / "guia-erp.pt-BR.md",
}
each_pair = pytest.mark.parametrize(("english", "portuguese"), TRANSLATED.items(), ids=lambda page: page.name)


def test_every_translation_has_its_original() -> None:
    assert set(tracked("*.pt-BR.md")) == set(TRANSLATED.values())


@each_pair
def test_the_headings_are_of_the_same_levels(english: Path, portuguese: Path) -> None:
    assert [level for level, _ in headings(portuguese)] == [level for level, _ in headings(english)]


def untold(block: tuple[str, str]) -> tuple[str, str]:
    """A block without what it says to people: comments, and the words of a drawing."""
    language, text = block
    return language, "" if language == "diagram" else re.sub(r"(^|\s+)# .*", "", text)


@each_pair
def test_the_blocks_of_code_are_the_same(english: Path, portuguese: Path) -> None:
    assert [untold(each) for each in blocks(portuguese)] == [untold(each) for each in blocks(english)]


@each_pair
def test_what_blocks_say_to_people_is_translated(english: Path, portuguese: Path) -> None:
    for theirs, ours in zip(blocks(english), blocks(portuguese), strict=True):
        assert (theirs == ours) == (theirs == untold(theirs)), ours


def parts(page: Path) -> list[list[str]]:
    """What each section is made of, heading by heading: table rows, list items and paragraphs, without their words."""
    kinds = {"|": "row", "-": "item", "#": "heading"}
    sections: list[list[str]] = [[]]
    for block in re.split(r"\n(?=\n)", prose(page)):
        for line in block.strip("\n").splitlines()[: None if block.lstrip("\n")[:1] in "|-0123456789" else 1]:
            kind = kinds.get(line[:1]) or ("item" if re.match(r"\d+\. ", line) else "text")
            if kind == "heading":
                sections.append([])
            elif kind != "text" or not line.startswith(" "):
                sections[-1].append(kind)
    return sections


@each_pair
def test_every_section_has_as_many_paragraphs_items_and_rows(english: Path, portuguese: Path) -> None:
    assert parts(portuguese) == parts(english)


@each_pair
def test_every_row_names_the_same_things(english: Path, portuguese: Path) -> None:
    def named(page: Path) -> list[set[str]]:
        return [{*re.findall(r"`([^`]+)`", " ".join(row)), str(len(row))} for row in rows(page)]

    assert named(portuguese) == named(english)


@each_pair
def test_it_links_to_the_same_pages_or_their_translations(english: Path, portuguese: Path) -> None:
    def targets(page: Path) -> set[Path]:
        files = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link}
        return {TRANSLATED.get(file, file) for file in files} | {portuguese, portuguese.parent}

    assert targets(portuguese) == targets(english)
    assert portuguese.name in links(english)
    assert english.name in links(portuguese)
