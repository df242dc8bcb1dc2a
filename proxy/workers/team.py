"""The supervising process: it opens the addresses, starts the workers, and answers for them all."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy.admin import Admin, Condition, Readiness, Refreshed
from proxy.admin import status as a
from proxy.assembly import Assembly
from proxy.config import changes
from proxy.errors import ConfigError
from proxy.observe import families as f
from proxy.observe.counting import family
from proxy.observe.metrics import READINESS_STATES
from proxy.server import StartError, forbid_core_dump
from proxy.tokens import MemoryStore, system_clock
from proxy.tokens.schedule import Backoff
from proxy.workers.channel import Gone, Refused, encode
from proxy.workers.desk import Desk
from proxy.workers.shares import share_of
from proxy.workers.sockets import Address
from proxy.workers.sums import Sums, counted
from proxy.workers.views import condition_of, refreshed_of, status_of
from proxy.workers.words import Orders, Reading, Span, View
from proxy.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from prometheus_client.metrics_core import Metric

    from proxy.config import Changes, Config
    from proxy.observe import AccessLog
    from proxy.systemd import Supervisor

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds between two looks at a worker, and thus the most that is not counted of one that is killed."""

_PATIENCE = 0.5
"""Seconds that an operator waits for a worker that does not answer; then the last that is known is told."""

_MOST_MISSED = 10
"""Looks in a row, of two seconds each, at a worker that stands still, before it is ended."""

_SETTLED = 60.0
"""Seconds after which a worker that ends is not one that ends again."""

_SHORT = 10.0
"""Seconds in which a worker should be back: callers at its door wait for it."""

_AGAIN = Backoff(1, 5)

_SPARE = 5.0
"""Seconds beyond `drain.timeout` for the workers to say what they have counted."""

_MICROSECONDS = 1_000_000


class Team:
    """Several workers that are one sidecar; to whoever runs it, as `Sidecar` is."""

    def __init__(
        self,
        config: Config,
        env: Mapping[str, str],
        access_log: AccessLog,
        supervisor: Supervisor,
        *,
        log_form: Literal["json", "text"],
        colours: bool,
    ) -> None:
        """Raises `ConfigError`."""
        if sys.platform != "linux":
            raise ConfigError(
                f"workers: several processes at one address need Linux; found {sys.platform}, set it to 1"
            )
        self.supervisor = supervisor
        self.run = token_hex(4)
        self._config = config
        self._env = env
        self._access_log = access_log
        self._shape: dict[str, Any] = {"log_form": log_form, "colours": colours}
        self._addresses = [Address(listener, config.workers) for listener in config.listeners]
        desk = Desk(system_clock)
        numbers = range(1, config.workers + 1)
        self._workers = [Worker(number, env, desk, access_log.pass_on) for number in numbers]
        self._down_since: dict[Worker, float] = {}
        """On the monotonic clock, of each that has ended and is not back."""
        self._sums = Sums()
        self._own = CollectorRegistry()
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self._own)
        self._admin = Admin(config.admin, self)
        self._kept: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()
        self._stop_asked = asyncio.Event()
        self._draining = False

    # --- Start --------------------------------------------------------------------------------------------------------

    async def start(self) -> list[str]:
        """Return the addresses when all workers serve, the operator's port last; raises `StartError`, `ConfigError`."""
        forbid_core_dump()
        await self._try(self._config)
        take_sockets = self.supervisor.take_sockets
        try:
            for address in self._addresses:
                await address.open(take_sockets)
            started = await asyncio.gather(*map(self._start, self._workers), return_exceptions=True)
            for failed in filter(None, started):
                raise failed
            admin = await self._admin.open(take_sockets)
        except (OSError, StartError) as error:
            await self.stop()
            why = f"cannot listen: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            raise StartError(why) from None
        self.supervisor.tell_left()
        for worker in self._workers:
            self._kept += [asyncio.create_task(self._keep(worker)), asyncio.create_task(self._watch(worker))]
        return [*map(str, self._addresses), admin]

    async def _try(self, config: Config) -> None:
        """See that a configuration can be used, as a worker will; raises `ConfigError`."""
        try:
            encode(config)
        except UnicodeEncodeError:
            raise ConfigError("workers: several need a configuration in UTF-8, and a text of this one is not") from None
        store = MemoryStore(system_clock) if config.tokens.store.kind == "memory" else None
        await Assembly(config, self._env, self._access_log, store=store).store.close()

    async def _start(self, worker: Worker) -> None:
        handed = [address.of(worker.number) for address in self._addresses]
        sockets = [each for _, own in handed for each in own]
        await worker.start(self._orders(worker, [each for each, _ in handed]), sockets)

    def _orders(self, worker: Worker, handed: Iterable[Any]) -> Orders:
        return Orders(worker.number, share_of(self._config, worker.number), list(handed), **self._shape)

    # --- While it serves ----------------------------------------------------------------------------------------------

    async def _keep(self, worker: Worker) -> None:
        """Start a worker again whenever it ends."""
        ends = 0
        while True:
            code = await worker.ended()
            self._down_since[worker] = time.monotonic()
            self._bury(worker)
            ends = ends + 1 if time.time() - worker.started_at < _SETTLED else 1
            wait = _AGAIN.delay(ends - 1, 0.5) if ends > 1 else 0.0
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            text = "worker %d (process %d) has ended %s; another is started in %.0f s"
            log.error(text, worker.number, worker.pid, how, wait, extra={"event": "worker-ended", **_of(worker)})
            while True:
                await asyncio.sleep(wait)
                worker.restarts += 1
                try:
                    async with self._changing:
                        await self._start(worker)
                except StartError as error:
                    ends += 1
                    wait = _AGAIN.delay(ends, 0.5)
                    text = "worker %d did not start: %s; another is started in %.0f s"
                    log.error(text, worker.number, error, wait, extra={"event": "worker-ended", **_of(worker)})  # noqa: TRY400
                else:
                    break
            del self._down_since[worker]
            text = "worker %d serves again, as process %d"
            log.info(text, worker.number, worker.pid, extra={"event": "worker-started", **_of(worker)})

    def _bury(self, worker: Worker) -> None:
        """Keep what a worker has counted that has ended."""
        if worker.reading is not None:
            self._sums.keep(worker.reading.metrics)
            worker.reading = None

    async def _watch(self, worker: Worker) -> None:
        """Know what a worker has counted, should it be killed; and end one that stands still."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if worker.serving:
                await worker.look()
            if worker.serving and worker.missed >= _MOST_MISSED:
                text = "worker %d (process %d) has stood still for too long, and is ended"
                log.error(text, worker.number, worker.pid, extra={"event": "worker-stuck", **_of(worker)})
                worker.missed = 0
                worker.kill()

    # --- Change -------------------------------------------------------------------------------------------------------

    async def change(self, config: Config) -> Changes:
        """Go on with another configuration, in all workers or in none; raises as `Sidecar.change` does."""
        async with self._changing:
            found = changes(self._config, config)
            await self._try(found.config)
            kept, new = self._successors(found.config)
            try:
                for address in new:
                    await address.open(self.supervisor.take_sockets)
            except BaseException:
                for address in new:
                    address.close()
                raise
            for address in set(self._addresses) - set(kept):
                address.close()
            self._config, self._addresses = found.config, kept
            logging.getLogger("proxy").setLevel(found.config.log.level.upper())
            await asyncio.gather(*(self._change(worker, new) for worker in self._workers if worker.serving))
        return found

    def _successors(self, config: Config) -> tuple[list[Address], list[Address]]:
        """Return the addresses of a configuration, and those among them that are to be opened."""
        there, after, new = list(self._addresses), [], []
        for listener in config.listeners:
            address = next((each for each in there if each.bind == listener.bind), None)
            if address is None:
                address = Address(listener, config.workers)
                new.append(address)
            else:
                there.remove(address)
            after.append(address)
        return after, new

    async def _change(self, worker: Worker, new: list[Address]) -> None:
        handed = [address.of(worker.number) for address in new]
        orders = self._orders(worker, [each for each, _ in handed])
        try:
            await worker.order("change", orders, [each for _, own in handed for each in own])
        except Gone:
            pass  # its successor has the new configuration from the start
        except Refused as error:
            # The others have taken it: a successor will, or says why not.
            text = "worker %d did not take the configuration, and is ended: %s"
            log.error(text, worker.number, error, extra={"event": "worker-ended", **_of(worker)})  # noqa: TRY400
            worker.kill()

    # --- Stop ---------------------------------------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Have `stop_asked` return."""
        self._stop_asked.set()

    async def stop_asked(self) -> None:
        """Return when the sidecar is to stop, or to stop at once if it is stopping already."""
        await self._stop_asked.wait()
        self._stop_asked.clear()

    async def drain(self) -> None:
        """Stop gently, as `Sidecar.drain` does, in all workers at once."""
        self._draining = True
        await self._let_be()
        serving = [worker for worker in self._workers if worker.serving]
        await asyncio.gather(*(self._ask(worker, "begin to stop") for worker in serving))
        drain = self._config.drain
        await asyncio.sleep(drain.delay)
        for address in self._addresses:
            address.close()
        await asyncio.gather(*(self._finish(worker, drain.timeout) for worker in serving))
        await self._admin.close()

    async def _finish(self, worker: Worker, patience: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience + _SPARE):
                worker.reading = await self._ask(worker, "finish", Reading) or worker.reading
        await worker.leave()

    async def stop(self) -> None:
        """Stop now, as `Sidecar.stop` does."""
        self._draining = True
        await self._let_be()
        for address in self._addresses:
            address.close()
        await asyncio.gather(*(self._stop(worker) for worker in self._workers if worker.serving))
        await self._admin.close()

    async def _stop(self, worker: Worker) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SPARE):
                await self._ask(worker, "stop")
        await worker.leave()

    async def _let_be(self) -> None:
        """Start no worker again; one that is being started is ended."""
        for task in self._kept:
            task.cancel()
        if self._kept:
            await asyncio.wait(self._kept)

    async def _ask(self, worker: Worker, what: str, kind: Any = None, body: object = None) -> Any:
        """Ask a worker, and return none where it cannot answer."""
        try:
            return await worker.channel.ask(what, body, kind=kind)
        except (Gone, Refused):
            return None

    # --- What an operator asks: see `Source` --------------------------------------------------------------------------

    async def condition(self) -> Condition:
        """Tell the worst condition of any worker; one that is not there, or does not answer, is a reason too."""
        await self._look()
        return self._condition()

    def _condition(self) -> Condition:
        if self._draining:
            return Condition(Readiness.DRAINING, ("the sidecar is stopping",))
        others, now = [], time.monotonic()
        for worker, since in self._down_since.items():
            readiness = Readiness.DEGRADED if now - since < _SHORT else Readiness.NOT_READY
            others.append(Condition(readiness, (f"worker {worker.number} has ended, and is started again",)))
        others += [
            Condition(Readiness.DEGRADED, (f"worker {worker.number} does not answer",))
            for worker in self._workers
            if worker.serving and worker.missed > 1
        ]
        there = {worker.number: worker.reading.condition for worker in self._workers if worker.reading is not None}
        if not there:
            others.append(Condition(Readiness.NOT_READY, ("no worker serves",)))
        return condition_of(there, others)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics of all workers together, and of those that have ended."""
        await self._look()
        encode, media_type = choose_encoder(accept)
        registry = CollectorRegistry()
        registry.register(_Told(self._metrics()))
        return encode(registry), media_type

    def _metrics(self) -> list[Metric]:
        readings = [worker.reading.metrics for worker in self._workers if worker.reading is not None]
        metrics = {each.name: each for each in self._sums.of([*readings, counted(self._own.collect())])}
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
        found = await asyncio.gather(*(self._ask(worker, "refresh", list[Refreshed]) for worker in serving))
        return refreshed_of(each for each in found if each is not None)

    async def _ask_all(self, what: str, kind: Any, body: object) -> list[Any]:
        """Return the answers of those workers that answer in time."""

        async def ask(worker: Worker) -> Any:
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await self._ask(worker, what, kind, body)
            except TimeoutError:
                return None

        found = await asyncio.gather(*(ask(worker) for worker in self._workers if worker.serving))
        return [each for each in found if each is not None]


class _Told(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _of(worker: Worker) -> dict[str, object]:
    return {"worker": worker.number}
