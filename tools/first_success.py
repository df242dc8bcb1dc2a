"""Time the README's way to the first success: `python -m tools.first_success RESULT`.

From `git clone` of what is committed here to the first 200, on a machine as bare as can be had: nothing on the PATH but
what the README asks for, a home that is new, and so nothing that pip has kept. What is locked is fetched in that time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]

LIMIT = 120.0
"""Seconds; more of them would mean that something hangs, and not that it is slow."""

NEEDED = ("git", "make", "touch")
"""Beside Python. make brings a shell along, by its path."""

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OTHERS = ("INVOISYS_", "MAKE", "MFLAGS", "PIP_CACHE", "PYTHON", "VIRTUAL_ENV", "XDG_")


class Way(NamedTuple):
    """What the README has one do: a command that stays in the foreground, and a request."""

    start: list[str]
    url: str
    headers: dict[str, str]
    body: bytes


def read_way(readme: str) -> Way:
    """Find the first two commands; raises `ValueError` where the second is not of the kind that is known here."""
    start, curl, *_ = (shlex.split(block.replace("\\\n", " ")) for block in _BLOCK.findall(readme))
    match curl:
        case ["curl", "-H", field, "-d", body, url]:
            name, _, value = field.partition(": ")
            return Way(start, url, {name: value}, body.encode())
    raise ValueError(f"what to make of {shlex.join(curl)}?")


def bare(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Make a PATH and a home in the folder; what says how to reach a package index stays."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(Path(sys.executable).resolve())
    for name in NEEDED:
        found = shutil.which(name, path=env.get("PATH"))
        if found is None:
            raise FileNotFoundError(f"{name} is not installed")
        (programs / name).symlink_to(found)
    home = folder / "home"
    home.mkdir()
    kept = {name: value for name, value in env.items() if not name.startswith(_OTHERS)}
    return kept | {"PATH": str(programs), "HOME": str(home)}


@contextlib.contextmanager
def demo(command: list[str], clone: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Run the first command, from when it listens to Ctrl-C."""
    process = subprocess.Popen(  # noqa: S603 - what the README says
        command, cwd=clone, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    too_long = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
    too_long.start()
    said: list[str] = []
    try:
        for line in process.stdout or ():
            said.append(line)
            if '"event":"listening"' in line:
                break
        else:
            raise RuntimeError(f"{shlex.join(command)} ended:\n{''.join(said)}")
        yield
    finally:
        too_long.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.communicate()


def measure(folder: Path) -> dict[str, float]:
    """Go the way; returns the seconds from the start after which each part of it was done."""
    way = read_way((ROOT / "README.md").read_text(encoding="utf-8"))
    env = bare(folder, os.environ)
    clone = folder / "invoisys-proxy"
    began = time.monotonic()
    subprocess.run(  # noqa: S603
        [folder / "bin" / "git", "clone", "--quiet", f"file://{ROOT}", clone], env=env, check=True, timeout=LIMIT
    )
    cloned = time.monotonic() - began
    with demo(way.start, clone, env):
        started = time.monotonic() - began
        request = urllib.request.Request(way.url, way.body, way.headers)  # noqa: S310 - http
        no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with no_proxy.open(request, timeout=LIMIT) as answer:
            if answer.status != 200:  # noqa: PLR2004
                raise RuntimeError(f"the first answer is {answer.status}")
        done = time.monotonic() - began
    return {"cloned": round(cloned, 1), "listening": round(started, 1), "answered": round(done, 1)}


def main(result: str) -> int:
    """Measure, print, and write the result; 1 where it took too long."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder))
    Path(result).parent.mkdir(parents=True, exist_ok=True)
    Path(result).write_text(json.dumps(seconds) + "\n", encoding="utf-8")
    print(f"from git clone to the first 200: {seconds['answered']:g} s, {seconds['cloned']:g} s of it for the clone")
    return int(seconds["answered"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
