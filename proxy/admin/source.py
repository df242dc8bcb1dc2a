"""What the operator's port tells of and has done: of this process, or of several that are told of as one."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from proxy.admin.status import Details, gather, request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from proxy.admin.actions import Refreshed
    from proxy.admin.status import Rooms, Status
    from proxy.observe import History, Metrics


class Readiness(StrEnum):
    """Whether requests can be served."""

    READY = "ready"
    DEGRADED = "degraded"  # on a valid token, while its renewal fails
    NOT_READY = "not-ready"
    DRAINING = "draining"


class Condition(NamedTuple):
    """Readiness, the reasons in words, and what to do where there is something to be done."""

    readiness: Readiness
    reasons: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()


class Source(Protocol):
    """Where the operator's port has its answers from."""

    run: str
    """Another one after each start."""

    async def condition(self) -> Condition:
        """Tell whether requests can be served."""

    async def turns(self) -> bool:
        """Tell whether an event loop turns that serves callers."""

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the text format that an `Accept` asks for, and its media type."""

    async def status(self, since: int = 0) -> Status:
        """Return the present state, with the requests after the one of that number."""

    async def find(self, request_id: str) -> list[Details]:
        """Return what is remembered of one request, the newest first."""

    async def refresh(self) -> list[Refreshed]:
        """Replace every token that is in use."""

    def ask_to_stop(self) -> None:
        """Begin what SIGTERM begins."""


class OneProcess:
    """The source that is this process."""

    def __init__(
        self,
        condition: Callable[[], Condition],
        metrics: Metrics,
        rooms: Callable[[], Rooms],
        history: History,
        refresh: Callable[[], Awaitable[list[Refreshed]]],
        end: Callable[[], None],
    ) -> None:
        self.run = history.run
        self.started = time.time()
        self.history = history
        self._condition = condition
        self._metrics = metrics
        self._rooms = rooms
        self._refresh = refresh
        self._end = end

    async def condition(self) -> Condition:
        """Tell whether requests can be served."""
        return self._condition()

    async def turns(self) -> bool:
        """Tell that it does: it has come to this line."""
        return True

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics."""
        return self._metrics.exposition(accept)

    async def status(self, since: int = 0) -> Status:
        """Return the present state."""
        return gather(self._rooms(), self.history, self._condition(), self.started, since=since)

    async def find(self, request_id: str) -> list[Details]:
        """Return what is remembered of one request."""
        offset = self.offset()
        found = self.history.find(request_id)
        return [Details(request(past, offset), past.fields, past.inspected, past.head) for past in found]

    def offset(self) -> float:
        """Return what leads from the monotonic to the wall clock."""
        return time.time() - time.monotonic()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now."""
        return self._metrics.registry.collect()

    async def refresh(self) -> list[Refreshed]:
        """Replace every token that is in use."""
        return await self._refresh()

    def ask_to_stop(self) -> None:
        """Begin to stop."""
        self._end()
