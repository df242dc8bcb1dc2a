"""What sidecars meet in a network of a test's own: Invoisys at its true names, a server of names, and somebody else."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trustme

from proxy.config.presets import PRESETS
from proxy.fake import PASSWORD, FakeInvoisys
from tests.deploy.policies import Member
from tests.support.canary import assert_discreet
from tests.support.netns import Network, Place, names, open_port
from tests.support.processes import Process, Sidecar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

NAMES_AT = "10.244.0.2"
RESOLVER = f"nameserver {NAMES_AT}\n"

INVOISYS = "203.0.113.10"
ELSEWHERE = "198.51.100.20"
"""Two public addresses, as far as a policy knows; they are reserved for examples."""

SERVER_OF_NAMES = Member(NAMES_AT, "kube-system", {"k8s-app": "kube-dns"})

HTTPS = 443
HTTP = 80


@dataclass(frozen=True)
class Outside:
    """All that is not the sidecar's own network."""

    invoisys: Place
    names: dict[str, str]
    """May be changed while it is in use."""
    authority: Path
    """Who has signed the certificate of Invoisys."""
    _fake: FakeInvoisys

    async def state(self) -> dict[str, Any]:
        """Tell what Invoisys has seen."""

        async def ask() -> dict[str, Any]:
            return dict(self._fake.state(documents=True))

        return await self.invoisys.run(ask())


def outside(network: Network, folder: Path, bridge: str) -> Outside:
    """Play the fake Invoisys under the names that the program knows it by, so that no configuration has to change."""
    urls = [
        url for apis in PRESETS.values() for preset in apis.values() for url in (preset.url, preset.token_url) if url
    ]
    known = {str(urlsplit(url).hostname): INVOISYS for url in urls}
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*known).configure_cert(tls)
    fake = FakeInvoisys()
    invoisys = network.add("invoisys", **{bridge: INVOISYS})
    invoisys.offer(_running(fake, tls))
    elsewhere = network.add("elsewhere", **{bridge: ELSEWHERE})
    for port in (HTTP, HTTPS):
        elsewhere.offer(open_port(port))
    network.add("names", **{bridge: NAMES_AT}).offer(names(NAMES_AT, known))
    return Outside(invoisys, known, folder / "authority.pem", fake)


@contextlib.asynccontextmanager
async def _running(fake: FakeInvoisys, tls: ssl.SSLContext) -> AsyncIterator[None]:
    await fake.start(INVOISYS, HTTPS, tls)
    try:
        yield
    finally:
        await fake.stop()


@contextlib.contextmanager
def sidecar_in(place: Place, env: dict[str, str], around: Outside) -> Iterator[Sidecar]:
    """Run the sidecar in a place, as its container's files and variables have it."""
    process = Process("run", env=env | {"SSL_CERT_FILE": str(around.authority)}, within=place.command)
    try:
        urls, admin = process.listening()
        yield Sidecar(process, urls[0], admin, urls)
    finally:
        process.stop()
    assert_discreet("".join(process.lines) + process.errors, PASSWORD)
