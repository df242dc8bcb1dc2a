"""What a token belongs to: no other environment, account, API, address or secret ever finds it."""

from __future__ import annotations

from itertools import combinations

from proxy.config import Credentials, Secret
from proxy.tokens import TokenKey

KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token")


def of(username: str, password: str) -> TokenKey:
    return KEY.of(Credentials(username, Secret(password)))


def test_other_credentials_have_another_key() -> None:
    keys = [of("ab", "c"), of("a", "bc"), of("ab", "d"), of("ba", "c"), of("ab", "ç"), of("ab", "\udce7")]
    for one, other in combinations(keys, 2):
        assert one != other
        assert one.digest != other.digest
    assert of("ab", "c") == keys[0]


def test_a_key_shows_no_secret() -> None:
    assert "segredo" not in repr(of("user", "segredo"))
