"""A token and the moments of its life."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from proxy.config import Origin

_SHORTEST_SEARCHED = 16
"""Characters of a token below which it is not looked for in answers: it would be found where nobody put it."""

TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""What may stand behind `Bearer` (RFC 9110, section 11.2): nothing in it can split a header."""


class Moment(NamedTuple):
    """A point in time on both clocks, in seconds.

    The wall clock goes on while a laptop sleeps, the monotonic one is never set back; neither alone can be trusted with
    an expiry, so a moment has come as soon as either clock says so.
    """

    wall: float
    monotonic: float

    def plus(self, seconds: float) -> Moment:
        """Return the moment `seconds` later."""
        return Moment(self.wall + seconds, self.monotonic + seconds)

    def age(self, now: Moment) -> float:
        """Return how many seconds have passed since this moment, by the clock that says more."""
        return max(now.wall - self.wall, now.monotonic - self.monotonic)

    def left(self, now: Moment) -> float:
        """Return in how many seconds this moment comes, by the clock that says less."""
        return min(self.wall - now.wall, self.monotonic - now.monotonic)

    def has_come(self, now: Moment) -> bool:
        """Tell whether this moment is in the past."""
        return now.wall >= self.wall or now.monotonic >= self.monotonic


Clock = Callable[[], Moment]


def system_clock() -> Moment:
    """Return the present moment."""
    return Moment(time.time(), time.monotonic())


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token (RFC 6750)."""

    value: str = field(repr=False)
    generation: int
    """How many tokens of its key there have been, this one counted."""
    obtained_at: Moment
    """When the login for it was sent: a lifetime counted from there ends no later than upstream's own count."""
    refresh_at: Moment
    expires_at: Moment
    audience: Origin | None = None
    """The one server that it may be sent to."""
    authorization: bytes = field(init=False, repr=False)
    """The field value of `Authorization`."""
    spellings: tuple[bytes, ...] = field(init=False, repr=False)
    """The ways in which a header field may quote it: as it is, and as a URL has it where that differs."""

    def __post_init__(self) -> None:
        """Make what every request needs once."""
        object.__setattr__(self, "authorization", b"Bearer " + self.value.encode("ascii"))
        object.__setattr__(self, "spellings", _spellings(self.value))


def _spellings(value: str) -> tuple[bytes, ...]:
    if len(value) < _SHORTEST_SEARCHED:
        return ()
    upper = quote(value, safe="")
    lower = re.sub("%..", lambda escape: escape[0].lower(), upper)
    return tuple(text.encode("ascii") for text in dict.fromkeys((value, upper, lower)))
