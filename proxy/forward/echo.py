"""Upstream's answers without the token: a field that quotes it back would hand it to the caller.

Only the head is looked at. A body is opaque: it passes as it came, whatever is in it.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.tokens import Token
    from proxy.upstream import Response

log = logging.getLogger(__name__)

_REMEMBERED = 16
"""Tokens, of all accounts: upstream may quote one that was replaced and is good for hours yet."""


class Echoes:
    """Takes tokens out of the heads of one API's answers; says so once, and counts."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._spellings: dict[str, tuple[bytes, ...]] = {}  # by token, the oldest first
        self._looked_for: tuple[bytes, ...] = ()
        self._shortest = 0
        self.stripped = 0
        """Heads that quoted a token."""

    def strip(self, response: Response, sent: Token) -> None:
        """Leave out every field, and the reason phrase, that quotes the token `sent` or one that was sent before."""
        if sent.value not in self._spellings:
            self._remember(sent)
        if response.fields_size + len(response.reason) < self._shortest:
            return
        if self._quoted(b"\n".join(chain((response.reason,), *response.headers))):
            response.keep_only([field for field in response.headers if not any(map(self._quoted, field))])
            if self._quoted(response.reason):
                response.reason = b""
            self.stripped += 1
            if self.stripped == 1:
                text = "upstream quotes the token in the head of an answer; such fields are left out for the caller"
                log.warning(text, extra={"event": "token-echoed", "api": self._api})

    def _quoted(self, part: bytes) -> bool:
        for spelling in self._looked_for:  # noqa: SIM110 - twice as fast as `any`, and each answer has its turn
            if spelling in part:
                return True
        return False

    def _remember(self, token: Token) -> None:
        self._spellings[token.value] = token.spellings
        if len(self._spellings) > _REMEMBERED:
            del self._spellings[next(iter(self._spellings))]
        self._looked_for = tuple(chain.from_iterable(self._spellings.values()))
        self._shortest = min(map(len, self._looked_for), default=0)
