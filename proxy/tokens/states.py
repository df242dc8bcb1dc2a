"""The states of a token and of its login, and what follows from them: three tables.

`STEPS` says what a request that needs a token gets. `LOGIN` says how the login goes from state to state. Time moves a
token from valid to due to expired by itself, and a login from backing off or refused to idle.
"""

from __future__ import annotations

from enum import Enum, auto


class TokenState(Enum):
    """What the token that is held is good for."""

    NONE = auto()
    VALID = auto()
    DUE = auto()  # still good, and time to replace it
    EXPIRED = auto()
    REJECTED = auto()  # upstream answered 401 to it


class LoginState(Enum):
    """What the login is doing."""

    IDLE = "idle"
    IN_FLIGHT = "in-flight"
    BACKING_OFF = "backing-off"  # the last one failed, and the next has its time
    REFUSED = "refused"  # the credentials are wrong: the next has its time, or comes at once with other credentials


class Event(Enum):
    """What happens to a login."""

    BEGAN = auto()
    GRANTED = auto()
    SHARED = auto()  # another sidecar's login gave a token
    FAILED = auto()
    WAS_REFUSED = auto()
    TIME_CAME = auto()
    SECRET_CHANGED = auto()
    ASKED = auto()  # an operator will not wait for the time of the next; refused credentials have to


class Step(Enum):
    """What a request that needs a token gets."""

    SERVE = auto()
    SERVE_AND_LOGIN = auto()
    LOGIN = auto()
    JOIN = auto()
    FAIL = auto()


_VALID = dict.fromkeys(LoginState, Step.SERVE)
_DUE = _VALID | {LoginState.IDLE: Step.SERVE_AND_LOGIN}
_UNUSABLE = {
    LoginState.IDLE: Step.LOGIN,
    LoginState.IN_FLIGHT: Step.JOIN,
    LoginState.BACKING_OFF: Step.FAIL,
    LoginState.REFUSED: Step.FAIL,
}

STEPS = {
    TokenState.VALID: _VALID,
    TokenState.DUE: _DUE,
    TokenState.NONE: _UNUSABLE,
    TokenState.EXPIRED: _UNUSABLE,
    TokenState.REJECTED: _UNUSABLE,
}
"""A valid token outlives every failed login; an expired or rejected one is never served."""

REASONS = {
    TokenState.NONE: "first",
    TokenState.VALID: "asked",
    TokenState.DUE: "scheduled",
    TokenState.EXPIRED: "expired",
    TokenState.REJECTED: "rejected",
}
"""Why there is a login, unless it is the retry of one that failed; a valid token is replaced for an operator alone."""

LOGIN = {
    (LoginState.IDLE, Event.BEGAN): LoginState.IN_FLIGHT,
    (LoginState.IN_FLIGHT, Event.GRANTED): LoginState.IDLE,
    (LoginState.IN_FLIGHT, Event.FAILED): LoginState.BACKING_OFF,
    (LoginState.IN_FLIGHT, Event.WAS_REFUSED): LoginState.REFUSED,
    (LoginState.IDLE, Event.SHARED): LoginState.IDLE,
    (LoginState.BACKING_OFF, Event.SHARED): LoginState.IDLE,
    (LoginState.REFUSED, Event.SHARED): LoginState.IDLE,
    (LoginState.BACKING_OFF, Event.TIME_CAME): LoginState.IDLE,
    (LoginState.REFUSED, Event.TIME_CAME): LoginState.IDLE,
    (LoginState.REFUSED, Event.SECRET_CHANGED): LoginState.IDLE,
    (LoginState.BACKING_OFF, Event.ASKED): LoginState.IDLE,
}
"""What is not in it does not happen: at most one login is in flight, and none begins while another has its time."""
