from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.fake import ScriptError, load_script
from proxy.fake.counts import Tally
from proxy.fake.faults import Denials, Expire, Inbox, LoginMode, Logins, OnlyNewest, Shape
from proxy.fake.state import State

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def write(folder: Path, text: str) -> Path:
    path = folder / "script.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_script_holds_the_same_actions_as_the_control_endpoints(tmp_path: Path) -> None:
    script = load_script(
        write(
            tmp_path,
            """
            - {do: only-newest, on: false}
            - {after: {logins: 2, unauthorized: 1}, do: expire, in: 60, say: none}
            - {at: 1.5s, do: logins, mode: refuse, times: 2}
            - {at: 500ms, do: denials, shape: json}
            - {do: inbox, documents: 120}
            """,
        )
    )
    assert [step.action for step in script.steps] == [
        OnlyNewest(on=False),
        Expire(lifetime=60, say="none"),
        Logins(mode=LoginMode.REFUSE, times=2),
        Denials(shape=Shape.JSON),
        Inbox(documents=120),
    ]
    assert [step.at for step in script.steps] == [0, 0, 1.5, 0.5, 0]
    assert script.steps[1].after == {Tally.LOGINS: 2, Tally.UNAUTHORIZED: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("do: revoke", "expected a list of steps"),
        ("- [", "while parsing"),
        ("- {do: revoke, do: reset}", "a key stands twice"),
        ("- {do: revoke}\n- revoke", "step 2: expected a mapping with `do: ACTION`"),
        ("- {after: {logins: 1}}", "step 1: expected a mapping with `do: ACTION`"),
        ("- {do: explode}", "step 1: no action `explode`"),
        ("- {do: [revoke]}", "step 1: expected a mapping with `do: ACTION`"),
        ("- {do: logins, mode: x}", "step 1: logins: Invalid enum value 'x'"),
        ("- {do: revoke, after: {logins: 1}, at: 1s}", "step 1: `after` and `at` exclude each other"),
        ("- {do: revoke, after: {}}", "step 1: after: expected a counter"),
        ("- {do: revoke, after: {coffee: 1}}", "step 1: after: Invalid enum value 'coffee'"),
        ("- {do: revoke, after: {logins: -1}}", "step 1: after: Expected `int` >= 0"),
        ("- {do: revoke, at: 5}", "step 1: at: expected a duration"),
        ("- {do: revoke, at: [5s]}", "step 1: at: expected a duration"),
    ],
)
def test_a_wrong_script_says_where_and_why(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ScriptError) as caught:
        load_script(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="No such file"):
        load_script(tmp_path / "none.yaml")


def test_a_step_falls_due_after_its_requests_and_once(tmp_path: Path) -> None:
    state = State(load_script(write(tmp_path, "- {after: {requests: 2}, do: revoke}")), Clock())
    bearer = f"Bearer {state.tokens.issue('2.0')}"
    admitted = []
    for _ in range(3):
        state.request_arrives("GET", "/api/x")
        admitted.append(state.tokens.admits("/api/x", bearer))
    assert admitted == [True, True, False]
    bearer = f"Bearer {state.tokens.issue('2.0')}"
    state.request_arrives("GET", "/api/x")
    assert state.tokens.admits("/api/x", bearer)


def test_a_step_falls_due_at_its_time_since_the_start(tmp_path: Path) -> None:
    clock = Clock()
    state = State(load_script(write(tmp_path, "- {at: 5s, do: reset}")), clock)
    clock.now += 10
    state.start()
    state.count(Tally.LOGINS)
    clock.now += 4.9
    assert state.snapshot()["logins"] == 1
    clock.now += 0.1
    assert state.snapshot()["logins"] == 0
