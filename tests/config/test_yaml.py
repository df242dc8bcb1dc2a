from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config import Config, load
from proxy.errors import ConfigError

from .conftest import CREDENTIALS, Load, Refuse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("012", "reads as the number 10; write 10, or"),
        ("0o12", "reads as the number 10; write 10, or"),
        ("0x1F", "reads as the number 31; write 31, or"),
        ("0b11", "reads as the number 3; write 3, or"),
        ("1_000", "reads as the number 1000; write 1000, or"),
        ("1:30", "reads as the number 90; write 90, or"),
        ("1:30.5", "reads as the number 90.5; write 90.5, or"),
        ("+5", "reads as the number 5; write 5, or"),
        (".5", "reads as the number 0.5; write 0.5, or"),
        ("1e3", "reads as the number 1000; write 1000, or"),
        ("yes", "reads as true; write true, or"),
        ("On", "reads as true; write true, or"),
        ("Y", "reads as true; write true, or"),
        ("True", "reads as true; write true, or"),
        ("no", "reads as false; write false, or"),
        ("oFF", "reads as false; write false, or"),
        ("n", "reads as false; write false, or"),
        ("FALSE", "reads as false; write false, or"),
        ("Null", "reads as null; write null, or"),
        (".inf", "reads as a number; write"),
        ("-.INF", "reads as a number; write"),
        (".nan", "reads as a number; write"),
        ("0b_", "reads as a number; write"),
        ("9999999999999999999", "reads as a number; write"),
    ],
)
def test_what_does_not_mean_what_it_looks_like(refuse: Refuse, written: str, read: str) -> None:
    assert refuse(f"listeners:\n  - account: {written}\n") == [
        (
            "config.yaml:2:14: listeners[0].account: expected text, "
            f'found {written}, which YAML {read} "{written}" for the text'
        )
    ]


@pytest.mark.parametrize("written", ["2026-01-31", "2026-01-31T10:00:00Z"])
def test_dates(refuse: Refuse, written: str) -> None:
    assert refuse(f"listeners: [{{account: {written}}}]") == [
        (
            "config.yaml:1:23: listeners[0].account: expected text, "
            f'found {written}, which YAML reads as a date; write "{written}"'
        )
    ]


def test_doubt_where_no_text_is_expected(refuse: Refuse) -> None:
    assert refuse("limits: {connections: 012}\nlisteners: [{expose: yes}]\n") == [
        (
            "config.yaml:2:22: listeners[0].expose: expected true or false, "
            'found yes, which YAML reads as true; write true, or "yes" for the text'
        ),
        (
            "config.yaml:1:23: limits.connections: expected a whole number, at least 1, "
            'found 012, which YAML reads as the number 10; write 10, or "012" for the text'
        ),
    ]


@pytest.mark.parametrize("written", ['"012"', "'yes'", '"2026-01-31"', '"1:30"', "yes-man", "1a", "="])
def test_text_is_text(accept: Load, written: str) -> None:
    config = accept(f"accounts: {{a: {{username: {written}, password: x}}}}", {})
    assert config.accounts["a"].username == written.strip("\"'")


def test_keys_count_by_their_text(accept: Load) -> None:
    assert accept("apis: {2.0: {prefix: /x/}}") == accept('apis: {"2.0": {prefix: /x/}}')
    assert list(accept("accounts: {on: {username: a, password: b}}", {}).accounts) == ["on"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("log: {}\nlog: {}", "config.yaml:2:1: log: duplicate key, first at 1:1"),
        ('apis:\n  2.0: {}\n  "2.0": {}', 'config.yaml:3:3: apis."2.0": duplicate key, first at 2:3'),
        ("log:\n  <<: {level: info}", "config.yaml:2:3: log: merge keys (<<) are not used here; write the keys out"),
        ("[a]: 1", "config.yaml:1:1: expected a name as key"),
        ("log: {? {a: b} : 1}", "config.yaml:1:9: log: expected a name as key"),
        ('"": 1', "config.yaml:1:1: expected a name as key"),
        ("- a", "config.yaml:1:1: expected keys, found a list"),
        ("a", 'config.yaml:1:1: expected keys, found "a"'),
        ("log:\n\tlevel: info", "config.yaml:2:1: found a tab; indent with spaces"),
        ("log: {level: [}", "config.yaml:1:15: expected the node content, but found '}'"),
        ("log: {", "config.yaml:1:7: expected the node content, but found '<stream end>'"),
        ("log: {}\n---\nlog: {}", "config.yaml:2:1: expected a single document, found another"),
        (
            "log: !!python/name:os.system x",
            "config.yaml:1:6: tags (!) are not used here; put a text that begins so in quotes",
        ),
        ("log: !foo {}", "config.yaml:1:6: tags (!) are not used here; put a text that begins so in quotes"),
        ("log: !!map {}", "config.yaml:1:6: tags (!) are not used here; put a text that begins so in quotes"),
        (
            "log: &a {}\nadmin: *a",
            "config.yaml:1:6: anchors (&) and aliases (*) are not used here; put a text that begins so in quotes",
        ),
        (
            "log: *a",
            "config.yaml:1:6: anchors (&) and aliases (*) are not used here; put a text that begins so in quotes",
        ),
        ("log: {}\nadm\x01in: {}", "config.yaml:2:4: expected text, found a control character"),
        (b"log: {}\n# \xc3\xa9 \xe9", "config.yaml:2:5: expected UTF-8 text"),
        (b"\xef\xbb\xbf# \xc3\xa9\xe9", "config.yaml:1:4: expected UTF-8 text"),
        ("[" * 600 + "]" * 600, "config.yaml: nested too deeply"),
    ],
)
def test_refused(refuse: Refuse, text: str | bytes, fault: str) -> None:
    assert refuse(text) == [fault]


@pytest.mark.parametrize(
    "written", ["*hunter2", "&hunter2 x", "!hunter2", "!h!hunter2", "@hunter2", "%hunter2", '"hunter2']
)
def test_syntax_errors_do_not_quote_a_password(refuse: Refuse, written: str) -> None:
    (fault,) = refuse(f"accounts: {{default: {{password: {written}", {})
    assert fault.startswith("config.yaml:1:")
    assert "hunter2" not in fault


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n", "{}", "\ufeff{}"])
def test_an_empty_file_is_as_good_as_none(accept: Load, text: str) -> None:
    assert accept(text) == load(None, CREDENTIALS)
    assert isinstance(accept(text), Config)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "none.yaml"), CREDENTIALS)
    assert str(caught.value) == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path), CREDENTIALS)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory"
