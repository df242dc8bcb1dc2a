from __future__ import annotations

import json

import pytest

from proxy.doctor import Report, Step, Verdict, as_json, as_text, summary

WELL = Step("dns", "invoisys.test:443", Verdict.OK, "invoisys.test is at 192.0.2.1", seconds=0.0124)
SOON = Step("tls", "invoisys.test:443", Verdict.WARNING, "it expires", "certificate-expires", "tell them", 0.05)
WRONG = Step("configuration", "x.yaml", Verdict.FAILED, "one: required\ntwo: required", "configuration", "correct it")
FOLLOWS = Step("sidecar", "127.0.0.1:9090", Verdict.FAILED, "no token; the cause stands at login", "not-ready")
WAITS = Step("login", "default to API 2.0", Verdict.NOT_TRIED, "not tried, since tls of invoisys.test:443 failed")


@pytest.mark.parametrize(
    ("steps", "verdict", "last"),
    [
        ((WELL,), Verdict.OK, "All is well."),
        ((WELL, SOON), Verdict.WARNING, "1 thing to do; first: tls of invoisys.test:443."),
        ((SOON, FOLLOWS), Verdict.FAILED, "1 thing to do; first: tls of invoisys.test:443."),
        ((WRONG, SOON, WAITS), Verdict.FAILED, "2 things to do; first: configuration of x.yaml."),
    ],
)
def test_the_verdict_of_all_is_the_worst(steps: tuple[Step, ...], verdict: Verdict, last: str) -> None:
    report = Report(steps)
    assert report.verdict is verdict
    assert summary(report) == last


def test_only_what_went_through_can_be_built_upon() -> None:
    assert [step.stands for step in (WELL, SOON, WRONG, WAITS)] == [True, True, False, False]
    assert not Report((WRONG,)).configured


def test_a_person_reads_a_line_for_what_is_well_and_what_to_do_about_the_rest() -> None:
    assert as_text(WELL) == "ok          dns invoisys.test:443 (12 ms): invoisys.test is at 192.0.2.1"
    assert as_text(WAITS).startswith("not-tried   login default to API 2.0: not tried, since tls of")
    assert as_text(WRONG).splitlines() == [
        "failed      configuration x.yaml (0 ms): one: required",
        "            two: required",
        "            to do: correct it",
    ]


def test_the_form_for_programs() -> None:
    said = json.loads(as_json(Report((WELL, SOON))))
    assert said["form"] == 1
    assert said["verdict"] == "warning"
    assert said["steps"][0] == {
        "step": "dns",
        "about": "invoisys.test:443",
        "verdict": "ok",
        "cause": None,
        "text": "invoisys.test is at 192.0.2.1",
        "mend": None,
        "duration_ms": 12.4,
    }
    assert said["steps"][1]["cause"] == "certificate-expires"
