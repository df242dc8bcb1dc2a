"""What is counted, and when a count has reached a mark."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping


class Tally(StrEnum):
    """The counters, by the names they have in the state."""

    LOGINS = "logins"
    LOGINS_GRANTED = "logins_granted"
    LOGINS_REFUSED = "logins_refused"
    REQUESTS = "requests"
    UNAUTHORIZED = "unauthorized"
    DOCUMENTS = "documents"
    DUPLICATES = "duplicates"


Marks = dict[Tally, Annotated[int, Meta(ge=0)]]
"""Least values that counters are to have."""


class Counts(Counter[Tally]):
    """The counters, all from zero."""

    def reached(self, marks: Mapping[Tally, int]) -> bool:
        """Whether every counter named has come to its mark."""
        return all(self[tally] >= mark for tally, mark in marks.items())
