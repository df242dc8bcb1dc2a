"""The network policies of the files for Kubernetes, read: who gets in, and what the sidecar gets to."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from proxy.config.presets import PRESETS
from tests.deploy.manifests import RENDERINGS, Object, Pod, of_kind, pods, rendered, selects, with_sidecar

pytestmark = [pytest.mark.deploy, pytest.mark.needs("helm", "kubectl")]

behind_policies = pytest.mark.parametrize(
    "name", ["sidecar-production", "sidecar-file", "central-production", "helm-central", "helm-central-guide"]
)
by_name = pytest.mark.parametrize("name", [name for name in RENDERINGS if name.endswith("-cilium")])


def policies(pod: Pod, direction: str) -> list[Object]:
    return [
        each["spec"]
        for each in of_kind(pod.objects, "NetworkPolicy")
        if selects(each["spec"]["podSelector"], pod.labels) and direction in each["spec"]["policyTypes"]
    ]


def may_call(pod: Pod, address: str, port: int) -> bool:
    """Tell whether a pod may open a TCP connection to an address outside the cluster's own pods."""
    rules = [rule for policy in policies(pod, "Egress") for rule in policy.get("egress", [])]
    where = ip_address(address)
    return any(
        {"protocol": "TCP", "port": port} in rule["ports"]
        and where in ip_network(peer["ipBlock"]["cidr"])
        and not any(where in ip_network(hole) for hole in peer["ipBlock"].get("except", []))
        for rule in rules
        for peer in rule["to"]
        if "ipBlock" in peer
    )


@behind_policies
def test_it_gets_out_by_https_to_public_addresses_only(name: str) -> None:
    for pod in with_sidecar(rendered(name)):
        assert policies(pod, "Egress")
        assert may_call(pod, "200.150.1.1", 443)
        assert may_call(pod, "2804::1", 443)
        assert not any(may_call(pod, "200.150.1.1", port) for port in (22, 53, 80, 8443))
        inside = ("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "127.0.0.1", "fd00::1")
        assert not any(may_call(pod, address, 443) for address in (*inside, "169.254.169.254", "fe80::1"))


@behind_policies
def test_every_private_network_is_left_out(name: str) -> None:
    (pod, *_) = with_sidecar(rendered(name))
    for first, second in itertools.product(range(224), range(256)):
        address = IPv4Address((first << 24) + (second << 16) + 1)
        if address.is_private and not address.is_global and first not in {192, 198, 203}:
            assert not may_call(pod, str(address), 443), address


@behind_policies
def test_it_may_ask_for_names_and_for_nothing_else_inside_but_its_redis(name: str) -> None:
    for pod in with_sidecar(rendered(name)):
        inside = [
            ({(each["protocol"], each["port"]) for each in rule["ports"]}, peer)
            for policy in policies(pod, "Egress")
            for rule in policy["egress"]
            for peer in rule["to"]
            if "ipBlock" not in peer
        ]
        dns = [peer for ports, peer in inside if ports == {("UDP", 53), ("TCP", 53)}]
        assert [peer["podSelector"]["matchLabels"] for peer in dns] == [{"k8s-app": "kube-dns"}]
        others = [(ports, peer["podSelector"]["matchLabels"]) for ports, peer in inside if peer not in dns]
        redis = [({("TCP", 6379)}, {"app": "invoisys-redis"})]
        assert others == (redis if "central" in name else [])


@behind_policies
def test_its_ports_are_open_to_those_who_need_them_only(name: str) -> None:
    for pod in with_sidecar(rendered(name)):
        rules = [rule for policy in policies(pod, "Ingress") for rule in policy["ingress"]]
        who = {port["port"]: rule.get("from") for rule in rules for port in rule["ports"]}
        metrics = who.pop(9090)
        assert metrics == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
        if "central" in name:
            caller = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"invoisys-proxy": "caller"}}}
            assert who == {8080: [caller]}
        else:
            assert who == {8000: None}  # the ERP's


def test_nobody_but_the_replicas_gets_at_redis() -> None:
    objects = rendered("central-production")
    (replicas,) = with_sidecar(objects)
    (redis,) = [each for each in pods(objects) if not each.ours]
    (rule,) = [rule for policy in policies(redis, "Ingress") for rule in policy["ingress"]]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]
    assert [selects(peer["podSelector"], replicas.labels) for peer in rule["from"]] == [True]
    assert [policy.get("egress", []) for policy in policies(redis, "Egress")] == [[]]


@by_name
def test_by_name_it_gets_to_invoisys_only(name: str) -> None:
    objects = rendered(name)
    (policy,) = of_kind(objects, "CiliumNetworkPolicy")
    assert all(selects(policy["spec"]["endpointSelector"], pod.labels) for pod in with_sidecar(objects))
    names = {each["matchName"] for rule in policy["spec"]["egress"] for each in rule.get("toFQDNs", [])}
    urls = [
        url for apis in PRESETS.values() for preset in apis.values() for url in (preset.url, preset.token_url) if url
    ]
    assert names == {url.split("/")[2] for url in urls}
    # What a plain policy let out would be let out all the same.
    assert not any(may_call(pod, "200.150.1.1", 443) for pod in with_sidecar(objects))
