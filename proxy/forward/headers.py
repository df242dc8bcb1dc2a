"""Header sections, both ways: every end-to-end field line as it came, in its order, its case and its bytes.

Left out are the fields that end at each hop (RFC 9110, section 7.6.1), and those that are ours to say: the framing of a
body, and who the request is for and from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

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

_REMEMBERED, _LONGEST_REMEMBERED = 64, 256
"""Values of `Connection` whose reading is remembered, and how many bytes they may have: most senders use few."""


class Framing(NamedTuple):
    """How the end of a body is told: by its length, by chunks, or not at all because there is none."""

    length: int | None = None
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Trail:
    """What is told upstream of the way that a request took; nothing, unless a listener is configured to."""

    via: bool = False
    forwarded: Literal["none", "forwarded", "x-forwarded"] = "none"

    def lines(self, caller: str, host: str) -> bytes:
        """Return the field lines for a request from an address, to a Host of ours (RFC 7239; RFC 9110, 7.6.3).

        The address is empty on a Unix socket, the Host in HTTP/1.0.
        """
        lines = ""
        if self.forwarded == "forwarded":
            node = f'"[{caller}]"' if ":" in caller else caller or "unknown"
            named = f';host="{host}"' if host else ""
            lines = f"Forwarded: for={node}{named};proto=http\r\n"
        elif self.forwarded == "x-forwarded":
            lines = f"X-Forwarded-For: {caller}\r\n" if caller else ""
            lines += f"X-Forwarded-Host: {host}\r\n" if host else ""
            lines += "X-Forwarded-Proto: http\r\n"
        return (lines + "Via: 1.1 invoisys-proxy\r\n" * self.via).encode("ascii")


def names_of(fields: Sequence[Field]) -> list[bytes]:
    """Return the names of field lines in lower case, which is how they are compared."""
    return [name.lower() for name, _ in fields]


def request_head(
    line: bytes,
    fields: Sequence[Field],
    names: Sequence[bytes],
    *,
    authority: bytes,
    authorization: bytes,
    framing: Framing,
    trail: bytes = b"",
) -> bytes:
    """Return the head of a request to upstream; `names` are those of the fields in lower case.

    Host, length and authorization stand where the caller put its own, else Host first and the others last.
    """
    ours = {b"host": authority, b"authorization": authorization}
    if framing.length is not None:
        ours[b"content-length"] = b"%d" % framing.length
    left_out = _left_out(_NOT_FOR_UPSTREAM, fields, names)
    lines = [line]
    for name, field in zip(names, fields, strict=True):
        if name not in left_out:
            lines.append(b": ".join(field))
        elif name in ours:
            lines.append(b": ".join((field[0], ours.pop(name))))
    if b"host" in ours:
        lines.insert(1, b"Host: %b" % authority)
    if b"authorization" in ours:
        lines.append(b"Authorization: %b" % authorization)
    if b"content-length" in ours:
        lines.append(b"Content-Length: %b" % ours[b"content-length"])
    elif framing.chunked:
        lines.append(b"Transfer-Encoding: chunked")
    lines.append(trail + b"\r\n")
    return b"\r\n".join(lines)


def answer_head(
    status: int, reason: bytes, fields: Sequence[Field], names: Sequence[bytes], *, origin: bytes, hop: bytes
) -> bytes:
    """Return the head of upstream's answer for the caller; `names` are those of the fields in lower case.

    A `Location` at upstream's own `origin` is made relative, so that the caller stays on the sidecar. `hop` are the
    field lines of this hop: its framing and whether the connection stays open.
    """
    if b"location" in names:
        fields = [_relative(*field, origin) for field in fields]
    left_out = _left_out(_NOT_FOR_CALLER, fields, names)
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    lines += [b": ".join(field) for name, field in zip(names, fields, strict=True) if name not in left_out]
    lines.append(hop + b"\r\n")
    return b"\r\n".join(lines)


def _left_out(always: frozenset[bytes], fields: Sequence[Field], names: Sequence[bytes]) -> frozenset[bytes]:
    """Return the names of what is not passed on, with those that `Connection` nominates."""
    if b"connection" not in names:
        return always
    values = [value for name, (_, value) in zip(names, fields, strict=True) if name == b"connection"]
    value = b",".join(values)
    return (_remembered if len(value) <= _LONGEST_REMEMBERED else _with_nominated)(always, value)


def _with_nominated(always: frozenset[bytes], value: bytes) -> frozenset[bytes]:
    nominated = {option.strip().lower() for option in value.split(b",")}
    return always | (nominated - {b"content-length"})  # without it nobody would know where the body ends


_remembered = lru_cache(_REMEMBERED)(_with_nominated)


def _relative(name: bytes, value: bytes, origin: bytes) -> Field:
    if name.lower() != b"location":
        return name, value
    rest = value[len(origin) :]
    if value[: len(origin)].lower() != origin or rest[:2] == b"//":
        return name, value
    if rest[:1] in (b"/", b""):
        return name, rest or b"/"
    return name, (b"/" + rest if rest[:1] in (b"?", b"#") else value)
