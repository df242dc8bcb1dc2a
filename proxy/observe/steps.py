"""What to do next, for every failure that the log tells of: by the name of an error, or of an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxy.observe.events import EVENTS

if TYPE_CHECKING:
    from proxy.observe.logs import RequestLine

_RESEND = "Send it again later, or enter contingency: nothing was sent."
_QUERY = "Query the document by access key before anybody sends it again."
_READ_LOGIN = "The sidecar tries again by itself; "

ERRORS = {
    "internal-error": f"Report the defect, with the traceback in the log. {_QUERY}",
    # --- The caller's request cannot pass
    "malformed-request": "Mend the client: what it sent is not HTTP/1.1.",
    "target-too-long": "Shorten the path or the query.",
    "headers-too-large": "Send fewer or shorter header fields.",
    "broken-upload": f"Mend the client's framing of the body. {_QUERY}",
    "bad-target": "Set the sidecar as the base URL of the ERP, not as its HTTP proxy.",
    "method-not-allowed": "Set the sidecar as the base URL of the ERP, not as its HTTP proxy.",
    "not-implemented": "Call without WebSockets, `OPTIONS *`, and transfer codings other than chunked.",
    "caller-token": "Have the caller send what stands in the listener's `caller_token_file`.",
    "forbidden": "Where the call is meant, add its origin or rule to the listener.",
    "no-such-api": "Begin the path with the prefix of an API: `/api/` or `/v1/`.",
    "misdirected-request": "Where the name is yours, add it to `hosts` of the listener.",
    "slow-head": "See why the caller stops in the middle of its request.",
    "slow-body": "See why the caller stops in the middle of its request.",
    "stalled-upload": f"See why the caller stops in the middle of its request. {_QUERY}",
    "caller-gone": "Raise the timeout in the caller. A write may have been processed: query it by access key.",
    # --- The sidecar cannot take the request now
    "overloaded": "See whether logins fail or Invoisys is slow; else raise `limits.connections`.",
    "too-many-connections": "Find the caller that opens so many, or raise `limits.caller_connections`.",
    "draining": "Call again: another sidecar takes its place, or this one starts anew.",
    # --- There is no usable token
    "login-failed": f"{_READ_LOGIN}the detail says what is missing.",
    "credentials-refused": "Put the right user name and password in place; a file is read again at once.",
    "grant-refused": "Correct `token_url` of the API: this one does not take passwords.",
    "login-throttled": f"{_READ_LOGIN}see what else logs in as this user, or share one `tokens.store`.",
    "login-server-failed": f"{_READ_LOGIN}if it lasts, ask Invoisys.",
    "login-unreachable": f"{_READ_LOGIN}see whether this machine reaches `token_url`: name, firewall, TLS.",
    "login-nonsense": f"{_READ_LOGIN}if it lasts, check `token_url`, and whether a proxy answers in its place.",
    "login-timeout": f"{_READ_LOGIN}if it lasts, see whether Invoisys has an outage, or raise `timeouts.login`.",
    # --- The exchange with upstream failed
    "cannot-connect": f"See whether this machine reaches Invoisys. {_RESEND}",
    "name-not-resolved": f"See whether the name server answers for this name. {_RESEND}",
    "connection-refused": f"Check `url` of the API, and the firewall. {_RESEND}",
    "egress-proxy-refused": f"Have the egress proxy let the sidecar through. {_RESEND}",
    "tls-failed": f"See whether a firewall or proxy breaks TLS open. {_RESEND}",
    "certificate-rejected": f"Check the machine's clock and authorities; a proxy's own goes into `ca_file`. {_RESEND}",
    "connect-timeout": f"See whether a firewall drops the packets. {_RESEND}",
    "connection-lost": _QUERY,
    "malformed-answer": _QUERY,
    "answer-timeout": _QUERY,
}
"""By the name of the error; a line about a request bears it, and so does a login that failed."""


class Told(NamedTuple):
    """What is said of a request that did not get what it was sent for."""

    error: str
    detail: str | None
    next_step: str


_DECIDED = "a 401 is decided before anything is processed"
PASSED_ON = {
    "too-large": (
        "the 401 was passed on: the body, or the 401 itself, was too large to be held until there was a new token",
        f"Send it again: {_DECIDED}. Raise `limits.replay_body`, if it happens often.",
    ),
    "permission": (
        "the 401 was passed on: a new token was answered 401 as well, or 401s have caused too many logins already",
        "If this user may not use the path, ask Invoisys for it; else find what logs in as the same user elsewhere.",
    ),
    "failed": (
        "the 401 was passed on: there was no new token, or no connection, to send the request once more",
        f"Send it again later: {_DECIDED}. See why the login fails: the line `login-failed` says it, and `doctor`.",
    ),
}
"""By what followed a 401, what happened and what to do; `replayed` needs neither."""


def next_step(event: str, error: object = None) -> str:
    """Say what to do about a failure; the error that an event names knows more than the event."""
    step = ERRORS.get(error, "") if isinstance(error, str) else ""
    return _unmarked(step or (EVENTS[event].next_step if event in EVENTS else ""))


def told_of(line: RequestLine) -> Told | None:
    """Return what is said of a request's failure, here and on the status page alike; none where there was none."""
    if line.error is not None:
        return Told(line.error, line.detail, next_step("request", line.error))
    return passed_on(line.replay) if line.replay in PASSED_ON else None


def passed_on(replay: str) -> Told:
    """Return what is said of a 401 that was passed on."""
    detail, step = PASSED_ON[replay]
    return Told(f"401-{replay}", detail, _unmarked(step))


def _unmarked(step: str) -> str:
    """Leave out the marks of code, which are for the documents."""
    return step.replace("`", "")
