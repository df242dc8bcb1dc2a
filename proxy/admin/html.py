"""HTML that is escaped by construction: whatever is not HTML already becomes text."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = frozenset({"input", "link", "meta"})
"""Elements without an end (the HTML standard, section 13.1.2)."""


class Html(str):
    """Text that is HTML already. Nothing but this module makes it of a plain text."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return a value as text; HTML as it is."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def joined(parts: Iterable[object]) -> Html:
    """Return parts one after the other."""
    return Html("".join(map(text, parts)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element; an attribute that is none or false is left out, one that is true has no value.

    `_` stands for `-` in the name of an attribute, and is left out at its end.
    """
    shown = "".join(
        f" {_name(key)}" if value is True else f' {_name(key)}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    end = "" if name in _VOID else f"{joined(children)}</{name}>"
    return Html(f"<{name}{shown}>{end}")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
