"""NetworkPolicies as rules of nftables: what a cluster's network does for a pod, done in the pod's namespace.

Whatever is refused is told so at once (`reject`), where most clusters say nothing. The kubelet, which always gets in,
has no part in this. Of Cilium's policies it knows what deploy/kubernetes uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.deploy.manifests import Object, of_kind, selects, space_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True)
class Member:
    """What policies know of a pod."""

    address: str
    space: str
    labels: dict[str, str]


@dataclass(frozen=True)
class Cluster:
    """The pods that there are, and the addresses of names outside."""

    pods: Sequence[Member]
    names: Mapping[str, str]

    def rules_for(self, pod: Member, objects: tuple[Object, ...]) -> str:
        """Write down what the policies among the objects let the pod do."""
        ways = (("Ingress", "input", "iifname"), ("Egress", "output", "oifname"))
        chains = [
            _chain(hook, interface, lines)
            for direction, hook, interface in ways
            if (lines := list(self._lines(direction, pod, objects)))
        ]
        return "\n".join(["table inet policies {", *chains, "}"])

    def _lines(self, direction: str, pod: Member, objects: tuple[Object, ...]) -> Iterator[str]:
        side, peers, who = ("ingress", "from", "saddr") if direction == "Ingress" else ("egress", "to", "daddr")
        for policy in of_kind(objects, "NetworkPolicy"):
            spec = policy["spec"]
            if space_of(policy) != pod.space or not selects(spec["podSelector"], pod.labels):
                continue
            if direction not in spec["policyTypes"]:
                continue
            yield f"# {policy['metadata']['name']}"
            for rule in spec.get(side, []):
                for peer in self._peers(rule.get(peers), who, pod.space):
                    yield from (
                        f"{peer} {each['protocol'].lower()} dport {each['port']} accept" for each in rule["ports"]
                    )
        if direction == "Egress":
            yield from self._lines_of_cilium(pod, objects)

    def _peers(self, peers: list[Object] | None, who: str, space: str) -> Iterator[str]:
        """Write down whom each of the peers means."""
        if peers is None:
            yield ""
            return
        for peer in peers:
            if "ipBlock" in peer:
                block = peer["ipBlock"]
                family = "ip6" if ":" in block["cidr"] else "ip"
                holes = f" {family} {who} != {{ {', '.join(block['except'])} }}" if "except" in block else ""
                yield f"{family} {who} {block['cidr']}{holes}"
            else:
                spaces = peer.get("namespaceSelector", {"matchLabels": {_SPACE: space}})
                yield from (
                    f"ip {who} {each.address}"
                    for each in self.pods
                    if selects(spaces, {_SPACE: each.space}) and selects(peer.get("podSelector", {}), each.labels)
                )

    def _lines_of_cilium(self, pod: Member, objects: tuple[Object, ...]) -> Iterator[str]:
        for policy in of_kind(objects, "CiliumNetworkPolicy"):
            if space_of(policy) != pod.space or not selects(policy["spec"]["endpointSelector"], pod.labels):
                continue
            yield f"# {policy['metadata']['name']}, by name"
            for rule in policy["spec"]["egress"]:
                addresses = [self.names[each["matchName"]] for each in rule.get("toFQDNs", [])] + [
                    each.address
                    for peer in rule.get("toEndpoints", [])
                    for each in self.pods
                    if selects(peer, {f"k8s:{_POD_SPACE}": each.space} | each.labels)
                ]
                for port in (port for ports in rule["toPorts"] for port in ports["ports"]):
                    protocols = ("tcp", "udp") if port["protocol"] == "ANY" else (port["protocol"].lower(),)
                    yield from (
                        f"ip daddr {address} {protocol} dport {port['port']} accept"
                        for address in addresses
                        for protocol in protocols
                    )


_SPACE = "kubernetes.io/metadata.name"
_POD_SPACE = "io.kubernetes.pod.namespace"


def _chain(hook: str, interface: str, lines: list[str]) -> str:
    return "\n".join(
        [
            f"chain {hook} {{",
            f"type filter hook {hook} priority 0; policy drop;",
            f'{interface} "lo" accept',
            "ct state established,related accept",
            *lines,
            "reject with icmpx type admin-prohibited",
            "}",
        ]
    )
