from __future__ import annotations

import string

import pytest

from proxy.doctor.mends import LOGIN, NETWORK, network_finding
from proxy.errors import CannotConnect, CertificateRejected, ConnectionLost, LoginError, ProxyError


def names(kind: type[ProxyError]) -> set[str]:
    return {kind.name}.union(*map(names, kind.__subclasses__()))


def test_every_failure_to_connect_has_a_mend() -> None:
    assert set(NETWORK) == names(CannotConnect) - {CertificateRejected.name}


def test_every_failed_login_has_a_mend() -> None:
    assert set(LOGIN) == names(LoginError)


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("certificate has expired", "date"),
        ("certificate is not yet valid", "date"),
        ("Hostname mismatch, certificate is not valid for 'localhost'.", "host name"),
        ("IP address mismatch, certificate is not valid for '127.0.0.1'.", "host name"),
        ("self-signed certificate in certificate chain", 'apis."3.0".ca_file'),
        ("unable to get local issuer certificate", 'apis."3.0".ca_file'),
    ],
)
def test_a_certificate_is_mended_by_what_is_wrong_with_it(said: str, mend: str) -> None:
    error = CertificateRejected(f"the certificate of invoisys.test:443 was rejected: {said}")
    found = network_finding(error, api="3.0", hop="invoisys.test:443", server="invoisys.test:443")
    assert found.cause == "certificate-rejected"
    assert mend in found.mend


def test_an_exchange_that_breaks_off_has_one_too() -> None:
    found = network_finding(ConnectionLost("it ended"), api="2.0", hop="proxy:3128", server="invoisys.test:443")
    assert found.mend.startswith("what answers at invoisys.test:443 is not Invoisys's server")


@pytest.mark.parametrize("text", [*NETWORK.values(), *LOGIN.values()])
def test_a_mend_names_what_it_is_about(text: str) -> None:
    fields = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    assert fields <= {"api", "hop", "server", "account"}
