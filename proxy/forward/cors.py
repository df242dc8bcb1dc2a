"""What a browser must hear before a web page of an origin that was let in may call, and may read the answer.

The words are those of the Fetch standard, section 3.2. No cookie or other credential of the browser's own plays a part:
a page that has to show the caller token sends it itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.errors import MalformedRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multidict import CIMultiDictProxy

    from proxy.forward.headers import Field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110, section 5.6.2
_NAMES = re.compile(rf"(?:{_TOKEN}(?:[ \t]*,[ \t]*{_TOKEN})*)?")

_PRIVATE_NETWORK = "Access-Control-Request-Private-Network"  # of a public page: WICG, Private Network Access

_REMEMBERED = 7200
"""Seconds for which a browser need not ask again; Chromium takes no more."""


def shared_with(page: str) -> bytes:
    """Return the field lines that let a web page of that origin read an answer, and all of its fields."""
    return (
        b"Access-Control-Allow-Origin: %b\r\n"
        # A browser that does not know `*` learns the outcome at least.
        b"Access-Control-Expose-Headers: X-Invoisys-Outcome, Proxy-Status, Retry-After, *\r\n"
        b"Vary: Origin\r\n" % page.encode()
    )


def preflight_head(page: str, headers: CIMultiDictProxy[str]) -> bytes:
    """Return the head of the answer to a preflight that passed the guard, without its last empty line.

    It allows what was asked for: the request itself is judged when it comes. Raises `MalformedRequest`.
    """
    names = ", ".join(headers.getall("Access-Control-Request-Headers", ()))
    if not _NAMES.fullmatch(names):
        raise MalformedRequest("`Access-Control-Request-Headers` is not a list of field names")
    lines = {
        "Access-Control-Allow-Origin": page,
        "Access-Control-Allow-Methods": headers["Access-Control-Request-Method"],
        "Access-Control-Allow-Headers": names,
        "Access-Control-Allow-Private-Network": "true" * (headers.get(_PRIVATE_NETWORK) == "true"),
        "Access-Control-Max-Age": str(_REMEMBERED),
        "Vary": "Origin",
    }
    written = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return b"HTTP/1.1 204 No Content\r\n" + written.encode()


def without_cors(fields: Sequence[Field], names: Sequence[bytes]) -> tuple[list[Field], list[bytes]]:
    """Leave out what upstream says of web pages: two voices on one matter, and browsers believe neither."""
    left = [at for at, name in enumerate(names) if not name.startswith(b"access-control-")]
    return [fields[at] for at in left], [names[at] for at in left]
