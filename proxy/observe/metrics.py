"""What is counted and what is read for Prometheus, gathered from all rooms.

A room that counts is handed a meter of its own. What is a state and not a count is read where it lives when somebody
asks. Names, labels and help stand in `families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, starmap
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.observe import families as f
from proxy.observe import requests
from proxy.observe.counting import Buckets, Counts, Succession, family, histogram
from proxy.observe.requests import RequestMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from proxy.observe.counting import Labels, Reader, Samples

LOGIN_STATES = ("idle", "in-flight", "backing-off", "refused")
READINESS_STATES = ("ready", "degraded", "not-ready", "draining")


class TokenReading(NamedTuple):
    """The state of one account's token for one API; times in seconds."""

    age: float | None
    expires_in: float | None
    generation: int
    login_state: str
    retry_in: float
    rejections: int


class PoolReading(NamedTuple):
    """The connections to one API: those that are open now, and what became of the others."""

    idle: int
    busy: int
    limit: int
    opened: int
    reused: int
    closed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Pool:
    """What is read of a pool; the same pool is the same to whoever compares."""

    api: str
    read: Callable[[], PoolReading]

    def __call__(self) -> Samples:
        pool, of = self.read(), (self.api,)
        return {
            (f.CONNECTIONS, (*of, "idle")): pool.idle,
            (f.CONNECTIONS, (*of, "busy")): pool.busy,
            (f.OPENED, of): pool.opened,
            (f.REUSED, of): pool.reused,
            **{(f.CLOSED, (*of, cause)): number for cause, number in pool.closed.items()},
        }


@dataclass(frozen=True, slots=True)
class _Rejections:
    """What is read of a token's rejections; the same refresher is the same to whoever compares."""

    at: Labels
    read: Callable[[], TokenReading]

    def __call__(self) -> Samples:
        return {(f.REJECTIONS, self.at): self.read().rejections}


class StoreReading(NamedTuple):
    """The state of the token store."""

    failing: bool
    failures: int


class Level(NamedTuple):
    """How much of something is taken, and how much there is."""

    taken: int
    limit: int


class TokenMeter:
    """Counts the logins of one account to one API."""

    def __init__(self, before: TokenMeter | None = None) -> None:
        """Count on where the one `before` has counted, and read where it has read until told otherwise."""
        self.ended: Counts = before.ended if before else Counts()
        self.took: Buckets = before.took if before else Buckets(f.LOGIN_SECONDS)
        self.token: Callable[[], TokenReading] | None = before.token if before else None
        self.skew: Callable[[], float | None] = before.skew if before else _nothing

    def login_took(self, seconds: float) -> None:
        """Take the time from the sending of a login to its end."""
        self.took.observe(seconds)

    def login_ended(self, reason: str, result: str) -> None:
        """Count a login; `result` is `granted`, `shared` where another's token was found, or an error's name."""
        self.ended.add((reason, result))

    def read_from(self, token: Callable[[], TokenReading]) -> None:
        """Have the state of the token read there."""
        self.token = token

    def skew_from(self, skew: Callable[[], float | None]) -> None:
        """Have the clock skew read there."""
        self.skew = skew


def _nothing() -> None:
    return None


class Metrics(Collector):
    """All metrics of one sidecar, or of a configuration that it may go on with."""

    def __init__(self, before: Metrics | None = None) -> None:
        """Count on where those `before` have counted, but have nothing told until they `show` it."""
        self._before = before
        self.registry = CollectorRegistry()
        self.registry.register(self)
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self.registry)
        self.listeners: dict[str, RequestMeter] = {}
        """By address."""
        self._apis: dict[str, set[str]] = {}
        self.accounts: dict[tuple[str, str], TokenMeter] = {}
        """By account and API."""
        self._pools: dict[str, Callable[[], PoolReading]] = {}
        self._succession = Succession()
        self._echoes: dict[str, Callable[[], int]] = {}
        self._waiting: Callable[[], Level] | None = None
        self._held: Callable[[], Level] | None = None
        self._store: Callable[[], StoreReading] | None = None
        self._readiness: Callable[[], str] | None = None

    # --- Meters, and what is read -----------------------------------------------------------------------------------

    def requests(self, listener: str, apis: Iterable[str] = ()) -> RequestMeter:
        """Return the meter of a listener, by its configured address, with the APIs that it leads to."""
        self._apis.setdefault(listener, set()).update(apis)
        if listener not in self.listeners:
            counted = self._before.listeners.get(listener) if self._before else None
            self.listeners[listener] = counted or RequestMeter()
        return self.listeners[listener]

    def token(self, account: str, api: str) -> TokenMeter:
        """Return the meter of one refresher."""
        at = (account, api)
        if at not in self.accounts:
            self.accounts[at] = TokenMeter(self._before.accounts.get(at) if self._before else None)
        return self.accounts[at]

    def pool_from(self, api: str, pool: Callable[[], PoolReading]) -> None:
        """Have the state of an API's connections read there."""
        self._pools[api] = pool

    def echoes_from(self, api: str, stripped: Callable[[], int]) -> None:
        """Have the number of an API's answers that quoted a token read there."""
        self._echoes[api] = stripped

    def levels_from(self, waiting: Callable[[], Level], held: Callable[[], Level]) -> None:
        """Have the number of waiting requests and of held bytes read there."""
        self._waiting, self._held = waiting, held

    def store_from(self, store: Callable[[], StoreReading]) -> None:
        """Have the state of the token store read there."""
        self._store = store

    def readiness_from(self, readiness: Callable[[], str]) -> None:
        """Have the readiness read there."""
        self._readiness = readiness

    def show(self, others: Metrics, leaving: Iterable[Metrics] = ()) -> None:
        """Tell what others tell from now on, and nothing else any more but what happens in those leaving.

        What has only grown goes on from where it is, for those who others have too.
        """
        others._before = None
        self._succession.go_on(reader for each in (*leaving, others) for reader in each.readers())
        self.listeners, self._apis = {}, others._apis
        for each in (*leaving, others):
            self.listeners |= each.listeners
        self.accounts, self._pools, self._echoes = others.accounts, others._pools, others._echoes
        self._waiting, self._held, self._store = others._waiting, others._held, others._store

    # --- The scrape -------------------------------------------------------------------------------------------------

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the text format that an `Accept` asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    def collect(self) -> Iterator[Metric]:
        """Return every family as it is now."""
        sums = self._succession.sums(self.readers())
        return chain(
            requests.collect(self.listeners, self._apis),
            self._of_levels(),
            self._of_pools(sums),
            self._of_logins(),
            self._of_tokens(sums),
            self._of_process(),
        )

    def readers(self) -> Iterator[Reader]:
        """Return what reads the counts of those rooms whose place another may take."""
        yield from starmap(_Pool, self._pools.items())
        for at, meter in self.accounts.items():
            if meter.token is not None:
                yield _Rejections(at, meter.token)

    def describe(self) -> Iterator[Metric]:
        """Return every family without its samples, so that the registry can tell a name that is taken twice."""
        return (kind.empty() for kind in f.FAMILIES)

    def _of_levels(self) -> Iterator[Metric]:
        for read, taken, limit in ((self._waiting, f.WAITING, f.WAITING_LIMIT), (self._held, f.HELD, f.HELD_LIMIT)):
            if read is not None:
                level = read()
                yield family(taken, {(): level.taken})
                yield family(limit, {(): level.limit})

    def _of_pools(self, sums: Samples) -> Iterator[Metric]:
        yield family(f.CONNECTIONS_LIMIT, {(api,): read().limit for api, read in self._pools.items()})
        for kind in (f.CONNECTIONS, f.OPENED, f.REUSED, f.CLOSED):
            here = {at: number for (of, at), number in sums.items() if of is kind and at[0] in self._pools}
            yield family(kind, here)

    def _of_logins(self) -> Iterator[Metric]:
        logins: dict[Labels, float] = {}
        for at, meter in self.accounts.items():
            logins |= {(*at, *how): number for how, number in meter.ended.sums.items()}
        yield family(f.LOGINS, logins)
        yield histogram(f.LOGIN_DURATION, {at: meter.took for at, meter in self.accounts.items()})
        skews = {at: meter.skew() for at, meter in self.accounts.items()}
        yield family(f.SKEW, {at: skew for at, skew in skews.items() if skew is not None})

    def _of_tokens(self, sums: Samples) -> Iterator[Metric]:
        tokens = {at: meter.token() for at, meter in self.accounts.items() if meter.token is not None}
        states: dict[Labels, float] = {
            (*at, state): state == token.login_state for at, token in tokens.items() for state in LOGIN_STATES
        }
        yield family(f.LOGIN_STATE, states)
        yield family(f.LOGIN_RETRY, {at: token.retry_in for at, token in tokens.items()})
        yield family(f.TOKEN_AGE, {at: token.age for at, token in tokens.items() if token.age is not None})
        left: dict[Labels, float] = {
            at: token.expires_in for at, token in tokens.items() if token.expires_in is not None
        }
        yield family(f.TOKEN_LEFT, left)
        yield family(f.GENERATION, {at: token.generation for at, token in tokens.items()})
        yield family(f.REJECTIONS, {at: sums[f.REJECTIONS, at] for at in tokens})
        yield family(f.ECHOES, {(api,): read() for api, read in self._echoes.items()})

    def _of_process(self) -> Iterator[Metric]:
        if self._store is not None:
            store = self._store()
            yield family(f.STORE_FAILING, {(): store.failing})
            yield family(f.STORE_FAILURES, {(): store.failures})
        if self._readiness is not None:
            now = self._readiness()
            yield family(f.READINESS, {(state,): state == now for state in READINESS_STATES})
        yield family(f.BUILD, {(__version__,): 1})
        yield family(f.WORKERS, {(): 1})  # where there are several, their supervisor says otherwise
        yield family(f.WORKER_RESTARTS, {(): 0})
