"""The bound on how many requests may wait at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import Overloaded

if TYPE_CHECKING:
    from types import TracebackType

_RETRY_AFTER = 1.0


class WaitingRoom:
    """Where requests stand that wait, for a token or for a connection; entering a full one raises `Overloaded`."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self.places:
            raise Overloaded(f"{self.taken} requests are waiting already", retry_after=_RETRY_AFTER)
        self.taken += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.taken -= 1
