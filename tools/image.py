"""Start an image that was built, and issue a document through its demo: `python -m tools.image IMAGE PLATFORM`."""

from __future__ import annotations

import sys

from proxy import __version__
from tools.dist import ANY_PORT, DistError, demonstrate, run

HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
"""As the files in deploy/ have it."""


def try_out(image: str, platform: str) -> str:
    """Ask an image for its version, then run its demo; raises `DistError` where either is wrong."""
    variables = [part for name, value in ANY_PORT.items() for part in ("--env", f"{name}={value}")]
    engine = ("docker", "run", "--rm", "--platform", platform, "--network", "host", *HARDENED, *variables, image)
    said = run(*engine, "--version").strip()
    if said != f"invoisys-proxy {__version__}":
        raise DistError(f"--version says {said}")
    return demonstrate(*engine, "demo")


def main(image: str, platform: str) -> int:
    """Try one image; 0 if it works."""
    try:
        tried = try_out(image, platform)
    except DistError as error:
        print(f"{image}, {platform}: {error}", file=sys.stderr)
        return 1
    print(f"{image}, {platform}: {tried}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
