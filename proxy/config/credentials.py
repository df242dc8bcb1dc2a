"""The user name and password of an account, from wherever the configuration says they are."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.secret import Secret
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.model import Account

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a login sends."""

    username: str
    password: Secret


def read_credentials(account: Account, env: Mapping[str, str], name: str = "default") -> Credentials:
    """Read the credentials of an account; its files are read anew each time, so a rotated secret is found.

    `name` is the account's, for the error's text.

    Raises:
        ConfigError: a source is missing, unreadable or empty.
    """
    path = f"accounts.{name}"
    return Credentials(_username(account, path), _password(account, env, path))


class CredentialSource:
    """An account's credentials as they are now: called for each login, it reads their files anew.

    While a file is empty or gone, as in the middle of a rotation, the last good credentials stand in.
    """

    def __init__(self, account: Account, env: Mapping[str, str], name: str) -> None:
        self._account = account
        self._env = env
        self._name = name
        self._last: Credentials | None = None
        self._warned = False

    def __call__(self) -> Credentials:
        """Return the credentials; raises `ConfigError` where there never were any."""
        try:
            self._last = read_credentials(self._account, self._env, self._name)
        except ConfigError as error:
            if self._last is None:
                raise
            if not self._warned:
                log.warning("%s; the last good credentials are used", error, extra={"event": "credentials-unreadable"})
            self._warned = True
            return self._last
        self._warned = False
        return self._last


def _username(account: Account, path: str) -> str:
    if account.username_file is not None:
        return read_secret(account.username_file, f"{path}.username_file").reveal()
    if account.username is not None:
        return account.username
    raise ConfigError(f"{path}.username: required")


def _password(account: Account, env: Mapping[str, str], path: str) -> Secret:
    if account.password_file is not None:
        return read_secret(account.password_file, f"{path}.password_file")
    if account.password_env is not None:
        if not (text := env.get(account.password_env)):
            raise ConfigError(f"{path}.password_env: environment variable {account.password_env} is unset or empty")
        return Secret(text)
    if account.password is not None:
        return account.password
    raise ConfigError(f"{path}.password: required")


def read_secret(file: str, key: str) -> Secret:
    """Read a file without the one newline that an editor leaves at its end; more may belong to the secret.

    `key` is the path of the key that names the file, for the error's text.

    Raises:
        ConfigError: the file is missing, unreadable, empty or not UTF-8.
    """
    try:
        text = re.sub(r"\r?\n\Z", "", Path(file).read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{key}: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        # Its own text would quote the bytes.
        raise ConfigError(f"{key}: {file} is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"{key}: {file} is empty")
    return Secret(text)
