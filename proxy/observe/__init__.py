"""What every room may call to say what happens."""

from proxy.observe.families import PREFIX
from proxy.observe.logs import AccessLog, RequestLine, set_up
from proxy.observe.metrics import Level, Metrics, PoolReading, StoreReading, TokenMeter, TokenReading
from proxy.observe.requests import RequestMeter

__all__ = [
    "PREFIX",
    "AccessLog",
    "Level",
    "Metrics",
    "PoolReading",
    "RequestLine",
    "RequestMeter",
    "StoreReading",
    "TokenMeter",
    "TokenReading",
    "set_up",
]
