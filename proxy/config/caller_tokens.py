"""The caller tokens of a listener, from the file that the configuration names."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from proxy.config.credentials import read_secret
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds for which what was read holds."""

_AT_MOST = 2
_SHORTEST = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # what may follow `Bearer`: RFC 6750, section 2.1


def read_caller_tokens(file: str, key: str) -> tuple[bytes, ...]:
    """Read the tokens of a file, one a line: one, or two during a rotation. Empty lines do not count.

    `key` is the path of the key that names the file, for the error's text.

    Raises:
        ConfigError: the file is missing, unreadable or empty, or holds what no caller could send or anybody guess.
    """
    tokens = []
    for number, line in enumerate(read_secret(file, key).reveal().split("\n"), 1):
        token = line.removesuffix("\r")
        if not token:
            continue
        if not _TOKEN.fullmatch(token):
            raise ConfigError(
                f"{key}: {file}, line {number}: expected one token of letters, digits, - . _ ~ + / and = at its end"
            )
        if len(token) < _SHORTEST:
            raise ConfigError(f"{key}: {file}, line {number}: expected a token of at least {_SHORTEST} characters")
        tokens.append(token.encode())
    if not tokens:
        raise ConfigError(f"{key}: {file} is empty")
    if len(tokens) > _AT_MOST:
        raise ConfigError(f"{key}: {file}: expected one token, or two during a rotation, found {len(tokens)}")
    return tuple(tokens)


class CallerTokenFile:
    """A listener's caller tokens as they are now: a second after the file has changed, at most, the new ones hold.

    While the file is empty, gone or faulty, as in the middle of a rotation, the last good tokens stand in.
    """

    def __init__(self, file: str, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds; raises `ConfigError` where there are no good tokens to begin with."""
        self._file = file
        self._key = key
        self._clock = clock
        self._tokens = read_caller_tokens(file, key)
        self._look_at = clock() + _LOOK_EVERY
        self._warned = False

    def __call__(self) -> tuple[bytes, ...]:
        """Return the tokens; each is as good as the others."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self._look()
        return self._tokens

    def _look(self) -> None:
        # The file is small, and no stamp of it tells of every change: two writes may fall into one tick of its clock.
        try:
            tokens = read_caller_tokens(self._file, self._key)
        except ConfigError as error:
            if not self._warned:
                log.warning("%s; the last good tokens hold", error, extra={"event": "caller-tokens-unreadable"})
            self._warned = True
            return
        if tokens != self._tokens:
            log.info("%s: new caller tokens hold", self._key, extra={"event": "caller-tokens-changed"})
        self._tokens = tokens
        self._warned = False
