"""The broker on a real cluster of three: channels spread over the nodes, and slots that move."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from store.broker.redis import ClusterBroker
from store.broker.redis.address import Address
from store.broker.redis.cluster import ask_slots
from tests.faults import client_kill
from tests.processes import free_port
from tests.servers import Valkey
from tests.store.broker.doubles import (
    HURRIED,
    a_hint,
    carries,
    eventually,
    is_degraded,
    is_ok,
    running,
)


class Cluster:
    """Nodes that each have a third of the slots and no replica."""

    def __init__(self, nodes: Sequence[Valkey]) -> None:
        self.nodes = nodes
        self.ids = [str(ask(node, "CLUSTER", "MYID"), "ascii") for node in nodes]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def owner_of(self, channel: bytes) -> int:
        """Which node it is that has the channel's slot, as the first one sees it."""
        owners = asyncio.run(ask_slots(Address(port=self.nodes[0].port), HURRIED))
        owner = owners[key_slot(channel)]
        assert owner is not None
        return [node.port for node in self.nodes].index(owner[1])

    def move(self, channel: bytes, to: int) -> None:
        """The channel's slot goes to another node. It has no keys, so saying so is all."""
        # The new owner first, or the old one would have nobody to send clients to.
        for node in (self.nodes[to], *self.nodes):
            ask(node, "CLUSTER", "SETSLOT", key_slot(channel), "NODE", self.ids[to])


def ask(node: Valkey, *command: str | int) -> bytes:
    """A raw answer: the test server's own helper parses those of CLUSTER."""
    with redis.Redis(port=node.port, protocol=2, socket_timeout=5) as client:
        client.response_callbacks.clear()
        answer: bytes = client.execute_command(*command)
        return answer


@pytest.fixture(scope="module")
def cluster_nodes() -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(3):
            bus = free_port()
            config = {
                "cluster-enabled": "yes",
                "cluster-port": str(bus),
                "cluster-node-timeout": "2000",
                "cluster-announce-ip": "127.0.0.1",
                # One node that is stopped must not stop the others.
                "cluster-require-full-coverage": "no",
                "cluster-allow-pubsubshard-when-down": "yes",
            }
            nodes.append((stack.enter_context(Valkey(config=config)), bus))
        bounds = [REDIS_CLUSTER_HASH_SLOTS * third // 3 for third in range(4)]
        for (node, _), first, last in zip(nodes, bounds, bounds[1:], strict=False):
            ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for node, bus in nodes[1:]:
            ask(nodes[0][0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        yield Cluster([node for node, _ in nodes])


@pytest.fixture
async def cluster(cluster_nodes: Cluster) -> Cluster:
    """All nodes up and agreed."""
    for node in cluster_nodes.nodes:
        node.ensure()
    for node in cluster_nodes.nodes:
        await eventually(lambda node=node: agreed(node))  # type: ignore[misc]
    return cluster_nodes


def agreed(node: Valkey) -> bool:
    """Whether it knows the other two, and an owner for each slot."""
    info = ask(node, "CLUSTER", "INFO")
    return all(
        said in info
        for said in (b"cluster_state:ok", b"cluster_slots_ok:16384", b"cluster_known_nodes:3")
    )


PROJECTS = [f"project {number}" for number in range(12)]


async def test_projects_are_spread_over_the_nodes_and_all_are_heard(
    cluster: Cluster, namespace: str
) -> None:
    here, there = (
        ClusterBroker(cluster.url, namespace=namespace, tuning=HURRIED) for _ in range(2)
    )
    async with running(here), running(there, *PROJECTS) as listener:
        hints = [a_hint(project) for project in PROJECTS for _ in range(10)]
        here.publish(hints)
        await eventually(partial(listener.heard, *hints))
        assert not any(listener.suspected("hole", project) for project in PROJECTS)
        on = [
            {channel for channel in channels_on(node) if b":hints:" in channel}
            for node in cluster.nodes
        ]
        assert set().union(*on) == {there.channel_of(project) for project in PROJECTS}
        assert sum(map(len, on)) == len(PROJECTS), "a channel is on one node alone"
        assert all(on), "twelve projects on one or two nodes: one in a hundred thousand"
        there.unfollow(PROJECTS[0])
        there.follow("late")
        await eventually(lambda: listener.suspected("followed", "late"))
        here.publish([late := a_hint("late")])
        await eventually(partial(listener.heard, late))


async def test_a_slot_that_moves_is_followed(cluster: Cluster, namespace: str) -> None:
    """The server takes its subscribers off when a slot leaves. Taken out: hearing that, and
    asking at once who owns what."""
    rarely = replace(HURRIED, topology_s=600.0)
    here = ClusterBroker(cluster.url, namespace=namespace, tuning=rarely)
    there = ClusterBroker(cluster.url, namespace=namespace, tuning=rarely)
    async with running(here), running(there, "moving", "staying") as listener:
        channel = there.channel_of("moving")
        first = await asyncio.to_thread(cluster.owner_of, channel)
        for times, to in enumerate(((first + 1) % 3, (first + 2) % 3, first), 1):
            cluster.move(channel, to)
            await eventually(partial(listener.was_suspected, "followed", times, "moving"))
            await carries(here, listener, "moving")
            await eventually(is_ok(here, there))
            assert channel in channels_on(cluster.nodes[to])
        here.publish([hint := a_hint("staying")])
        await eventually(partial(listener.heard, hint))


async def test_a_node_that_is_down_makes_it_degraded_and_the_others_go_on(
    cluster: Cluster, namespace: str
) -> None:
    here, there = (
        ClusterBroker(cluster.url, namespace=namespace, tuning=HURRIED) for _ in range(2)
    )
    async with running(here, *PROJECTS), running(there, *PROJECTS) as listener:
        owners = {
            project: await asyncio.to_thread(cluster.owner_of, there.channel_of(project))
            for project in PROJECTS
        }
        # The first one is the one in the URL: it must not be needed any more.
        with cluster.nodes[0].frozen_meanwhile():
            await eventually(is_degraded(here, there))
            for project, owner in owners.items():
                if owner != 0:
                    await carries(here, listener, project)
        await eventually(is_ok(here, there))
        for project in PROJECTS:
            await carries(here, listener, project)


async def test_subscribers_cut_off_come_back(cluster: Cluster, namespace: str) -> None:
    here, there = (
        ClusterBroker(cluster.url, namespace=namespace, tuning=HURRIED) for _ in range(2)
    )
    async with running(here), running(there, *PROJECTS) as listener:
        for node in cluster.nodes:
            before = listener.suspected("subscribed")
            client_kill(node)
            await eventually(partial(listener.was_suspected, "subscribed", before + 1))
            await eventually(is_ok(here, there))
        for project in PROJECTS:
            await carries(here, listener, project)


async def test_a_cluster_without_slots_yet_is_waited_for(namespace: str) -> None:
    """A new cluster, and one server that is none."""
    config = {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    with Valkey(config=config) as node:
        broker = ClusterBroker(
            f"redis+cluster://127.0.0.1:{node.port}", namespace=namespace, tuning=HURRIED
        )
        async with running(broker, "default", wait=False) as listener:
            broker.publish([hint := a_hint()])
            await eventually(partial(listener.heard, hint))
            await eventually(lambda: "no slots" in broker._complaint)
            ask(node, "CLUSTER", "ADDSLOTSRANGE", 0, REDIS_CLUSTER_HASH_SLOTS - 1)
            await eventually(is_ok(broker))


async def test_a_server_that_is_no_cluster_is_said_to_be_none(
    valkey: Valkey, namespace: str
) -> None:
    broker = ClusterBroker(
        valkey.url.replace("redis:", "redis+cluster:"), namespace=namespace, tuning=HURRIED
    )
    async with running(broker, "default", wait=False):
        await eventually(lambda: "cluster support disabled" in broker._complaint)
        assert is_degraded(broker)()


async def test_a_replica_that_takes_over_is_followed(namespace: str) -> None:
    """The old primary lives on as its replica, with all connections standing."""
    with contextlib.ExitStack() as stack:
        nodes, buses = [], [free_port(), free_port()]
        for bus in buses:
            config = {
                "cluster-enabled": "yes",
                "cluster-port": str(bus),
                "cluster-announce-ip": "127.0.0.1",
                "repl-diskless-sync-delay": "0",
            }
            nodes.append(stack.enter_context(Valkey(config=config)))
        primary, replica = nodes
        ask(primary, "CLUSTER", "ADDSLOTSRANGE", 0, REDIS_CLUSTER_HASH_SLOTS - 1)
        ask(primary, "CLUSTER", "MEET", "127.0.0.1", replica.port, buses[1])
        own_id = str(ask(primary, "CLUSTER", "MYID"), "ascii")
        await eventually(lambda: own_id.encode() in ask(replica, "CLUSTER", "NODES"))
        ask(replica, "CLUSTER", "REPLICATE", own_id)
        await eventually(lambda: b"master_link_status:up" in ask(replica, "INFO", "replication"))
        url = f"redis+cluster://127.0.0.1:{primary.port}"
        here, there = (ClusterBroker(url, namespace=namespace, tuning=HURRIED) for _ in range(2))
        async with running(here), running(there, "default") as listener:
            await carries(here, listener, "default")
            ask(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
            channel = there.channel_of("default")
            await eventually(lambda: channel in channels_on(replica))
            await eventually(is_ok(here, there))
            await carries(here, listener, "default")


@pytest.mark.parametrize("turns", range(0, 40, 4))
async def test_it_closes_at_once_at_any_moment_of_its_start(
    cluster: Cluster, namespace: str, turns: int
) -> None:
    broker = ClusterBroker(cluster.url, namespace=namespace, tuning=HURRIED)
    async with running(broker, "default", wait=False), asyncio.timeout(10):
        for _ in range(turns):
            await asyncio.sleep(0)
        await broker.close()


def channels_on(node: Valkey) -> set[bytes]:
    with redis.Redis(port=node.port, protocol=2, socket_timeout=5) as client:
        return set(client.execute_command("PUBSUB", "SHARDCHANNELS"))
