"""What the trial says: steps with their verdicts, as JSON and as text for a person. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

FORM = 1
"""The number of the JSON form; it grows when something in the form changes its meaning or goes away."""

_INDENT = " " * 12


class Verdict(StrEnum):
    """How a step ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_TRIED = "not-tried"  # a step that it needs has failed


@dataclass(frozen=True, slots=True)
class Step:
    """One step and how it ended; texts hold no secret."""

    name: str
    about: str
    """What was tried: a server, an account and API, an address."""
    verdict: Verdict
    text: str
    cause: str | None = None
    """The finding's stable name, which is that of the error or event that the sidecar's log has."""
    mend: str | None = None
    seconds: float = 0.0

    @property
    def stands(self) -> bool:
        """Whether what builds on this step can be tried."""
        return self.verdict in (Verdict.OK, Verdict.WARNING)

    @property
    def title(self) -> str:
        """The step and what it is about, in words."""
        return f"{self.name} of {self.about}" if self.about else self.name


class Finding(Exception):
    """Something to mend; what a step raises, and a warning where `serious` is false.

    Its `mend` is empty where that of an earlier step is all there is to do.
    """

    def __init__(self, cause: str, text: str, mend: str, *, serious: bool = True) -> None:
        super().__init__(text)
        self.cause = cause
        self.text = text
        self.mend = mend
        self.verdict = Verdict.FAILED if serious else Verdict.WARNING


@dataclass(frozen=True, slots=True)
class Report:
    """All steps, in the order in which they were taken."""

    steps: tuple[Step, ...]

    @property
    def findings(self) -> list[Step]:
        """The steps that found something."""
        return [step for step in self.steps if step.verdict in (Verdict.WARNING, Verdict.FAILED)]

    @property
    def verdict(self) -> Verdict:
        """The worst of the steps'."""
        verdicts = {step.verdict for step in self.findings}
        return next((each for each in (Verdict.FAILED, Verdict.WARNING) if each in verdicts), Verdict.OK)

    @property
    def configured(self) -> bool:
        """Whether the configuration can be used."""
        return self.steps[0].stands


def as_json(report: Report) -> str:
    """Return the report in its documented form (docs/troubleshooting.md)."""
    steps = [_plain(step) for step in report.steps]
    return json.dumps({"form": FORM, "verdict": report.verdict, "steps": steps}, indent=2, ensure_ascii=False)


def _plain(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "about": step.about,
        "verdict": step.verdict,
        "cause": step.cause,
        "text": step.text,
        "mend": step.mend,
        "duration_ms": round(step.seconds * 1000, 1),
    }


def as_text(step: Step) -> str:
    """Return what a person reads of one step."""
    took = "" if step.verdict is Verdict.NOT_TRIED else f"({step.seconds * 1000:.0f} ms)"
    title = " ".join(filter(None, (step.name, step.about, took)))
    first, *more = step.text.splitlines()
    lines = [f"{step.verdict:<{len(_INDENT)}}{title}: {first}"]
    lines += [_INDENT + line for line in more]
    if step.mend is not None:
        lines += [f"{_INDENT}to do: {step.mend}"]
    return "\n".join(lines)


def summary(report: Report) -> str:
    """Return the last line for a person: how much there is to do, and what follows from it is not counted."""
    if not report.findings:
        return "All is well."
    number = sum(step.mend is not None for step in report.findings)
    return f"{number} {'thing' if number == 1 else 'things'} to do; first: {report.findings[0].title}."
