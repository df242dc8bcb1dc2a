"""The central service, played in network namespaces: replicas before one Redis, killed and replaced under load."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pytest

from tests.deploy.manifests import SECRETS, pods, rendered, run, with_sidecar
from tests.deploy.played import HTTPS, INVOISYS, RESOLVER, SERVER_OF_NAMES, outside, sidecar_in
from tests.deploy.policies import Cluster, Member
from tests.support.netns import Network, Place, program, reach
from tests.support.wire import PATIENCE, BrokenOff, ask, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import Process

pytestmark = [pytest.mark.deploy, pytest.mark.needs("kubectl", "redis-server")]

NAME = "invoisys-proxy.invoisys:8080"
TOKEN = {"Authorization": f"Bearer {SECRETS['invoisys-caller-token']['token']}"}
CALLERS = 8080
OPERATOR = 9090
REDIS = 6379

CLUSTER_IP = "10.96.0.8"
CALLER = Member("10.244.4.2", "shops", {"invoisys-proxy": "caller"})
STRANGER = Member("10.244.4.3", "shops", {"app": "another"})
REDIS_AT = "10.244.3.2"

_RESOLVER = f"{RESOLVER}search invoisys.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"

CONNECTIONS = 12


@dataclass(frozen=True)
class Replica:
    """One pod of the Deployment."""

    place: Place
    process: Process

    async def ready(self) -> None:
        """Wait until a kubelet would call it ready."""
        operator = f"http://{self.place.address}:{OPERATOR}"
        async with asyncio.timeout(PATIENCE):
            while (await self.place.run(ask(operator, "GET", "/readyz"))).status != 200:
                pass

    @property
    def callers(self) -> set[int]:
        """The ports at which those sit who have ever asked it for a connection."""
        told = json.loads(run(*self.place.command, "nft", "--json", "list", "set", "ip", "seen", "callers"))
        (found,) = [each["set"] for each in told["nftables"] if "set" in each]
        return set(found.get("elem", ()))


_SEEN = f"""
table ip seen {{
  set callers {{
    type inet_service
    flags dynamic
    size 65535
  }}
  chain input {{
    type filter hook input priority -10
    tcp dport {CALLERS} tcp flags & (syn | ack) == syn add @callers {{ tcp sport }}
  }}
}}
"""


class Central:
    """The replicas, and the Service before them."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.around = outside(network, folder, "wires")
        self._network = network
        self._folder = folder
        (self._pod,) = with_sidecar(rendered("central-sandbox"))
        self.replicas: list[Replica] = []
        self._members = [Member(f"10.244.1.{each}", self._pod.space, self._pod.labels) for each in range(2, 6)]
        (redis,) = [each for each in pods(self._pod.objects) if not each.ours]
        self._redis = Member(REDIS_AT, redis.space, redis.labels)
        members = [*self._members, self._redis, CALLER, STRANGER, SERVER_OF_NAMES]
        self._cluster = Cluster(members, self.around.names)
        self.around.names["invoisys-redis.invoisys.svc.cluster.local"] = REDIS_AT
        self._stack = contextlib.ExitStack()
        self.caller = network.add("caller", wires=CALLER.address)
        self.stranger = network.add("stranger", wires=STRANGER.address)
        self.redis = self._place("redis", self._redis)
        _, *options = redis.containers[0]["args"]
        self._stack.enter_context(program(self.redis, "redis-server", *options, until="Ready to accept connections"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _place(self, name: str, member: Member) -> Place:
        place = self._network.add(name, wires=member.address, resolver=_RESOLVER)
        place.rule(self._cluster.rules_for(member, self._pod.objects))
        return place

    async def start(self) -> Replica:
        """Start another replica, and wait until it is ready."""
        number = len(self.replicas)
        place = self._place(f"replica-{number}", self._members[number])
        place.rule(_SEEN)
        env = self._pod.laid_out(self._folder / str(number))
        process = self._stack.enter_context(sidecar_in(place, env, self.around)).process
        self._stack.callback(process.signal, signal.SIGKILL)  # the long drain is one test's business
        replica = Replica(place, process)
        self.replicas.append(replica)
        await replica.ready()
        return replica

    def serve(self, *replicas: Replica) -> None:
        """Have new connections to the Service go to these in turn, as a node does; those that there are stay."""
        addresses = ", ".join(f"{number} : {each.place.address}" for number, each in enumerate(replicas))
        self.caller.rule(
            "table ip service\ndelete table ip service\ntable ip service {\nchain output {\n"
            "type nat hook output priority -100;\n"
            f"ip daddr {CLUSTER_IP} tcp dport {CALLERS} dnat to numgen inc mod {len(replicas)} map {{ {addresses} }}\n"
            "}\n}"
        )


class Load:
    """Callers with a connection each, that issue one document after another."""

    def __init__(self, central: Central) -> None:
        self.issued = 0
        self.refusals: list[bytes] = []
        self.broken: set[int] = set()
        """The callers' ports of those connections that ended in a request."""
        self.connected = 0
        self.not_connected = 0
        self._place = central.caller
        self._over = False
        self._news = asyncio.Event()
        self._numbers = itertools.count()
        self._callers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        async def begin() -> None:
            self._callers = [asyncio.create_task(self._call()) for _ in range(CONNECTIONS)]

        await self._place.run(begin())
        await self.more()
        return self

    async def __aexit__(self, *_: object) -> None:
        async def end() -> None:
            self._over = True
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*self._callers)

        await self._place.run(end())

    async def more(self, answers: int = 100) -> None:
        """Wait for so many more documents."""

        async def wait() -> None:
            wanted = self.issued + answers
            async with asyncio.timeout(PATIENCE):
                while self.issued < wanted or self.connected < CONNECTIONS:
                    self._news.clear()
                    await self._news.wait()

        await self._place.run(wait())

    async def _call(self) -> None:
        while not self._over:
            try:
                reader, writer = await connect(f"http://{CLUSTER_IP}:{CALLERS}")
            except ConnectionRefusedError:
                self.not_connected += 1  # the next one goes to another replica
                continue
            self.connected += 1
            try:
                while await self._issue(reader, writer):
                    pass
            except (BrokenOff, ConnectionError):
                self.broken.add(writer.get_extra_info("sockname")[1])
            finally:
                writer.close()

    async def _issue(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Issue a document, and tell whether to issue another on this connection."""
        document = {"cnpj": "12345678000195", "modelo": "55", "serie": "1", "numero": str(next(self._numbers))}
        body = json.dumps(document)
        fields = {"Host": NAME, "Content-Length": str(len(body))} | TOKEN
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"POST /api/nfe/envio HTTP/1.1\r\n{head}\r\n{body}".encode())
        reply = await read_reply(reader)
        if reply.status == 200:
            self.issued += 1
        else:
            self.refusals.append(reply.body)
        self._news.set()
        return not self._over and ("Connection" not in reply or reply["Connection"] != "close")


@pytest.fixture
def central(network: Network, tmp_path: Path) -> Iterator[Central]:
    with Central(network, tmp_path) as made:
        yield made


async def test_callers_with_the_label_the_token_and_the_name_get_in_and_nobody_gets_further(central: Central) -> None:
    replica = await central.start()
    central.serve(replica)
    url = f"http://{CLUSTER_IP}:{CALLERS}"
    for headers, status in (({"Host": NAME} | TOKEN, 200), ({"Host": NAME}, 401), ({"Host": "another"} | TOKEN, 421)):
        reply = await central.caller.run(ask(url, "GET", "/api/nfe/getbychaveSTD/1", headers=headers))
        assert reply.status == status
    at = replica.place.address
    assert await reach(central.caller, at, CALLERS) == "open"
    for who, address, port in (
        (central.stranger, at, CALLERS),
        (central.stranger, at, OPERATOR),
        (central.caller, at, OPERATOR),
        (central.caller, REDIS_AT, REDIS),
        (replica.place, STRANGER.address, CALLERS),
        (central.redis, INVOISYS, HTTPS),
    ):
        assert await reach(who, address, port) == "forbidden"


async def test_a_replica_that_is_killed_takes_the_requests_on_its_connections_along_and_no_other(
    central: Central,
) -> None:
    killed, other = await asyncio.gather(central.start(), central.start())
    central.serve(killed, other)
    async with Load(central) as load:
        of_killed = killed.callers
        assert [len(of_killed), len(other.callers)] == [CONNECTIONS / 2] * 2
        killed.process.signal(signal.SIGKILL)
        killed.process.wait()
        central.serve(other)
        await load.more()
        central.serve(other, await central.start())  # as the Deployment has it
        await load.more()
    assert load.refusals == []
    # A caller may have come back while the process was ending.
    assert of_killed <= load.broken <= killed.callers
    state = await central.around.state()
    assert state["logins"] == 1
    # What broke off may have been issued, and was not issued again.
    assert load.issued <= state["documents"] <= load.issued + len(load.broken)
    assert (state["duplicates"], set(state["emissions"].values())) == (0, {1})


async def test_a_rolling_update_costs_no_request_and_no_login(central: Central) -> None:
    old = [await central.start() for _ in range(2)]
    serving = list(old)
    central.serve(*serving)
    async with Load(central) as load:
        for replica in old:
            serving.append(await central.start())
            central.serve(*serving)
            replica.process.signal(signal.SIGTERM)
            replica.process.event("stopping")
            await load.more()  # the nodes have not heard of it
            serving.remove(replica)
            central.serve(*serving)
        for replica in old:
            assert replica.process.wait() == 0
        await load.more()
    assert (load.refusals, load.broken, load.not_connected) == ([], set(), 0)
    state = await central.around.state()
    assert state["logins"] == 1
    assert (state["documents"], state["duplicates"]) == (load.issued, 0)
    for replica in old:
        said = [event["event"] for event in replica.process.events]
        assert "request" in said[said.index("stopping") :]
