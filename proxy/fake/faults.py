"""The actions: all that can be done to a running fake, as values, whether they come by HTTP, script or code."""

from __future__ import annotations

from enum import EnumType, StrEnum
from itertools import chain, repeat
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, TypeVar

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Times = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
Code = Annotated[int, Meta(ge=0, le=999)]


class ActionError(ValueError):
    """An action that does not exist, or one with wrong parameters; the message says which and why."""


class LoginMode(StrEnum):
    """How the token endpoints answer."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    GRANT = "grant"
    THROTTLE = "throttle"
    ERROR = "error"
    EMPTY = "empty"
    HTML = "html"
    NO_TOKEN = "no-token"  # noqa: S105 - a mode
    CUT = "cut"
    SLOW = "slow"


class AnswerMode(StrEnum):
    """How the API answers a request that carries a valid token."""

    NORMAL = "normal"
    ERROR = "error"
    THROTTLE = "throttle"
    EMPTY = "empty"
    VERDICT = "verdict"
    SLOW = "slow"
    CUT_BEFORE = "cut-before"
    CUT_DURING = "cut-during"
    CUT_AFTER = "cut-after"
    EARLY_401 = "early-401"
    UNAUTHORIZED = "unauthorized"


class Framing(StrEnum):
    """How the length of a cut answer is told (RFC 9112, section 6)."""

    LENGTH = "length"
    CHUNKED = "chunked"


class Shape(StrEnum):
    """What a 401 looks like."""

    BY_PATH = "by-path"
    JSON = "json"
    EMPTY = "empty"


class Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something to do to the fake."""


class Reset(Action, frozen=True):
    """Forget counts, documents and settings; tokens stay valid, for `revoke` is there to end them."""


class Revoke(Action, frozen=True):
    """Make all tokens issued so far invalid."""


class Expire(Action, frozen=True):
    """Set the lifetime of the tokens to come, and what `expires_in` says of it (by default the truth)."""

    lifetime: Seconds = msgspec.field(default=92843, name="in")
    say: int | float | str | None = None
    """`none` leaves `expires_in` out; a text that is JSON stands for its value, any other for itself."""

    def said(self) -> dict[str, object]:
        """What the token response says of the lifetime."""
        if self.say is None:
            return {"expires_in": int(self.lifetime)}
        if self.say == "none":
            return {}
        try:
            return {"expires_in": msgspec.json.decode(str(self.say))}
        except msgspec.DecodeError:
            return {"expires_in": self.say}


class OnlyNewest(Action, frozen=True):
    """Set whether a login revokes the earlier tokens of its API."""

    on: bool = True


class Denials(Action, frozen=True):
    """Set what a 401 looks like."""

    shape: Shape = Shape.BY_PATH


class Inbox(Action, frozen=True):
    """Set what the receipt API holds: how many events, and how many bytes of XML each."""

    documents: Annotated[int, Meta(ge=0, le=10_000)] = 3
    size: Annotated[int, Meta(ge=0, le=1 << 20)] = 400


class Fault(Action, frozen=True):
    """A way to answer, for the next `times` requests (or all to come) whose path begins with `path`."""

    OPTIONS: ClassVar[dict[str, str]] = {"delay": "slow", "retry_after": "throttle"}
    """Options that one mode alone knows; given with another they would be a mistake without effect."""

    mode: StrEnum
    times: Times | None = None
    path: str = "/"
    delay: Seconds | None = None
    retry_after: Annotated[int, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        for option, mode in self.OPTIONS.items():
            if self.mode != mode and getattr(self, option) is not None:
                raise ValueError(f"`{option}` goes with mode `{mode}` only")

    @property
    def pause(self) -> float:
        """Seconds between the work and the answer."""
        if self.mode != "slow":
            return 0
        return 1 if self.delay is None else self.delay

    @property
    def hint(self) -> int:
        """Seconds that `Retry-After` names."""
        return 1 if self.retry_after is None else self.retry_after


class Logins(Fault, frozen=True):
    """Set how the token endpoints answer."""

    mode: LoginMode = LoginMode.ACCEPT


class Answers(Fault, frozen=True):
    """Set how the API answers requests that carry a valid token."""

    OPTIONS: ClassVar[dict[str, str]] = {**Fault.OPTIONS, "framing": "cut-during", "code": "verdict"}

    mode: AnswerMode = AnswerMode.NORMAL
    issue: bool | None = None
    framing: Framing | None = None
    code: Code | None = None

    @property
    def issues(self) -> bool:
        """Whether an emission that this answer meets leaves a document behind."""
        if self.issue is None:
            return self.mode not in {AnswerMode.ERROR, AnswerMode.THROTTLE, AnswerMode.VERDICT}
        return self.issue

    @property
    def verdict(self) -> int:
        """What `codigoStatusSEFAZ` says; if nothing was chosen, that the document does not fit its schema."""
        return 225 if self.code is None else self.code


F = TypeVar("F", bound=Fault)


class Turns(Generic[F]):
    """Which fault the next request meets: the one set, as often as it says, then the usual answer again."""

    def __init__(self, usual: F) -> None:
        self._usual = usual
        self.set(usual)

    def set(self, fault: F) -> None:
        """Replace what was set before."""
        self._path = fault.path
        self._next: Iterator[F] = (
            repeat(fault) if fault.times is None else chain(repeat(fault, fault.times), repeat(self._usual))
        )

    def take(self, path: str) -> F:
        """The fault for a request to `path`, which uses up one of its times."""
        return next(self._next) if path.startswith(self._path) else self._usual


ACTIONS: dict[str, type[Action]] = {
    "reset": Reset,
    "revoke": Revoke,
    "expire": Expire,
    "only-newest": OnlyNewest,
    "denials": Denials,
    "inbox": Inbox,
    "logins": Logins,
    "answers": Answers,
}


def parse_action(name: str, fields: Mapping[str, object]) -> Action:
    """The action of that name; values may be text, as a query and the script give them.

    Raises:
        ActionError: there is no such action, or a parameter is unknown, wrong or out of place.
    """
    kind = ACTIONS.get(name)
    if kind is None:
        raise ActionError(f"no action `{name}`; there are {', '.join(ACTIONS)}")
    try:
        return msgspec.convert(dict(fields), kind, strict=False)
    except msgspec.ValidationError as error:
        choices = [
            f"; `{field.name}` is one of {', '.join(field.type)}"
            for field in msgspec.structs.fields(kind)
            if isinstance(field.type, EnumType)
        ]
        raise ActionError(f"{name}: {error}{''.join(choices)}") from None
