"""The sidecar's own words: errors as problem details (RFC 9457), and the stand-in token."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from proxy.errors import ProxyError

STAND_IN_TOKEN = b'{"access_token":"stand-in.the-sidecar-adds-the-real-token","token_type":"bearer","expires_in":92843}'
"""In the documented shape, so that an ERP that logs in for itself works unchanged."""

_EXTRA_FIELDS = {
    401: b'WWW-Authenticate: Bearer realm="invoisys-proxy"\r\n',  # RFC 9110, section 15.5.2
    405: b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n",  # RFC 9110, section 15.5.6
}


def own_head(status: int, content_type: bytes, length: int, fields: bytes = b"") -> bytes:
    """Return the head of an answer that is the sidecar's own, without its last empty line."""
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        content_type,
        length,
        fields,
    )


def refusal(error: ProxyError) -> bytes:
    """Return a whole answer, the last on its connection, for a caller whose request has not been read."""
    fields, body = problem(error, "-")
    head = own_head(error.status, b"application/problem+json", len(body), fields)
    return b"%bConnection: close\r\n\r\n%b" % (head, body)


def problem(error: ProxyError, request_id: str) -> tuple[bytes, bytes]:
    """Return an error's header lines and body: what happened, whose doing it was, and what is known of the document."""
    fields = b"X-Invoisys-Outcome: %b\r\nProxy-Status: invoisys-proxy; error=%b\r\n%b" % (
        error.outcome.encode(),
        error.proxy_status.encode(),
        _EXTRA_FIELDS.get(error.status, b""),
    )
    if error.retry_after is not None:
        fields += b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after))
    body = msgspec.json.encode({
        "type": f"urn:invoisys-proxy:{error.name}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "origin": error.origin,
        "outcome": error.outcome,
        "request_id": request_id,
    })  # fmt: skip
    return fields, body
