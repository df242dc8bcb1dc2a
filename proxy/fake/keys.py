"""What names a fiscal document: its natural key, and the access key (chave de acesso) of 44 digits."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEMS = {"modelo": "model", "serie": "series", "numero": "number"}
_SUFFIXES = ("", "nf", "nfe", "nfce", "documento")
_PARTS = {stem + suffix: part for stem, part in _STEMS.items() for suffix in _SUFFIXES}
_PARTS |= {"mod": "model", "nnf": "number"}
_PARTS |= dict.fromkeys(("codigoaleatorio", "codigoaleatorionf", "cnf"), "code")
_PARTS |= dict.fromkeys(("dataemissao", "dhemi"), "month")
_PARTS |= dict.fromkeys(("cnpj", "cnpjemit", "cnpjemitente", "cnpjdoemitente"), "cnpj")

_OTHER_PARTIES = ("dest", "transp", "entrega", "retirada")
_XML_ID = re.compile(r"""\bId\s*=\s*["']NFe([0-9]{44})["']""")
_CNPJ_WIDTH = 14


class Natural(NamedTuple):
    """What makes two emissions the same document (the service's rejections 204 and 539 go by it)."""

    cnpj: str = ""
    model: str = ""
    series: str = ""
    number: str = ""
    chave: str = ""
    """The access key, where the caller's own XML carries it already."""
    digest: str = ""
    """The SHA-256 of a body that names no document."""
    code: str = ""
    """The random code (cNF), where the caller has chosen it, so as to know the access key beforehand."""
    month: str = ""
    """Year and month of issue, as YYMM, where the caller says so."""

    @property
    def name(self) -> str:
        """The natural key as one text, `-` standing for a part that the body did not give."""
        return self.chave or self.digest or "/".join(part or "-" for part in self[:4])

    def answers(self, asked: Natural) -> bool:
        """Whether this is a document that `asked` may mean: all the parts that it gives are equal."""
        return any(asked[:4]) and all(want in {"", have} for want, have in zip(asked[:4], self[:4], strict=True))


def find_natural(document: object) -> Natural | None:
    """The natural key that a decoded JSON body names in its first two levels, if any, and what its access key has."""
    found: dict[str, str] = {}
    for name, value in _scalars(document):
        part = _PARTS.get(name)
        if part and (text := _normal(part, value)):
            found.setdefault(part, text)
    return Natural(**found) if found.keys() - {"code", "month"} else None


def find_in_xml(document: object) -> Natural | None:
    """The natural key of the signed XML in `{"xml": …}`, by its `Id="NFe<44 digits>"`."""
    xml = document.get("xml") if isinstance(document, dict) else None
    match = _XML_ID.search(xml) if isinstance(xml, str) else None
    return from_access_key(match[1]) if match else None


def from_access_key(chave: str) -> Natural:
    """The natural key that an access key spells out (Manual de Orientação do Contribuinte, "chave de acesso")."""
    cnpj, model, series, number = chave[6:20], chave[20:22], chave[22:25], chave[25:34]
    return Natural(cnpj, model, _normal("series", series), _normal("number", number), chave)


def make_access_key(natural: Natural) -> str:
    """A well-formed access key: the parts that are known, chance for the others, and the check digit."""
    fields = (
        "35",  # São Paulo
        natural.month or datetime.now(UTC).strftime("%y%m"),
        _digits(natural.cnpj, _CNPJ_WIDTH),
        _digits(natural.model or "55", 2),
        _digits(natural.series, 3),
        _digits(natural.number, 9),
        "1",  # tpEmis: normal
        _digits(natural.code, 8),
    )
    body = "".join(fields)
    return body + check_digit(body)


def check_digit(body: str) -> str:
    """The 44th digit: modulo 11, weights 2 to 9 from the right (Manual de Orientação do Contribuinte)."""
    total = sum(int(digit) * (2 + place % 8) for place, digit in enumerate(reversed(body)))
    return str((11 - total % 11) % 11 % 10)


def _scalars(document: object) -> Iterator[tuple[str, object]]:
    """Names and values, the nearest first; of a party only the emitter's CNPJ counts, not its street number."""
    if not isinstance(document, dict):
        return
    level = {name.lower().replace("_", ""): value for name, value in document.items()}
    yield from level.items()
    nested = {name: value for name, value in level.items() if isinstance(value, dict)}
    for name, inner in sorted(nested.items(), key=lambda item: not item[0].startswith("emit")):
        for key, value in inner.items():
            plain = key.lower().replace("_", "")
            if not name.startswith(("emit", *_OTHER_PARTIES)) or (name.startswith("emit") and "cnpj" in plain):
                yield plain, value


def _normal(part: str, value: object) -> str:
    """One spelling for `007` and `7`, and for a CNPJ with and without its punctuation; a non-scalar is no value."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    if part == "month":
        date = re.match(r"[0-9]{2}([0-9]{2})-([0-9]{2})", str(value))
        return "".join(date.groups()) if date else ""
    text = re.sub(r"[^0-9A-Za-z]", "", str(value)).upper()
    return text if part == "cnpj" else text.lstrip("0") or text[:1]


def _digits(text: str, width: int) -> str:
    if text.isascii() and text.isdecimal():
        return text.zfill(width)[-width:]
    return f"{secrets.randbelow(10**width):0{width}}"
