"""The way of a request: guard, body, token, exchange, replay, answer."""

from proxy.forward.answer import Answer
from proxy.forward.body import HeldBytes, Holder
from proxy.forward.call import Api, Apis
from proxy.forward.echo import Echoes
from proxy.forward.forward import Forward
from proxy.forward.headers import Trail
from proxy.forward.problem import refusal
from proxy.forward.request import Request
from proxy.forward.target import ascii_line

__all__ = [
    "Answer",
    "Api",
    "Apis",
    "Echoes",
    "Forward",
    "HeldBytes",
    "Holder",
    "Request",
    "Trail",
    "ascii_line",
    "refusal",
]
