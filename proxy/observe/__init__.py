"""What every room may call to say what happens."""

from proxy.observe.families import PREFIX
from proxy.observe.history import PIECE, History, Inspected, Past
from proxy.observe.logs import AccessLog, RequestLine, set_up
from proxy.observe.metrics import Level, Metrics, PoolReading, StoreReading, TokenMeter, TokenReading
from proxy.observe.requests import RequestMeter
from proxy.observe.steps import next_step, told_of

__all__ = [
    "PIECE",
    "PREFIX",
    "AccessLog",
    "History",
    "Inspected",
    "Level",
    "Metrics",
    "Past",
    "PoolReading",
    "RequestLine",
    "RequestMeter",
    "StoreReading",
    "TokenMeter",
    "TokenReading",
    "next_step",
    "set_up",
    "told_of",
]
