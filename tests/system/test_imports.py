"""What `run` imports until it listens: what that takes is paid at each start, in each pod."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec

import pytest

from tests.support.processes import Process

LIBRARIES = {
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "attr",
    "cachetools",
    "frozenlist",
    "httptools",
    "idna",
    "msgspec",
    "multidict",
    "prometheus_client",
    "propcache",
    "uvloop",
    "yaml",
    "yarl",
}
"""What `run` needs, and what that needs."""

FOR_OLDER_PYTHONS = {"typing_extensions"}

LATER = {"proxy.fake", "proxy.tokens.file", "proxy.tokens.redis", "proxy.tracing.spans", "proxy.workers"}
"""Our own that other commands or other configurations need."""

HEAVY = {
    "csv",
    "curses",
    "doctest",
    "fractions",
    "importlib.metadata",
    "multiprocessing",
    "pdb",
    "pydoc",
    "smtplib",
    "sqlite3",
    "statistics",
    "unittest",
    "xml",
    "xmlrpc",
    "zipfile",
    "zoneinfo",
}
"""Of the standard library, what takes long and serves nothing here."""

_LINE = re.compile(r"import time: +\d+ \| +\d+ \| +(\S+)")


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """Every module that a sidecar has imported when it listens."""
    process = Process(
        "run",
        env={
            "PYTHONPROFILEIMPORTTIME": "1",
            "INVOISYS_USERNAME": "someone",
            "INVOISYS_PASSWORD": "a-secret",
            "INVOISYS_LISTEN": "127.0.0.1:0",
            "INVOISYS_ADMIN": "127.0.0.1:0",
            "INVOISYS_API_2_0_URL": "http://127.0.0.1:9",
            "INVOISYS_API_2_0_TOKEN_URL": "http://127.0.0.1:9/api/token",
        },
    )
    try:
        process.event("listening")
    finally:
        process.stop()
    names = _LINE.findall(process.errors)
    ours = set(names[names.index("site") + 1 :])  # before it is Python's own start, and what coverage adds there
    assert "proxy.server" in ours
    return ours


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_only_the_libraries_that_it_needs_are_imported(imported: set[str]) -> None:
    of_others = tops(imported) - set(sys.stdlib_module_names) - {"proxy"}
    there = {name for name in of_others if find_spec(name) is not None}  # some are looked for and are not installed
    assert there - FOR_OLDER_PYTHONS == LIBRARIES


def test_nothing_heavy_of_the_standard_library_is_imported(imported: set[str]) -> None:
    assert imported & HEAVY == set()


def test_what_other_commands_and_configurations_need_is_not_imported(imported: set[str]) -> None:
    assert imported & LATER == set()
