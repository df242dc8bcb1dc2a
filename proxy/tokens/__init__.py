"""The token's life: login, refresh ahead of time, renewal after a 401; one login per need, however many ask."""

from proxy.tokens.login import Login
from proxy.tokens.memory import MemoryStore
from proxy.tokens.opening import open_store
from proxy.tokens.refresher import Refresher
from proxy.tokens.schedule import Schedule
from proxy.tokens.store import Store, TokenKey
from proxy.tokens.token import Clock, Moment, Token, system_clock

__all__ = [
    "Clock",
    "Login",
    "MemoryStore",
    "Moment",
    "Refresher",
    "Schedule",
    "Store",
    "Token",
    "TokenKey",
    "open_store",
    "system_clock",
]
