"""A sidecar, of one process or of several, from its start until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from proxy.errors import ConfigError
from proxy.signals import listen

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Changes, Config
    from proxy.systemd import Supervisor

log = logging.getLogger(__name__)


class Served(Protocol):
    """A `Sidecar`, or several processes that are one."""

    supervisor: Supervisor

    async def start(self) -> list[str]:
        """Open every listener and return the addresses, the operator's port last; raises `StartError`."""

    async def change(self, config: Config) -> Changes:
        """Go on with another configuration; raises `ConfigError` and `OSError`, and then all is as it was."""

    def ask_to_stop(self) -> None:
        """Have `stop_asked` return."""

    async def stop_asked(self) -> None:
        """Return when it is to stop, or to stop at once if it is stopping already."""

    async def drain(self) -> None:
        """Stop gently."""

    async def stop(self) -> None:
        """Stop now."""


async def serve(sidecar: Served, on_start: Callable[[list[str]], None], read_again: Callable[[], Config]) -> None:
    """Run until SIGTERM, SIGINT or `POST /quit`, then drain; a second one ends at once. Raises `StartError`.

    SIGHUP has the configuration read again; one that cannot be used is told, and the old one stays.
    """
    loop = asyncio.get_running_loop()
    supervisor = sidecar.supervisor
    hung_up = asyncio.Event()
    listen(loop, sidecar.ask_to_stop, hung_up.set)
    on_start(await sidecar.start())
    supervisor.ready("serving")
    beside = [asyncio.create_task(_change_on(hung_up, sidecar, read_again)), asyncio.create_task(_live(supervisor))]
    try:
        await sidecar.stop_asked()
    finally:
        for task in beside:
            task.cancel()
    supervisor.stopping()
    log.info("stopping", extra={"event": "stopping"})
    await _stop(sidecar)


async def _stop(sidecar: Served) -> None:
    drain = asyncio.ensure_future(sidecar.drain())
    again = asyncio.ensure_future(sidecar.stop_asked())
    await asyncio.wait([drain, again], return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if drain.done():
        drain.result()
        return
    log.warning("stopped by a second signal", extra={"event": "stopped"})
    drain.cancel()
    await sidecar.stop()


async def _change_on(hung_up: asyncio.Event, sidecar: Served, read_again: Callable[[], Config]) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        sidecar.supervisor.reloading()
        try:
            found = await sidecar.change(read_again())
        except (ConfigError, OSError) as error:
            text = "the configuration is not taken, and the old one stays: %s"
            log.error(text, error, extra={"event": "reload-refused"})  # noqa: TRY400 - a traceback tells nobody more
        except Exception:
            text = "the configuration is not taken, and the old one stays: it met a defect of the sidecar"
            log.exception(text, extra={"event": "reload-failed"})
        else:
            about = {"event": "reloaded", "taken": found.taken, "need_restart": found.left}
            log.info("the configuration was read again; %s", _in_words(found), extra=about)
        sidecar.supervisor.ready("serving")


def _in_words(found: Changes) -> str:
    taken = f"taken: {', '.join(found.taken)}" if found.taken else "nothing in it has changed"
    return f"{taken}; a restart is needed for {', '.join(found.left)}" if found.left else taken


async def _live(supervisor: Supervisor) -> None:
    """Give signs of life for as long as the event loop turns."""
    while supervisor.watchdog_every:
        supervisor.alive()
        await asyncio.sleep(supervisor.watchdog_every)
