"""What of a header section may be shown: few fields, and of those nothing that could be a secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"

_SHOWN = frozenset({
    "accept", "accept-charset", "accept-encoding", "accept-language", "age", "allow", "cache-control", "connection",
    "content-encoding", "content-language", "content-length", "content-type", "date", "expect", "expires", "host",
    "keep-alive", "last-modified", "origin", "pragma", "proxy-status", "retry-after", "sec-fetch-dest",
    "sec-fetch-mode", "sec-fetch-site", "server", "te", "traceparent", "transfer-encoding", "upgrade", "user-agent",
    "vary", "x-invoisys-outcome",
})  # fmt: skip
"""Fields whose meaning is known, and that carry no credentials; any other may."""

_PIECE = re.compile(r"[^\s,;()\"']+")
_SEGMENT = r"(?:[A-Za-z]{1,24}|[A-Za-z0-9]{1,6})"
_PLAIN = re.compile(rf"[*]?{_SEGMENT}(?:[-_./+*:=@]+{_SEGMENT})*[/*]*|.{{1,11}}")
"""Words, versions, media types, host names: what stands in these fields when nobody has put a secret there."""

_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""A `traceparent` (W3C Trace Context, section 3.2)."""


def fields_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the field lines of a head as the sidecar writes it."""
    lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:] if line)
    return [(name, value) for name, _, value in lines]


def shown(fields: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    """Return the names and values of a header section, masked."""
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("ascii", "backslashreplace"), raw_value.decode("ascii", "backslashreplace")
        yield (name if is_plain(name) else MASK), _value(name.lower(), value)


def _value(name: str, value: str) -> str:
    if name not in _SHOWN:
        return MASK
    if name == "traceparent" and _TRACE.fullmatch(value):
        return value
    return _PIECE.sub(lambda found: found[0] if is_plain(found[0]) else MASK, value)


def is_plain(piece: str) -> bool:
    """Tell whether a piece of text is words, and not something made by chance."""
    return _PLAIN.fullmatch(piece) is not None
