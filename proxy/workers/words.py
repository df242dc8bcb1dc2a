"""What is said over a channel: the values of questions and answers."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - msgspec reads the annotations
from typing import Literal

from msgspec import Struct

from proxy.admin import Condition  # noqa: TC001 - the same
from proxy.admin.status import Status  # noqa: TC001 - the same
from proxy.config import Config  # noqa: TC001 - the same
from proxy.observe.history import Step  # noqa: TC001 - the same
from proxy.tokens.store import Kept  # noqa: TC001 - the same


class Handed(Struct, frozen=True):
    """Sockets at one address, which are handed over beside the message."""

    address: str | tuple[str, int]
    """As a listener names it: a path, or a host and a port."""
    count: int
    stays: bool


class Orders(Struct, frozen=True):
    """What a worker serves: at its start, and where the configuration was read again."""

    number: int
    """Of the worker, from 1."""
    config: Config
    """With the worker's own share of what is limited."""
    sockets: Sequence[Handed]
    """Those that are new to the worker, in the order in which they are handed over."""
    log_form: Literal["json", "text"]
    colours: bool


class Sample(Struct, frozen=True, array_like=True):
    """One line of an exposition."""

    name: str
    labels: dict[str, str]
    value: float


class Counted(Struct, frozen=True, array_like=True):
    """One metric with all its children."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


class Reading(Struct, frozen=True, array_like=True):
    """How a worker is, and what it has counted."""

    condition: Condition
    metrics: Sequence[Counted]


class Span(Struct, frozen=True, array_like=True):
    """A time on the monotonic clock, which all processes share; in microseconds, the beginning not included."""

    since: int
    until: int


class View(Struct, frozen=True, array_like=True):
    """What a worker has to show; its requests are numbered by the microsecond in which they ended."""

    status: Status
    steps: Sequence[Step]


class Saved(Struct, frozen=True, array_like=True):
    """A token to be kept, by the digest of what it belongs to."""

    digest: str
    token: Kept


class Wish(Struct, frozen=True, array_like=True):
    """A login that a worker wants to make, or has made."""

    digest: str
    """Of the key of its token: with other credentials it is another."""
    whose: str
    """Of the account and the API, whatever the credentials."""


class Refusal(Struct, frozen=True, array_like=True):
    """A login failed in a way in which the next one with the same credentials would fail too."""

    error: str
    """The error's name."""
    detail: str
    left: float = 0.0
    """Seconds until the next one has its time."""
