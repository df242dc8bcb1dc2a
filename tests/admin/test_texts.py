"""Both languages say everything, and the right one is chosen."""

from __future__ import annotations

import re

import pytest

from proxy.admin import Readiness
from proxy.admin.texts import EN, PT, words_for
from proxy.errors import Outcome
from proxy.observe.steps import ERRORS
from proxy.tokens.states import REASONS, LoginState, TokenState
from tests.support.processes import ROOT


def test_both_languages_have_the_same_keys_and_places() -> None:
    assert list(EN) == list(PT)
    for key, words in EN.items():
        assert words.strip(), key
        assert PT[key].strip(), key
        assert sorted(re.findall(r"{\w+}", words)) == sorted(re.findall(r"{\w+}", PT[key])), key


def test_there_are_words_for_every_state() -> None:
    wanted = {state.name.lower() for state in TokenState}
    wanted |= {state.value for state in LoginState} | {"in-flight.login"}
    wanted |= {f"reason.{reason}" for reason in (*REASONS.values(), "retry", "look")}
    wanted |= {f"outcome.{outcome}" for outcome in Outcome}
    wanted |= {str(readiness) for readiness in Readiness} | {f"{readiness}.means" for readiness in Readiness}
    assert wanted <= set(EN)


def test_every_text_is_used() -> None:
    code = "".join(path.read_text() for path in (ROOT / "proxy" / "admin").glob("*.py") if path.name != "texts.py")
    composed = r"(reason|result|outcome|pool|ready|degraded|not-ready|draining)\."
    states = {state.name.lower() for state in TokenState} | {state.value for state in LoginState}
    states |= {str(readiness) for readiness in Readiness} | {"sandbox", "production", "failed"}
    unused = {
        key
        for key in EN
        if key not in re.findall(r"[\"']([\w.-]+)[\"']", code) and not re.match(composed, key) and key not in states
    }
    assert unused == set()


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", "pt-BR"),
        ("en-US,en;q=0.9,pt;q=0.8", "en"),
        ("pt", "pt-BR"),
        ("PT-PT", "pt-BR"),
        ("de,pt;q=0.5,en;q=0.4", "pt-BR"),
        ("fr, *", "en"),
        ("pt;q=0, en;q=0.1", "en"),
        ("pt;q=0", "en"),
        ("pt;q=x", "en"),
        ("pt;level=1", "pt-BR"),
        ("ptolemaic", "en"),
    ],
)
def test_the_language_that_the_browser_prefers(accept: str, language: str) -> None:
    assert words_for(accept)["lang"] == language


def test_there_is_a_next_step_for_what_the_page_tells_of() -> None:
    assert {"caller-gone", "credentials-refused", "connection-lost"} <= set(ERRORS)
