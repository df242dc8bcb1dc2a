"""The step-by-step trial: everything that a request needs, tried for real, up to the first cause of what fails."""

from proxy.doctor.report import Report, Step, Verdict, as_json, as_text, summary
from proxy.doctor.trial import examine

__all__ = ["Report", "Step", "Verdict", "as_json", "as_text", "examine", "summary"]
