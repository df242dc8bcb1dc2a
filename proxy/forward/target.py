"""What a request target says: which API it is for, whether it asks for a token, and how it may stand in a log."""

from __future__ import annotations

import re
from functools import lru_cache
from posixpath import normpath
from secrets import token_hex
from typing import NamedTuple
from urllib.parse import unquote

_MARK = f"~{token_hex(4)}~"  # of this process: no caller's target holds it
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
_WRITTEN_OUT = re.compile(rf"{_MARK}((?:[89a-f][0-9a-f])+)~")

_PARAMETERS = re.compile(r";[^/]*")
_TOKEN_PATH = "api/token"  # noqa: S105 - a path

_OPAQUE_FROM = 16
_ACCESS_KEY = re.compile(r"[0-9]{6}[0-9A-Z]{12}[0-9]{26}")
"""44 characters: UF and month, CNPJ (with letters since 2026) in the middle; the one long segment people search by."""

_WORDS = re.compile(r"[A-Za-z]{1,40}|[a-z]+(?:[-_][a-z]+)+")
MASK = "***"


_REMEMBERED, _LONGEST_REMEMBERED = 1024, 512
"""Targets whose reading is remembered, and how many characters they may have: most callers use few."""


class Target(NamedTuple):
    """A request target, read once."""

    text: str
    """As the caller wrote it; bytes that are not UTF-8 stand in it as lone surrogates."""
    wire: bytes
    """As it goes upstream."""
    shown: str
    """As it may stand in a log."""
    asks_for_token: bool
    """Whether an ERP that posts there logs in for itself."""


def read_target(path: str) -> Target:
    """Read the target that the parser found in a request line which `ascii_line` has passed on."""
    return _remembered(path) if len(path) <= _LONGEST_REMEMBERED else _read(path)


def _read(path: str) -> Target:
    text = restored(path)
    return Target(text, text.encode("utf-8", "surrogateescape"), masked(text), is_token_path(text))


_remembered = lru_cache(_REMEMBERED)(_read)


def ascii_line(line: bytes) -> bytes:
    """Write a request line's 8-bit bytes out in ASCII, so that the parser takes it; `restored` gives them back.

    RFC 3986 knows no such bytes in a URL, but clients send them, and upstream may well read them.
    """
    return _BEYOND_ASCII.sub(lambda found: f"{_MARK}{found[0].hex()}~".encode(), line)


def restored(target: str) -> str:
    """Return a target as the caller wrote it; bytes that are not UTF-8 stand in it as lone surrogates."""
    if _MARK not in target:
        return target
    return _WRITTEN_OUT.sub(lambda found: bytes.fromhex(found[1]).decode("utf-8", "surrogateescape"), target)


def is_token_path(target: str) -> bool:
    """Tell whether an ERP that posts there logs in for itself, however it writes the path.

    Read as widely as any server could: the credentials in such a request must go no further.
    """
    path = _PARAMETERS.sub("", unquote(unquote(target.partition("?")[0])).replace("\\", "/"))
    return normpath("/" + path.lower()).lstrip("/") == _TOKEN_PATH


def masked(target: str) -> str:
    """Return the path for a log: without the query's values, with long opaque segments masked.

    An Invoisys path can hold a secret (`/api/nfeentrada/adicionareventovinculo/{token}`).
    """
    path, mark, query = target.partition("?")
    shown = "/".join(segment if _is_plain(segment) else MASK for segment in path.split("/"))
    if mark:
        shown += "?" + "&".join(_key(part) for part in query.split("&"))
    return shown.encode("ascii", "backslashreplace").decode("ascii")


def _is_plain(segment: str) -> bool:
    return (
        len(segment) < _OPAQUE_FROM
        or _WORDS.fullmatch(segment) is not None
        or _ACCESS_KEY.fullmatch(segment) is not None
    )


def _key(part: str) -> str:
    key, equals, _ = part.partition("=")
    return (key if len(key) < _OPAQUE_FROM or _WORDS.fullmatch(key) else MASK) + (f"={MASK}" if equals else "")
