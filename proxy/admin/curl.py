"""A request as a line for a POSIX shell that has curl make it again, byte for byte; or why there is no such line."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.admin.status import Details
    from proxy.observe import Inspected

_REPEATED = frozenset({b"accept", b"accept-language", b"content-encoding", b"content-type"})
"""What a body and its answer are; any other field may be a secret, or is curl's own to say."""

_AS_IT_IS = re.compile(rb"(?!.*/\.)[\w/.~%=&?:,+*@;$!'()-]+", re.ASCII)
"""Targets that curl takes over from a URL; of others it resolves, encodes, expands or leaves out a part."""

_ESCAPED = re.compile(rb"[^ -~]|[!%'\\-]")
"""What means something to `printf`, to the quotes around it or to a terminal."""

_ESCAPES = {b"\n": rb"\n", b"\r": rb"\r", b"\t": rb"\t"}


def obstacle(found: Details, seen: Inspected) -> str | None:
    """Return the name of the text that says why no line could make the request again; none where one can."""
    if seen.body is None:
        return "curl.not-held"
    if seen.size > len(seen.body):
        return "curl.cut"
    return "curl.head" if seen.body and found.request.method == "HEAD" else None


def as_curl(found: Details, seen: Inspected) -> str:
    """Write the request as a line; the caller token, should there be one, stays out of it."""
    words = ["curl", *_asking(found.request.method), *_address(found, seen.target), *_fields(found, seen)]
    body = seen.body or b""
    if not (body or _said_to_be_empty(found)):
        return " ".join(words)
    if _is_plain(body.replace(b"\n", b"")):
        return " ".join([*words, "--data-raw", shlex.quote(body.decode())])
    return " ".join([_printf(body), "|", *words, "--data-binary", "@-"])


def _asking(method: str) -> list[str]:
    return ["-I"] if method == "HEAD" else ["-X", shlex.quote(method)]


def _address(found: Details, target: bytes) -> Iterator[str]:
    listener = found.request.listener
    socket = listener.removeprefix("unix:")
    if socket != listener:
        yield from ("--unix-socket", shlex.quote(socket))
    host = next((value for name, value in found.fields if name.lower() == b"host" and value), None)
    url = b"http://" + (host or (b"localhost" if socket != listener else listener.encode()))
    if _AS_IT_IS.fullmatch(target):
        yield _word(url + target)
    else:
        yield from (_word(url), "--request-target", _word(target))


def _fields(found: Details, seen: Inspected) -> Iterator[str]:
    names = set()
    for name, value in found.fields:
        if name.lower() in _REPEATED:
            names.add(name.lower())
            yield from ("-H", _word(b"%b: %b" % (name, value) if value else name + b";"))
    if (seen.body or _said_to_be_empty(found)) and b"content-type" not in names:
        yield from ("-H", "Content-Type:")  # else curl would say that it is a form


def _said_to_be_empty(found: Details) -> bool:
    """Tell whether a request without a body says so: some servers answer 411 to a POST that does not."""
    framing = {b"content-length", b"transfer-encoding"}
    return found.request.method != "HEAD" and any(name.lower() in framing for name, _ in found.fields)


def _word(value: bytes) -> str:
    """Return a word of the line that stands for these bytes; a newline at the end would be lost."""
    return shlex.quote(value.decode()) if _is_plain(value) else f'"$({_printf(value)})"'


def _is_plain(value: bytes) -> bool:
    """Tell whether bytes are text that can be shown, copied and pasted without a change."""
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _printf(value: bytes) -> str:
    escaped = _ESCAPED.sub(lambda found: _ESCAPES.get(found[0], rb"\%03o" % found[0][0]), value)
    return f"printf '{escaped.decode()}'"
