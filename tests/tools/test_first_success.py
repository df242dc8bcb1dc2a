"""The README's way to the first success: read, and gone in a small repository that knows how bare it is."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT
from tools import first_success
from tools.first_success import NEEDED, bare, main, read_way

if TYPE_CHECKING:
    from pathlib import Path

SERVER = """
import http.server, os, pathlib

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])), self.headers["Content-Type"], self.path
        good = asked == (b'{"a":1}', "application/json", "/issue") and 200
        self.send_response(good or 500)
        self.end_headers()

assert not list(pathlib.Path.home().iterdir())
assert sorted(os.listdir(os.environ["PATH"])) == ["git", "make", "python3", "touch"]
server = http.server.HTTPServer(("127.0.0.1", PORT), Handler)
print('{"event":"listening"}', flush=True)
server.serve_forever()
"""

README = """
```console
git clone REPOSITORY
```

```sh
make run
```

```sh
curl -H 'Content-Type: application/json' -d '{"a":1}' \\
    http://127.0.0.1:PORT/issue
```
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One in which `make run` is a server that is content with nothing but the way of the README."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "README.md").write_text(README.replace("PORT", port))
    (folder / "Makefile").write_text("run:\n\t@exec python3 server.py\n")
    (folder / "server.py").write_text(SERVER.replace("PORT", port))
    monkeypatch.setattr(first_success, "ROOT", folder)
    return folder


def commit(folder: Path) -> None:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    for command in (("init", "--quiet"), ("add", "."), (*who, "commit", "--quiet", "--message", "all of it")):
        subprocess.run(["git", *command], cwd=folder, check=True)


def test_it_finds_the_two_commands_of_the_readme() -> None:
    way = read_way((ROOT / "README.md").read_text())
    assert way.start == ["make", "run"]
    assert way.url == "http://127.0.0.1:8080/api/nfe/envio"
    assert way.headers == {"Content-Type": "application/json"}
    assert set(json.loads(way.body)) == {"cnpj", "modelo", "serie", "numero"}


def test_a_second_command_of_another_kind_is_told() -> None:
    with pytest.raises(ValueError, match="wget"):
        read_way("```sh\nmake run\n```\n```sh\nwget it\n```\n")


@pytest.mark.needs("git", "make")
def test_the_way_is_gone_with_nothing_at_hand_and_its_seconds_are_kept(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(repository)
    assert main(str(tmp_path / "dist" / "result.json")) == 0
    seconds = json.loads((tmp_path / "dist" / "result.json").read_text())
    assert 0 <= seconds["cloned"] <= seconds["listening"] <= seconds["answered"] < 60
    assert f"from git clone to the first 200: {seconds['answered']:g} s" in capsys.readouterr().out


def test_what_is_too_slow_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_success, "measure", lambda _: {"cloned": 1, "listening": 2, "answered": 121})
    assert main(str(tmp_path / "result.json")) == 1


@pytest.mark.needs("git", "make")
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [("print", "raise SystemExit  # ", "make run ended"), ("and 200", "and 201", "the first answer is 201")],
)
def test_what_does_not_work_is_told(old: str, new: str, told: str, repository: Path, tmp_path: Path) -> None:
    server = repository / "server.py"
    server.write_text(server.read_text().replace(old, new))
    commit(repository)
    with pytest.raises(RuntimeError, match=told):
        main(str(tmp_path / "result.json"))


def test_a_machine_without_what_the_readme_asks_for_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=NEEDED[0]):
        bare(tmp_path, {"PATH": str(tmp_path)})
