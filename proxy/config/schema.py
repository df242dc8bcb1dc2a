"""JSON Schema of the configuration file."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

import msgspec

from proxy.config.access import BrowserOrigin, HostName, Rule
from proxy.config.model import Account, Admin, Api, Config, Drain, Limits, Listener, Log, Socket, Timeouts, Tokens
from proxy.config.show import plain
from proxy.config.values import Bind, EgressProxy, HttpUrl, Identity, Origin, StoreAddress

_SECTIONS = (Config, Account, Socket, Listener, Admin, Api, Tokens, Timeouts, Limits, Drain, Log)
_TEXTS = (Bind, BrowserOrigin, EgressProxy, HostName, HttpUrl, Origin, Rule, StoreAddress)


def json_schema() -> dict[str, Any]:
    """Give the schema (draft 2020-12), with a description for every key and its default."""
    schema = msgspec.json.schema(Config, schema_hook=_text)
    definitions = schema["$defs"]
    for definition in definitions.values():
        definition["description"] = cleandoc(definition["description"])  # as Python 3.13 leaves a docstring
    for text in _TEXTS:
        definitions[text.__name__] = {**_text(text), "description": definitions[text.__name__]["description"]}
    for section in _SECTIONS:
        properties = definitions[section.__name__]["properties"]
        default = section()
        for field in msgspec.structs.fields(section):
            properties[field.encode_name]["default"] = plain(getattr(default, field.name))
    del definitions["Api"]["properties"]["prefix"]["default"]  # each API has its own
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:invoisys-proxy:config",
        "title": "Configuration of invoisys-proxy",
        **schema,
    }


def _text(kind: type) -> dict[str, Any]:
    """Give the schema of a value that is written as one text."""
    if kind is Identity:
        return {"type": ["string", "integer"], "pattern": Identity.pattern, "minimum": 0, "maximum": Identity.largest}
    pattern = getattr(kind, "pattern", None)
    return {"type": "string", "pattern": pattern} if pattern else {"type": "string", "minLength": 1}
