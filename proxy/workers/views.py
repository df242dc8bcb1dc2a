"""What several workers have to show, as if it were one process's. Pure."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from proxy.admin import Condition, Refreshed
from proxy.admin.status import traffic
from proxy.observe.history import LAST, Step
from proxy.observe.metrics import LOGIN_STATES, READINESS_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxy.admin.status import Connections, Listening, Status, Token, Worker
    from proxy.workers.words import View

T = TypeVar("T")

_LOGINS = 10
"""Logins of a token that are told of, as one process does."""


def condition_of(workers: Mapping[int, Condition], others: Sequence[Condition]) -> Condition:
    """Return the worst condition, with all reasons and steps; reasons that not all give are told with their numbers."""
    worst = max((each.readiness for each in (*workers.values(), *others)), key=READINESS_STATES.index)
    said: dict[str, list[str]] = {}
    for number, condition in workers.items():
        for reason in condition.reasons:
            said.setdefault(reason, []).append(f"worker {number}")
    reasons = [why if len(who) == len(workers) else f"{', '.join(who)}: {why}" for why, who in said.items()]
    steps = dict.fromkeys(step for each in (*workers.values(), *others) for step in each.next_steps)
    return Condition(worst, (*reasons, *(reason for other in others for reason in other.reasons)), tuple(steps))


def status_of(
    views: Sequence[View], condition: Condition, workers: Sequence[Worker], *, run: str, clock: float
) -> Status:
    """Return one state of all; `clock` is now on the monotonic clock, for which all views were made."""
    first = views[0].status
    all_of = [view.status for view in views]
    requests = merge(*(each.requests for each in all_of), key=lambda request: request.number, reverse=True)
    return replace(
        first,
        run=run,
        started_at=min(each.started_at for each in workers),
        readiness=str(condition.readiness),
        reasons=condition.reasons,
        next_steps=condition.next_steps,
        listeners=[_listener(same) for same in _alike((each.listeners for each in all_of), "address")],
        tokens=[_token(same) for same in _alike((each.tokens for each in all_of), "account", "api")],
        connections=[_connections(same) for same in _alike((each.connections for each in all_of), "api")],
        waiting=sum(each.waiting for each in all_of),
        waiting_limit=sum(each.waiting_limit for each in all_of),
        traffic=traffic([_step(each) for each in zip(*(view.steps for view in views), strict=True)], clock),
        requests=list(islice(requests, LAST)),
        workers=workers,
    )


def refreshed_of(results: Iterable[Iterable[Refreshed]]) -> list[Refreshed]:
    """Return what came of each token: what went wrong with it in one worker went wrong."""
    found: dict[tuple[str, str], Refreshed] = {}
    for result in (each for results_of_one in results for each in results_of_one):
        at = result.account, result.api
        if at not in found or result.error is not None:
            found[at] = result
    return list(found.values())


def _alike(of_all: Iterable[Sequence[T]], *keys: str) -> Iterable[list[T]]:
    """Return what several have, each with those of the others that have the same keys."""
    found: dict[tuple[str, ...], list[T]] = {}
    for each in (each for of_one in of_all for each in of_one):
        found.setdefault(tuple(getattr(each, key) for key in keys), []).append(each)
    return found.values()


def _listener(same: Sequence[Listening]) -> Listening:
    return replace(same[0], in_flight=sum(each.in_flight for each in same))


def _token(same: Sequence[Token]) -> Token:
    """Tell of the worker in the worst state; of several in the same, of that with the newest token."""

    def rank(token: Token) -> tuple[int, float]:
        got = token.obtained_at
        return LOGIN_STATES.index(token.login_state), 0.0 if got is None else got.timestamp()

    logins = merge(*(each.logins for each in same), key=lambda login: login.at, reverse=True)
    return replace(
        max(same, key=rank),
        rejections=sum(each.rejections for each in same),
        logins=list(islice(logins, _LOGINS)),
    )


def _connections(same: Sequence[Connections]) -> Connections:
    numbers = {
        name: sum(getattr(each, name) for each in same) for name in ("idle", "busy", "limit", "opened", "reused")
    }
    causes = {cause: None for each in same for cause in each.closed}
    closed = {cause: sum(each.closed.get(cause, 0) for each in same) for cause in causes}
    return replace(same[0], **numbers, closed=closed)


def _step(same: Sequence[Step]) -> Step:
    took = [sum(column) for column in zip(*(each.took for each in same if each.took), strict=True)]
    return Step(same[0].ago, sum(each.requests for each in same), sum(each.failed for each in same), took)
