"""The sidecar before an upstream of the test's own, over plain TCP or TLS."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme

from tests.certainty.origin import Origin
from tests.support.config import written
from tests.support.processes import Sidecar, fake_invoisys, sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stage(NamedTuple):
    """An upstream, and the sidecar before it."""

    origin: Origin
    proxy: Sidecar
    tls: bool


@contextlib.contextmanager
def stage(tmp_path_factory: pytest.TempPathFactory, *, tls: bool, **sections: Any) -> Iterator[Stage]:
    """Set the stage; the logins go to a fake, so that upstream sees nothing but what callers ask for."""
    folder = tmp_path_factory.mktemp("stage")
    context = None
    if tls:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        sections["apis"] = {"2.0": {"ca_file": str(folder / "ca.pem")}}
    origin = Origin(context)
    with (
        contextlib.closing(origin),
        fake_invoisys() as fake,
        sidecar(fake.url, "-c", written(folder, **sections), API_2_0_URL=origin.url) as proxy,
    ):
        yield Stage(origin, proxy, tls)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory, tls=request.param) as there:
        yield there


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory, tls=True) as there:
        yield there


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A sidecar that holds no body: what comes in goes out at once."""
    with stage(tmp_path_factory, tls=False, limits={"replay_body": "0B"}) as there:
        yield there
