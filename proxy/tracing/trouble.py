"""What OpenTelemetry has to say of itself, as a warning in our own log.

It says so in threads of its own, and sometimes quotes what it was given: the header fields of an exporter hold keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

log = logging.getLogger(__name__)

_OF_THE_EXPORT = ("opentelemetry.exporter.", "opentelemetry.sdk._shared_internal")
_ELSEWHERE = ("opentelemetry.sdk", "opentelemetry.util")
_LIBRARIES = ("opentelemetry", "urllib3", "requests")


class Trouble(logging.Handler):
    """Takes records in any thread, and warns in that of the event loop."""

    def __init__(self) -> None:
        """Begin to listen, within a running event loop."""
        super().__init__(logging.WARNING)
        self._loop = asyncio.get_running_loop()
        for name in _LIBRARIES:
            logger = logging.getLogger(name)
            logger.handlers[:] = [self]
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Have the event loop warn, as long as it runs."""
        text = described(record)
        if text is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_warn_of, text)


def described(record: logging.LogRecord) -> str | None:
    """Return what a record says, without what it quotes; nothing where it is about a caller's header fields."""
    text = str(record.msg)
    if record.name.startswith(_OF_THE_EXPORT):
        if isinstance(record.args, tuple) and record.args:
            text %= tuple(map(_named, record.args))
        error = record.exc_info and record.exc_info[1]
        return f"{text} ({_named(error)})" if error else text
    return text if record.name.startswith(_ELSEWHERE) else None


def _named(value: object) -> object:
    """Name an error by its kind: its words quote the URL."""
    return type(value).__name__ if isinstance(value, BaseException) else value


def _warn_of(text: str) -> None:
    log.warning("spans have not reached the collector: %s", text, extra={"event": "tracing-trouble"})
