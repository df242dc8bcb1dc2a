"""Ask pip-audit for known vulnerabilities of what is locked: `python -m tools.audit requirements.lock`.

A vulnerability ends with 1, and so does an audit that fails for a reason of ours. Where the data cannot be reached the
build goes on, with 0 and a warning: pip-audit's own exit code tells none of these apart, and where an index answers
"unknown" for every package, it says that all is well.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT = 120.0
"""Seconds that the audit may take."""

_UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|Max retries|ProxyError|SSLError|ServiceError"
    r"|HTTPError|timed out|Tried to connect|Could not connect"
)
_LAST_WORDS = 20


class Verdict(NamedTuple):
    """What came of an audit: whether the build may go on, and why."""

    passed: bool
    text: str


def judge(output: str, errors: str) -> Verdict:
    """Read what pip-audit said."""
    dependencies = _report(output)
    if dependencies is None:
        if _UNREACHABLE.search(errors):
            return Verdict(passed=True, text="NOT AUDITED: the data on vulnerabilities could not be reached")
        words = "\n".join(errors.splitlines()[-_LAST_WORDS:])
        return Verdict(passed=False, text=f"pip-audit gave no report:\n{words}")
    found = [
        f"{each['name']} {each['version']}: {vulnerability['id']}, mended in {_versions(vulnerability)}"
        for each in dependencies
        for vulnerability in each.get("vulns", ())
    ]
    if found:
        return Verdict(passed=False, text="\n".join(["known vulnerabilities:", *found]))
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    if len(skipped) == len(dependencies):
        return Verdict(passed=True, text="NOT AUDITED: the data does not know any of the dependencies")
    if skipped:
        return Verdict(passed=True, text=f"no known vulnerability, but NOT AUDITED: {', '.join(skipped)}")
    return Verdict(passed=True, text=f"no known vulnerability in {len(dependencies)} dependencies")


def _report(output: str) -> list[dict[str, Any]] | None:
    try:
        report = json.loads(output)
    except ValueError:
        return None
    dependencies = report.get("dependencies") if isinstance(report, dict) else None
    return dependencies if isinstance(dependencies, list) else None


def _versions(vulnerability: dict[str, Any]) -> str:
    return ", ".join(vulnerability.get("fix_versions") or ["no version yet"])


def audit(lock: str, auditor: str, limit: float) -> Verdict:
    """Run pip-audit on a lock file, for up to `limit` seconds."""
    options = ("--disable-pip", "--require-hashes", "--format", "json", "--progress-spinner", "off")
    try:
        done = subprocess.run(  # noqa: S603 - what the caller names
            [auditor, *options, "--requirement", lock], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict(passed=True, text=f"NOT AUDITED: no report within {limit:g} s")
    except OSError as error:
        return Verdict(passed=False, text=f"{auditor} cannot be run: {error.strerror}")
    return judge(done.stdout, done.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit one lock file; 0 if the build may go on."""
    parser = argparse.ArgumentParser(description="Audit a lock file.")
    parser.add_argument("lock")
    parser.add_argument("--auditor", default=str(Path(sys.executable).with_name("pip-audit")))
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS")
    options = parser.parse_args(arguments)
    verdict = audit(options.lock, options.auditor, options.limit)
    print(f"audit of {options.lock}: {verdict.text}", file=sys.stdout if verdict.passed else sys.stderr)
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
