"""Upstream's answers without the token: a field that quotes it back would hand it to the caller.

Only the head is looked at. A body is opaque: it passes as it came, whatever is in it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.tokens import Token
    from proxy.upstream import Response

log = logging.getLogger(__name__)


class Echoes:
    """Takes the token out of the heads of one API's answers; says so once, and counts."""

    def __init__(self, api: str) -> None:
        self._api = api
        self.stripped = 0
        """Heads that quoted a token."""

    def strip(self, response: Response, sent: Iterable[Token]) -> None:
        """Leave out every field, and the reason phrase, that quotes one of the tokens `sent`."""
        for token in sent:
            size = len(token.value)
            # Most answers have no field that could hold a token; to see that costs a microsecond.
            long = [field for field in response.headers if len(field[0]) + len(field[1]) >= size]
            if (long or len(response.reason) >= size) and _strip(response, token.spellings):
                self._count()

    def _count(self) -> None:
        self.stripped += 1
        if self.stripped == 1:
            text = "upstream quotes the token in the head of an answer; such fields are left out for the caller"
            log.warning(text, extra={"event": "token-echoed", "api": self._api})


def _strip(response: Response, spellings: tuple[bytes, ...]) -> bool:
    def quotes(part: bytes) -> bool:
        return any(spelling in part for spelling in spellings)

    clean = [field for field in response.headers if not any(map(quotes, field))]
    found = len(clean) < len(response.headers)
    response.headers = clean
    if quotes(response.reason):
        response.reason = b""
        found = True
    return found
