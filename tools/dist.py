"""Build a wheel and an sdist into `dist/`, and try them as a user would: `python -m tools.dist`.

What is shipped must be what git tracks; the sdist must make the same wheel; the wheel must run by what is locked alone.
"""

from __future__ import annotations

import email
import json
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from proxy import __version__

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
LOCK = ROOT / "requirements.lock"

MADE_BY_THE_BUILD = {"PKG-INFO"}
DOCUMENT = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1"}'
ANY_PORT = {"INVOISYS_LISTEN": "127.0.0.1:0", "INVOISYS_ADMIN": "127.0.0.1:0"}
ISSUED = 100
"""SEFAZ's status of a document that is authorized."""

PATIENCE = 60.0
"""Seconds that the demo may take to start, to answer and to stop, all together."""


class DistError(Exception):
    """What keeps this from being a release."""


def main() -> int:
    """Build, judge, install and run; 0 if nothing is wrong."""
    DIST.mkdir(exist_ok=True)
    for old in (*DIST.glob("*.whl"), *DIST.glob("*.tar.gz")):
        old.unlink()
    try:
        with tempfile.TemporaryDirectory() as folder:
            sdist, wheel = build(Path(folder))
            run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
            tried = try_out(wheel, Path(folder, "clean"))
    except DistError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{sdist.name}, {wheel.name}: {tried}")
    return 0


def build(folder: Path) -> tuple[Path, Path]:
    """Build an sdist, the wheel from it, and once more a wheel from the tree, which must be the same."""
    make = (sys.executable, "-m", "build", "--no-isolation")
    run(*make, "--outdir", str(DIST), str(ROOT))
    run(*make, "--wheel", "--outdir", str(folder), str(ROOT))
    (sdist,), (wheel,), (again,) = DIST.glob("*.tar.gz"), DIST.glob("*.whl"), folder.glob("*.whl")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    found = [
        *unlike(wheel_files(wheel), wheel_files(again), "in the sdist's wheel", "in the tree's wheel"),
        *unlike(sdist_files(sdist), dict.fromkeys(filter(None, tracked)), "in the sdist", "tracked by git"),
        *wrong_version(wheel),
    ]
    if found:
        raise DistError("\n".join([f"{sdist.name}, {wheel.name}:", *found]))
    return sdist, wheel


def wheel_files(wheel: Path) -> dict[str, bytes]:
    """Return what a wheel holds."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sdist_files(sdist: Path) -> dict[str, None]:
    """Return the names of an sdist's files, without the folder that holds them."""
    with tarfile.open(sdist) as archive:
        names = (each.name.partition("/")[2] for each in archive.getmembers() if not each.isdir())
        return dict.fromkeys(name for name in names if name not in MADE_BY_THE_BUILD)


def unlike(one: dict[str, T], other: dict[str, T], here: str, there: str) -> Iterable[str]:
    """Say how two sets of files differ."""
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            yield f"{name} is {here} and not {there}"
        elif name not in one:
            yield f"{name} is {there} and not {here}"
        elif one[name] != other[name]:
            yield f"{name} {here} differs from that {there}"


def wrong_version(wheel: Path) -> Iterable[str]:
    """Say if a wheel's version is not the program's."""
    (metadata,) = (content for name, content in wheel_files(wheel).items() if name.endswith(".dist-info/METADATA"))
    version = email.message_from_bytes(metadata)["Version"]
    if version != __version__:
        yield f"its version is {version}, that of the program {__version__}"


def try_out(wheel: Path, folder: Path) -> str:
    """Install a wheel beside what is locked and nothing else, start the demo, and issue a document."""
    run(sys.executable, "-m", "venv", str(folder))
    python, program = folder / "bin" / "python", folder / "bin" / "invoisys-proxy"
    install = (str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    run(*install, "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK))
    run(*install, "--no-deps", str(wheel))
    run(str(python), "-m", "pip", "check")
    said = run(str(program), "--version", cwd=folder).strip()
    if said != f"invoisys-proxy {__version__}":
        raise DistError(f"--version says {said}")
    return f"installed, and {demonstrate(str(program), 'demo', cwd=folder, env=ANY_PORT)}"


def demonstrate(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run the demo, issue one document, and end it as by Ctrl-C."""
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True) as demo:  # noqa: S603
        too_long = threading.Timer(PATIENCE, demo.kill)
        too_long.start()
        try:
            url = _address(demo)
            asked = urllib.request.Request(f"{url}/api/nfe/envio", DOCUMENT, {"Content-Type": "application/json"})  # noqa: S310
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(asked, timeout=PATIENCE) as answer:
                status = json.load(answer)["dadosDoDocumento"]["codigoStatusSEFAZ"]
            demo.send_signal(signal.SIGINT)
            demo.communicate()
        except BaseException:
            demo.kill()
            raise
        finally:
            too_long.cancel()
    if (status, demo.returncode) != (ISSUED, 0):
        raise DistError(f"the demo answered {status} and ended with {demo.returncode}")
    return "a document issued through its demo"


def _address(demo: subprocess.Popen[str]) -> str:
    """Read up to the line that tells where the sidecar listens."""
    assert demo.stdout is not None  # noqa: S101 - a pipe was asked for
    for line in demo.stdout:
        if found := re.search(r"listening at (http://[^\s,\"]+)", line):
            return found[1]
    raise DistError("the demo ended before it listened")


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return what it prints; raises `DistError` with all of that where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise DistError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
