"""What is allowed but unsafe: findings at start, each with its mend. Pure; `look_around` looks at the machine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from proxy.config.tree import spelled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.config.model import Config
    from proxy.config.tree import Node, Path

READ = 0o004
WRITE = 0o002
"""What the mode of a file allows to every user."""


class Finding(NamedTuple):
    """One thing to mend."""

    event: str
    """Its name in the log."""
    what: str
    """Where it is, and what it is."""
    mend: str

    @property
    def text(self) -> str:
        """Where it is, what it is, and what to do."""
        return f"{self.what}; {self.mend}"


@dataclass(frozen=True, slots=True)
class FileState:
    """What is known of a file that is there."""

    own: bool
    """It belongs to the user that the sidecar runs as."""
    for_all: int
    """What every user may do with it: `READ`, `WRITE`, both or neither; folders that keep others out are counted in."""
    mounted_read_only: bool = False
    """It is on a read-only file system, as a secret is that an orchestrator mounts into a container."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a configuration is judged by; a file that is not there, or cannot be judged, is not in `files`."""

    root: bool = False
    config_file: str | None = None
    literal_secrets: tuple[Path, ...] = ()
    """The keys of the configuration file that hold a secret themselves."""
    files: Mapping[str, FileState] = field(default_factory=dict)


def findings(config: Config, around: Surroundings) -> list[Finding]:
    """Say what of a configuration is unsafe in its surroundings."""
    return [*_secret_files(config, around.files), *_config_file(around), *_root(config, around), *_open(config)]


def secret_files(config: Config) -> Iterator[tuple[Path, str]]:
    """Give each file that holds a secret, with its key; a user name is none, `check` shows it."""
    for name, account in config.accounts.items():
        if account.password_file is not None:
            yield ("accounts", name, "password_file"), account.password_file
    for index, listener in enumerate(config.listeners):
        if listener.caller_token_file is not None:
            yield ("listeners", index, "caller_token_file"), listener.caller_token_file
    if config.tokens.key_file is not None:
        yield ("tokens", "key_file"), config.tokens.key_file


def literal_secrets(tree: Node) -> Iterator[Path]:
    """Give the keys of a configuration file that hold a secret themselves."""
    for section, key, in_url in (("accounts", "password", False), ("apis", "proxy", True)):
        named = tree.find((section,))
        for name in named.value if named and isinstance(named.value, dict) else ():
            if _holds_secret(tree, path := (section, name, key), in_url=in_url):
                yield path
    if _holds_secret(tree, ("tokens", "store"), in_url=True):
        yield ("tokens", "store")


def _holds_secret(tree: Node, path: Path, *, in_url: bool) -> bool:
    node = tree.find(path)
    return node is not None and node.value is not None and ("@" in node.text or not in_url)


def _secret_files(config: Config, files: Mapping[str, FileState]) -> Iterator[Finding]:
    for path, file in secret_files(config):
        # Whoever mounts a secret into a container chooses its mode, and nobody else is there to read it.
        if (state := files.get(file)) and state.for_all and not state.mounted_read_only:
            yield Finding("unsafe-file", f"{spelled(path)}: {file} {_can(state)}", _close(file, state))


def _config_file(around: Surroundings) -> Iterator[Finding]:
    file = around.config_file
    state = around.files.get(file or "")
    if file is None or state is None or state.mounted_read_only:
        return
    if around.literal_secrets and state.for_all & READ:
        keys = ", ".join(spelled(path) for path in around.literal_secrets)
        mend = f"{_close(file, state)}, or name a file that holds it"
        yield Finding("unsafe-config", f"{file}: holds a secret ({keys}) and {_can(state)}", mend)
    elif state.for_all & WRITE:
        what = f"{file}: {_can(state)}, and it says where the password goes"
        yield Finding("unsafe-config", what, f"chmod o-w {shlex.quote(file)}")


def _root(config: Config, around: Surroundings) -> Iterator[Finding]:
    binds = [listener.bind for listener in config.listeners if not listener.bind.path]
    if around.root and binds:
        mend = "give it a user of its own (User= in systemd, user: in Compose, runAsUser in Kubernetes)"
        yield Finding("unsafe-user", f"the sidecar runs as root and listens at {binds[0]}", mend)


def _open(config: Config) -> Iterator[Finding]:
    for index, listener in enumerate(config.listeners):
        if not listener.bind.is_loopback and listener.caller_token_file is None:
            yield Finding(
                "unsafe-listener",
                f"listeners[{index}].bind: whoever reaches {listener.bind} acts as your company",
                f"set listeners[{index}].caller_token_file, or bind to loopback or a Unix socket",
            )
    store = config.tokens.store
    if store.crosses_a_network_in_clear and config.tokens.key_file is None:
        what = f"tokens.store: tokens go to {store} in the clear"
        yield Finding("unsafe-store", what, "set tokens.key_file, or use rediss://")


def _can(state: FileState) -> str:
    verbs = " and ".join(verb for bit, verb in ((READ, "read"), (WRITE, "changed")) if state.for_all & bit)
    return f"can be {verbs} by every user"


def _close(file: str, state: FileState) -> str:
    return f"chmod {'600' if state.own else 'o='} {shlex.quote(file)}"
