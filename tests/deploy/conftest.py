"""What several tests work with: the wheel; a small Debian, to build the image from or borrow from; a network."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.deploy.manifests import require, run
from tests.support.netns import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

STABLE = "trixie"
WITH_THE_IMAGE_S_PYTHON = "forky"
_SCRIPT = "/usr/share/debootstrap/scripts/sid"  # that of each newer release, also where debootstrap is older than it
TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root folder of a Debian with Python and pip, which trusts whom this machine trusts."""
    yield from _bootstrapped(STABLE, tmp_path_factory.mktemp("debian") / "root")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same, of the release that has the image's own version of Python."""
    yield from _bootstrapped(WITH_THE_IMAGE_S_PYTHON, tmp_path_factory.mktemp("base") / "root")


def _mirror() -> str:
    """Return where this machine gets its own packages from."""
    told = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    return next(uri for uri, release in map(str.split, told.splitlines()) if "-" not in release)


def _bootstrapped(release: str, root: Path) -> Iterator[Path]:
    require("debootstrap", "buildah")
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    run("debootstrap", "--variant=minbase", packages, release, root, _mirror(), _SCRIPT)
    (root / "usr/bin/python").symlink_to("python3")
    for mine in (TRUSTED, Path("/etc/resolv.conf")):
        shutil.copyfile(mine, root / mine.relative_to("/"))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as `make dist` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def compose(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Compose client, which needs no engine to judge a file."""
    run("chroot", debian, "sh", "-c", "apt-get update -qq && cd /tmp && apt-get download -qq docker-compose")
    (package,) = debian.glob("tmp/docker-compose_*.deb")
    folder = tmp_path_factory.mktemp("compose")
    run("dpkg-deb", "-x", package, folder)
    package.unlink()
    (client,) = folder.glob("usr/libexec/docker/cli-plugins/docker-compose")
    return client


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of the test's own, which is gone after it."""
    require("ip", "nft")
    with Network() as made:
        yield made
