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
        self._shortest = 0
        self.stripped = 0
        """Heads that quoted a token."""

    def strip(self, response: Response, sent: Token) -> None:
        """Leave out every field, and the reason phrase, that quotes the token `sent` or one that was sent before."""
        if sent.value not in self._spellings:
            self._remember(sent)
        size = self._shortest
        # Most answers have no field that could hold a token; to see that costs a microsecond.
        long = [field for field in response.headers if len(field[0]) + len(field[1]) >= size]
        if (long or len(response.reason) >= size) and self._clean(response):
            self.stripped += 1
            if self.stripped == 1:
                text = "upstream quotes the token in the head of an answer; such fields are left out for the caller"
                log.warning(text, extra={"event": "token-echoed", "api": self._api})

    def _remember(self, token: Token) -> None:
        self._spellings[token.value] = token.spellings
        if len(self._spellings) > _REMEMBERED:
            del self._spellings[next(iter(self._spellings))]
        self._shortest = min(map(len, self._spellings))

    def _clean(self, response: Response) -> bool:
        def quotes(part: bytes) -> bool:
            return any(spelling in part for spelling in chain.from_iterable(self._spellings.values()))

        clean = [field for field in response.headers if not any(map(quotes, field))]
        found = len(clean) < len(response.headers)
        response.headers = clean
        if quotes(response.reason):
            response.reason = b""
            found = True
        return found
