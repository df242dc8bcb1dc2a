"""When to log in: ahead of time, after a failure, and how often 401s may cause it. Pure; time comes from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.errors import LoginError
    from proxy.tokens.token import Moment

_SURE_PART = 0.75
_DOUBLINGS = 30  # far past every `longest`; keeps the power finite


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing delays between failures, in seconds: `first` to `longest`, doubling, the last quarter left to chance."""

    first: float
    longest: float

    def delay(self, failures: int, chance: float) -> float:
        """Return the delay after so many failures in a row, one at least; `chance` is in [0, 1)."""
        ceiling = min(self.longest, self.first / _SURE_PART * 2.0 ** min(failures - 1, _DOUBLINGS))
        return ceiling * (_SURE_PART + (1 - _SURE_PART) * chance)


TROUBLE = Backoff(1, 60)
REFUSAL = Backoff(60, 900)
"""After refused credentials: slowly enough that no account is ever locked for it."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to log in again, and for how many seconds (`patience`) a request waits for that.

    `chance` gives numbers in [0, 1), which spread replicas apart.
    """

    refresh_every: float
    patience: float
    chance: Callable[[], float]

    def refresh_after(self, lifetime: float) -> float:
        """Return after how many seconds to replace a token: by 80 % of its lifetime, up to a twentieth earlier."""
        return min(self.refresh_every, 0.8 * lifetime) * (1 - 0.05 * self.chance())

    def retry_after(self, error: LoginError, failures: int) -> float:
        """Return for how many seconds not to log in, after so many failures in a row."""
        delay = (REFUSAL if error.final else TROUBLE).delay(failures, self.chance())
        return max(delay, min(error.retry_after or 0, REFUSAL.longest))


class RateFloor:
    """The logins that 401s may cause: a bucket of two that refills by one in 30 seconds.

    Without it, a path that answers 401 to every token would cost one login per request.
    """

    _CAPACITY = 2.0
    _SECONDS_PER_LOGIN = 30.0

    def __init__(self) -> None:
        self._filled = self._CAPACITY
        self._at = float("-inf")

    def allows(self, now: Moment) -> bool:
        """Tell whether there is a login in the bucket."""
        passed = now.monotonic - self._at
        self._filled = min(self._CAPACITY, self._filled + passed / self._SECONDS_PER_LOGIN)
        self._at = now.monotonic
        return self._filled >= 1

    def take(self, now: Moment) -> None:
        """Take a login out of the bucket."""
        if self.allows(now):
            self._filled -= 1
