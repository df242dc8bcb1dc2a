"""The requests of one listener that are on their way: how many, when there are none left, and how they are given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.observe import RequestMeter

    Task = asyncio.Task[None]


class Traffic:
    """Counts those that are on their way. A caller's is in the task that brings it; others have none to give up."""

    def __init__(self, meter: RequestMeter) -> None:
        self._meter = meter
        self._tasks: set[Task] = set()
        self._given_up: set[Task] = set()
        self._emptied: asyncio.Event | None = None
        self.number = 0
        """How many are on their way."""

    def begin(self) -> None:
        """One more is on its way."""
        self.number += 1
        self._meter.in_flight += 1

    def end(self) -> None:
        """One of them is at its end."""
        self.number -= 1
        self._meter.in_flight -= 1
        if self._emptied is not None and not self.number:
            self._emptied.set()

    def enter(self, task: Task) -> None:
        """Begin one that a task brings to its end."""
        self.begin()
        self._tasks.add(task)

    def leave(self, task: Task) -> None:
        """Have done with the one that a task brings, which has yet to `end`."""
        self._tasks.discard(task)
        self._given_up.discard(task)

    def give_up(self) -> None:
        """Have every caller told what is known of its request."""
        self._given_up |= self._tasks
        for task in self._tasks:
            task.cancel()

    def was_given_up(self, task: Task) -> bool:
        """Tell whether it is `give_up` that a task was cancelled by; then it goes on, to tell its caller."""
        if task not in self._given_up:
            return False
        task.uncancel()
        return True

    async def emptied(self) -> None:
        """Return when none is on its way."""
        if self.number:
            if self._emptied is None or self._emptied.is_set():
                self._emptied = asyncio.Event()
            await self._emptied.wait()
