"""The table of cases, through nginx as a reverse proxy: every difference is one that docs/fidelity.md lists."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT
from tests.support.wire import PATIENCE
from tests.wire.notation import names, read
from tests.wire.player import TOKEN_LENGTH, Player

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.wire.notation import Case
    from tests.wire.player import Seen

PAGE = ROOT / "docs" / "fidelity.md"

CONFIG = """
{user}daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    # As near to forwarding as it is as nginx can be set.
    merge_slashes off;
    underscores_in_headers on;
    ignore_invalid_headers off;
    absolute_redirect off;
    client_header_buffer_size 1k;
    large_client_header_buffers 8 64k;
    client_max_body_size 0;
    client_body_timeout 1s;
    client_header_timeout 1s;
    proxy_read_timeout 1s;

    upstream invoisys {{
        server {origin};
        keepalive 8;
    }}
    server {{
        listen {listen};
        server_name localhost 127.0.0.1 "";
        location = /api/token {{
            return 200;
        }}
        location /api/ {{
            proxy_pass http://invoisys;
            proxy_http_version 1.1;
            proxy_set_header Host {origin};
            proxy_set_header Authorization "Bearer {token}";
            proxy_set_header Connection "";
            proxy_request_buffering on;
            proxy_next_upstream off;
            proxy_redirect http://{origin}/ /;
            proxy_pass_header Server;
            proxy_pass_header Date;
            proxy_buffer_size 128k;
            proxy_buffers 8 128k;
        }}
        location / {{
            return 404;
        }}
    }}
    server {{
        listen {listen} default_server;
        server_name _;
        return 421;
    }}
}}
"""

_PROBLEM = re.compile(rb"\{problem (?P<name>\S+) (?P<status>\d+) ")


@contextmanager
def nginx(folder: Path, origin: socket.socket) -> Iterator[tuple[str, int]]:
    """Run nginx before `origin`; its listening socket is made here and handed down, so that it listens at once."""
    program = shutil.which("nginx")
    assert program is not None
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        address: tuple[str, int] = listening.getsockname()
        config = folder / "nginx.conf"
        user = "user root;\n" if os.geteuid() == 0 else ""  # the folder is not for others
        addresses = {"listen": "{}:{}".format(*address), "origin": "{}:{}".format(*origin.getsockname())}
        config.write_text(CONFIG.format(folder=folder, token="n" * TOKEN_LENGTH, user=user, **addresses))
        child = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")],
            env=os.environ | {"NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
    try:
        yield address
    finally:
        child.terminate()
        child.wait(PATIENCE)


def differences(case: Case, seen: Seen) -> set[str]:
    """Tell in words what was not as the case has it."""
    found: set[str] = set()
    strayed = any(what.startswith("upstream sees more") for what in seen.extra)
    if strayed:
        found.add("passes something on that the sidecar does not")
    for expected, actual in zip(case.steps, seen.steps, strict=True):
        if expected.data == actual.data:
            continue
        if expected.title == "upstream sees":
            found |= _in_request(expected.data, actual.data)
        elif expected.title == "caller sees" and not strayed:
            found |= _in_answer(expected.data, actual.data)
    if not strayed:
        if seen.caller != case.caller:
            found.add(f"the caller's connection is {seen.caller}")
        if seen.upstream not in (case.upstream, "?") and "does not pass it on" not in found:
            found.add(f"upstream's connection is {seen.upstream}")
        found |= {what.partition("\n")[0].rstrip(":") for what in seen.extra}
    return found


def _in_request(expected: bytes, actual: bytes) -> set[str]:
    if not actual:
        return {"does not pass it on"}
    first, fields, body = _parts(expected)
    other_first, other_fields, other_body = _parts(actual)
    found = _in_fields("request", fields, other_fields)
    if first != other_first:
        found.add("request line is another")
    if body != other_body:
        found.add("request body is another")
    return found


def _in_answer(expected: bytes, actual: bytes) -> set[str]:
    if not actual:
        return {"no answer"}
    first, fields, body = _parts(expected)
    other_first, other_fields, other_body = _parts(actual)
    status = other_first[9:12].decode()
    problem = _PROBLEM.match(expected)
    if problem is not None:
        same = problem["status"].decode() == status
        return {"own answers are pages"} if same else {f"answers {status}", "own answers are pages"}
    if first[9:12] != other_first[9:12]:
        return {f"answers {status}"}
    found = _in_fields("answer", fields, other_fields)
    if first != other_first:
        found.add("answer has another reason")
    if body != other_body:
        found.add("answer body is another")
    return found


def _in_fields(side: str, expected: list[tuple[str, str]], actual: list[tuple[str, str]]) -> set[str]:
    """Compare header sections; a field of the same name in another place, case or value is told as such."""
    names_then = [name.lower() for name, _ in expected]
    names_now = [name.lower() for name, _ in actual]
    found = {f"{side} gains {name.title()}" for name in set(names_now) - set(names_then)}
    found |= {f"{side} loses {name.title()}" for name in set(names_then) - set(names_now)}
    common = [field for field in expected if field[0].lower() in names_now]
    common_now = [field for field in actual if field[0].lower() in names_then]
    for name in set(names_then) & set(names_now):
        values = [value for key, value in common if key.lower() == name]
        if values != [value for key, value in common_now if key.lower() == name]:
            found.add(f"{side} has another {name.title()}")
    if sorted(name for name, _ in common) != sorted(name for name, _ in common_now):
        found.add(f"{side} has names in another case")
    if [name.lower() for name, _ in common] != [name.lower() for name, _ in common_now]:
        found.add(f"{side} has another order")
    return found


def _parts(message: bytes) -> tuple[bytes, list[tuple[str, str]], bytes]:
    head, _, body = message.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = [line.decode("latin-1").partition(":") for line in lines]
    return first, [(name, value.strip()) for name, _, value in fields], body


def listed(section: str) -> dict[str, set[str]]:
    """Return the first two columns of the table under a heading of the page: names, and what differs for them."""
    table = PAGE.read_text().partition(f"\n### {section}\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {name: set(row[1].split("; ")) for row in rows[2:] for name in re.findall(r"`([^`]+)`", row[0])}


async def observed(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    with socket.create_server(("127.0.0.1", 0)) as origin, nginx(folder, origin) as address:
        for name in names():
            case = read(name)
            found[name] = differences(case, await Player(case, address, origin).play())
    return found


@pytest.mark.needs("nginx")
async def test_every_difference_to_nginx_is_listed(tmp_path: Path) -> None:
    found = await observed(tmp_path)
    everywhere = set(listed("In every exchange"))
    assert everywhere
    assert everywhere <= set().union(*found.values())
    beyond = {name: what - everywhere for name, what in found.items() if what - everywhere}
    on_page = listed("Case by case")
    wrong = [
        f"{name}: with nginx: {'; '.join(sorted(beyond.get(name, ()))) or 'no difference'}\n"
        f"{' ' * len(name)}  on the page: {'; '.join(sorted(on_page.get(name, ()))) or 'not listed'}"
        for name in sorted(beyond.keys() | on_page.keys())
        if beyond.get(name) != on_page.get(name)
    ]
    if wrong:
        pytest.fail(f"{PAGE.name} is not what nginx does\n" + "\n".join(wrong), pytrace=False)
