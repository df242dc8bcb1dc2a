"""Secrets that are easy to find again, and the search for them in whatever form."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORTEST_PIECE = 12
"""Characters of a secret that are a part of it, and not a coincidence."""

_OPAQUE = re.compile(r"[A-Za-z0-9_-]{64,}")
"""What a token of the fake looks like, and nothing that a sidecar says by itself."""


def spellings(secret: str) -> set[bytes]:
    """The ways in which a secret may have been written down, whole or in pieces."""
    plain = secret.encode()
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret)}
    texts |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], ascii(secret)[1:-1]}
    texts |= {plain.hex(), plain.hex().upper(), hashlib.sha256(plain).hexdigest()}
    for shift in range(3):  # where a secret stands in the middle of what is encoded
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            texts.add(encode(b"\0" * shift + plain).decode()[(4 if shift else 0) : -4])
    whole = {text.encode() for text in texts if len(text) >= min(len(secret), SHORTEST_PIECE)}
    pieces = {plain[start : start + SHORTEST_PIECE] for start in range(len(plain) - SHORTEST_PIECE + 1)}
    return whole | pieces


class Canaries:
    """Secrets by name."""

    def __init__(self, **secrets: str) -> None:
        self._spellings = {name: spellings(secret) for name, secret in secrets.items()}

    def found_in(self, data: bytes) -> list[str]:
        """The names of those of which a trace is in the data."""
        return [name for name, forms in self._spellings.items() if any(form in data for form in forms)]

    def assert_absent(self, places: Mapping[str, bytes]) -> None:
        """Show that no place holds a trace of any."""
        found = {place: names for place, data in places.items() if (names := self.found_in(data))}
        assert not found, "\n".join(f"{place}: {names} in {places[place]!r}" for place, names in found.items())


def assert_discreet(said: str, *passwords: str) -> None:
    """Show that what a sidecar said holds none of the passwords, and nothing that looks like a token of the fake.

    It stands at the end of every sidecar that a test runs, so it is quick.
    """
    for password in passwords:
        data = said.encode("utf-8", "surrogateescape")
        assert not Canaries(password=password).found_in(data), said
    assert not (found := _OPAQUE.search(said)), f"is this a token? {found}"
