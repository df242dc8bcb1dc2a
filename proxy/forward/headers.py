"""Header sections, both ways: every end-to-end field line as it came, in its order, its case and its bytes.

Left out are the fields that end at each hop (RFC 9110, section 7.6.1), and those that are ours to say: the framing of a
body, and who the request is for and from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

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


class Sent(NamedTuple):
    """What the sidecar says itself in the head of a request."""

    authority: bytes
    authorization: bytes
    framing: Framing
    trail: bytes = b""


def request_head(method: bytes, target: bytes, fields: Sequence[Field], sent: Sent) -> bytes:
    """Return the head of a request to upstream.

    Host, length and authorization stand where the caller put its own, else Host first and the others last.
    """
    ours = {b"host": sent.authority, b"authorization": sent.authorization}
    if sent.framing.length is not None:
        ours[b"content-length"] = b"%d" % sent.framing.length
    lines = _field_lines(fields, _NOT_FOR_UPSTREAM, ours)
    host = b"Host: %b\r\n" % sent.authority if b"host" in ours else b""
    if b"authorization" in ours:
        lines.append(b"Authorization: %b\r\n" % sent.authorization)
    if b"content-length" in ours:
        lines.append(b"Content-Length: %b\r\n" % ours[b"content-length"])
    elif sent.framing.chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (method, target, host, b"".join(lines), sent.trail)


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
        nominated = _nominated(value for name, (_, value) in zip(names, fields, strict=True) if name == b"connection")
        left_out |= nominated - {b"content-length"}  # without it nobody would know where the body ends
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
