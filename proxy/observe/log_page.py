"""`docs/logs.md`, written from the definitions: `python -m proxy.observe.log_page > docs/logs.md`."""

from __future__ import annotations

import sys

from proxy.observe.events import EVENTS, Event
from proxy.observe.steps import ERRORS, PASSED_ON

_HEAD = """\
# The log

<!-- Written by `make docs`; the definitions stand in proxy/observe/events.py and steps.py. -->

One line an event, on standard output. `log.format` is `json`, for machines, or `text`, for a person; where it is not
set, it is `text` on a terminal and `json` elsewhere. `log.level` is `debug`, `info`, `warning` or `error`.

No line holds a password, a token, a query's values, a header field of a request or a byte of a body. Long opaque
pieces of a path stand as `***`; an access key is shown, for it is what people search by.

## One line

```json
{
  "time": "2027-01-15T08:00:00.062Z",
  "level": "warning",
  "event": "login-failed",
  "message": "no new token: the login server could not be reached: Connection refused; the next login is in 2 s",
  "api": "2.0",
  "account": "default",
  "reason": "first",
  "error": "login-unreachable",
  "next_step": "The sidecar tries again by itself; see whether this machine reaches token_url: name, firewall, TLS."
}
```

Here it is broken into many, to be read.

| field | is |
| --- | --- |
| `time` | UTC, in milliseconds |
| `level` | `debug`, `info`, `warning` or `error` |
| `event` | what happened, by a name that stays: one of those below |
| `message` | the same for a person; its words may change. A request's line has none. |
| `next_step` | what to do: with each warning and error that wants something done, and with a 401 that was passed on |
| `repeated`, `within_s` | this line stands for so many more within so many seconds; the rest of it is of the last one |
| `exception` | the traceback of a defect |
| `worker` | the worker whose line it is, or that it is about; only where there are several |

Libraries write to the same log from `warning` on; their `event` is the name of their logger.

## What is told at which level

At `debug` every request has a line of its own, however it ended. So it has at `info`, but for failures that are alike.
At `warning` only requests that ended in an error are told, and at `error` only defects are. A request that Invoisys
answered is no failure of the sidecar, whatever the answer says.

Failures that are alike are not repeated, by [decision 12](decisions/0012-alike-failures.md):

- Of **warnings and errors** the first is told in full, and what follows within a minute is told in one line, with
  `repeated`; while it goes on, such a line comes every ten minutes. Alike are those of the same event, account, API,
  worker and words. A success ends it: after a login, the next failure is told in full again.
- Of **requests** at `info` three are told in full, and what follows in one line a minute; at `warning` it is as for
  other warnings. Alike are those of the same listener, API, error and outcome; at `info`, where they were refused
  before they had come to an API, of the same path too.

Never summarised are requests that may have made a document and whose caller did not get the answer: each of them may
have to be queried by access key. The status page and the metrics have every request, at any level.

## On a terminal

Text has colours on a terminal, and only there. `NO_COLOR`, set to anything, turns them off (<https://no-color.org>),
as does `TERM=dumb`. Nothing turns them on elsewhere: `FORCE_COLOR` is not looked at, because a log that is piped into
a file is read by other programs.

## Events
"""

_ERRORS = """\
## What to do about an error

The `error` of a request's line, or of a login that failed, is the `type` that [the outcome contract](outcome.md)
explains; `caller-gone` is a caller that left before it had its answer.
"""


_REPLAYS = """\
## A 401 that was passed on

Where Invoisys answers 401, the request is sent once more with a new token, and `replay` in its line is `replayed`.
Where it could not be, the caller gets the 401; the line says in `detail` why, and in `next_step` what to do.
"""


_EVENT_COLUMNS = "| event | level | what it means | what to do | further fields |\n| --- | --- | --- | --- | --- |\n"
_ERROR_COLUMNS = "| error | what to do |\n| --- | --- |\n"
_REPLAY_COLUMNS = "| replay | detail | what to do |\n| --- | --- | --- |\n"


def page() -> str:
    """Return the whole page."""
    rows = "".join(_row(name, event) for name, event in EVENTS.items())
    steps = "".join(f"| `{name}` | {step} |\n" for name, step in ERRORS.items())
    errors = f"{_ERRORS}\n{_ERROR_COLUMNS}{steps}"
    passed_on = "".join(f"| `{name}` | {detail} | {step} |\n" for name, (detail, step) in PASSED_ON.items())
    return f"{_HEAD}\n{_EVENT_COLUMNS}{rows}\n{errors}\n{_REPLAYS}\n{_REPLAY_COLUMNS}{passed_on}"


def _row(name: str, event: Event) -> str:
    step = event.next_step or ("by its error, [below](#what-to-do-about-an-error)" if "error" in event.fields else "")
    fields = ", ".join(f"`{field}`" for field in event.fields)
    return f"| `{name}` | {event.level} | {event.means} | {step} | {fields} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
