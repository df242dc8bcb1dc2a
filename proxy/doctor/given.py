"""What is tried: a configuration, the rooms that the sidecar would be made of, its token store and its logins."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.assembly import Assembly, why_absent
from proxy.config import StoreAddress, findings, load, look_around, read_credentials, unknown_variables
from proxy.doctor.mends import CONFIGURATION, PERMISSIONS, VARIABLES, login_finding
from proxy.doctor.network import Way
from proxy.doctor.report import Finding
from proxy.errors import ConfigError, LoginTimedOut, ProxyError
from proxy.observe.forms import JsonForm
from proxy.observe.logs import AccessLog, Lines
from proxy.tokens import TokenKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config import Config, Credentials
    from proxy.upstream import Dialler

_NO_TOKEN = TokenKey("", "doctor", "", "")
"""Where no token is ever kept."""


class Given:
    """A configuration and what `run` would make of it. A step returns what it found in words, or raises `Finding`."""

    def __init__(self, path: str | None, env: Mapping[str, str], heard: list[logging.LogRecord]) -> None:
        """`heard` is what the rooms log."""
        self.source = path or env.get("INVOISYS_CONFIG") or "environment"
        self._path = path
        self._env = env
        self._heard = heard
        self._folder_to_make: Path | None = None
        self.config: Config
        self._rooms: Assembly

    async def read(self) -> str:
        """Read the configuration and every file that it names, as `run` does."""
        try:
            self.config = load(self._path, self._env)
            for name, account in self.config.accounts.items():
                read_credentials(account, self._env, name)
            self._rooms = Assembly(self._without_traces(self.config), self._env, _no_log())
        except ConfigError as error:
            raise Finding("configuration", str(error), CONFIGURATION) from None
        config = self.config
        absent = [why_absent(name, config.environment) for name, api in config.apis.items() if api.token_url is None]
        return "; ".join((f"{config.environment}, accounts: {', '.join(config.accounts)}", *absent))

    async def look_at_variables(self) -> str:
        """Look for variables that look like ours and are not."""
        if unknown := unknown_variables(self._env):
            raise Finding("unknown-variable", "\n".join(unknown), VARIABLES, serious=False)
        return "no unknown variable begins with INVOISYS_"

    async def look_at_files(self) -> str:
        """Look for what is allowed but unsafe. Who tries is not always who runs, so the user is not judged."""
        around = dataclasses.replace(look_around(self.config, self._path, self._env), root=False)
        if unsafe := findings(self.config, around):
            text = "\n".join(each.text for each in unsafe)
            raise Finding(unsafe[0].event, text, PERMISSIONS, serious=False)
        return "no secret is open to others"

    async def try_store(self) -> str:
        """Take a lock in the token store and look into it, for a token that is never there."""
        if self._folder_to_make is not None:
            return _makeable(self._folder_to_make)
        store = self._rooms.store
        async with store.lock(_NO_TOKEN):
            await store.load(_NO_TOKEN)
        return "tokens can be shared there" if store.shared else "tokens are held in memory; nothing to try"

    async def log_in(self, account: str, api: str) -> str:
        """Get a token as one more sidecar would: a good one from a shared store, or by a login, which is kept there."""
        refresher = self._rooms.refreshers[account, api]
        try:
            token = await refresher.token()
        except LoginTimedOut:  # those who wait and the login itself give up at the same time
            error = LoginTimedOut(f"the login was not answered within {self.config.timeouts.login:g} s")
            raise login_finding(error, account=account, api=api) from None
        except ProxyError as error:
            raise login_finding(error, account=account, api=api) from None
        finally:
            refresher.stop()
        until = f"{datetime.fromtimestamp(token.expires_at.wall, UTC):%Y-%m-%d %H:%M} UTC"
        results = [getattr(record, "result", "") for record in self._heard]
        if "shared" in results:
            return f"the store has a token that is good until {until}; no login was made"
        return f"Invoisys gave a token that is good until {until}"

    # --- Where it goes ------------------------------------------------------------------------------------------------

    @property
    def servers(self) -> dict[Dialler, str]:
        """Every server once, with the first API that names it."""
        found: dict[Dialler, str] = {}
        for name, api in self.config.apis.items():
            if api.url is not None and api.token_url is not None:
                for origin in (api.url, api.token_url.origin):
                    found.setdefault(self._rooms.dialler(name, origin), name)
        return found

    @property
    def logins(self) -> list[tuple[str, str, Dialler]]:
        """Every account and API that a listener uses, and where its logins go."""
        return [
            (account, api, self._rooms.dialler(api, token_url.origin))
            for account, api in self._rooms.refreshers
            if (token_url := self.config.apis[api].token_url) is not None
        ]

    def credentials(self, account: str) -> Credentials:
        """Return what the logins of an account send."""
        return read_credentials(self.config.accounts[account], self._env, account)

    def way(self, api: str, dial: Dialler) -> Way:
        """Return the way to one of the servers."""
        return Way(api, dial, self.config.timeouts.login)

    async def close(self) -> None:
        """Let go of the store."""
        await self._rooms.store.close()

    def _without_traces(self, config: Config) -> Config:
        """Leave the making of a store's folder to the sidecar: the one who runs this trial may be another user."""
        store = config.tokens.store
        if store.kind != "file" or (folder := Path(store.where.reveal().removeprefix("file:")).parent).exists():
            return config
        self._folder_to_make = folder
        return replace(config, tokens=replace(config.tokens, store=StoreAddress.parse("memory")))


def _makeable(folder: Path) -> str:
    above = next(parent for parent in folder.parents if parent.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        mend = f"make it, with mode 0700, for the user that the sidecar runs as, or name one outside {above}"
        raise Finding("store-failed", f"{folder} is not there, and cannot be made in {above}", mend)
    return f"{folder} is not there yet; the sidecar will make it"


def _no_log() -> AccessLog:
    return AccessLog(Lines(io.BytesIO()), JsonForm(), logging.CRITICAL)
