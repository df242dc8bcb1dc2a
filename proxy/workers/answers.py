"""What the operator's port tells of several workers, and has them do: one answer for all."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy.admin import Condition, Readiness, Refreshed
from proxy.admin import status as a
from proxy.observe import families as f
from proxy.observe import next_step
from proxy.observe.counting import family
from proxy.observe.metrics import READINESS_STATES
from proxy.server import DRAINING
from proxy.workers.sums import Sums, counted
from proxy.workers.views import condition_of, refreshed_of, status_of
from proxy.workers.words import Span, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.metrics_core import Metric

    from proxy.workers.worker import Worker

_PATIENCE = 0.5
"""Seconds that an operator waits for a worker that does not answer; then the last that is known is told."""

_MOMENT = 1.0
"""Seconds for which a worker may be too busy to tell how it is."""

_SHORT = 10.0
"""Seconds in which a worker should be back, or answer again: callers at its door wait for it."""

_MICROSECONDS = 1_000_000


class Answers:
    """The `Source` that is several processes."""

    def __init__(self, workers: Sequence[Worker], end: Callable[[], None]) -> None:
        self.run = token_hex(4)
        self.draining = False
        self._workers = workers
        self._end = end
        self._ended = Sums()
        self._own = CollectorRegistry()
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self._own)

    def bury(self, worker: Worker) -> None:
        """Keep what a worker has counted that has ended."""
        if worker.reading is not None:
            self._ended.keep(worker.reading.metrics)
            worker.reading = None

    def ask_to_stop(self) -> None:
        """Begin to stop."""
        self._end()

    async def condition(self) -> Condition:
        """Tell the worst condition of any worker; one that is not there, or does not answer, is a reason too."""
        await self._look()
        return self._condition()

    def _condition(self) -> Condition:
        if self.draining:
            return DRAINING
        others, now = [], time.monotonic()
        for worker in self._workers:
            silent = _silence(worker)
            away = silent if worker.down_since is None else now - worker.down_since
            if away:
                readiness = Readiness.DEGRADED if away < _SHORT else Readiness.NOT_READY
                what = "does not answer" if silent else "has ended, and is started again"
                step = next_step("worker-stuck" if silent else "worker-ended")
                others.append(Condition(readiness, (f"worker {worker.number} {what}",), (step,)))
        if not any(worker.serving and not _silence(worker) for worker in self._workers):
            others.append(Condition(Readiness.NOT_READY, ("no worker serves",)))
        there = {worker.number: worker.reading.condition for worker in self._workers if worker.reading is not None}
        return condition_of(there, others)

    async def turns(self) -> bool:
        """Tell whether the event loop of any worker turns; one that has ended has none, and is started again."""
        await self._look()
        serving = [worker for worker in self._workers if worker.serving]
        return not serving or not all(map(_silence, serving))

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all workers together, and of those that have ended."""
        await self._look()
        encode, media_type = choose_encoder(accept)
        registry = CollectorRegistry()
        registry.register(_Told(self._metrics()))
        return encode(registry), media_type

    def _metrics(self) -> list[Metric]:
        readings = [worker.reading.metrics for worker in self._workers if worker.reading is not None]
        metrics = {each.name: each for each in self._ended.of([*readings, counted(self._own.collect())])}
        readiness = self._condition().readiness
        for metric in (
            family(f.READINESS, {(state,): state == readiness for state in READINESS_STATES}),
            family(f.WORKERS, {(): sum(worker.serving for worker in self._workers)}),
            family(f.WORKER_RESTARTS, {(): sum(worker.restarts for worker in self._workers)}),
        ):
            metrics[metric.name] = metric
        return list(metrics.values())

    async def _look(self) -> None:
        await asyncio.gather(*(worker.look(_PATIENCE) for worker in self._workers if worker.serving))

    async def status(self, since: int = 0) -> a.Status:
        """Return the state of all workers as one; requests are numbered by the microsecond in which they ended."""
        await self._look()
        clock = time.monotonic()
        span = Span(since, int(clock * _MICROSECONDS))
        views = await self._ask_all("view", View, span)
        if not views:
            raise web.HTTPServiceUnavailable(text="no worker answers", headers={"Retry-After": "1"})
        told = [
            a.Worker(each.number, each.pid, each.serving, datetime.fromtimestamp(each.started_at, UTC), each.restarts)
            for each in self._workers
        ]
        return status_of(views, self._condition(), told, run=self.run, clock=clock)

    async def find(self, request_id: str) -> list[a.Details]:
        """Return what the workers remember of one request, the newest first."""
        found = [each for every in await self._ask_all("find", list[a.Details], request_id) for each in every]
        return sorted(found, key=lambda each: each.request.at, reverse=True)

    async def refresh(self) -> list[Refreshed]:
        """Replace every token that is in use: one worker logs in for each, the others take that over."""
        serving = [worker for worker in self._workers if worker.serving]
        found = await asyncio.gather(*(worker.ask("refresh", list[Refreshed]) for worker in serving))
        return refreshed_of(each for each in found if each is not None)

    async def _ask_all(self, what: str, kind: Any, body: object) -> list[Any]:
        """Return the answers of those workers that answer in time."""
        serving = [worker for worker in self._workers if worker.serving]
        found = await asyncio.gather(*(worker.ask(what, kind, body, _PATIENCE) for worker in serving))
        return [each for each in found if each is not None]


def _silence(worker: Worker) -> float:
    """Return for how many seconds a worker that serves has not told how it is; 0 for a moment."""
    if not worker.serving or worker.silent_since is None:
        return 0.0
    silent = time.monotonic() - worker.silent_since
    return silent if silent > _MOMENT else 0.0


class _Told(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
