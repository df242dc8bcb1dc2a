"""The architecture page names what there is."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support.pages import blocks
from tests.support.processes import ROOT
from tools.modules import PAGE, PROGRAM, module_map, purpose, written

TEXT = PAGE.read_text()
BY_HAND = TEXT.partition("<!-- modules")[0]


def test_the_map_is_that_of_the_modules() -> None:
    assert written(TEXT) == TEXT, "run `make docs`"
    shown = module_map()
    for module in PROGRAM.rglob("*.py"):
        assert f"| `{module.name}` | " in shown or module.name == "__init__.py"


def test_every_module_and_every_room_says_what_it_is() -> None:
    assert [module for module in PROGRAM.rglob("*.py") if len(purpose(module)) < 20] == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py)`", BY_HAND))))
def test_modules_named_in_the_text_are_there(name: str) -> None:
    assert (PROGRAM / name).is_file() or list(PROGRAM.glob(f"*/{name}"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z]\w+\.\w+)`", BY_HAND))))
def test_methods_named_in_the_text_are_there(name: str) -> None:
    kind, method = name.split(".")
    of_that_kind = re.compile(rf"^class {kind}\b.*\n(?:(?: .*)?\n)*? +(?:async )?def {method}\(", re.MULTILINE)
    assert [module for module in PROGRAM.rglob("*.py") if of_that_kind.search(module.read_text())]


def test_the_layers_are_those_that_are_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    enforced = [set(re.findall(r"\w+", layer)) for layer in contracts[0]["layers"][1:]]
    drawn = next(text for language, text in blocks(PAGE) if language == "text" and text.startswith("cli"))
    assert [names & set(line.split()) for names, line in zip(enforced, drawn.splitlines(), strict=True)] == enforced
