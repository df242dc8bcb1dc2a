"""What a person sees who runs the sidecar in a terminal: text, with colours there and nowhere else."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from proxy.fake import PASSWORD, USERNAME
from tests.support.processes import ROOT, Fake
from tests.support.wire import PATIENCE

COLOUR = "\x1b["


def run(fake: Fake, *, terminal: bool, **environment: str) -> str:
    """Return what the sidecar prints until it listens."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    usual = {name: value for name, value in os.environ.items() if not name.startswith("INVOISYS_")}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        usual.pop(name, None)
    settings = {
        "INVOISYS_USERNAME": USERNAME,
        "INVOISYS_PASSWORD": PASSWORD,
        "INVOISYS_LISTEN": "127.0.0.1:0",
        "INVOISYS_ADMIN": "127.0.0.1:0",
        "INVOISYS_API_2_0_URL": fake.url,
        "INVOISYS_API_2_0_TOKEN_URL": f"{fake.url}/api/token",
        "TERM": "xterm",
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "proxy", "run"], cwd=ROOT, stdout=theirs, env=usual | settings | environment
    )
    os.close(theirs)
    said = b""
    try:
        while b"listening" not in said or not said.endswith(b"\n"):
            said += os.read(ours, 4096)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(PATIENCE)
        os.close(ours)
    return said.decode()


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    ids=["plain", "NO_COLOR", "NO_COLOR-empty", "dumb"],
)
def test_a_terminal_gets_text_with_colours_unless_it_asks_for_none(
    fake: Fake, environment: dict[str, str], coloured: bool
) -> None:
    said = run(fake, terminal=True, **environment)
    assert "listening at http://127.0.0.1:" in said
    assert '"event"' not in said
    assert (COLOUR in said) == coloured


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_pipe_never_gets_colours(fake: Fake, form: str) -> None:
    said = run(fake, terminal=False, FORCE_COLOR="1", INVOISYS_LOG_FORMAT=form)
    assert ('"event":"listening"' in said) == (form == "json")
    assert COLOUR not in said
