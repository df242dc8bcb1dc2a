"""The way of a request: guard, body, token, exchange, replay, answer."""

from proxy.forward.answer import Answer
from proxy.forward.body import HeldBytes, Holder
from proxy.forward.forward import Api, Forward

__all__ = ["Answer", "Api", "Forward", "HeldBytes", "Holder"]
