"""From what the configuration says of the store to the store itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ConfigError
from proxy.tokens.memory import MemoryStore

if TYPE_CHECKING:
    from proxy.tokens.store import Store
    from proxy.tokens.token import Clock


def open_store(where: str, *, key_file: str | None, clock: Clock, login_timeout: float) -> Store:
    """Open `memory`, `file:/path`, `redis://…` or `rediss://…`; `key_file` is for the latter two.

    What only some stores need is imported with them. Raises `ConfigError` where a store cannot be used as it is given.
    """
    if where == "memory":
        return MemoryStore(clock)
    if where.startswith("file:"):
        try:
            from proxy.tokens.file import FileStore  # noqa: PLC0415 - Windows has no fcntl
        except ImportError:
            raise ConfigError("tokens.store: this system lacks the locks that a file of tokens needs") from None
        return FileStore(where.removeprefix("file:"), clock, limit=login_timeout)
    try:
        from proxy.tokens.redis import open_redis  # noqa: PLC0415 - an extra
    except ImportError:
        mend = 'pip install "invoisys-proxy[redis]"'
        raise ConfigError(f"tokens.store: Redis needs what the extra `redis` installs: {mend}") from None
    return open_redis(where, key_file=key_file, clock=clock, limit=login_timeout)
