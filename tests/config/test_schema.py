"""The files beside the code: the schema and the example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from proxy.config import json_schema, load

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    return (definition for definition in schema["$defs"].values() if definition["type"] == "object")


def faults(text: str) -> list[str]:
    return [error.json_path for error in Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(text))]


def test_the_file_is_current() -> None:
    written = (ROOT / "config.schema.json").read_text(encoding="utf-8")
    assert written == json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$id"] == "urn:invoisys-proxy:config"


def test_every_key_is_described_and_no_other_allowed() -> None:
    for definition in objects(json_schema()):
        assert definition["additionalProperties"] is False
        assert all(entry["description"] for entry in definition["properties"].values())
        assert definition["description"]


def test_defaults_are_written_as_in_a_file() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["Listener"]["properties"]["bind"]["default"] == "127.0.0.1:8080"
    assert definitions["Tokens"]["properties"]["refresh_every"]["default"] == "12h"
    assert definitions["Limits"]["properties"]["replay_body"]["default"] == "4MiB"
    assert "default" not in definitions["Api"]["properties"]["prefix"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("{log: {levle: info}}", "$.log"),
        ("{listeners: [{bind: ':80'}]}", "$.listeners[0].bind"),
        ("{listeners: []}", "$.listeners"),
        ("{listeners: [{socket: {mode: 432}}]}", "$.listeners[0].socket.mode"),
        ("{listeners: [{socket: {mode: '660'}}]}", "$.listeners[0].socket.mode"),
        ("{listeners: [{socket: {owner: 'a b'}}]}", "$.listeners[0].socket.owner"),
        ("{listeners: [{uids: [-1]}]}", "$.listeners[0].uids[0]"),
        ("{limits: {caller_connections: 0}}", "$.limits.caller_connections"),
        ("{timeouts: {idle: 30}}", "$.timeouts.idle"),
        ("{limits: {replay_body: 4MB}}", "$.limits.replay_body"),
        ("{limits: {waiting: 0}}", "$.limits.waiting"),
        ("{apis: {'2.1': {}}}", "$.apis"),
        ("{apis: {'2.0': {url: 'https://a/x'}}}", "$.apis['2.0'].url"),
        ("{apis: {'2.0': {token_url: 'https://u@a/x'}}}", "$.apis['2.0'].token_url"),
        ("{apis: {'2.0': {prefix: /api}}}", "$.apis['2.0'].prefix"),
        ("{apis: {'2.0': {proxy: x}}}", "$.apis['2.0'].proxy"),
        ("{accounts: {a: {password: ''}}}", "$.accounts.a.password"),
        ("{tokens: {store: redis}}", "$.tokens.store"),
        ("{tokens: {store: 'file:tokens.json'}}", "$.tokens.store"),
        ("{tokens: {key_file: ''}}", "$.tokens.key_file"),
    ],
)
def test_it_refuses(text: str, path: str) -> None:
    assert faults(text) == [path]


def test_it_takes_the_example() -> None:
    assert faults(EXAMPLE.read_text(encoding="utf-8")) == []


def test_the_example_holds_the_defaults() -> None:
    env = {
        "INVOISYS_USERNAME": "integracao@empresa.com.br",
        "INVOISYS_PASSWORD_FILE": "/run/secrets/invoisys_password",
    }
    assert load(str(EXAMPLE), {}) == load(None, env)


def test_the_example_holds_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8").replace("# ", "")
    keys = {key for definition in objects(json_schema()) for key in definition["properties"]}
    assert [key for key in sorted(keys) if f"{key}: " not in text and f"{key}:\n" not in text] == []
