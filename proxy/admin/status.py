"""The state of the sidecar as a value: what `/status` answers, and what the page is drawn from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence  # noqa: TC003 - msgspec reads the annotations
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from proxy import __version__
from proxy.observe import next_step, told_of
from proxy.observe.history import STEP, Inspected

if TYPE_CHECKING:
    from proxy.admin.source import Condition
    from proxy.observe import History, Past
    from proxy.observe.history import Step
    from proxy.tokens import Refresher
    from proxy.tokens.story import Story
    from proxy.upstream import Pool


class Rooms(NamedTuple):
    """What the state is read from; it changes when the configuration is read again."""

    environment: str
    listeners: Sequence[Listening]
    refreshers: Mapping[tuple[str, str], Refresher]
    """By account and API."""
    pools: Mapping[str, Pool]
    upstreams: Mapping[str, str]
    """Where each API's requests go."""
    waiting: int
    waiting_limit: int


class Listening(Struct, frozen=True):
    """One listener."""

    address: str
    account: str
    in_flight: int


class Failure(Struct, frozen=True):
    """What went wrong, in the words of the log."""

    error: str
    detail: str | None
    next_step: str


class Login(Struct, frozen=True):
    """One login that has ended."""

    at: datetime
    reason: str
    result: str
    failure: Failure | None = None


class Token(Struct, frozen=True):
    """One account's token for one API."""

    account: str
    api: str
    state: str
    """`none`, `valid`, `due`, `expired` or `rejected`."""
    login_state: str
    generation: int
    obtained_at: datetime | None
    refresh_at: datetime | None
    expires_at: datetime | None
    retry_in_s: float
    rejections: int
    failure: Failure | None
    logins: Sequence[Login]


class Connections(Struct, frozen=True):
    """The pool of one API."""

    api: str
    upstream: str
    idle: int
    busy: int
    limit: int
    opened: int
    reused: int
    closed: Mapping[str, int]


class TrafficPoint(Struct, frozen=True):
    """What happened within one step of the series."""

    ago_s: int
    requests_per_second: float
    failed: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class Traffic(Struct, frozen=True):
    """The last quarter of an hour, the oldest point first."""

    step_s: int
    points: Sequence[TrafficPoint]


class Request(Struct, frozen=True, omit_defaults=True):
    """One request that has ended; times in milliseconds."""

    number: int
    at: datetime
    request_id: str
    listener: str
    method: str
    path: str
    status: int
    outcome: str | None
    duration_ms: float
    api: str | None = None
    waiting_ms: float | None = None
    login_ms: float | None = None
    upstream_ms: float | None = None
    replayed: bool = False
    resent: bool = False
    upstream_status: int | None = None
    failure: Failure | None = None

    @property
    def failed(self) -> bool:
        """Whether the caller got something else than an answer that is one."""
        return self.failure is not None or not self.status or self.status >= _FAILED_FROM


class Details(Struct, frozen=True):
    """One request with its header section and its answer's head, secrets and all: masked where they are shown."""

    request: Request
    fields: Sequence[tuple[bytes, bytes]]
    inspected: Inspected | None
    head: bytes = b""


class Worker(Struct, frozen=True):
    """One of several processes that serve."""

    number: int
    pid: int
    serving: bool
    started_at: datetime
    restarts: int


class Status(Struct, frozen=True):
    """Everything, at one moment."""

    version: str
    environment: str
    run: str
    """Another one after each start."""
    now: datetime
    started_at: datetime
    readiness: str
    reasons: Sequence[str]
    next_steps: Sequence[str]
    listeners: Sequence[Listening]
    tokens: Sequence[Token]
    connections: Sequence[Connections]
    waiting: int
    waiting_limit: int
    traffic: Traffic
    requests: Sequence[Request]
    """The newest first."""
    workers: Sequence[Worker] | UnsetType = UNSET
    """Where there are several."""


_FAILED_FROM = 400


def gather(rooms: Rooms, history: History, condition: Condition, started: float, *, since: int = 0) -> Status:
    """Read the present state, with the requests after the one of that number; `started` is on the wall clock."""
    now, clock = time.time(), time.monotonic()
    return Status(
        version=__version__,
        environment=rooms.environment,
        run=history.run,
        now=_utc(now),
        started_at=_utc(started),
        readiness=str(condition.readiness),
        reasons=condition.reasons,
        next_steps=condition.next_steps,
        listeners=rooms.listeners,
        tokens=[_token(*at, refresher.story()) for at, refresher in rooms.refreshers.items()],
        connections=[Connections(api, rooms.upstreams[api], *pool.reading()) for api, pool in rooms.pools.items()],
        waiting=rooms.waiting,
        waiting_limit=rooms.waiting_limit,
        traffic=traffic(history.steps(clock), clock),
        requests=[request(past, now - clock) for past in history.since(since)],
    )


def request(past: Past, offset: float) -> Request:
    """Tell of one request; `offset` leads from the monotonic to the wall clock."""
    line = past.line
    return Request(
        number=past.number,
        at=_utc(past.at + offset),
        request_id=line.request_id,
        listener=line.listener,
        method=line.method,
        path=line.path,
        status=line.status,
        outcome=line.outcome,
        duration_ms=line.duration_ms,
        api=line.api,
        waiting_ms=line.waiting_ms,
        login_ms=line.login_ms,
        upstream_ms=line.upstream_ms,
        replayed=line.replayed,
        resent=line.resent,
        upstream_status=line.upstream_status,
        failure=None if (told := told_of(line)) is None else Failure(*told),
    )


def traffic(steps: Sequence[Step], clock: float) -> Traffic:
    """Tell of the last quarter of an hour, up to now on the monotonic clock."""
    return Traffic(STEP, [_point(step, STEP if step.ago else max(clock % STEP, 1.0)) for step in steps])


def _point(step: Step, seconds: float) -> TrafficPoint:
    """Tell of one step, of which so many seconds have passed."""
    return TrafficPoint(step.ago, round(step.requests / seconds, 3), step.failed, *step.quantiles())


def _token(account: str, api: str, story: Story) -> Token:
    token, failure = story.token, story.failure
    return Token(
        account=account,
        api=api,
        state=story.token_state.name.lower(),
        login_state=story.login_state.value,
        generation=0 if token is None else token.generation,
        obtained_at=None if token is None else _utc(token.obtained_at.wall),
        refresh_at=None if token is None else _utc(token.refresh_at.wall),
        expires_at=None if token is None else _utc(token.expires_at.wall),
        retry_in_s=story.retry_in,
        rejections=story.rejections,
        failure=None if failure is None else _of_login(failure.name, failure.detail),
        logins=[
            Login(_utc(at), reason, result, _of_login(result, detail) if detail else None)
            for at, reason, result, detail in story.logins
        ],
    )


def _of_login(error: str, detail: str) -> Failure:
    return Failure(error, detail, next_step("login-failed", error))


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
