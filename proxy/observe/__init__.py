"""What every room may call to say what happens."""

from proxy.observe.logs import AccessLog, RequestLine, set_up
from proxy.observe.metrics import PREFIX, Metrics, StoreReading, TokenMeter, TokenReading

__all__ = [
    "PREFIX",
    "AccessLog",
    "Metrics",
    "RequestLine",
    "StoreReading",
    "TokenMeter",
    "TokenReading",
    "set_up",
]
