"""The token's life: login, refresh ahead of time, renewal after a 401; one login per need, however many ask."""

from proxy.tokens.login import Login
from proxy.tokens.memory import MemoryStore, TokenKey
from proxy.tokens.refresher import Refresher
from proxy.tokens.states import Schedule
from proxy.tokens.token import Clock, Moment, Token, system_clock

__all__ = ["Clock", "Login", "MemoryStore", "Moment", "Refresher", "Schedule", "Token", "TokenKey", "system_clock"]
