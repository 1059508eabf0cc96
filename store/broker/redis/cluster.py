"""The broker over a Redis Cluster: sharded pub/sub, each channel on the node that has its slot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from store.broker import Told, tell_nobody
from store.broker.metrics import NO_METRICS, BrokerMetrics
from store.broker.redis.address import Address
from store.broker.redis.broker import PubSub
from store.broker.redis.link import Link
from store.broker.redis.publisher import FAILED, Pool, heed_cancellation
from store.broker.redis.tuning import Tuning

log = logging.getLogger(__name__)

Node = tuple[str, int]
"""A node's host and port."""

HURRY: Final = 10
"""While something is amiss the cluster is asked this many times as often."""


@dataclass(slots=True)
class Member:
    """A node that has slots: the link to it, and the task that keeps the link."""

    link: Link
    task: asyncio.Task[None]
    canary_slot: int


class ClusterBroker(PubSub):
    """One channel a project, spread over the nodes by their slots.

    Each node has a link and a canary of its own. Who owns which slot is asked at the start, from
    time to time, and whenever a node says that it does not own what it was asked about; channels
    whose slot has moved are then subscribed where it is now, which tells of a suspicion as any
    new subscription does.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "runstream",
        tuning: Tuning | None = None,
        metrics: BrokerMetrics = NO_METRICS,
        of_others: Told = tell_nobody,
    ) -> None:
        super().__init__(
            url, namespace=namespace, tuning=tuning, metrics=metrics, of_others=of_others
        )
        if self._address.db:
            raise ValueError("a Redis Cluster has just one database, number 0")
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._members: dict[Node, Member] = {}
        self._stale = asyncio.Event()
        self._complaint = ""

    def misplaced(self) -> None:
        self._stale.set()

    def changed(self) -> None:
        super().changed()
        # A link that is lost may be the first sign of a failover.
        self._stale.set()

    def _link_of(self, channel: bytes) -> Link | None:
        owner = self._owners[key_slot(channel)]
        return None if owner is None else self._members[owner].link

    def _links_are_ok(self) -> bool:
        return (
            bool(self._members)
            and all(member.link.ok for member in self._members.values())
            and all(self._link_of(channel) is not None for channel in self._followed)
        )

    async def _run(self) -> None:
        self._members.clear()
        self._owners = [None] * REDIS_CLUSTER_HASH_SLOTS
        async with asyncio.TaskGroup() as group:
            while True:
                self._stale.clear()
                owners = await self._ask()
                heed_cancellation()
                if owners is not None:
                    self._settle(owners, group)
                # Asked again at once it would say the same: the nodes need a moment to agree.
                await asyncio.sleep(self._tuning.redial_s)
                ok = not self._closed and self._links_are_ok()
                wait_s = self._tuning.topology_s if ok else self._tuning.topology_s / HURRY
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._stale.wait()

    # Who owns what.

    async def _ask(self) -> list[Node | None] | None:
        """The first answer of any node that is known, or else of the URL's."""
        known = [self._address.at(*node) for node in self._members]
        for address in (*known, self._address):
            try:
                owners = await ask_slots(address, self._tuning)
            except FAILED as error:
                self._complain(f"{address}: {str(error) or type(error).__name__}")
            else:
                if any(owners):
                    self._complaint = ""
                    return owners
                self._complain(f"{address}: no slots are assigned")
        return None

    def _settle(self, owners: list[Node | None], group: asyncio.TaskGroup) -> None:
        """Links to all nodes that own slots, and each followed channel on its owner's."""
        before = {channel: self._link_of(channel) for channel in self._followed}
        slots: dict[Node, set[int]] = {}
        for slot, owner in enumerate(owners):
            if owner is not None:
                slots.setdefault(owner, set()).add(slot)
        for node, member in tuple(self._members.items()):
            if member.canary_slot not in slots.get(node, ()):
                log.info("%s:%d has given its slots away", *node)
                member.task.cancel()
                del self._members[node]
        self._owners = owners
        for node, its_slots in slots.items():
            if node not in self._members:
                self._members[node] = self._join(node, its_slots, group)
        for channel, old in before.items():
            new = self._link_of(channel)
            if new is not old:
                if old is not None:
                    old.remove(channel)
                if new is not None:
                    new.add(channel)
        super().changed()

    def _join(self, node: Node, slots: set[int], group: asyncio.TaskGroup) -> Member:
        canary, slot = self._canary_in(slots)
        link = Link(
            self._address.at(*node),
            self,
            self._tuning,
            self._metrics,
            canary=canary,
            sharded=True,
        )
        return Member(link, group.create_task(link.run()), slot)

    def _canary_in(self, slots: set[int]) -> tuple[bytes, int]:
        """A channel of this process whose slot is one of these; there is one, soon found."""
        number = 0
        while True:
            canary = self.canary_of(f":{{{number}}}")
            slot = key_slot(canary)
            if slot in slots:
                return canary, slot
            number += 1

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            log.warning("the cluster does not say who owns what: %s", why)


async def ask_slots(address: Address, tuning: Tuning) -> list[Node | None]:
    """The owner of each slot, as that node sees it; raises one of FAILED."""
    pool = Pool(address, tuning)
    try:
        async with asyncio.timeout(tuning.connect_s):
            answer: list[Any] = await Redis.from_pool(pool).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
    finally:
        pool.abort()
    owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_replicas in answer:
        # A node that does not know its own host, or will not say it, is where it was asked.
        known = host not in (None, b"", b"?")
        owner = (host.decode() if known else address.host, port)
        owners[first : last + 1] = [owner] * (last - first + 1)
    return owners
