"""What is counted, for Prometheus: every name, its labels and its help stand here.

Rooms are handed a meter of their own, with its labels filled in, so that counting costs a request next to nothing. What
is a state and not a count is read when somebody asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

PREFIX = "invoisys_proxy_"

_LOGIN_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
_OF_ACCOUNT = ("account", "api")
_LOGIN_STATES = ("idle", "in-flight", "backing-off", "refused")


class TokenReading(NamedTuple):
    """The state of one account's token for one API; times in seconds."""

    age: float | None
    expires_in: float | None
    generation: int
    login_state: str
    retry_in: float
    rejections: int


class StoreReading(NamedTuple):
    """The state of the token store."""

    failing: bool
    failures: int


class TokenMeter:
    """Counts the logins of one account to one API."""

    def __init__(self, metrics: Metrics, account: str, api: str) -> None:
        self._metrics = metrics
        self._labels = (account, api)
        self.login_took = metrics.login_duration.labels(account, api).observe
        """Takes the seconds from the sending of a login to its end."""

    def login_ended(self, reason: str, result: str) -> None:
        """Count a login; `result` is `granted`, `shared` where another's token was found, or an error's name."""
        self._metrics.logins.labels(*self._labels, reason, result).inc()

    def read_from(self, token: Callable[[], TokenReading]) -> None:
        """Have the state of the token read there."""
        self._metrics.readings.tokens[self._labels] = token

    def skew_from(self, skew: Callable[[], float | None]) -> None:
        """Have the clock skew read there."""
        self._metrics.readings.skews[self._labels] = skew


class Metrics:
    """All metrics of one sidecar."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.readings = _Readings()
        self.registry.register(self.readings)
        self.logins = Counter(
            PREFIX + "logins",
            "Logins that ended, by why they began and by their result: granted, shared where another sidecar's token"
            " was taken instead, or the name of the error.",
            (*_OF_ACCOUNT, "reason", "result"),
            registry=self.registry,
        )
        self.login_duration = Histogram(
            PREFIX + "login_duration_seconds",
            "Time from the sending of a login to its end.",
            _OF_ACCOUNT,
            buckets=_LOGIN_SECONDS,
            registry=self.registry,
        )

    def token(self, account: str, api: str) -> TokenMeter:
        """Return the meter of one refresher."""
        return TokenMeter(self, account, api)

    def store_from(self, store: Callable[[], StoreReading]) -> None:
        """Have the state of the token store read there."""
        self.readings.store = store

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the text format that an `Accept` asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type


class _Readings(Collector):
    """What is a state and not a count: read where it lives when somebody asks."""

    def __init__(self) -> None:
        self.tokens: dict[tuple[str, str], Callable[[], TokenReading]] = {}
        self.skews: dict[tuple[str, str], Callable[[], float | None]] = {}
        self.store: Callable[[], StoreReading] | None = None

    def collect(self) -> Iterator[Metric]:
        """Return every family as it is now."""
        yield from self._of_tokens()
        skews = _of_account("clock_skew_seconds", "How far this clock is ahead of the login server's `Date`.")
        for labels, read in self.skews.items():
            if (skew := read()) is not None:
                skews.add_metric(labels, skew)
        yield skews
        if self.store is not None:
            failing, failures = self.store()
            text = "Whether the token store does not work now, so that nothing is shared."
            yield GaugeMetricFamily(PREFIX + "token_store_failing", text, value=failing)
            text = "How many times the token store has stopped working."
            yield CounterMetricFamily(PREFIX + "token_store_failures", text, value=failures)

    def _of_tokens(self) -> Iterator[Metric]:
        age = _of_account("token_age_seconds", "Time since the login for the token was sent.")
        left = _of_account("token_expires_in_seconds", "Time until the token expires; negative where it has.")
        generation = _of_account("token_generation", "How many tokens of these credentials there have been.")
        retry = _of_account("login_retry_in_seconds", "Time until the login after one that failed.")
        text = (
            "Tokens that upstream answered 401 to. More than a few a day: a path is forbidden to the user, or"
            " something else logs in as the same user and only the newest token counts."
        )
        rejections = CounterMetricFamily(PREFIX + "token_rejections", text, labels=_OF_ACCOUNT)
        states = GaugeMetricFamily(
            PREFIX + "login_state", "1 for what the login is doing.", labels=(*_OF_ACCOUNT, "state")
        )
        for labels, read in self.tokens.items():
            token = read()
            if token.age is not None and token.expires_in is not None:
                age.add_metric(labels, token.age)
                left.add_metric(labels, token.expires_in)
            generation.add_metric(labels, token.generation)
            retry.add_metric(labels, token.retry_in)
            rejections.add_metric(labels, token.rejections)
            for state in _LOGIN_STATES:
                states.add_metric((*labels, state), state == token.login_state)
        yield from (age, left, generation, retry, rejections, states)


def _of_account(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=_OF_ACCOUNT)
