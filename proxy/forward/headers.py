"""Header sections, both ways: every end-to-end field line as it came, in its order, its case and its bytes.

Left out are the fields that end at each hop (RFC 9110, section 7.6.1), and those that are ours to say: the framing of a
body, and who the request is for and from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Field = tuple[bytes, bytes]

_HOP_BY_HOP = frozenset({
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
})  # fmt: skip

_NOT_FOR_UPSTREAM = _HOP_BY_HOP | {
    b"authorization",
    b"content-length",
    b"expect",  # the sidecar answers it: RFC 9110, section 10.1.1
    b"host",
}

_NOT_FOR_CALLER = _HOP_BY_HOP | {
    b"x-invoisys-outcome",  # only the sidecar's own answers carry it
}


class Framing(NamedTuple):
    """How the end of a body is told: by its length, by chunks, or not at all because there is none."""

    length: int | None = None
    chunked: bool = False


def request_head(
    method: bytes, target: bytes, fields: Sequence[Field], *, authority: bytes, authorization: bytes, framing: Framing
) -> bytes:
    """Return the head of a request to upstream.

    Host, length and `authorization` stand where the caller put its own, else Host first and the others last.
    """
    ours = {b"host": authority, b"authorization": authorization}
    if framing.length is not None:
        ours[b"content-length"] = b"%d" % framing.length
    lines = _field_lines(fields, _NOT_FOR_UPSTREAM, ours)
    host = b"Host: %b\r\n" % ours[b"host"] if b"host" in ours else b""
    if b"authorization" in ours:
        lines += (b"Authorization: ", authorization, b"\r\n")
    if b"content-length" in ours:
        lines += (b"Content-Length: ", ours[b"content-length"], b"\r\n")
    elif framing.chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, host, b"".join(lines))


def answer_head(status: int, reason: bytes, fields: Sequence[Field], *, origin: bytes, hop: bytes) -> bytes:
    """Return the head of upstream's answer for the caller.

    A `Location` at upstream's own `origin` is made relative, so that the caller stays on the sidecar. `hop` are the
    field lines of this hop: its framing and whether the connection stays open.
    """
    location = next((value for name, value in fields if name.lower() == b"location"), None)
    ours = {} if location is None else {b"location": _relative(location, origin)}
    lines = _field_lines(fields, _NOT_FOR_CALLER, ours)
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, reason, b"".join(lines), hop)


def _field_lines(fields: Sequence[Field], left_out: frozenset[bytes], ours: dict[bytes, bytes]) -> list[bytes]:
    """Return the pieces of the field lines to pass on; a value in `ours` is written once, in the place of theirs."""
    names = [name.lower() for name, _ in fields]
    if b"connection" in names:
        left_out |= _nominated(value for name, (_, value) in zip(names, fields, strict=True) if name == b"connection")
    lines: list[bytes] = []
    for lowered, (name, value) in zip(names, fields, strict=True):
        if lowered in ours:
            lines += (name, b": ", ours.pop(lowered), b"\r\n")
        elif lowered not in left_out:
            lines += (name, b": ", value, b"\r\n")
    return lines


def _nominated(values: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(option.strip().lower() for value in values for option in value.split(b","))


def _relative(location: bytes, origin: bytes) -> bytes:
    rest = location[len(origin) :]
    if location[: len(origin)].lower() != origin or rest[:2] == b"//":
        return location
    if rest[:1] in (b"/", b""):
        return rest or b"/"
    return b"/" + rest if rest[:1] in (b"?", b"#") else location
