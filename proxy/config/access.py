"""Who may come in, and what for: Host names, browser origins and rules, each written as one text.

They behave as the values of `values` do. What could never match a request is refused, so that a slip of the pen is told
at start and not by a caller who is kept out.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import ClassVar, Self

from proxy.config.values import HOST, LAST_PORT, is_host

_DEFAULT_PORTS = {"http": 80, "https": 443}

_SEGMENT = r"[^\x00-\x20\x7f*?#%;\\/]"
_DOTS = re.compile(r"/\.+(?:/|$)")


@dataclass(frozen=True, slots=True)
class HostName:
    """A name or address that callers have in `Host`, without a port, in lower case; an IPv6 address in brackets."""

    pattern: ClassVar[str] = rf"^({HOST})$"

    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `invoisys-proxy`, `erp.internal`, `10.0.0.7` or `[fd00::7]`."""
        if not re.fullmatch(cls.pattern, text) or not is_host(text):
            raise ValueError("a host name or an address, with no port, such as invoisys-proxy, 10.0.0.7 or [fd00::7]")
        return cls(text.lower())

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class BrowserOrigin:
    """An origin as browsers write it in `Origin`: in lower case, without the port that is the scheme's own."""

    pattern: ClassVar[str] = rf"^([A-Za-z][A-Za-z0-9+.-]*)://({HOST})(?::([1-9][0-9]{{0,4}}))?$"

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `https://erp.example`, `http://localhost:3000` or, of an app's own scheme, `tauri://localhost`."""
        found = re.fullmatch(cls.pattern, text)
        if not found or not is_host(found[2]) or int(found[3] or 1) > LAST_PORT:
            raise ValueError("one origin, with no path, such as http://localhost:3000 or https://erp.example")
        scheme, host = found[1].lower(), found[2].lower()
        if host.startswith("["):
            host = f"[{ipaddress.IPv6Address(host.strip('[]')).compressed}]"
        port = int(found[3]) if found[3] else None
        return cls(f"{scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS.get(scheme)} else f":{port}"))

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Rule:
    """A method and a path that may pass; `*` is any method, and behind the last slash of a path whatever follows."""

    pattern: ClassVar[str] = rf"^([A-Z]+|\*) (/(?:{_SEGMENT}+/)*)({_SEGMENT}*|\*)$"

    method: str
    path: str
    prefix: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `METHOD /path` or `METHOD /path/*`, the path as it reads when it is decoded."""
        found = re.fullmatch(cls.pattern, text)
        if not found:
            raise ValueError(
                "a method and a path, such as GET /api/* or POST /api/nfe/envio: the path decoded, with no query,"
                " and `*` only behind its last slash"
            )
        if _DOTS.search(text):
            raise ValueError("a path without dot segments")
        prefix = found[3] == "*"
        return cls(found[1], found[2] if prefix else found[2] + found[3], prefix)

    def allows(self, method: str, path: str) -> bool:
        """Tell whether the rule lets a request pass, by its canonical path."""
        if self.method not in ("*", method):
            return False
        return path.startswith(self.path) if self.prefix else path == self.path

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'*' * self.prefix}"
