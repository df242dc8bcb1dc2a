"""An event loop whose time is a number: it stands still while anything can run, and jumps to the next timer."""

from __future__ import annotations

import asyncio
import heapq
import selectors
from typing import TYPE_CHECKING, Any

from proxy.tokens import Moment

if TYPE_CHECKING:
    from collections.abc import Coroutine


class _JumpingSelector(selectors.SelectSelector):
    """Does not wait: it hands the time that the loop would have waited to whoever keeps the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and no timer will ever end it")
        self._clock.advance(timeout)
        return super().select(0)


class VirtualClock:
    """Both clocks. They run together, until a test sets the wall clock, or lets the machine sleep."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.wall = 1_800_000_000.0

    def __call__(self) -> Moment:
        return Moment(self.wall, self.monotonic)

    def advance(self, seconds: float) -> None:
        """Let time pass. Who does so beside the loop sees to it that no timer is passed over."""
        self.monotonic += seconds
        self.wall += seconds

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward by so many seconds, or back."""
        self.wall += seconds

    def sleep_through(self, seconds: float) -> None:
        """Let the machine be suspended: Linux's monotonic clock stops, the wall clock goes on."""
        self.wall += seconds


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._clock.monotonic


def run(work: Coroutine[Any, Any, None], clock: VirtualClock) -> None:
    """Run to the end in virtual time; what went wrong in a task that nobody waited for comes out as well."""
    unseen: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
        runner.run(work)
    assert not unseen


async def settle() -> None:
    """Let everything run that can run now, without time passing."""
    while not is_idle():  # noqa: ASYNC110 - no event tells that nothing is left to run
        await asyncio.sleep(0)


def is_idle() -> bool:
    """Tell whether nothing can run before time passes."""
    return not asyncio.get_running_loop()._ready  # type: ignore[attr-defined]


def next_timer() -> float:
    """Return when, on the loop's own clock, the first timer ends."""
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return timers[0].when() if timers else float("inf")


def pending_timers() -> int:
    """Timers that are set and not cancelled."""
    loop = asyncio.get_running_loop()
    scheduled = heapq.nsmallest(10_000, loop._scheduled)  # type: ignore[attr-defined]
    return sum(not timer.cancelled() for timer in scheduled)
