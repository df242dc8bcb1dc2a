"""The table of cases, through the real listener: the real program as a process, with raw bytes at both ends."""

from __future__ import annotations

import difflib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.config import written
from tests.support.processes import fake_invoisys, sidecar
from tests.wire.notation import BadCase, names, read
from tests.wire.player import Player

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Stage:
    address: tuple[str, int]
    origin: socket.socket


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The sidecar, whose replay cap is low enough for a case to send more and be read."""
    config = written(tmp_path_factory.mktemp("config"), limits={"replay_body": "1KiB"})
    with fake_invoisys() as fake, socket.create_server(("127.0.0.1", 0)) as origin:
        url = "http://{}:{}".format(*origin.getsockname())
        with sidecar(fake.url, "-c", config, API_2_0_URL=url) as proxy:
            parts = urlsplit(proxy.url)
            assert parts.hostname is not None
            assert parts.port is not None
            yield Stage((parts.hostname, parts.port), origin)


@pytest.mark.parametrize("name", names())
async def test_case(stage: Stage, name: str) -> None:
    case = read(name)
    seen = await Player(case, stage.address, stage.origin).play()
    if seen.text != case.text:
        diff = difflib.ndiff(case.text.splitlines(), seen.text.splitlines())
        pytest.fail(f"{case.about}\n\n- expected, + seen:\n" + "\n".join(diff), pytrace=False)


@pytest.mark.parametrize(
    "text",
    [
        "--- afterwards\ncaller: kept\nupstream: kept\n",
        "No end.\n--- caller sends\nGET / HTTP/1.1\n",
        "A section of its own.\n--- nonsense\n--- afterwards\ncaller: kept\nupstream: kept\n",
        "An end of its own.\n--- afterwards\ncaller: lost\nupstream: kept\n",
        "A stray backslash.\n--- caller sends\n\\q\n--- afterwards\ncaller: kept\nupstream: kept\n",
    ],
    ids=["no-words", "no-end", "section", "end", "backslash"],
)
def test_a_file_that_is_no_case_is_told(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.wire.notation.CASES", tmp_path)
    (tmp_path / "case.txt").write_text(text)
    with pytest.raises(BadCase):
        read("case")
