"""The configuration in its written form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from proxy.config.secret import Secret

if TYPE_CHECKING:
    from proxy.config.model import Config

_PLAIN = (str, int, bool, type(None))


def redacted(config: Config) -> str:
    """Give the effective configuration as YAML: `***` in place of secrets, nothing for keys that are not set."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def plain(value: object) -> Any:
    """Give a value as a file would hold it: keys, lists, texts, numbers, true, false and null."""
    if isinstance(value, msgspec.Struct):
        return {key: plain(item) for key, item in msgspec.structs.asdict(value).items() if item is not None}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if type(value) in _PLAIN:
        return value
    return "***" if isinstance(value, Secret) else str(value)
