"""Every event of the log: what it means, which fields it has, and what to do next. `docs/logs.md` is written from here.

The fields that every line has (`time`, `level`, `event`, `message`) are not listed; nor are `repeated` and `within_s`,
which any warning or error may have, and `next_step`, which they have where there is something to do.
"""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """One kind of line."""

    level: str
    means: str
    next_step: str = ""
    """What to do about a warning or an error; empty where it depends on the `error` that the line names."""
    fields: tuple[str, ...] = ()


_ACCOUNT = ("api", "account")

EVENTS = {
    # --- From start to stop
    "listening": Event(
        "info", "The sidecar has started, and listens.", fields=("listeners", "admin", "environment")
    ),
    "configuration-refused": Event(
        "error",
        "The configuration cannot be used, and the sidecar does not start; the message names every fault.",
        "Correct what the message names, until `check` is content.",
    ),
    "start-failed": Event(
        "error",
        "The sidecar cannot start; most often, another program listens at its address.",
        "End what has the address (`ss -ltnp` shows it), or give another to `bind`; `doctor` tries each one.",
    ),
    "stopping": Event("info", "The sidecar was told to stop, and finishes the requests in flight."),
    "drained": Event(
        "info", "The sidecar has finished all requests since it was told to stop, and ends.", fields=("finished",)
    ),
    "drain-cut": Event(
        "warning",
        "Requests took longer than `drain.timeout`, and were cut; what is known of each stands in its own line.",
        "Query the documents whose lines say `unknown` by access key. Raise `drain.timeout`, and the time that systemd,"
        " Docker or Kubernetes gives the sidecar to stop.",
        fields=("finished", "cut"),
    ),
    "stopped": Event(
        "warning",
        "A second signal ended the sidecar before all requests were finished.",
        "Give it longer than `drain.timeout` to stop. Query the documents that were in flight by access key.",
    ),
    "worker-ended": Event(
        "error",
        "One of several workers has ended by itself, and is started anew; the others serve on.",
        "Query the documents that were in flight there by access key. See what it said before; signal 9 is often the"
        " kernel's, for want of memory: allow for more.",
        fields=("worker",),
    ),
    "worker-stuck": Event(
        "error",
        "The event loop of a worker has stood still so long that the worker was ended.",
        "Report it, with what the worker has said before, unless the machine or its container had no processor left.",
        fields=("worker",),
    ),
    "worker-started": Event("info", "A worker that had ended serves again.", fields=("worker",)),
    "unknown-variable": Event(
        "warning",
        "An environment variable begins with `INVOISYS_` and is none of ours.",
        "Correct its name, or remove it; the message suggests one that is close.",
    ),
    "few-open-files": Event(
        "warning",
        "So few files may be open that each listener takes fewer connections than is configured.",
        "Raise the limit of open files (`LimitNOFILE=`, `ulimits`), or lower `limits.caller_connections`.",
    ),
    "socket-not-taken": Event(
        "warning",
        "systemd handed over a socket at an address where nothing is configured to listen.",
        "Give the socket unit the address of a listener, written as an IP address or a path.",
    ),
    "reloaded": Event(
        "info",
        "The configuration was read again and taken; the message names the keys that have changed.",
        fields=("taken", "need_restart"),
    ),
    "reload-refused": Event(
        "error",
        "The configuration was read again and cannot be used; the old one stays.",
        "Correct what the message names, see that `check` is content, and send SIGHUP again.",
    ),
    # --- Unsafe settings
    "unsafe-file": Event(
        "warning",
        "Every user can read or change a secret file.",
        "Let the sidecar's user alone read it.",
    ),
    "unsafe-config": Event(
        "warning",
        "Every user can read a configuration file with a secret, or change it.",
        "Let the sidecar's user alone read it, or move the secret into a file of its own.",
    ),
    "unsafe-user": Event(
        "warning",
        "The sidecar runs as root and has a TCP listener.",
        "Give it a user of its own: `User=` in systemd, `user:` in Compose, `runAsUser` in Kubernetes.",
    ),
    "unsafe-listener": Event(
        "warning",
        "A listener is open to other machines without a caller token.",
        "Set `caller_token_file`, or bind to loopback or a Unix socket.",
    ),
    "unsafe-store": Event(
        "warning",
        "Tokens cross a network in the clear.",
        "Set `tokens.key_file`, or use `rediss://`.",
    ),
    "reload-failed": Event(
        "error",
        "The configuration was read again and met a defect of the sidecar; the old one stays.",
        "Report it, with the `exception` of the line. Restart the sidecar to have it take the configuration.",
        fields=("exception",),
    ),
    "tracing": Event("info", "Requests are traced, as the `OTEL_…` variables ask for."),
    "tracing-off": Event(
        "warning",
        "The `OTEL_…` variables ask for traces that cannot be had; requests are served without.",
        "Mend what the message names; or set `OTEL_SDK_DISABLED=true`, where no traces are wanted.",
    ),
    "tracing-trouble": Event(
        "warning",
        "Spans did not reach the collector, or came faster than they could be sent. Requests are not touched by it.",
        "See whether the collector runs where `OTEL_EXPORTER_OTLP_ENDPOINT` says, and what its own log says.",
    ),
    # --- Requests
    "request": Event(
        "info; warning where it ended in an error",
        "A request has ended. One line each at `debug`; else see [above](#what-is-told-at-which-level).",
        fields=(
            "request_id", "listener", "method", "path", "peer_uid", "api", "status", "outcome", "duration_ms",
            "waiting_ms", "login_ms", "upstream_ms", "bytes_sent", "upstream_status", "replayed", "replay", "resent",
            "own", "error", "detail",
        ),
    ),
    "cut-short": Event(
        "warning",
        "Callers were cut short before they had made a request: too many, too slow, or of another user; by number.",
        fields=("listener", "connections", "status", "error"),
    ),
    "token-echoed": Event(
        "warning",
        "Invoisys, or something before it, repeated the token in the head of an answer; that field was left out.",
        "Find what repeats request headers, such as a debugging proxy, and switch that off.",
        fields=("api",),
    ),
    "malformed-request": Event(
        "warning",
        "What a caller sent could not be read as a request, and was refused.",
        "See what speaks to this port: a client with a defect, TLS, or a scanner.",
    ),
    "defect": Event(
        "error",
        "A defect of the sidecar: something happened that its authors did not expect.",
        "Report it, with the `exception` of the line. Query the document by access key before anybody sends it again.",
        fields=("exception",),
    ),
    # --- Tokens
    "login": Event(
        "info",
        "There is a new token: from a login, `granted`, or from another sidecar, `shared`.",
        fields=(*_ACCOUNT, "reason", "result", "generation", "expires_in"),
    ),
    "login-failed": Event(
        "warning",
        "A login gave no token; the message says why, and when the next one is.",
        fields=(*_ACCOUNT, "reason", "error"),
    ),
    "login-elsewhere": Event("info", "Another sidecar of this host is logging in; this one waits for its token."),
    "tokens-lost": Event(
        "warning",
        "Invoisys rejects good tokens again and again.",
        "Find what else logs in as this user, and let all share one `tokens.store`; or see which path it may not use.",
        fields=(*_ACCOUNT, "rejections"),
    ),
    "expires-in-unusable": Event(
        "warning",
        "A login did not say how long its token lives.",
        "Nothing, if requests go well: a 401 has it replaced. Else check `token_url`.",
    ),
    "clock-skew": Event(
        "warning",
        "This machine's clock is more than a minute away from the login server's.",
        "Have the clock set by NTP: SEFAZ rejects documents from the future.",
    ),
    "credentials-unreadable": Event(
        "warning",
        "A file of credentials is empty, gone or not to be read; the last good ones are used.",
        "Put the file back, readable by the sidecar's user.",
    ),
    # --- Callers' own tokens
    "caller-tokens-unreadable": Event(
        "warning",
        "A `caller_token_file` is empty, gone or faulty; the last good tokens hold.",
        "Put the file back, with one token or two.",
    ),
    "caller-tokens-changed": Event("info", "Other caller tokens stand in the file, and hold from now on."),
    # --- The store of tokens
    "store-lock-stuck": Event(
        "warning",
        "Another process keeps the lock of the file of tokens; this sidecar logs in without it.",
        "See which sidecar of this host hangs, and restart it.",
    ),
    "store-damaged": Event(
        "warning",
        "The file of tokens could not be read, and was set aside.",
        "Look at what was set aside, then remove it; see what else writes to that folder.",
    ),
    "store-failed": Event(
        "warning",
        "The file of tokens cannot be read, written or locked; this sidecar logs in for itself.",
        "Mend the disk or the folder that the message names: full, read-only, or of another owner.",
    ),
    "store-unreadable": Event(
        "warning",
        "The shared token cannot be read: encrypted with another key, or not at all, or damaged.",
        "Give all sidecars the same `tokens.key_file`.",
    ),
    "store-degraded": Event(
        "warning",
        "The shared store does not answer; memory stands in, and this sidecar logs in for itself.",
        "See whether the Redis runs and lets the sidecar in; it is tried again by itself.",
    ),
    "store-back": Event("info", "The shared store works again."),
}  # fmt: skip
