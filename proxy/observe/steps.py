"""What to do next, for every failure that the log tells of: by the name of an error, or of an event."""

from __future__ import annotations

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
