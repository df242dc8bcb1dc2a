"""What must agree with something else."""

from __future__ import annotations

import pytest

from proxy.config import load
from proxy.errors import ConfigError

from .conftest import CREDENTIALS, Load, Refuse

SEVERAL = "accounts: {a: {username: a, password: a}, b: {username: b, password: b}}\n"
OWN = "token_url: https://erp.example/login"


def test_no_credentials_at_all() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    assert str(caught.value).splitlines() == [
        (
            "accounts.default.username: required; set INVOISYS_USERNAME, or INVOISYS_USERNAME_FILE, "
            "or username or username_file in the file"
        ),
        (
            "accounts.default.password: required; set INVOISYS_PASSWORD, or INVOISYS_PASSWORD_FILE, "
            "or password, password_file or password_env in the file"
        ),
    ]


def test_half_the_credentials() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"INVOISYS_USERNAME": "ana"})
    assert str(caught.value).startswith("accounts.default.password: required; set INVOISYS_PASSWORD, or ")


def test_an_account_without_sources(refuse: Refuse) -> None:
    assert refuse("accounts: {shop: {}}", {}) == [
        "config.yaml:1:18: accounts.shop.username: required; set username or username_file",
        "config.yaml:1:18: accounts.shop.password: required; set password, password_file or password_env",
    ]


@pytest.mark.parametrize("text", ["accounts: {}", "log: {}"])
def test_a_file_without_accounts(refuse: Refuse, text: str) -> None:
    faults = refuse(text, {})
    assert [fault.split(";")[0] for fault in faults] == [
        f"config.yaml:1:{11 if 'accounts' in text else 1}: accounts.default.username: required",
        f"config.yaml:1:{11 if 'accounts' in text else 1}: accounts.default.password: required",
    ]


def test_several_sources(refuse: Refuse) -> None:
    text = "accounts: {a: {username: a, username_file: b, password: c, password_file: d, password_env: e}}"
    assert refuse(text, {}) == [
        "config.yaml:1:44: accounts.a.username_file: expected one source, found username and username_file",
        (
            "config.yaml:1:92: accounts.a.password_env: expected one source, "
            "found password, password_file and password_env"
        ),
    ]


def test_the_only_account_is_everybodys(accept: Load) -> None:
    config = accept("accounts: {shop: {username: a, password: b}}\nlisteners: [{}, {bind: 'unix:/x'}]", {})
    assert [listener.account for listener in config.listeners] == ["shop", "shop"]


def test_one_of_several_accounts(accept: Load) -> None:
    config = accept(SEVERAL + "listeners: [{account: b}, {account: a, bind: 'unix:/x'}]", {})
    assert [listener.account for listener in config.listeners] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            SEVERAL + "listeners: [{}]",
            "config.yaml:2:13: listeners[0].account: required where there are several accounts: a or b",
        ),
        (SEVERAL, "config.yaml:1:1: listeners[0].account: required where there are several accounts: a or b"),
        (
            SEVERAL + "listeners: [{account: c}]",
            'config.yaml:2:23: listeners[0].account: expected the name of an account, found "c"; known here: a, b',
        ),
        (
            "accounts: {shop: {username: a, password: b}}\nlisteners: [{account: shopp}]",
            (
                'config.yaml:2:23: listeners[0].account: expected the name of an account, found "shopp"; '
                "did you mean shop?"
            ),
        ),
    ],
)
def test_which_account(refuse: Refuse, text: str, fault: str) -> None:
    assert refuse(text, {}) == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "listeners: [{bind: '0.0.0.0:8'}]",
            (
                'config.yaml:1:20: listeners[0].bind: expected a loopback address or a Unix socket, found "0.0.0.0:8"; '
                "set listeners[0].expose to true, or listeners[0].caller_token_file, to let other machines in"
            ),
        ),
        (
            "admin: {bind: '[::]:90'}",
            (
                'config.yaml:1:15: admin.bind: expected a loopback address or a Unix socket, found "[::]:90"; '
                "set admin.expose to true to let other machines in"
            ),
        ),
    ],
)
def test_addresses_beyond_loopback(refuse: Refuse, text: str, fault: str) -> None:
    assert refuse(text) == [fault]


@pytest.mark.parametrize(
    "text",
    [
        "listeners: [{bind: '0.0.0.0:80', expose: true}]",
        "listeners: [{bind: '0.0.0.0:80', caller_token_file: /x}]",
        "admin: {bind: '0.0.0.0:80', expose: true}",
        "listeners: [{bind: 'unix:/x'}, {bind: 'unix:@x'}, {bind: 'localhost:1'}, {bind: '127.0.0.2:1'}]",
        "listeners: [{bind: '127.0.0.1:0'}, {bind: '127.0.0.1:0'}]",
        "listeners: [{bind: 'unix:/x', socket: {mode: '0600', owner: erp, group: 7}, uids: [erp, 1000]}]",
        "listeners: [{bind: 'unix:@x', socket: {}, uids: [0]}]",
        "listeners: [{socket: {mode: '0660', owner: null}, uids: []}]",
        "admin: {bind: 'unix:/x', socket: {group: operators}}",
    ],
)
def test_addresses_that_are_fine(accept: Load, text: str) -> None:
    accept(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "listeners: [{bind: 'localhost:1'}, {bind: 'localhost:1'}]",
            (
                "config.yaml:1:43: listeners[1].bind: expected an address of its own, "
                "found that of listeners[0].bind: localhost:1"
            ),
        ),
        (
            "listeners: [{bind: 'unix:/x'}]\nadmin: {bind: 'unix:/x'}",
            "config.yaml:2:15: admin.bind: expected an address of its own, found that of listeners[0].bind: unix:/x",
        ),
        (
            "listeners: [{bind: '127.0.0.1:9090'}]",
            (
                "config.yaml:1:1: admin.bind: expected an address of its own, "
                "found that of listeners[0].bind: 127.0.0.1:9090"
            ),
        ),
    ],
)
def test_addresses_taken_twice(refuse: Refuse, text: str, fault: str) -> None:
    assert refuse(text) == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "listeners: [{socket: {mode: '0600'}}]",
            (
                "config.yaml:1:22: listeners[0].socket: expected only beside the path of a Unix socket; "
                "listeners[0].bind is 127.0.0.1:8080"
            ),
        ),
        (
            "listeners: [{bind: 'unix:@x', socket: {owner: erp}}]",
            (
                "config.yaml:1:39: listeners[0].socket: expected only beside the path of a Unix socket; "
                "listeners[0].bind is unix:@x"
            ),
        ),
        (
            "admin: {socket: {group: 7}}",
            (
                "config.yaml:1:17: admin.socket: expected only beside the path of a Unix socket; "
                "admin.bind is 127.0.0.1:9090"
            ),
        ),
        (
            "listeners: [{uids: [1000]}]",
            (
                "config.yaml:1:20: listeners[0].uids: expected only beside a Unix socket; "
                "listeners[0].bind is 127.0.0.1:8080"
            ),
        ),
    ],
)
def test_keys_of_a_unix_socket_beside_another_address(refuse: Refuse, text: str, fault: str) -> None:
    assert refuse(text) == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "apis: {2.0: {url: 'https://erp.example'}}",
            (
                'config.yaml:1:13: apis."2.0".token_url: required beside a url of your own; '
                "set it, or INVOISYS_API_2_0_TOKEN_URL"
            ),
        ),
        (
            "environment: production\napis: {3.0: {token_url: 'https://erp.example/login'}}",
            'config.yaml:2:13: apis."3.0".url: required beside a token_url; set it, or INVOISYS_API_3_0_URL',
        ),
        (
            "apis: {2.0: {url: 'https://api.invoisys.com.br', " + OWN + "}}",
            (
                'config.yaml:1:19: apis."2.0".url: expected a server of the environment sandbox, '
                "found api.invoisys.com.br; sandbox and production do not mix"
            ),
        ),
        (
            "apis: {2.0: {token_url: 'https://API.invoisys.com.br/api/token'}}",
            (
                'config.yaml:1:25: apis."2.0".token_url: expected a server of the environment sandbox, '
                "found api.invoisys.com.br; sandbox and production do not mix"
            ),
        ),
        (
            "environment: production\napis: {3.0: {url: 'https://sandbox-api.invoisys.io', " + OWN + "}}",
            (
                'config.yaml:2:19: apis."3.0".url: expected a server of the environment production, '
                "found sandbox-api.invoisys.io; sandbox and production do not mix"
            ),
        ),
        (
            "apis: {3.0: {prefix: /api/}}",
            (
                'config.yaml:1:22: apis."3.0".prefix: expected a path apart from apis."2.0".prefix, '
                'which is /api/, found "/api/"'
            ),
        ),
        (
            "apis: {2.0: {prefix: /v1/nfe/}}",
            (
                'config.yaml:1:7: apis."3.0".prefix: expected a path apart from apis."2.0".prefix, '
                'which is /v1/nfe/, found "/v1/"'
            ),
        ),
        (
            "apis: {2.0: {prefix: /}}",
            (
                'config.yaml:1:7: apis."3.0".prefix: expected a path apart from apis."2.0".prefix, '
                'which is /, found "/v1/"'
            ),
        ),
    ],
)
def test_apis_that_do_not_agree(refuse: Refuse, text: str, fault: str) -> None:
    assert refuse(text) == [fault]


@pytest.mark.parametrize("prefix", ["", "api", "/api", "api/", "//", "/a//b/", "/../", "/a?/", "/a/\n"])
def test_what_is_no_prefix(refuse: Refuse, prefix: str) -> None:
    (fault,) = refuse(f"apis: {{2.0: {{prefix: {prefix!r}}}}}".replace("'", '"'))
    assert 'apis."2.0".prefix: expected a path that begins and ends with /, such as /api/, found ' in fault


def test_a_token_url_beside_the_known_url(accept: Load) -> None:
    apis = accept("apis: {2.0: {" + OWN + "}}").apis
    assert str(apis["2.0"].url) == "https://sandbox-api.invoisys.com.br"
    assert str(apis["2.0"].token_url) == "https://erp.example/login"


def test_the_known_url_written_out(accept: Load) -> None:
    apis = accept("apis: {2.0: {url: 'https://sandbox-api.invoisys.com.br/', token_url: null}}").apis
    assert str(apis["2.0"].token_url) == "https://sandbox-api.invoisys.com.br/api/token"


@pytest.mark.parametrize("key", ["url", "token_url"])
@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ("sandbox", "api.invoisys.com.br"),
        ("sandbox", "API.Invoisys.COM.BR"),
        ("sandbox", "api.invoisys.io:8443"),
        ("sandbox", "eu.api.invoisys.com.br"),
        ("sandbox", "login.invoisys.com.br"),
        ("sandbox", "invoisys.com.br"),
        ("production", "sandbox-api.invoisys.com.br"),
        ("production", "SANDBOX-API.invoisys.io"),
        ("production", "sandbox-api.invoisys.io:443"),
        ("production", "eu.sandbox-api.invoisys.com.br"),
        ("production", "sandbox.invoisys.io"),
    ],
)
def test_environments_do_not_mix(refuse: Refuse, environment: str, host: str, key: str) -> None:
    urls = {"url": "https://erp.example", "token_url": "https://erp.example/login"}
    urls[key] = f"https://{host}" + ("/api/token" if key == "token_url" else "")
    (fault,) = refuse(
        f"environment: {environment}\napis: {{2.0: {{url: '{urls['url']}', token_url: '{urls['token_url']}'}}}}"
    )
    assert f'apis."2.0".{key}: expected a server of the environment {environment}, found ' in fault
    assert fault.endswith("sandbox and production do not mix")


@pytest.mark.parametrize("host", ["api.invoisys.com.br.", "api.invoisys.com.br%2e", "api.invoisys.com.br\u3002"])
@pytest.mark.parametrize("key", ["url", "token_url"])
def test_a_host_written_in_another_way_is_none(refuse: Refuse, host: str, key: str) -> None:
    urls = {"url": "https://erp.example", "token_url": "https://erp.example/login", key: f"https://{host}"}
    (fault,) = refuse(f"apis: {{2.0: {{url: '{urls['url']}', token_url: '{urls['token_url']}'}}}}")
    assert f'apis."2.0".{key}: expected ' in fault


@pytest.mark.parametrize("host", ["notinvoisys.com.br", "invoisys.com.br.example", "api.invoisys.example"])
@pytest.mark.parametrize("environment", ["sandbox", "production"])
def test_a_server_of_others_belongs_to_either_environment(accept: Load, environment: str, host: str) -> None:
    accept(f"environment: {environment}\napis: {{2.0: {{url: 'https://{host}', token_url: 'https://{host}/x'}}}}")


@pytest.mark.parametrize("environment", ["sandbox", "production"])
def test_loopback_belongs_to_either_environment(accept: Load, environment: str) -> None:
    apis = "apis: {2.0: {url: 'http://127.0.0.1:1', token_url: 'http://[::1]:2/api/token'}}"
    config = accept(f"environment: {environment}\n{apis}")
    assert str(config.apis["2.0"].token_url) == "http://[::1]:2/api/token"


@pytest.mark.parametrize("store", ["memory", "file:/run/x/tokens.json"])
def test_a_key_file_without_a_redis(refuse: Refuse, store: str) -> None:
    (fault,) = refuse(f"tokens: {{store: {store}, key_file: /key}}")
    column = 29 + len(store)
    expected = "tokens.key_file: expected only beside a store in Redis"
    assert fault == f"config.yaml:1:{column}: {expected}; tokens.store is {store}"


def test_a_key_file_beside_a_redis(accept: Load) -> None:
    assert accept("tokens: {store: 'redis://redis:6379/0', key_file: /key}").tokens.key_file == "/key"


def test_a_part_with_faults_of_its_own_is_not_judged_further(refuse: Refuse) -> None:
    text = "accounts: {a: {username: 1}}\nlisteners: [{bind: x}, {bind: y}]\napis: {2.0: {url: x}}\nenvironment: x\n"
    assert [fault.split(": expected")[0] for fault in refuse(text, CREDENTIALS | {"INVOISYS_ADMIN": "x"})] == [
        "config.yaml:4:14: environment",
        "config.yaml:1:26: accounts.a.username",
        "config.yaml:2:20: listeners[0].bind",
        "config.yaml:2:31: listeners[1].bind",
        "environment variable INVOISYS_ADMIN: admin.bind",
        'config.yaml:3:19: apis."2.0".url',
    ]


def test_bodies_are_not_inspected_in_production(refuse: Refuse) -> None:
    text = "environment: production\nadmin: {inspect_bodies: true}\n"
    assert refuse(text) == [
        (
            "config.yaml:2:25: admin.inspect_bodies: expected false in production, found true:"
            " whoever sees the status page would see the documents"
        )
    ]


def test_each_worker_has_a_share_that_is_of_use(accept: Load, refuse: Refuse) -> None:
    few = "workers: 8\nlimits: {connections: 7, replay_memory: 16MiB}"
    assert refuse(few) == [
        "config.yaml:2:23: limits.connections: expected at least one for each of 8 workers, found the number 7",
        (
            "config.yaml:2:41: limits.replay_memory: expected at least 32MiB, "
            "a limits.replay_body for each of 8 workers, found 16MiB"
        ),
    ]
    accept("workers: 8\nlimits: {connections: 8, replay_memory: 32MiB}")
    accept("workers: 8\nlimits: {replay_body: 2MiB, replay_memory: 16MiB}")
    accept("workers: 1\nlimits: {replay_memory: 1MiB}")  # there it is no more than a tighter budget
    assert len(refuse("workers: 8\nlimits: {connections: 7, waiting: 0}")) == 1
