"""Durations, sizes, addresses and URLs: values that the configuration writes as one text.

Each `parse` raises a ValueError whose text completes the sentence "expected …". Each `str()` is canonical and can be
parsed again.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Self
from urllib.parse import unquote

from proxy.config.secret import Secret

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
HOST = rf"{_NAME}|\[[0-9A-Fa-f:.]+\]"
_AUTHORITY = rf"(https?)://({HOST})(?::([0-9]{{1,5}}))?"
_URL_CHARACTER = r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]"
_BARE_NUMBER = re.compile(r"[0-9._]+")
LAST_PORT = 65535


class Duration(float):
    """A time span, in seconds."""

    pattern: ClassVar[str] = r"^([0-9]{1,15}(?:\.[0-9]+)?)(ms|s|m|h|d)$"
    _UNITS: ClassVar[dict[str, Decimal]] = {
        "d": Decimal(86400),
        "h": Decimal(3600),
        "m": Decimal(60),
        "s": Decimal(1),
        "ms": Decimal("0.001"),
    }

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `500ms`, `30s`, `1.5m`, `12h` or `1d`."""
        if found := re.fullmatch(cls.pattern, text):
            return cls(Decimal(found[1]) * cls._UNITS[found[2]])
        if _BARE_NUMBER.fullmatch(text):
            raise ValueError("a unit after the number (ms, s, m, h or d)")
        raise ValueError("a duration such as 500ms, 30s, 5m, 12h or 1d")

    def __str__(self) -> str:
        exact = Decimal(repr(float(self)))
        if not exact:
            return "0s"
        unit = next((unit for unit, seconds in self._UNITS.items() if exact % seconds == 0), "ms")
        return f"{(exact / self._UNITS[unit]).normalize():f}{unit}"


class Size(int):
    """An amount of memory, in bytes."""

    pattern: ClassVar[str] = r"^([0-9]{1,15})(B|KiB|MiB|GiB)$"
    _UNITS: ClassVar[dict[str, int]] = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `512B`, `64KiB`, `4MiB` or `1GiB`."""
        if found := re.fullmatch(cls.pattern, text):
            return cls(int(found[1]) * cls._UNITS[found[2]])
        if _BARE_NUMBER.fullmatch(text):
            raise ValueError("a unit after the number (B, KiB, MiB or GiB)")
        raise ValueError("a size such as 512B, 64KiB, 4MiB or 1GiB")

    def __str__(self) -> str:
        if not self:
            return "0B"
        unit = next(unit for unit, size in self._UNITS.items() if self % size == 0)
        return f"{self // self._UNITS[unit]}{unit}"


class FileMode(int):
    """The permissions of a file, written in octal as `chmod` takes them; YAML would read the number its own way."""

    pattern: ClassVar[str] = r"^0[0-7]{3}$"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `0660`."""
        if not re.fullmatch(cls.pattern, text):
            raise ValueError('four octal digits in quotes, such as "0660"')
        return cls(text, 8)

    def __str__(self) -> str:
        return f"{int(self):04o}"


class Identity(str):
    """A user or a group of the operating system, by name or by number."""

    __slots__ = ()

    largest: ClassVar[int] = 2**32 - 2
    pattern: ClassVar[str] = r"^(?:[0-9]{1,10}|[A-Za-z_][A-Za-z0-9._-]*\$?)$"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `erp` or `1000`."""
        if not re.fullmatch(cls.pattern, text) or (text.isdigit() and int(text) > cls.largest):
            raise ValueError("a name or a number, such as erp or 1000")
        return cls(text)


@dataclass(frozen=True, slots=True)
class Bind:
    """Where to listen: a host and a port, or the path of a Unix socket.

    `path` is as the operating system takes it: an abstract socket's begins with a NUL. It is empty for TCP.
    """

    pattern: ClassVar[str] = rf"^(?:unix:(/.+|@.+)|({HOST}):([0-9]{{1,5}}))$"

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, `unix:/path` or `unix:@abstract`."""
        if re.fullmatch(r":?[0-9]+", text):
            raise ValueError(
                "an address before the port: 127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 for others too"
            )
        found = re.fullmatch(cls.pattern, text)
        if found and found[1]:
            return cls(path=re.sub("^@", "\0", found[1]))
        if not found or not is_host(found[2]) or int(found[3]) > LAST_PORT:
            raise ValueError("an address such as 127.0.0.1:8080, [::1]:8080 or unix:/path")
        return cls(found[2].strip("[]"), int(found[3]))

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it."""
        return bool(self.path) or _is_loopback(self.host)

    @property
    def is_file(self) -> bool:
        """Whether it is a Unix socket that has a file, as an abstract one has not."""
        return self.path.startswith("/")

    def __str__(self) -> str:
        return f"unix:{self.path.replace(chr(0), '@')}" if self.path else f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Origin:
    """The scheme, host and port of a server; the host is in lower case, an IPv6 address without brackets."""

    pattern: ClassVar[str] = rf"^{_AUTHORITY}/?$"

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `https://host` or `https://host:port`; `http` is for loopback hosts alone."""
        found = _match(cls.pattern, text, "https://host or https://host:port, with no path after it")
        scheme, host = found[1], found[2].lower().strip("[]")
        if scheme == "http" and not _is_loopback(host):
            raise ValueError("https:// (plain http:// is for loopback hosts alone)")
        return cls(scheme, host, int(found[3]) if found[3] else _default_port(scheme))

    @property
    def authority(self) -> str:
        """The host as a `Host` header has it: with the port where that is not the scheme's own."""
        host = _bracketed(self.host)
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"

    @property
    def ssl(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.scheme == "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """The URL of one resource: its origin, and the path and query as a request line has them."""

    pattern: ClassVar[str] = rf"^{_AUTHORITY}(/{_URL_CHARACTER}*(?:\?(?:{_URL_CHARACTER}|\?)*)?)?$"

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `https://host/path?query`; `http` is for loopback hosts alone."""
        found = _match(cls.pattern, text, "a URL such as https://host/path, with no fragment")
        target = found[4] or "/"
        return cls(Origin.parse(text.removesuffix(target)), target)

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """An HTTP proxy on the way out, asked to CONNECT; `credentials` are `user:password`, and never shown."""

    pattern: ClassVar[str] = rf"^http://(?:([^:@/?#]+:[^@/?#]*)@)?({HOST})(?::([0-9]{{1,5}}))?/?$"

    host: str
    port: int
    credentials: Secret | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `http://host:port` or `http://user:password@host:port`; what is in the way may be percent-encoded."""
        found = re.fullmatch(cls.pattern, text)
        if not found or not is_host(found[2]) or not 0 < int(found[3] or 1) <= LAST_PORT:
            raise ValueError("a proxy such as http://host:3128 or http://user:password@host:3128")
        credentials = Secret(unquote(found[1])) if found[1] else None
        return cls(found[2].lower().strip("[]"), int(found[3]) if found[3] else _default_port("http"), credentials)

    def __str__(self) -> str:
        return f"http://{'***@' if self.credentials else ''}{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where tokens are kept: `memory`, a file, or a Redis, whose user name and password are never shown."""

    pattern: ClassVar[str] = (
        r"^(?:memory|file:(?://)?(/[^/\x00-\x1f](?:[^\x00-\x1f]*[^/\x00-\x1f])?)"
        rf"|rediss?://(?:[^:@/?#]*:[^@/?#]+@)?({HOST})(?::([0-9]{{1,5}}))?/[0-9]{{1,5}})$"
    )

    kind: str
    """`memory`, `file`, `redis` or `rediss`."""
    where: Secret
    """All of it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `memory`, `file:/path`, or `redis://user:password@host:port/db`; `rediss` is over TLS."""
        found = re.fullmatch(cls.pattern, text)
        if not found or (found[2] and not is_host(found[2])) or not 0 < int(found[3] or 1) <= LAST_PORT:
            raise ValueError("memory, file:/path, redis://host:6379/0 or rediss://user:password@host:6379/0")
        return cls(text.partition(":")[0], Secret(f"file:{found[1]}" if found[1] else text))

    @property
    def shared_over_a_network(self) -> bool:
        """Whether tokens leave this machine."""
        return self.kind in {"redis", "rediss"}

    @property
    def crosses_a_network_in_clear(self) -> bool:
        """Whether tokens leave this machine without TLS."""
        found = re.fullmatch(self.pattern, self.where.reveal())
        return self.kind == "redis" and found is not None and not _is_loopback(found[2].strip("[]"))

    def __str__(self) -> str:
        text = self.where.reveal()
        return re.sub(r"//.*@", "//***@", text) if self.shared_over_a_network else text


def _match(pattern: str, text: str, expected: str) -> re.Match[str]:
    if re.match(r"[^/]*//[^/?#]*@", text):
        raise ValueError("a URL without a user name or password in it")
    found = re.fullmatch(pattern, text)
    if not found or not is_host(found[2]) or not 0 < int(found[3] or 1) <= LAST_PORT:
        raise ValueError(expected)
    return found


def is_host(host: str) -> bool:
    """Tell whether a bracketed host is an IPv6 address; any other has been judged by the pattern."""
    return not host.startswith("[") or isinstance(_address(host.strip("[]")), ipaddress.IPv6Address)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return address == ipaddress.IPv6Address("::1")  # releases of Python disagree on ::ffff:127.0.0.1
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
