"""The page on Windows, where none of it is run: what can be read of it is true to the program."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from proxy.config import Drain
from proxy.config.environment import VARIABLES
from tests.support.pages import blocks
from tests.support.processes import ROOT

BLOCKS = blocks(ROOT / "docs" / "deployment" / "windows.md")
COMMANDS = "\n".join(text for language, text in BLOCKS if language == "console")
(WINSW,) = (ET.fromstring(text) for language, text in BLOCKS if language == "xml")

UNDERSTOOD: dict[str, set[str]] = {
    "service": set(),
    "id": set(),
    "name": set(),
    "description": set(),
    "executable": set(),
    "arguments": set(),
    "env": {"name", "value"},
    "serviceaccount": set(),
    "domain": set(),
    "user": set(),
    "stoptimeout": set(),
    "onfailure": {"action", "delay"},
    "logpath": set(),
    "log": {"mode"},
}
"""Elements and attributes that WinSW 2 documents, as far as the page has them; it passes over all others silently."""

LONGEST = Drain().delay + Drain().timeout


def setting(name: str) -> str:
    """Return what the page has NSSM set."""
    (value,) = re.findall(rf"^nssm set invoisys-proxy {name} (.*)$", COMMANDS, re.MULTILINE)
    return str(value)


def test_winsw_is_told_what_it_understands() -> None:
    assert WINSW.tag == "service"
    for each in WINSW.iter():
        assert set(each.attrib) == UNDERSTOOD[each.tag]


def test_both_run_the_program_that_was_installed_with_variables_that_it_knows() -> None:
    command = f'"{WINSW.findtext("executable")}" {WINSW.findtext("arguments")}'
    assert f"nssm install invoisys-proxy {command}\n" in COMMANDS
    assert f'& "{WINSW.findtext("executable")}" -m pip install' in COMMANDS
    told = {each.attrib["name"]: each.attrib["value"] for each in WINSW.iter("env")}
    assert set(told) <= set(VARIABLES)
    given = dict(each.split("=", 1) for each in setting("AppEnvironmentExtra").split())
    assert given.items() <= told.items()
    assert f"notepad {told['INVOISYS_PASSWORD_FILE']}\n" in COMMANDS


def test_both_log_where_the_account_may_write() -> None:
    folder = WINSW.findtext("logpath")
    assert re.search(rf'^icacls {re.escape(str(folder))} /grant "\*S-1-5-19:.*M"$', COMMANDS, re.MULTILINE)
    assert setting("AppStdout").rpartition("\\")[0] == folder
    account = f"{WINSW.findtext('serviceaccount/domain')}\\{WINSW.findtext('serviceaccount/user')}"
    assert setting("ObjectName").startswith(f'"{account}"')


def test_both_wait_longer_than_the_drain() -> None:
    (seconds,) = re.findall(r"^(\d+) sec$", WINSW.findtext("stoptimeout") or "")
    assert int(seconds) > LONGEST
    assert int(setting("AppStopMethodConsole")) > LONGEST * 1000
