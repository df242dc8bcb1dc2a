"""Everything that can go wrong on the way of a request, as one tree.

Each class carries what the caller is told (status, title), what is known of the document (outcome), whose doing it
was (origin) and the label under which it is counted. Raising one is all that a room below has to do; one place,
`forward.problem`, turns it into an answer.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Outcome(StrEnum):
    """What is known of upstream having seen a request."""

    NOT_SENT = "not-sent"
    ANSWERED = "answered"
    UNKNOWN = "unknown"


class Origin(StrEnum):
    """Who made an answer necessary that upstream did not give."""

    CALLER = "caller"
    PROXY = "proxy"
    LOGIN = "login"
    UPSTREAM = "upstream"


class ConfigError(Exception):
    """The configuration cannot be used; the message lists every fault, one a line."""


class ProxyError(Exception):
    """A request ends here, with an answer of the sidecar's own.

    The message is public: it is sent to the caller as the problem's `detail`, so it never holds a secret or a byte of
    the request.
    """

    status: ClassVar[int] = 500
    name: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The sidecar failed"
    origin: ClassVar[Origin] = Origin.PROXY
    outcome: ClassVar[Outcome] = Outcome.NOT_SENT
    proxy_status: ClassVar[str] = "proxy_internal_error"
    """The error type of RFC 9209, section 2.3."""
    cause: str | None = None
    """Where the guard refuses: by which of its judgements, as it is counted."""

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        """`retry_after` is in seconds, for those errors that time may mend."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class InternalError(ProxyError):
    """A defect of ours, met before anything is known of the exchange: the outcome claims nothing."""

    outcome = Outcome.UNKNOWN


# --- The caller's request cannot pass -------------------------------------------------------------------------------


class CallerError(ProxyError):
    """The request is one that the sidecar does not forward."""

    status = 400
    origin = Origin.CALLER
    proxy_status = "http_request_error"


class MalformedRequest(CallerError):
    """The bytes are not one well-formed HTTP/1.1 request."""

    name = "malformed-request"
    title = "The request is malformed"


class TargetTooLong(CallerError):
    """The request target is longer than the sidecar forwards."""

    status = 414
    name = "target-too-long"
    title = "The request target is too long"


class HeadersTooLarge(CallerError):
    """The header section is larger, or has more fields, than the sidecar forwards (RFC 6585, section 5)."""

    status = 431
    name = "headers-too-large"
    title = "The header section is too large"


class BrokenUpload(CallerError):
    """The body turned out to be malformed when part of it had gone upstream already."""

    name = "broken-upload"
    title = "The request body broke off or is malformed"
    outcome = Outcome.UNKNOWN


class BadTarget(CallerError):
    """The request target is not in origin form (RFC 9112, section 3.2.1)."""

    name = "bad-target"
    cause = "form"
    title = "The request target is not a path"


class MethodNotAllowed(CallerError):
    """CONNECT: the sidecar is no tunnel."""

    status = 405
    name = "method-not-allowed"
    cause = "form"
    title = "The method is not allowed"


class NotImplementedHere(CallerError):
    """A protocol feature that the sidecar does not carry."""

    status = 501
    name = "not-implemented"
    cause = "form"
    title = "The sidecar does not carry this"


class CallerTokenRequired(CallerError):
    """The caller token is missing or wrong."""

    status = 401
    name = "caller-token"
    cause = "caller-token"
    title = "The caller token is missing or wrong"
    proxy_status = "http_request_denied"


class Forbidden(CallerError):
    """Something that the listener was told forbids the request."""

    status = 403
    name = "forbidden"
    title = "The request is not allowed here"
    proxy_status = "http_request_denied"

    def __init__(self, detail: str, cause: str | None = None) -> None:
        """`cause` is what it is counted under."""
        super().__init__(detail)
        self.cause = cause


class NoSuchApi(CallerError):
    """No configured API has that path."""

    status = 404
    name = "no-such-api"
    title = "No API has this path"
    proxy_status = "destination_not_found"


class MisdirectedRequest(CallerError):
    """The Host is not one of ours (RFC 9110, section 15.5.20)."""

    status = 421
    name = "misdirected-request"
    cause = "host"
    title = "The Host is not one of the sidecar's"
    proxy_status = "http_request_denied"


class SlowHead(CallerError):
    """The request's line and header section were not complete in time (RFC 9110, section 15.5.9)."""

    status = 408
    name = "slow-head"
    title = "The request head did not arrive in time"


class SlowBody(CallerError):
    """The caller stopped sending its body, or all but stopped, before any of the request went upstream."""

    status = 408
    name = "slow-body"
    title = "The request body did not arrive in time"


class StalledUpload(SlowBody):
    """The same, when part of the body had gone upstream already."""

    name = "stalled-upload"
    outcome = Outcome.UNKNOWN


# --- The sidecar cannot take the request now ------------------------------------------------------------------------


class Overloaded(ProxyError):
    """As many requests are waiting as may."""

    status = 503
    name = "overloaded"
    title = "Too many requests are waiting"
    proxy_status = "connection_limit_reached"


class TooManyConnections(Overloaded):
    """As many callers are connected to the listener as may."""

    name = "too-many-connections"
    title = "Too many connections are open"


class Draining(ProxyError):
    """The sidecar is stopping."""

    status = 503
    name = "draining"
    title = "The sidecar is stopping"
    proxy_status = "destination_unavailable"


# --- There is no usable token ---------------------------------------------------------------------------------------


class LoginError(ProxyError):
    """There is no usable token, and the login does not give one."""

    status = 503
    name = "login-failed"
    title = "There is no usable token"
    origin = Origin.LOGIN
    proxy_status = "destination_unavailable"
    final: ClassVar[bool] = False
    """The same credentials will not be taken a moment later."""


class CredentialsRefused(LoginError):
    """Invoisys refused the user name or the password."""

    name = "credentials-refused"
    final = True
    title = "Invoisys refused the credentials"


class GrantRefused(LoginError):
    """The token endpoint does not know `grant_type=password`: it is not the one that was meant."""

    name = "grant-refused"
    final = True


class LoginThrottled(LoginError):
    """The login server asks for fewer logins (429)."""

    name = "login-throttled"


class LoginServerFailed(LoginError):
    """The login server has trouble of its own (5xx)."""

    name = "login-server-failed"


class LoginUnreachable(LoginError):
    """The login server could not be reached, or the connection broke off."""

    name = "login-unreachable"


class LoginNonsense(LoginError):
    """What came back is not a token response (RFC 6749, section 5.1)."""

    name = "login-nonsense"


class LoginTimedOut(LoginError):
    """The login server did not answer within `timeouts.login`."""

    status = 504
    name = "login-timeout"
    title = "The login timed out"
    proxy_status = "connection_timeout"


# --- The exchange with upstream failed ------------------------------------------------------------------------------


class UpstreamError(ProxyError):
    """The exchange did not bring an answer."""

    status = 502
    origin = Origin.UPSTREAM


class CannotConnect(UpstreamError):
    """No connection could be had; not a byte of the request was written."""

    name = "cannot-connect"
    title = "Invoisys could not be reached"
    proxy_status = "destination_unavailable"


class NameNotResolved(CannotConnect):
    """The name server gave no address."""

    name = "name-not-resolved"
    proxy_status = "dns_error"


class ConnectionRefused(CannotConnect):
    """Nothing listens there."""

    name = "connection-refused"
    proxy_status = "connection_refused"


class EgressRefused(CannotConnect):
    """The egress proxy made no tunnel."""

    name = "egress-proxy-refused"
    proxy_status = "http_request_denied"


class TlsFailed(CannotConnect):
    """The TLS handshake failed."""

    name = "tls-failed"
    proxy_status = "tls_protocol_error"


class CertificateRejected(TlsFailed):
    """The certificate is not one to trust for that host name."""

    name = "certificate-rejected"
    proxy_status = "tls_certificate_error"


class ConnectTimedOut(CannotConnect):
    """No connection within `timeouts.connect`."""

    status = 504
    name = "connect-timeout"
    title = "Connecting to Invoisys timed out"
    proxy_status = "connection_timeout"


class ConnectionLost(UpstreamError):
    """The connection ended after the first byte of the request was written, before the answer was whole."""

    name = "connection-lost"
    title = "The connection to Invoisys was lost"
    outcome = Outcome.UNKNOWN
    proxy_status = "connection_terminated"


class MalformedAnswer(UpstreamError):
    """What upstream sent is not one well-formed HTTP/1.1 response."""

    name = "malformed-answer"
    title = "Invoisys gave a malformed answer"
    outcome = Outcome.UNKNOWN
    proxy_status = "http_protocol_error"


class AnswerTimedOut(UpstreamError):
    """No answer within `timeouts.response`, or no further byte of it within `timeouts.idle`."""

    status = 504
    name = "answer-timeout"
    title = "Invoisys did not answer in time"
    outcome = Outcome.UNKNOWN
    proxy_status = "http_response_timeout"
