from __future__ import annotations

import pytest

from proxy.fake.faults import ActionError, Answers, Expire, Logins, Turns, parse_action


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("explode", {}, "no action `explode`; there are reset, revoke"),
        ("revoke", {"x": "1"}, "revoke: Object contains unknown field `x`"),
        ("logins", {"mode": "maybe"}, "`mode` is one of accept, refuse, grant"),
        ("logins", {"mode": "refuse", "times": "0"}, "Expected `int` >= 1"),
        ("logins", {"mode": "refuse", "delay": "1"}, "`delay` goes with mode `slow` only"),
        ("answers", {"mode": "error", "retry_after": "1"}, "`retry_after` goes with mode `throttle` only"),
        ("answers", {"mode": "cut-after", "framing": "chunked"}, "`framing` goes with mode `cut-during` only"),
        ("answers", {"mode": "error", "code": "103"}, "`code` goes with mode `verdict` only"),
        ("answers", {"mode": "verdict", "code": "1000"}, "Expected `int` <= 999"),
        ("expire", {"in": "nan"}, "expire: Expected `float`"),
        ("expire", {"in": "inf"}, "expire: Expected `float`"),
    ],
)
def test_a_wrong_action_says_what_is_wrong(name: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ActionError) as caught:
        parse_action(name, fields)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, {"expires_in": 92843}),
        ({"in": "2.5"}, {"expires_in": 2}),
        ({"in": "60", "say": "none"}, {}),
        ({"say": "0"}, {"expires_in": 0}),
        ({"say": -5}, {"expires_in": -5}),
        ({"say": "abc"}, {"expires_in": "abc"}),
        ({"say": '"3600"'}, {"expires_in": "3600"}),
    ],
)
def test_what_a_token_response_says_of_the_lifetime(fields: dict[str, object], said: object) -> None:
    action = parse_action("expire", fields)
    assert isinstance(action, Expire)
    assert action.said() == said


def test_turns_run_out_and_count_only_their_path() -> None:
    usual = Answers()
    turns = Turns(usual)
    fault = parse_action("answers", {"mode": "error", "times": "2", "path": "/api/nfe"})
    assert isinstance(fault, Answers)
    turns.set(fault)
    paths = ["/v1/x", "/api/nfe/envio", "/api/nfe/envio", "/api/nfe/envio"]
    assert [turns.take(path) is fault for path in paths] == [False, True, True, False]


def test_a_fault_without_times_stays() -> None:
    turns = Turns(Logins())
    turns.set(Logins())
    assert {turns.take("/").mode for _ in range(5)} == {"accept"}


@pytest.mark.parametrize(
    ("mode", "issues"), [("error", False), ("throttle", False), ("verdict", False), ("cut-before", True)]
)
def test_whether_a_disturbed_emission_leaves_a_document(mode: str, issues: bool) -> None:
    for fields, expected in (({}, issues), ({"issue": str(not issues).lower()}, not issues)):
        fault = parse_action("answers", {"mode": mode, **fields})
        assert isinstance(fault, Answers)
        assert fault.issues is expected


def test_the_pause_belongs_to_slow_answers() -> None:
    fields: list[dict[str, object]] = [{}, {"mode": "slow"}, {"mode": "slow", "delay": "0.2"}]
    faults = [parse_action("answers", each) for each in fields]
    assert [fault.pause for fault in faults if isinstance(fault, Answers)] == [0, 1, 0.2]
