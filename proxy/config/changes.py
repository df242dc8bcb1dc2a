"""What a configuration that is read again changes, and which of it has to wait for a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxy.config.checks import small_shares
from proxy.config.tree import spelled
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.model import Config

_NEEDS_RESTART = ("admin", "tokens.store", "tokens.key_file", "log.format", "workers")
"""What those around the sidecar rely on, or where tokens are kept. So does the `socket` of a path."""


class Changes(NamedTuple):
    """The configuration to go on with, and the paths of keys whose values are others than before."""

    config: Config
    taken: tuple[str, ...]
    left: tuple[str, ...]
    """They need a restart, and keep their old values until then."""


def changes(old: Config, new: Config) -> Changes:
    """Compare two configurations.

    Raises `ConfigError` where the new one is for another environment, or does not agree with what has to stay.
    """
    if old.environment != new.environment:
        raise ConfigError(
            f"environment: a running sidecar stays in {old.environment}; restart it for {new.environment}"
        )
    config = new
    for path in _NEEDS_RESTART:
        section, _, key = path.partition(".")
        value = getattr(old, section)
        if key:
            value = msgspec.structs.replace(getattr(config, section), **{key: getattr(value, key)})
        config = msgspec.structs.replace(config, **{section: value})
    left = [*_differing(config, new)]
    before = {listener.bind: listener.socket for listener in old.listeners if listener.bind.path}
    listeners = []
    for number, listener in enumerate(config.listeners):
        kept = before.get(listener.bind, listener.socket)
        if kept != listener.socket:
            left.append(f"listeners[{number}].socket")
        listeners.append(msgspec.structs.replace(listener, socket=kept))
    config = msgspec.structs.replace(config, listeners=tuple(listeners))
    stays = f"workers stays {config.workers} until a restart"
    if faults := [f"{spelled(path)}: {fault}; {stays}" for path, fault in small_shares(config)]:
        raise ConfigError("\n".join(faults))
    return Changes(config, tuple(_differing(old, config)), tuple(left))


def _differing(one: object, other: object, path: str = "") -> Iterator[str]:
    """Yield the path of each key that differs; a list is one value."""
    if one == other:
        return
    before, after = _keys(one), _keys(other)
    if before is None or after is None or type(one) is not type(other):
        yield path
        return
    for key in sorted(before | after):
        yield from _differing(before.get(key), after.get(key), f"{path}.{key}" if path else key)


def _keys(value: object) -> dict[str, object] | None:
    if isinstance(value, msgspec.Struct):
        return {key: getattr(value, key) for key in value.__struct_fields__}
    return value if isinstance(value, dict) else None
