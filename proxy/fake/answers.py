"""What the fake answers: status, headers and body, spelled as the service spells them. Pure."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.fake.faults import Inbox
    from proxy.fake.state import Document

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_KATANA = {
    "Content-Type": "application/json;charset=UTF-8",
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "Expires": "-1",
}
_AUTHORIZED = {"key": 0, "value": "Autorizada"}
_FAILED = {"key": 3, "value": "Erro"}
_QUEUED = {"key": 4, "value": "Na fila da SEFAZ"}
_STATUS = dict.fromkeys((100, 150), _AUTHORIZED) | dict.fromkeys((103, 104, 105), _QUEUED)
"""What the service makes of SEFAZ's code; of every other, an error (API page "Consulta NFC-e por chave de acesso")."""
_PAGE_SIZE = 50
"""Events in one answer (API page "Fluxo de recebimento de CT-e")."""


class Answer(NamedTuple):
    """One answer, yet to be sent."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


def as_json(value: object, status: int = 200, headers: Mapping[str, str] = _JSON) -> Answer:
    """Compact JSON in unescaped UTF-8, which known clients parse by fixed offsets."""
    return Answer(status, msgspec.json.encode(value), headers)


EMPTY = Answer(200)
NULL = as_json(None)
ERROR = as_json({"Message": "An error has occurred."}, 500)
HTML = Answer(
    200,
    b"<html>\r\n<head><title>Service</title></head>\r\n<body><center><h1>Service</h1></center></body>\r\n</html>\r\n",
    {"Content-Type": "text/html", "Server": "awselb/2.0"},
)
DENIED = {
    "empty": Answer(401),
    "json": as_json(
        {"Message": "Authorization has been denied for this request."}, 401, {**_JSON, "WWW-Authenticate": "Bearer"}
    ),
}
BAD_GRANT = as_json({"error": "unsupported_grant_type"}, 400, _KATANA)
BAD_CREDENTIALS = {
    "2.0": as_json({"error": "credenciais_invalidas", "error_description": "Credenciais inválidas."}, 400, _KATANA),
    "3.0": as_json({"mensagem": "Credenciais inválidas.", "token": None}, 400, _KATANA),
}
NO_TOKEN = as_json({"token_type": "bearer", "expires_in": 92843}, 200, _KATANA)
CANCELLED = as_json(
    {"dadosDoDocumento": {"codigoStatusSEFAZ": 135, "status": {"key": 1, "value": "Cancelada"}}, "excecao": None}, 201
)


def granted(token: str, lifetime: Mapping[str, object]) -> Answer:
    """The token response (API page "Token de Acesso (2.0)")."""
    return as_json({"access_token": token, "token_type": "bearer", **lifetime}, 200, _KATANA)


def throttled(retry_after: int) -> Answer:
    """Too many requests (RFC 6585, section 4)."""
    return as_json({"Message": "Too many requests."}, 429, {**_JSON, "Retry-After": str(retry_after)})


def missing(path: str) -> Answer:
    """The 404 of ASP.NET Web API (AspNetWebStack, SRResources)."""
    return as_json({"Message": f"No HTTP resource was found that matches the request URI '{path}'."}, 404)


def document(issued: Document | None, *, again: bool = False, status: int = 200) -> Answer:
    """The business envelope of a document, or `null` (API page "Consulta NFC-e por chave de acesso")."""
    if issued is None:
        return NULL._replace(status=status)
    envelope = {
        "dadosDoDocumento": {
            "chaveDeAcesso": issued.chave,
            "codigoStatusSEFAZ": 204 if again else 100,
            "documentoJaEmitidoAnteriormente": again,
            "status": _AUTHORIZED,
        },
        "acoes": {"corrigirDocumento": False, "enviarContingencia": False, "tentarNovamenteMaisTarde": False},
        "excecao": None,
    }
    return as_json(envelope, status)


def with_verdict(answer: Answer, code: int) -> Answer:
    """The same envelope with another verdict of SEFAZ's; one that has nothing else, where nothing was found."""
    envelope = msgspec.json.decode(answer.body, type=dict[str, Any] | None) or {}
    data = envelope.get("dadosDoDocumento", {})
    verdict = {"codigoStatusSEFAZ": code, "status": _STATUS.get(code, _FAILED)}
    return as_json({**envelope, "dadosDoDocumento": {**data, **verdict}}, answer.status)


def events(kind: str, cnpj: str, after: int, inbox: Inbox) -> Answer:
    """A page of received events (API page "Entrada de NF-e: XML, resumido, obtido")."""
    last = min(inbox.documents, after + _PAGE_SIZE)
    page = [
        {"nsui": nsui, "cnpj": cnpj, "xmlEvento": b64encode(_event(kind, nsui, inbox.size)).decode()}
        for nsui in range(after + 1, last + 1)
    ]
    return as_json({"tipoDoc": kind, "nsuiMaxDisponivel": inbox.documents, "documentos": page})


def _event(kind: str, nsui: int, size: int) -> bytes:
    """An XML document of at least `size` bytes."""
    head, tail = f'<?xml version="1.0" encoding="utf-8"?><proc{kind} nsui="{nsui}">', f"</proc{kind}>"
    return (head + "á" * ((size - len(head) - len(tail) + 1) // 2) + tail).encode()
