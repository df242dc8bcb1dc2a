"""Every metric: its name, its kind, its labels and its help. `docs/metrics.md` is written from here.

Names follow Prometheus' rules: one unit to a family, in its base form and at the end of the name, and `_total` behind
what only grows.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from prometheus_client.metrics_core import Metric

PREFIX = "invoisys_proxy_"

Kind = Literal["counter", "gauge", "histogram", "info"]

_SUFFIXES: dict[Kind, str] = {"counter": "_total", "info": "_info"}

REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180)
"""From an answer of the sidecar's own to the default of `timeouts.response`."""

LOGIN_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)


class Family(NamedTuple):
    """One metric, with all its children."""

    kind: Kind
    stem: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the name as it stands in a query; that of a histogram is followed by `_bucket` and the like there."""
        return PREFIX + self.stem + _SUFFIXES.get(self.kind, "")

    def empty(self) -> Metric:
        """Return the family without a sample."""
        return Metric(PREFIX + self.stem, self.help, self.kind)


_OF_LISTENER = ("listener",)
_OF_REQUEST = ("listener", "api")
_OF_API = ("api",)
_OF_TOKEN = ("account", "api")

# --- Requests -------------------------------------------------------------------------------------------------------

REQUESTS = Family(
    "counter",
    "requests",
    "Requests that ended, by whose answer the caller got.",
    (*_OF_REQUEST, "method", "status", "origin"),
)
OUTCOMES = Family(
    "counter", "request_outcomes", "Requests that ended, by outcome.", (*_OF_REQUEST, "method", "outcome")
)
ERRORS = Family(
    "counter",
    "request_errors",
    "Requests that ended in an error of the sidecar's own, or whose caller left.",
    (*_OF_REQUEST, "error"),
)
DURATION = Family("histogram", "request_duration_seconds", "Time from a request's head to its end.", _OF_REQUEST)
UPSTREAM_DURATION = Family(
    "histogram",
    "upstream_duration_seconds",
    "Time from the first byte sent to Invoisys to the head of its answer; of a replay, that of the replay.",
    _OF_REQUEST,
)
IN_FLIGHT = Family(
    "gauge", "requests_in_flight", "Requests under way, and answers read for callers that left.", _OF_LISTENER
)
WAITING = Family("gauge", "requests_waiting", "Requests that wait, for a token or for a connection.")
WAITING_LIMIT = Family("gauge", "requests_waiting_limit", "How many may wait: `limits.waiting`.")
REPLAYS = Family(
    "counter", "replays", "Requests that Invoisys answered 401, by what followed.", (*_OF_REQUEST, "result")
)
HEARD_OUT = Family(
    "counter",
    "answers_heard_out",
    "Answers to writes whose caller had left, by what is known of them in the end.",
    (*_OF_REQUEST, "outcome"),
)
GUARD_REFUSALS = Family("counter", "guard_refusals", "Requests that the guard kept out.", (*_OF_LISTENER, "cause"))
MALFORMED = Family(
    "counter",
    "malformed_requests",
    "Requests that are malformed or too large. Those that could not be read at all are in no other metric.",
    (*_OF_LISTENER, "error"),
)
CUT_SHORT = Family(
    "counter",
    "connections_cut_short",
    "Callers who were cut short before they had made a request; they are in no other metric.",
    (*_OF_LISTENER, "error"),
)
HELD = Family(
    "gauge",
    "held_bytes",
    "Bytes of bodies that are held for a replay; one whose length is known counts whole from the first.",
)
HELD_LIMIT = Family("gauge", "held_limit_bytes", "How many may be held: `limits.replay_memory`. Past it bodies stream.")

# --- Connections ----------------------------------------------------------------------------------------------------

CONNECTIONS = Family("gauge", "pool_connections", "Connections to Invoisys.", (*_OF_API, "state"))
CONNECTIONS_LIMIT = Family(
    "gauge", "pool_connections_limit", "How many may be busy at once: `limits.connections`.", _OF_API
)
OPENED = Family("counter", "pool_connections_opened", "Connections to Invoisys that were opened.", _OF_API)
REUSED = Family("counter", "pool_connections_reused", "Exchanges on a connection kept from an earlier one.", _OF_API)
CLOSED = Family("counter", "pool_connections_closed", "Connections to Invoisys that ended.", (*_OF_API, "cause"))

# --- Tokens and logins ----------------------------------------------------------------------------------------------

LOGINS = Family("counter", "logins", "Logins that ended, by why they began.", (*_OF_TOKEN, "reason", "result"))
LOGIN_DURATION = Family(
    "histogram", "login_duration_seconds", "Time from the sending of a login to its end.", _OF_TOKEN
)
LOGIN_STATE = Family("gauge", "login_state", "1 for what the login is doing.", (*_OF_TOKEN, "state"))
LOGIN_RETRY = Family(
    "gauge", "login_retry_in_seconds", "Time until the login after one that failed; 0 where none has.", _OF_TOKEN
)
TOKEN_AGE = Family("gauge", "token_age_seconds", "Time since the login for the token was sent.", _OF_TOKEN)
TOKEN_LEFT = Family(
    "gauge", "token_expires_in_seconds", "Time until the token expires; negative where it has.", _OF_TOKEN
)
GENERATION = Family("gauge", "token_generation", "How many tokens of these credentials there have been.", _OF_TOKEN)
REJECTIONS = Family(
    "counter",
    "token_rejections",
    "Tokens that Invoisys answered 401 to. More than a few a day: a path is forbidden to the user, or something else"
    " logs in as the same user and only the newest token counts.",
    _OF_TOKEN,
)
ECHOES = Family(
    "counter", "token_echoes_stripped", "Answers that quoted a token in their head; the caller did not see it.", _OF_API
)
SKEW = Family("gauge", "clock_skew_seconds", "How far this clock is ahead of the login server's `Date`.", _OF_TOKEN)
STORE_FAILING = Family(
    "gauge", "token_store_failing", "1 while the token store does not work, so that nothing is shared."
)
STORE_FAILURES = Family("counter", "token_store_failures", "How many times the token store has stopped working.")

# --- The process ----------------------------------------------------------------------------------------------------

READINESS = Family("gauge", "readiness", "1 for what `/readyz` says.", ("state",))
BUILD = Family("info", "build", "What runs.", ("version",))
WORKERS = Family("gauge", "workers", "Processes that serve callers.")
WORKER_RESTARTS = Family(
    "counter", "worker_restarts", "Processes that were started for others that had ended by themselves."
)

SECTIONS: dict[str, tuple[Family, ...]] = {
    "Requests": (
        REQUESTS, OUTCOMES, ERRORS, DURATION, UPSTREAM_DURATION, IN_FLIGHT, WAITING, WAITING_LIMIT,
        REPLAYS, HEARD_OUT, GUARD_REFUSALS, MALFORMED, CUT_SHORT, HELD, HELD_LIMIT,
    ),
    "Connections to Invoisys": (CONNECTIONS, CONNECTIONS_LIMIT, OPENED, REUSED, CLOSED),
    "Tokens and logins": (
        LOGINS, LOGIN_DURATION, LOGIN_STATE, LOGIN_RETRY, TOKEN_AGE, TOKEN_LEFT, GENERATION, REJECTIONS, ECHOES, SKEW,
        STORE_FAILING, STORE_FAILURES,
    ),
    "The process": (READINESS, BUILD, WORKERS, WORKER_RESTARTS),
}  # fmt: skip

FAMILIES = tuple(family for section in SECTIONS.values() for family in section)
