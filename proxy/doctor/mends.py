"""What to do about each failure, in words for whoever runs the ERP. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.doctor.report import Finding
from proxy.errors import CertificateRejected, ProxyError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LATER = "wait, and try again later; if it stays so, ask Invoisys's support. The sidecar goes on trying by itself"
_ANOTHER_AUTHORITY = (
    "a firewall that reads TLS may have put its own in the place; then get the certificate of its authority from"
    " whoever runs the network, and name the file in {api}.ca_file. Otherwise stop here: somebody else may be answering"
)

NETWORK: Mapping[str, str] = {
    "name-not-resolved": "check the host name in {api}.url and .token_url; then ask whoever runs the network whether"
    " this machine may look up names on the internet (in a container: its DNS settings)",
    "connection-refused": "nothing listens at {hop}, or a firewall refuses it: check the port; then ask whoever runs"
    " the network to let this machine out to {hop}, or to name a proxy for {api}.proxy",
    "cannot-connect": "check that this machine is on the network; then ask whoever runs the network to let it out to"
    " {hop}, or to name a proxy for {api}.proxy",
    "connect-timeout": "most often a firewall swallows the packets: ask whoever runs the network to let this machine"
    " out to {hop}, or to name a proxy for {api}.proxy",
    "egress-proxy-refused": "ask whoever runs the proxy to allow CONNECT to {server}, and check the user name and"
    " password in {api}.proxy, or in HTTPS_PROXY where that is used",
    "tls-failed": "what answers at {server} does not speak TLS as it should: check {api}.url and .token_url; a firewall"
    " in between can do this too",
}
"""By the error's name; `api` is the path of its section, `hop` where the connection goes, `server` where it ends."""

_CERTIFICATES: tuple[tuple[str, str], ...] = (
    (
        "expired|not yet valid",
        "check this machine's date first; if that is right, whoever runs {server} has to replace the certificate",
    ),
    (
        "mismatch|not valid for",
        "check the host name in {api}.url and .token_url: the certificate is somebody else's; it must never be ignored",
    ),
    ("", _ANOTHER_AUTHORITY),
)
"""By what OpenSSL says of the certificate."""

LOGIN: Mapping[str, str] = {
    "credentials-refused": "correct the user name and password of accounts.{account}, and check `environment`: sandbox"
    " and production have users of their own. A changed password file is read within a second",
    "grant-refused": 'correct apis."{api}".token_url: what stands there is no login for programs',
    "login-throttled": "something logs in too often: look for other programs with the same user, let sidecars share one"
    " tokens.store, and wait",
    "login-server-failed": _LATER,
    "login-unreachable": "the connection is closed without an answer: " + _LATER,
    "login-timeout": "the login server is slow, or a firewall holds the answer back: try again, and if it stays so"
    " raise timeouts.login or ask Invoisys's support",
    "login-nonsense": 'check apis."{api}".token_url; a page in the place of a token may also come from a firewall or'
    " proxy in between",
    "login-failed": "make the files of accounts.{account} readable for the user that the sidecar runs as",
}

WARNINGS: Mapping[str, str] = {
    "store-degraded": "start the Redis that tokens.store names, or correct the address, user name and password in it;"
    " meanwhile every sidecar logs in for itself",
    "store-unreadable": "give all sidecars that share this Redis the same tokens.key_file",
    "store-failed": "make room on the disk, or make it writable; meanwhile every sidecar logs in for itself",
    "store-damaged": "look whether another program writes there; the sidecar makes a new file by itself",
    "store-lock-stuck": "look for a sidecar that hangs or is stopped, and end it",
    "expires-in-unusable": "tell Invoisys's support; until then the sidecar logs in more often than it had to",
}
"""By the event of what is logged in the course of a step."""

CONFIGURATION = (
    "correct what is named (docs/configuration.md has every key), and run this as the user that the sidecar runs as"
)
PERMISSIONS = "do what each line says; `check --strict` says the same"
VARIABLES = "correct its name, or remove it: it has no effect"

EXCHANGE = "what answers at {server} is not Invoisys's server: check {api}.url and .token_url, and any proxy in between"


def network_finding(error: ProxyError, *, api: str, hop: str, server: str) -> Finding:
    """Return the finding for a connection, or an exchange on it, that failed."""
    if isinstance(error, CertificateRejected):
        mend = next(mend for said, mend in _CERTIFICATES if re.search(said, error.detail))
    else:
        mend = NETWORK.get(error.name, EXCHANGE)
    return Finding(error.name, error.detail, mend.format(api=f'apis."{api}"', hop=hop, server=server))


def login_finding(error: ProxyError, *, account: str, api: str) -> Finding:
    """Return the finding for a login that failed."""
    return Finding(error.name, error.detail, LOGIN[error.name].format(account=account, api=api))
