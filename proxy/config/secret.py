"""A text that must not be seen."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """A text that shows itself only when asked: no repr, log line, JSON or pickle ever holds it."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """Give the text itself, for the one place that sends it."""
        return self.__text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is neither pickled nor copied")

    def _bytes(self) -> bytes:
        # An environment variable may hold bytes that are not UTF-8; Python keeps them as lone surrogates.
        return self.__text.encode("utf-8", "surrogateescape")
