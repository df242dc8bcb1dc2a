"""Failures that are alike: the first are told in full, those that follow are counted, and told together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

WINDOWS = (60.0, 600.0)
"""Seconds for which failures of one kind are gathered: at first, and for as long as they go on."""

_MOST = 256
"""Kinds that are watched at once; what comes on top is told in full."""


@dataclass(frozen=True, slots=True)
class Repeated(Generic[T]):
    """So many more failures of a kind within so many seconds, and the last of them."""

    last: T
    count: int
    seconds: float


@dataclass(slots=True)
class _Window(Generic[T]):
    ends: float
    seconds: float
    full: int = 0
    """How many more are told in full."""
    count: int = 0
    last: T | None = None

    def told(self) -> Repeated[T] | None:
        return None if self.last is None else Repeated(self.last, self.count, self.seconds)


class Repeats(Generic[T]):
    """Decides what is told of failures; times are in seconds, on any clock that only goes forward."""

    def __init__(self, windows: tuple[float, float] = WINDOWS, full: int = 1) -> None:
        """`full` is how many are told in full before the others are counted."""
        self._at_first, self._going_on = windows
        self._full = full
        self._windows: dict[Hashable, _Window[T]] = {}

    def in_full(self, kind: Hashable, what: T, now: float) -> bool:
        """Take note of a failure, and tell whether it is to be told in full."""
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) < _MOST:
                self._windows[kind] = _Window(now + self._at_first, self._at_first, self._full - 1)
            return True
        if window.full:
            window.full -= 1
            return True
        window.count += 1
        window.last = what
        return False

    def due(self, now: float) -> list[Repeated[T]]:
        """Return what is to be told of the windows that have ended; a kind that was silent for one is forgotten."""
        ended = [(kind, window) for kind, window in self._windows.items() if window.ends <= now]
        for kind, window in ended:
            if window.last is None:
                del self._windows[kind]
            else:
                self._windows[kind] = _Window(now + self._going_on, self._going_on)
        return [told for _, window in ended if (told := window.told()) is not None]

    def end(self, which: Callable[[Hashable], bool] = lambda _: True) -> list[Repeated[T]]:
        """Forget kinds, because their cause is gone or nothing follows; return what is still to be told of them."""
        ended = [self._windows.pop(kind) for kind in list(self._windows) if which(kind)]
        return [told for window in ended if (told := window.told()) is not None]

    @property
    def next_end(self) -> float | None:
        """When the next window ends."""
        return min((window.ends for window in self._windows.values()), default=None)
