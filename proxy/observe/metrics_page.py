"""`docs/metrics.md`, written from the definitions: `python -m proxy.observe.metrics_page > docs/metrics.md`."""

from __future__ import annotations

import sys

from proxy.observe.families import LOGIN_SECONDS, REQUEST_SECONDS, SECTIONS, Family
from proxy.observe.metrics import LOGIN_STATES, READINESS_STATES
from proxy.observe.requests import METHODS, NONE, OTHER

_HEAD = """\
# Metrics

<!-- Written by `make docs`; the definitions stand in proxy/observe/families.py. -->

`GET /metrics` at the operator's port (`admin.bind`), in Prometheus' text format, or in OpenMetrics for those who
ask for it. It answers any `Host`. A dashboard for Grafana and rules for alerts stand in
[deploy/monitoring](../deploy/monitoring/README.md).

The values of labels are few, whatever callers send: a method or a path that somebody makes up is no value of its own.
"""

_TAIL = """\
## From the libraries

`process_…` (memory, processor time, open files), `python_info` and `python_gc_…` are those of every Python program.

## What they cost

Counting a request takes about a microsecond: plain numbers, in the thread of the event loop, which become metrics when
somebody asks. A scrape takes a few milliseconds.
"""


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values)


LABELS = {
    "account": "The account's name in the configuration.",
    "api": f"The API, `2.0` or `3.0`; `{NONE}` where a request is for none, as one that the guard kept out.",
    "cause": (
        "Of a refusal: `host`, a Host that is not ours; `origin`, a web page that was not let in; `form`, a target,"
        " method or protocol that is not forwarded; `caller-token`; `rule`, none lets it pass; `token-endpoint`, a"
        " login where `token_endpoint` is `deny`. Of the end of a connection: `idle` for too long; `upstream` closed it"
        " or said that it would; `abandoned` by the caller or by us inside an exchange; `failed` inside one; `stopped`"
        " with the sidecar."
    ),
    "error": (
        "The name of the error, as in [the outcome contract](outcome.md#every-error); `caller-gone` where the caller"
        " left."
    ),
    "listener": "The listener's address, as it is configured.",
    "method": f"{_listed(METHODS)}; `{OTHER}` for all else.",
    "origin": f"Whose answer the caller got: `upstream`, `sidecar`, or `{NONE}` where it left before.",
    "outcome": "`not-sent`, `answered` or `unknown`: see [the outcome contract](outcome.md).",
    "reason": (
        "Why the login began: `first`, `rejected`, `expired`, `scheduled`, `retry`; `asked`, by an operator; `look`,"
        " where a newer token was found in a shared store."
    ),
    "result": (
        "Of a login: `granted`; `shared`, another sidecar's token was taken instead; or the name of the error. Of a"
        " 401: `replayed`; `too-large`, the body was not held, or the 401 itself was too long to keep; `permission`, a"
        " new token would not help or did not; `failed`, no new token was got, or the second exchange brought no"
        " answer."
    ),
    "state": (
        f"Of connections: `idle`, `busy`. Of a login: {_listed(LOGIN_STATES)}. Of readiness:"
        f" {_listed(READINESS_STATES)}."
    ),
    "status": f"The status that the caller got; `{NONE}` where it left before.",
    "version": "Of invoisys-proxy.",
}


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for title, kinds in SECTIONS.items():
        rows = "".join(map(_row, kinds))
        parts.append(f"## {title}\n\n| name | kind | labels | what it tells |\n| --- | --- | --- | --- |\n{rows}")
    parts.append(
        "The bounds of the histograms, in seconds: "
        f"{_bounds(REQUEST_SECONDS)} for requests, {_bounds(LOGIN_SECONDS)} for logins.\n"
    )
    rows = "".join(f"| `{label}` | {text} |\n" for label, text in LABELS.items())
    parts.append(f"## Labels\n\n| label | values |\n| --- | --- |\n{rows}")
    return "\n".join([*parts, _TAIL])


def _row(kind: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in kind.labels)
    return f"| `{kind.name}` | {kind.kind} | {labels} | {kind.help} |\n"


def _bounds(bounds: tuple[float, ...]) -> str:
    return ", ".join(f"{bound:g}" for bound in bounds)


if __name__ == "__main__":
    sys.stdout.write(page())
