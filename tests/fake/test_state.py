from __future__ import annotations

import pytest

from proxy.fake.faults import Expire, OnlyNewest, Reset
from proxy.fake.keys import Natural
from proxy.fake.script import Script
from proxy.fake.state import State


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_lives_as_long_as_it_is_said_to() -> None:
    clock = Clock()
    state = State(Script(), clock)
    state.apply(Expire(lifetime=60))
    token = state.tokens.issue("2.0")
    assert len(token) == 299
    clock.now = 59.9
    assert state.tokens.admits("/api/x", f"bearer {token}")
    clock.now = 60
    assert not state.tokens.admits("/api/x", f"bearer {token}")


@pytest.mark.parametrize(("scheme", "path", "admitted"), [("BEARER", "/api/x", True), ("Basic", "/api/x", False)])
def test_the_scheme_is_bearer_in_any_case(scheme: str, path: str, admitted: bool) -> None:
    state = State(Script(), Clock())
    assert state.tokens.admits(path, f"{scheme} {state.tokens.issue('2.0')}") is admitted


def test_the_newest_token_ends_only_those_of_its_api() -> None:
    state = State(Script(), Clock())
    state.apply(OnlyNewest())
    first, receipt, second = (f"bearer {state.tokens.issue(api)}" for api in ("2.0", "3.0", "2.0"))
    assert not state.tokens.admits("/api/x", first)
    assert state.tokens.admits("/api/x", second)
    assert state.tokens.admits("/v1/x", receipt)
    assert not state.tokens.admits("/api/x", receipt)


def test_an_emission_that_is_not_kept_leaves_nothing() -> None:
    state = State(Script(), Clock())
    document, again = state.emit(Natural(number="1"), keep=False)
    assert not again
    assert state.document(document.chave) is None
    assert state.numbered(Natural(number="1")) is None
    assert state.numbered(None) is None


def test_a_reset_forgets_all_but_the_tokens() -> None:
    state = State(Script(), Clock())
    token = state.tokens.issue("2.0")
    fresh = state.snapshot(documents=True)
    state.login_arrives("/api/token")
    state.request_arrives("GET", "/api/x")
    state.emit(Natural(number="1"), keep=True)
    assert state.snapshot(documents=True)["emissions"] == {"-/-/-/1": 1}
    state.apply(Reset())
    assert state.snapshot(documents=True) == fresh
    assert state.tokens.admits("/api/x", f"bearer {token}")
