"""The sidecar in a pod, played in network namespaces behind the policies of deploy/kubernetes."""

from __future__ import annotations

import asyncio
import copy
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.deploy.manifests import Pod, of_kind, rendered, with_sidecar
from tests.deploy.played import ELSEWHERE, HTTP, HTTPS, INVOISYS, RESOLVER, SERVER_OF_NAMES, outside, sidecar_in
from tests.deploy.policies import Cluster, Member
from tests.support.netns import Network, open_port, reach
from tests.support.wire import Reply, ask, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.deploy, pytest.mark.needs("kubectl")]

OF_THE_ERP = 8000
CALLERS = 8080
OPERATOR = 9090

POD = "10.244.1.2"
NEIGHBOUR = "10.244.1.3"
PROMETHEUS = "10.244.2.2"


def narrowed(pod: Pod) -> Pod:
    """Do as egress/network-policy.yaml says: the addresses of Invoisys, in the place of the two blocks."""
    objects = copy.deepcopy(pod.objects)
    (egress,) = [each for each in of_kind(objects, "NetworkPolicy") if each["metadata"]["name"] == "invoisys-egress"]
    (https,) = [rule for rule in egress["spec"]["egress"] if any("ipBlock" in peer for peer in rule["to"])]
    https["to"] = [{"ipBlock": {"cidr": f"{INVOISYS}/32"}}]
    return replace(pod, objects=objects)


@pytest.mark.parametrize(
    ("overlay", "change", "elsewhere_by_https"),
    [
        ("sidecar-sandbox", lambda pod: pod, "open"),
        ("sidecar-sandbox", narrowed, "forbidden"),
        ("sidecar-file", lambda pod: pod, "open"),
        ("sidecar-production-cilium", lambda pod: pod, "forbidden"),
    ],
    ids=["public", "narrowed", "file", "by-name"],
)
async def test_behind_its_policies_it_serves_the_erp_and_only_invoisys_is_let_through(
    overlay: str, change: Callable[[Pod], Pod], elsewhere_by_https: str, network: Network, tmp_path: Path
) -> None:
    around = outside(network, tmp_path, "wires")
    place = network.add("pod", wires=POD, resolver=RESOLVER)
    neighbour = network.add("neighbour", wires=NEIGHBOUR)
    prometheus = network.add("prometheus", wires=PROMETHEUS)
    place.offer(open_port(OF_THE_ERP))
    neighbour.offer(open_port(HTTPS))
    (pod,) = [each for each in with_sidecar(rendered(overlay)) if each.workload["kind"] == "Deployment"]
    pod = change(pod)
    own = Member(POD, pod.space, pod.labels)
    others = [
        Member(NEIGHBOUR, pod.space, {"app": "another"}),
        Member(PROMETHEUS, "monitoring", {"app": "prometheus"}),
        SERVER_OF_NAMES,
    ]
    assert await reach(place, ELSEWHERE, HTTP) == "open"  # as yet
    assert await reach(place, NEIGHBOUR, HTTPS) == "open"
    place.rule(Cluster([own, *others], around.names).rules_for(own, pod.objects))

    with sidecar_in(place, pod.laid_out(tmp_path), around) as proxy:
        assert (await place.run(proxy.issue(1))).status == 200
        # What is let out.
        assert await reach(place, ELSEWHERE, HTTPS) == elsewhere_by_https
        assert await reach(place, ELSEWHERE, HTTP) == "forbidden"
        assert await reach(place, NEIGHBOUR, HTTPS) == "forbidden"
        # What is let in.
        assert await reach(neighbour, POD, OF_THE_ERP) == "open"
        assert await reach(neighbour, POD, CALLERS) == "forbidden"
        assert await reach(neighbour, POD, OPERATOR) == "forbidden"
        assert await reach(prometheus, POD, CALLERS) == "forbidden"
        metrics = await prometheus.run(ask(f"http://{POD}:{OPERATOR}", "GET", "/metrics"))
        assert b"invoisys_proxy_" in metrics.body
        # And it goes on without harm.
        assert (await place.run(proxy.issue(2))).status == 200
    state = await around.state()
    assert (state["logins"], state["documents"]) == (1, 2)


async def test_without_policies_a_neighbour_gets_to_the_probes_and_to_no_caller_s_port(
    network: Network, tmp_path: Path
) -> None:
    around = outside(network, tmp_path, "wires")
    place = network.add("pod", wires=POD, resolver=RESOLVER)
    neighbour = network.add("neighbour", wires=NEIGHBOUR)
    pod, *_ = with_sidecar(rendered("sidecar-sandbox"))
    with sidecar_in(place, pod.laid_out(tmp_path), around):
        assert await reach(neighbour, POD, CALLERS) == "refused"
        assert (await neighbour.run(ask(f"http://{POD}:{OPERATOR}", "GET", "/livez"))).status == 200


async def test_a_name_that_leads_to_another_pod_leads_nowhere(network: Network, tmp_path: Path) -> None:
    around = outside(network, tmp_path, "wires")
    place = network.add("pod", wires=POD, resolver=RESOLVER)
    neighbour = network.add("neighbour", wires=NEIGHBOUR)
    neighbour.offer(open_port(HTTPS))
    pod, *_ = with_sidecar(rendered("sidecar-sandbox"))
    own = Member(POD, pod.space, pod.labels)
    place.rule(Cluster([own, SERVER_OF_NAMES], around.names).rules_for(own, pod.objects))
    around.names["sandbox-api.invoisys.io"] = NEIGHBOUR  # where requests to 3.0 go, and no login
    with sidecar_in(place, pod.laid_out(tmp_path), around) as proxy:
        refused = await place.run(proxy.ask("GET", "/v1/nfe-entrada/eventos-nsui/12345678000195/0"))
        assert (refused.status, refused["X-Invoisys-Outcome"]) == (502, "not-sent")
        assert (await place.run(proxy.issue(1))).status == 200


async def test_a_job_s_sidecar_ends_when_it_is_told_although_a_connection_stands_open(
    network: Network, tmp_path: Path
) -> None:
    around = outside(network, tmp_path, "wires")
    place = network.add("pod", wires=POD, resolver=RESOLVER)
    (pod,) = [each for each in with_sidecar(rendered("sidecar-sandbox")) if each.workload["kind"] == "Job"]
    document = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1"}'
    head = "POST /api/nfe/envio HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n\r\n"
    with sidecar_in(place, pod.laid_out(tmp_path), around) as proxy:

        async def task() -> Reply:
            writer.write((head % (CALLERS, len(document))).encode() + document)
            return await read_reply(reader)

        async def see_it_end() -> bytes:
            rest = await reader.read()
            writer.close()
            return rest

        reader, writer = await place.run(connect(proxy.url))
        reply = await place.run(task())
        assert (reply.status, "Connection" in reply) == (200, False)
        # The task has ended, so the kubelet stops the sidecar; after the grace period it would kill it.
        grace = pod.spec["terminationGracePeriodSeconds"]
        proxy.process.signal(signal.SIGTERM)
        assert await asyncio.wait_for(asyncio.to_thread(proxy.process.wait), grace) == 0
        assert await place.run(see_it_end()) == b""
    state = await around.state()
    assert (state["logins"], state["documents"]) == (1, 1)
