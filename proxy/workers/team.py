"""The supervising process: it opens the addresses, starts the workers and sees to them, from start to stop."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy.admin import Admin
from proxy.assembly import Assembly
from proxy.config import changes
from proxy.errors import ConfigError
from proxy.server import StartError, forbid_core_dump
from proxy.signals import StopAsked
from proxy.tokens import MemoryStore, system_clock
from proxy.tokens.schedule import Backoff
from proxy.workers.answers import Answers
from proxy.workers.channel import Gone, Refused, encode
from proxy.workers.desk import Desk
from proxy.workers.shares import share_of
from proxy.workers.sockets import Address
from proxy.workers.words import Orders, Reading
from proxy.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from proxy.config import Changes, Config
    from proxy.observe import AccessLog
    from proxy.systemd import Supervisor

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds between two looks at a worker, and thus the most that is not counted of one that is killed."""

_LONGEST_LOOK = 2.0
"""Seconds for a worker to tell how it is."""

_MOST_MISSED = 10
"""Looks in a row in which a worker says nothing at all, before it is ended."""

_SETTLED = 60.0
"""Seconds after which a worker that ends is not one that ends again."""

_AGAIN = Backoff(1, 5)

_SPARE = 5.0
"""Seconds for a worker to do what takes no time, and to say so: one that stands still must not keep the others."""


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
        self._config = config
        self._env = env
        self._access_log = access_log
        self._shape: dict[str, Any] = {"log_form": log_form, "colours": colours}
        self._addresses = [Address(listener, config.workers) for listener in config.listeners]
        desk = Desk(system_clock)
        numbers = range(1, config.workers + 1)
        self._workers = [Worker(number, env, desk, access_log.pass_on) for number in numbers]
        self._stop_asked = StopAsked()
        self._answers = Answers(self._workers, partial(self._stop_asked.ask, "quit"))
        self._admin = Admin(config.admin, self._answers)
        self._kept: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()

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
        """Start a worker again whenever it ends: at once, or after a while where it ends again and again."""
        ends = 0
        while True:
            code = await worker.ended()
            worker.down_since = worker.down_since or time.monotonic()
            self._answers.bury(worker)
            ends = ends + 1 if time.time() - worker.started_at < _SETTLED else 1
            wait = _AGAIN.delay(ends - 1, 0.5) if ends > 1 else 0.0
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            text = "worker %d (process %d) has ended %s; another is started in %.0f s"
            about = {"event": "worker-ended", "worker": worker.number}
            log.error(text, worker.number, worker.pid, how, wait, extra=about)
            await asyncio.sleep(wait)
            await self._start_again(worker)

    async def _start_again(self, worker: Worker) -> None:
        worker.restarts += 1
        try:
            async with self._changing:
                await self._start(worker)
        except StartError as error:
            about = {"event": "worker-ended", "worker": worker.number}
            log.error("worker %d did not start: %s", worker.number, error, extra=about)  # noqa: TRY400 - no defect
            return
        worker.down_since = None
        text = "worker %d serves again, as process %d"
        log.info(text, worker.number, worker.pid, extra={"event": "worker-started", "worker": worker.number})

    async def _watch(self, worker: Worker) -> None:
        """Know what a worker has counted, should it be killed; and end one that stands still.

        Looks are counted, and not seconds: where all processes were held up, the worker has had no time either.
        """
        missed = heard = 0
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if worker.serving:
                await worker.look(_LONGEST_LOOK)
            missed, heard = (missed + 1 if worker.serving and worker.heard == heard else 0), worker.heard
            if missed >= _MOST_MISSED:
                text = "worker %d (process %d) has stood still for too long, and is ended"
                log.error(text, worker.number, worker.pid, extra={"event": "worker-stuck", "worker": worker.number})
                missed = 0
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
            log.error(text, worker.number, error, extra={"event": "worker-ended", "worker": worker.number})  # noqa: TRY400
            worker.kill()

    # --- Stop ---------------------------------------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Have `stop_asked` return, as a signal does."""
        self._stop_asked.ask("signal")

    async def stop_asked(self) -> None:
        """Return when the sidecar is to stop, or to stop at once if it is stopping already."""
        await self._stop_asked.wait()

    async def drain(self) -> None:
        """Stop gently, as `Sidecar.drain` does, in all workers at once."""
        self._answers.draining = True
        await self._let_be()
        serving = [worker for worker in self._workers if worker.serving]
        await asyncio.gather(*(worker.ask("begin to stop", patience=_SPARE) for worker in serving))
        drain = self._config.drain
        await asyncio.sleep(drain.delay)
        for address in self._addresses:
            address.close()
        await asyncio.gather(*(self._finish(worker, drain.timeout) for worker in serving))
        await self._admin.close()

    async def _finish(self, worker: Worker, patience: float) -> None:
        worker.reading = await worker.ask("finish", Reading, patience=patience + _SPARE) or worker.reading
        await worker.leave()

    async def stop(self) -> None:
        """Stop now, as `Sidecar.stop` does."""
        self._answers.draining = True
        await self._let_be()
        for address in self._addresses:
            address.close()
        await asyncio.gather(*(self._stop(worker) for worker in self._workers if worker.serving))
        await self._admin.close()

    async def _stop(self, worker: Worker) -> None:
        await worker.ask("stop", patience=_SPARE)
        await worker.leave()

    async def _let_be(self) -> None:
        """Start no worker again; one that is being started is ended."""
        for task in self._kept:
            task.cancel()
        if self._kept:
            await asyncio.wait(self._kept)
