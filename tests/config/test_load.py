"""The whole way from a text to a configuration, and what is told of a text that does not make one."""

from __future__ import annotations

import pytest
import yaml

from proxy.config import Bind, Config, HttpUrl, Origin, Secret, load, redacted

from .conftest import CREDENTIALS, Load, Refuse

CONTRACT = """
environment: sandbox
accounts:
  default: {username: integracao@empresa.com.br, password_file: /run/secrets/invoisys_password}
listeners:
  - bind: 127.0.0.1:8080
    account: default            # may be left out where there is one account
    hosts: []                   # further Host names that callers use, e.g. a compose service name
    origins: []                 # browser origins let in
    caller_token_file: null     # callers then send "Authorization: Bearer <it>"
    rules: []                   # e.g. "GET /api/*", "POST /api/nfe/envio"; none = all
    expose: false               # must be true to bind beyond loopback without a caller token
    token_endpoint: stub        # stub | deny: what POST /api/token gets
admin: {bind: 127.0.0.1:9090}
apis:                           # each defaults from the environment
  "2.0": {prefix: /api/, url: https://sandbox-api.invoisys.com.br, token_url: https://sandbox-api.invoisys.com.br/api/token, ca_file: null, proxy: null}
  "3.0": {prefix: /v1/,  url: https://sandbox-api.invoisys.io, token_url: https://sandbox-api.invoisys.com.br/api/token}
tokens: {refresh_every: 12h, store: memory}        # memory | file:/path | redis://host/0
timeouts: {connect: 5s, login: 15s, response: 180s, idle: 60s}
limits: {connections: 100, waiting: 1000, replay_body: 4MiB, replay_memory: 64MiB}
drain: {delay: 0s, timeout: 25s}
log: {level: info, format: json}
"""  # noqa: E501 - the contract, word by word

SANDBOX_LOGIN = HttpUrl(Origin("https", "sandbox-api.invoisys.com.br", 443), "/api/token")


def test_the_contract_loads(accept: Load) -> None:
    config = accept(CONTRACT, {})
    assert config.accounts["default"].password_file == "/run/secrets/invoisys_password"
    assert config.listeners[0].bind == Bind("127.0.0.1", 8080)
    assert config.log.format == "json"
    assert config.timeouts.response == 180.0
    assert config.limits.replay_memory == 64 * 1024 * 1024


def test_the_contract_is_made_of_defaults(accept: Load) -> None:
    env = {
        "INVOISYS_USERNAME": "integracao@empresa.com.br",
        "INVOISYS_PASSWORD_FILE": "/run/secrets/invoisys_password",
        "INVOISYS_LOG_FORMAT": "json",
    }
    assert accept(CONTRACT, {}) == load(None, env)


def test_the_environment_alone_is_enough() -> None:
    config = load(None, CREDENTIALS)
    assert config.environment == "sandbox"
    assert config.accounts["default"].username == "ana"
    assert config.accounts["default"].password == Secret("hunter2")
    assert config.listeners[0].account == "default"
    assert config.admin.bind == Bind("127.0.0.1", 9090)
    assert config.apis["2.0"].prefix == "/api/"
    assert config.apis["2.0"].url == Origin("https", "sandbox-api.invoisys.com.br", 443)
    assert config.apis["2.0"].token_url == SANDBOX_LOGIN
    assert config.apis["3.0"].prefix == "/v1/"
    assert config.apis["3.0"].url == Origin("https", "sandbox-api.invoisys.io", 443)
    assert config.apis["3.0"].token_url == SANDBOX_LOGIN
    assert config.tokens.refresh_every == 43200.0
    assert (config.timeouts.connect, config.timeouts.login, config.timeouts.idle) == (5.0, 15.0, 60.0)
    assert (config.limits.connections, config.limits.waiting) == (100, 1000)
    assert (config.drain.delay, config.drain.timeout) == (0.0, 25.0)
    assert (config.log.level, config.log.format) == ("info", None)


def test_production_knows_no_3_0() -> None:
    config = load(None, {**CREDENTIALS, "INVOISYS_ENVIRONMENT": "production"})
    assert str(config.apis["2.0"].url) == "https://api.invoisys.com.br"
    assert str(config.apis["2.0"].token_url) == "https://api.invoisys.com.br/api/token"
    assert config.apis["3.0"].prefix == "/v1/"
    assert config.apis["3.0"].url is None
    assert config.apis["3.0"].token_url is None


def test_the_configuration_is_frozen() -> None:
    config = load(None, CREDENTIALS)
    with pytest.raises(AttributeError, match="immutable"):
        config.log.level = "debug"  # type: ignore[misc]


def test_every_fault_is_told_at_once(refuse: Refuse) -> None:
    text = """\
environment: prod
accounts:
  default: {username: 12, password: 12, pasword: hunter2}
listeners:
  - bind: ":80"
    expos: true
  - 3
apis:
  2.0: {prefix: /v1, proxy: http://u:hunter2@a:x}
  2.1: {}
tokens: {store: 'redis://u:hunter2@host'}
timeouts: {connect: 30, login: 0s, response: [1], idle: soon}
limits: {connections: 0, waiting: many, replay_body: 5}
admin: null
log: {level: loud, format: xml}
colour: blue
"""
    assert refuse(text, {}) == [
        (
            "config.yaml:16:1: colour: unknown key; known here: environment, workers, accounts, listeners, admin, "
            "apis, tokens, timeouts, limits, drain, log"
        ),
        'config.yaml:1:14: environment: expected production or sandbox, found "prod"',
        "config.yaml:3:41: accounts.default.pasword: unknown key; did you mean password?",
        "config.yaml:3:23: accounts.default.username: expected text, found the number 12; put it in quotes",
        (
            "config.yaml:3:37: accounts.default.password: expected text, "
            "found another kind of value (not shown); put it in quotes"
        ),
        "config.yaml:6:5: listeners[0].expos: unknown key; did you mean expose?",
        (
            "config.yaml:5:11: listeners[0].bind: expected an address before the port: 127.0.0.1:8080 for this machine "
            'alone, 0.0.0.0:8080 for others too, found ":80"'
        ),
        "config.yaml:7:5: listeners[1]: expected keys, found the number 3",
        "config.yaml:14:8: admin: expected keys, found nothing",
        'config.yaml:10:3: apis."2.1": unknown key; did you mean 2.0?',
        'config.yaml:9:17: apis."2.0".prefix: expected a path that begins and ends with /, such as /api/, found "/v1"',
        (
            'config.yaml:9:29: apis."2.0".proxy: expected a proxy such as http://host:3128 or '
            'http://user:password@host:3128, found "http://***@a:x"'
        ),
        (
            "config.yaml:11:17: tokens.store: expected memory, file:/path, redis://host:6379/0 or "
            'rediss://user:password@host:6379/0, found "redis://***@host"'
        ),
        "config.yaml:12:21: timeouts.connect: expected a unit after the number (ms, s, m, h or d), found the number 30",
        'config.yaml:12:32: timeouts.login: expected more than 0, found "0s"',
        "config.yaml:12:46: timeouts.response: expected a duration such as 500ms, 30s, 5m, 12h or 1d, found a list",
        'config.yaml:12:57: timeouts.idle: expected a duration such as 500ms, 30s, 5m, 12h or 1d, found "soon"',
        "config.yaml:13:23: limits.connections: expected a whole number, at least 1, found the number 0",
        'config.yaml:13:35: limits.waiting: expected a whole number, at least 1, found "many"',
        (
            "config.yaml:13:54: limits.replay_body: expected a unit after the number (B, KiB, MiB or GiB), "
            "found the number 5"
        ),
        'config.yaml:15:14: log.level: expected debug, error, info or warning, found "loud"',
        'config.yaml:15:28: log.format: expected json or text, found "xml"',
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("listeners: {}", "config.yaml:1:12: listeners: expected a list, found keys"),
        ("listeners: []", "config.yaml:1:12: listeners: expected a list that is not empty"),
        ("listeners: [{hosts: a}]", 'config.yaml:1:21: listeners[0].hosts: expected a list, found "a"'),
        (
            "listeners: [{hosts: [a, 1.5]}]",
            "config.yaml:1:25: listeners[0].hosts[1]: expected text, found the number 1.5; put it in quotes",
        ),
        (
            "listeners: [{expose: 1}]",
            "config.yaml:1:22: listeners[0].expose: expected true or false, found the number 1",
        ),
        (
            "listeners: [{bind: true}]",
            (
                "config.yaml:1:20: listeners[0].bind: expected an address such as "
                "127.0.0.1:8080, [::1]:8080 or unix:/path, found true"
            ),
        ),
        (
            "listeners: [{bind: 1:30}]",
            (
                "config.yaml:1:20: listeners[0].bind: expected text, found 1:30, "
                'which YAML reads as the number 90; write 90, or "1:30" for the text'
            ),
        ),
        (
            "listeners: [{bind: }]",
            (
                "config.yaml:1:19: listeners[0].bind: expected an address such as "
                "127.0.0.1:8080, [::1]:8080 or unix:/path, found nothing"
            ),
        ),
        (
            "listeners: [{bind: 'unix:/x', socket: {mode: 0660}}]",
            (
                'config.yaml:1:46: listeners[0].socket.mode: expected four octal digits in quotes, such as "0660", '
                'found 0660, which YAML reads as the number 432; write 432, or "0660" for the text'
            ),
        ),
        (
            "listeners: [{bind: 'unix:/x', socket: {mode: 432}}]",
            (
                'config.yaml:1:46: listeners[0].socket.mode: expected four octal digits in quotes, such as "0660", '
                "found the number 432"
            ),
        ),
        (
            "listeners: [{bind: 'unix:/x', uids: [a b]}]",
            ('config.yaml:1:38: listeners[0].uids[0]: expected a name or a number, such as erp or 1000, found "a b"'),
        ),
        ("log: {level: null}", "config.yaml:1:14: log.level: expected debug, error, info or warning, found nothing"),
        (
            "limits: {waiting: true}",
            "config.yaml:1:19: limits.waiting: expected a whole number, at least 1, found true",
        ),
        ("drain: {timeout: 0s}", 'config.yaml:1:18: drain.timeout: expected more than 0, found "0s"'),
        ("environment: [sandbox]", "config.yaml:1:14: environment: expected production or sandbox, found a list"),
        ("apis: [2.0]", "config.yaml:1:7: apis: expected keys, found a list"),
        ("apis: {2.0: {ca_file: ''}}", 'config.yaml:1:23: apis."2.0".ca_file: expected text, found ""'),
        ("accounts:", "config.yaml:1:10: accounts: expected keys, found nothing"),
        (
            "accounts: {default: {username: a, password: ''}}",
            "config.yaml:1:45: accounts.default.password: expected text, found an empty one",
        ),
        (
            "accounts: {default: {username: a, password: [hunter2]}}",
            "config.yaml:1:45: accounts.default.password: expected text, found a list",
        ),
        (
            "accounts: {default: {username: a, password: 0777}}",
            (
                "config.yaml:1:45: accounts.default.password: expected text, "
                "found another kind of value (not shown); put it in quotes"
            ),
        ),
        (
            f"log: {{level: {'x' * 99}}}",
            f'config.yaml:1:14: log.level: expected debug, error, info or warning, found "{"x" * 80}…"',
        ),
    ],
)
def test_what_is_not_as_expected(refuse: Refuse, text: str, fault: str) -> None:
    assert refuse(text, {} if "accounts" in text else CREDENTIALS) == [fault]


@pytest.mark.parametrize(
    "url",
    [
        "https://u:hunter2@a.com",
        "https://u:hun/ter2@a.com",
        "u:p//hunter2@a.com",
        "https:u:hunter2@a.com",
        "u:hun\n\nter2@a.com",
    ],
)
def test_the_password_in_a_url_is_not_shown(refuse: Refuse, url: str) -> None:
    (fault,) = refuse(f"apis: {{2.0: {{url: '{url}', token_url: 'https://a'}}}}")
    assert fault.startswith('config.yaml:1:19: apis."2.0".url: expected ')
    assert "ter2" not in fault


def test_the_password_of_an_egress_proxy_is_not_shown(accept: Load) -> None:
    config = accept("apis: {2.0: {proxy: 'http://user:hun%40ter2@proxy.example:3128'}}")
    egress = config.apis["2.0"].proxy
    assert egress is not None
    assert egress.credentials is not None
    assert egress.credentials.reveal() == "user:hun@ter2"
    assert (egress.host, egress.port, str(egress)) == ("proxy.example", 3128, "http://***@proxy.example:3128")
    assert "ter2" not in redacted(config) + repr(config)


@pytest.mark.parametrize(
    "url", ["https://a:1", "socks5://a:1", "http://a:0", "http://a:1/path", "http://[::x]:1", "a:1"]
)
def test_what_is_no_egress_proxy(refuse: Refuse, url: str) -> None:
    (fault,) = refuse(f"apis: {{2.0: {{proxy: '{url}'}}}}")
    assert "expected a proxy such as http://host:3128" in fault


def test_the_password_of_a_redis_is_not_shown(accept: Load) -> None:
    config = accept("tokens: {store: 'rediss://user:hun%40ter2@redis.example:6380/1', key_file: /k}")
    assert config.tokens.store.where.reveal() == "rediss://user:hun%40ter2@redis.example:6380/1"
    assert str(config.tokens.store) == "rediss://***@redis.example:6380/1"
    assert "rediss://***@redis.example:6380/1" in redacted(config)
    assert "ter2" not in redacted(config) + repr(config)


def test_what_may_be_zero(accept: Load) -> None:
    config = accept("drain: {delay: 0s}\nlimits: {replay_body: 0B, replay_memory: 0B}")
    assert (config.drain.delay, config.limits.replay_body, config.limits.replay_memory) == (0.0, 0, 0)


def test_redacted_shows_what_is_in_force() -> None:
    env = {**CREDENTIALS, "INVOISYS_ENVIRONMENT": "production", "INVOISYS_LOG_FORMAT": "text"}
    text = redacted(load(None, env))
    assert "hunter2" not in text
    assert (
        text
        == """\
environment: production
workers: 1
accounts:
  default:
    username: ana
    password: '***'
listeners:
- bind: 127.0.0.1:8080
  socket:
    mode: '0660'
  uids: []
  account: default
  hosts: []
  origins: []
  rules: []
  expose: false
  via: false
  forwarded: none
  token_endpoint: stub
admin:
  bind: 127.0.0.1:9090
  socket:
    mode: '0660'
  hosts: []
  expose: false
  inspect_bodies: false
apis:
  '2.0':
    prefix: /api/
    url: https://api.invoisys.com.br
    token_url: https://api.invoisys.com.br/api/token
    trust_env: false
  '3.0':
    prefix: /v1/
    trust_env: false
tokens:
  refresh_every: 12h
  store: memory
timeouts:
  connect: 5s
  login: 15s
  response: 3m
  idle: 1m
  head: 30s
  keep_alive: 75s
limits:
  connections: 100
  waiting: 1000
  caller_connections: 16384
  replay_body: 4MiB
  replay_memory: 64MiB
drain:
  delay: 0s
  timeout: 25s
log:
  level: info
  format: text
"""
    )


def test_what_redacted_shows_can_be_loaded(accept: Load) -> None:
    config = accept(CONTRACT, {})
    assert accept(redacted(config), {}) == config
    assert isinstance(config, Config)
    assert yaml.safe_load(redacted(config))["log"] == {"level": "info", "format": "json"}
