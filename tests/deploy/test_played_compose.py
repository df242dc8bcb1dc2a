"""The Compose files, played in network namespaces: who gets to the sidecar, and who does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.composed import FILES_OF_SECRETS, laid_out, read
from tests.deploy.played import RESOLVER, outside, sidecar_in
from tests.support.netns import Network, open_port, reach
from tests.support.processes import Process
from tests.support.wire import ask

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deploy

OF_THE_ERP = 8000
CALLERS = 8080
OPERATOR = 9090


async def test_beside_the_erp_it_serves_the_erp_and_a_neighbour_finds_no_port(network: Network, tmp_path: Path) -> None:
    around = outside(network, tmp_path, "bridge")
    shared = network.add("shared", bridge="172.30.0.2", resolver=RESOLVER)
    neighbour = network.add("neighbour", bridge="172.30.0.3")
    shared.offer(open_port(OF_THE_ERP))
    with sidecar_in(shared, laid_out("compose", tmp_path), around) as proxy:
        assert (await shared.run(proxy.issue(1))).status == 200
        assert (await shared.run(ask(proxy.admin, "GET", "/readyz"))).status == 200
        assert await reach(neighbour, shared.address, OF_THE_ERP) == "open"
        for port in (CALLERS, OPERATOR):
            assert await reach(neighbour, shared.address, port) == "refused"
    state = await around.state()
    assert (state["logins"], state["documents"]) == (1, 1)


async def test_a_neighbour_that_routes_loopback_addresses_to_it_gets_no_further(
    network: Network, tmp_path: Path
) -> None:
    around = outside(network, tmp_path, "bridge")
    shared = network.add("shared", bridge="172.30.0.2", resolver=RESOLVER)
    neighbour = network.add("neighbour", bridge="172.30.0.3")
    neighbour.allow("ipv4/conf/all/route_localnet")
    neighbour.ip("address", "delete", "127.0.0.1/8", "dev", "lo")
    neighbour.ip("route", "add", "127.0.0.1", "via", shared.address, "src", neighbour.address)
    with sidecar_in(shared, laid_out("compose", tmp_path), around):
        assert await reach(neighbour, "127.0.0.1", CALLERS) == "lost"
        shared.allow("ipv4/conf/all/route_localnet")  # which nobody does; it shows what is tried
        assert await reach(neighbour, "127.0.0.1", CALLERS) == "open"


async def test_as_a_service_it_serves_who_is_on_its_network_knows_its_name_and_has_the_token(
    network: Network, tmp_path: Path
) -> None:
    around = outside(network, tmp_path, "outside")
    own = network.add("invoisys-proxy", callers="172.30.1.2", outside="172.30.2.2", resolver=RESOLVER)
    erp = network.add("erp", callers="172.30.1.3", others="172.30.3.3")
    stranger = network.add("stranger", others="172.30.3.4")
    name = read("service")["services"]["erp"]["environment"]["INVOISYS_URL"].removeprefix("http://")
    with_token = {"Authorization": f"Bearer {FILES_OF_SECRETS['caller_token']}"}
    url = f"http://172.30.1.2:{CALLERS}"
    with sidecar_in(own, laid_out("service", tmp_path), around):
        for headers, status in (
            ({"Host": name} | with_token, 200),
            ({"Host": name}, 401),
            ({"Host": "another"} | with_token, 421),
        ):
            assert (await erp.run(ask(url, "GET", "/api/nfe/getbychaveSTD/1", headers=headers))).status == status
        assert await reach(erp, "172.30.1.2", OPERATOR) == "refused"
        for address in ("172.30.1.2", "172.30.2.2"):
            assert await reach(stranger, address, CALLERS) == "lost"
    assert (await around.state())["requests"] == 1


async def test_the_demo_serves_who_comes_by_a_published_port(network: Network, tmp_path: Path) -> None:
    around = outside(network, tmp_path, "bridge")
    shared = network.add("fake", bridge="172.30.0.2", resolver=RESOLVER)
    host = network.add("host", bridge="172.30.0.1")
    fake = Process(*read("demo")["services"]["fake"]["command"], within=shared.command)
    try:
        fake.next_line()
        with sidecar_in(shared, laid_out("demo", tmp_path), around) as proxy:
            published = {"Host": f"127.0.0.1:{CALLERS}"}
            url = f"http://{shared.address}:{CALLERS}"
            assert (await host.run(ask(url, "GET", "/api/nfe/getbychaveSTD/1", headers=published))).status == 200
            assert await reach(host, shared.address, OPERATOR) == "refused"
            assert (await shared.run(ask(proxy.admin, "GET", "/readyz"))).status == 200
    finally:
        fake.stop()
    assert (await around.state())["requests"] == 0
