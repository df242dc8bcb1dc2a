from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config import Bind, Config, HostName, Secret, load, unknown_variables
from proxy.errors import ConfigError

from .conftest import CREDENTIALS, Load, Refuse

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
environment: sandbox
accounts: {default: {username: file, password_env: FILE}}
listeners: [{bind: 127.0.0.1:1, hosts: [erp]}, {bind: 127.0.0.1:2}]
admin: {bind: 127.0.0.1:3}
apis:
  2.0: {url: https://file, token_url: https://file/2}
  3.0: {url: https://file, token_url: https://file/3}
log: {level: error, format: json}
"""


def test_every_variable_wins_over_the_file(accept: Load) -> None:
    config = accept(
        FILE,
        {
            "INVOISYS_ENVIRONMENT": "production",
            "INVOISYS_USERNAME": "env",
            "INVOISYS_PASSWORD": "hunter2",
            "INVOISYS_LISTEN": "unix:/env",
            "INVOISYS_ADMIN": "127.0.0.1:4",
            "INVOISYS_API_2_0_URL": "https://env2",
            "INVOISYS_API_2_0_TOKEN_URL": "https://env2/login",
            "INVOISYS_API_3_0_URL": "https://env3",
            "INVOISYS_API_3_0_TOKEN_URL": "https://env3/login",
            "INVOISYS_LOG_LEVEL": "debug",
            "INVOISYS_LOG_FORMAT": "text",
        },
    )
    assert config.environment == "production"
    assert config.accounts["default"].username == "env"
    assert config.accounts["default"].password == Secret("hunter2")
    assert config.accounts["default"].password_env is None
    assert [listener.bind for listener in config.listeners] == [Bind(path="/env"), Bind("127.0.0.1", 2)]
    assert config.listeners[0].hosts == (HostName("erp"),)
    assert config.admin.bind == Bind("127.0.0.1", 4)
    assert [str(api.url) for api in config.apis.values()] == ["https://env2", "https://env3"]
    assert [str(api.token_url) for api in config.apis.values()] == ["https://env2/login", "https://env3/login"]
    assert (config.log.level, config.log.format) == ("debug", "text")


def test_an_empty_variable_is_unset(accept: Load) -> None:
    empty = {"INVOISYS_USERNAME": "", "INVOISYS_LISTEN": "", "INVOISYS_LOG_LEVEL": "", "INVOISYS_CONFIG": ""}
    assert accept(FILE, empty) == accept(FILE, {})


def test_a_source_replaces_every_source_of_the_same_credential(accept: Load) -> None:
    account = accept(FILE, {"INVOISYS_USERNAME_FILE": "/u", "INVOISYS_PASSWORD_FILE": "/p"}).accounts["default"]
    assert (account.username, account.username_file) == (None, "/u")
    assert (account.password, account.password_file, account.password_env) == (None, "/p", None)


def test_a_credential_from_each_side(accept: Load) -> None:
    account = accept(FILE, {"INVOISYS_USERNAME": "env"}).accounts["default"]
    assert (account.username, account.password_env) == ("env", "FILE")


def test_two_sources_from_the_environment(refuse: Refuse) -> None:
    assert refuse(FILE, {"INVOISYS_PASSWORD": "hunter2", "INVOISYS_PASSWORD_FILE": "/p"}) == [
        (
            "environment variable INVOISYS_PASSWORD_FILE: accounts.default.password_file: expected one source, "
            "found password and password_file"
        )
    ]


def test_a_listener_where_the_file_has_none(accept: Load) -> None:
    assert accept("", {**CREDENTIALS, "INVOISYS_LISTEN": "unix:/x"}).listeners[0].bind == Bind(path="/x")
    assert accept("listeners: []", {**CREDENTIALS, "INVOISYS_LISTEN": "unix:/x"}).listeners[0].bind == Bind(path="/x")


def test_a_text_in_the_way_stays_a_fault(refuse: Refuse) -> None:
    assert refuse("listeners: x\naccounts: z", {**CREDENTIALS, "INVOISYS_LISTEN": "unix:/x"}) == [
        'config.yaml:2:11: accounts: expected keys, found "z"',
        'config.yaml:1:12: listeners: expected a list, found "x"',
    ]


def test_a_text_for_the_account_stays_a_fault(refuse: Refuse) -> None:
    assert refuse("accounts: {default: x}") == ['config.yaml:1:21: accounts.default: expected keys, found "x"']


def test_the_place_of_a_fault_is_the_variable() -> None:
    env = {"INVOISYS_LISTEN": "8080", "INVOISYS_LOG_LEVEL": "loud", "INVOISYS_API_3_0_URL": "http://a.com"}
    with pytest.raises(ConfigError) as caught:
        load(None, {**CREDENTIALS, **env})
    assert str(caught.value).splitlines() == [
        (
            "environment variable INVOISYS_LISTEN: listeners[0].bind: expected an address before the port: "
            '127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 for others too, found "8080"'
        ),
        (
            'environment variable INVOISYS_API_3_0_URL: apis."3.0".url: expected https:// '
            '(plain http:// is for loopback hosts alone), found "http://a.com"'
        ),
        'environment variable INVOISYS_LOG_LEVEL: log.level: expected debug, error, info or warning, found "loud"',
    ]


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("log: {level: debug}", encoding="utf-8")
    other.write_text("log: {level: error}", encoding="utf-8")
    env = {**CREDENTIALS, "INVOISYS_CONFIG": str(one)}

    def level(config: Config) -> str:
        return config.log.level

    assert level(load(None, env)) == "debug"
    assert level(load(str(other), env)) == "error"


def test_unknown_variables() -> None:
    env = {
        **CREDENTIALS,
        "INVOISYS_CONFIG": "x",
        "INVOISYS_PASWORD": "hunter2",
        "INVOISYS_LISTEN_ADDRESS": "y",
        "HOME": "/root",
        "INVOISYS_PROXY_SERVICE_HOST": "10.0.0.1",
        "INVOISYS_PROXY_SERVICE_PORT_HTTP": "80",
        "INVOISYS_PROXY_PORT": "tcp://10.0.0.1:80",
        "INVOISYS_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert unknown_variables(env) == [
        "environment variable INVOISYS_LISTEN_ADDRESS: unknown; did you mean INVOISYS_LISTEN?",
        "environment variable INVOISYS_PASWORD: unknown; did you mean INVOISYS_PASSWORD?",
    ]
