"""The broker over Redis or Valkey: hints as messages of pub/sub."""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import msgspec

from store.broker import BrokerState, Hint, Listener, Suspicion, Told, tell_nobody
from store.broker.inbox import Inbox, Reading
from store.broker.metrics import NO_METRICS, BrokerMetrics
from store.broker.redis.address import parse_url
from store.broker.redis.codec import HEADER, encode, pack, unpack
from store.broker.redis.counters import Counters, Heard, Numbers
from store.broker.redis.link import Link
from store.broker.redis.tuning import Tuning

log = logging.getLogger(__name__)

TELLS: Final = {
    Heard.NEXT: None,
    Heard.OLD: None,
    Heard.HOLE: Suspicion.HOLE,
    Heard.UNKNOWN: Suspicion.UNKNOWN_PUBLISHER,
}


class PubSub(ABC):
    """What one server and a cluster have in common; they differ in the links they keep.

    A message names its publisher, new with each process, and carries a number that rises with
    each message of that publisher on that channel, sent or dropped. What this process published
    itself went to its listener directly; when it comes back only its number is looked at.
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
        self._address = parse_url(url)
        self._namespace = namespace
        self._tuning = tuning or Tuning()
        self._metrics = metrics
        self._publisher = secrets.token_bytes(8)
        self._numbers = Numbers()
        self._counters = Counters()
        self._followed: dict[bytes, str] = {}
        self._inbox = Inbox(
            metrics,
            self._read,
            of_others=of_others,
            max_messages=self._tuning.inbox_messages,
            max_bytes=self._tuning.inbox_bytes,
        )
        self._state = BrokerState.DEGRADED
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # The contract.

    @property
    def state(self) -> BrokerState:
        return self._state

    async def start(self, listener: Listener) -> None:
        if self._task is not None or self._closed:
            raise RuntimeError("a broker is started once")
        self._inbox.open(listener)
        self._metrics.state(ok=False)
        self._task = asyncio.create_task(self._keep_running(), name=f"broker {self._address}")

    async def close(self) -> None:
        self._closed = True
        self._inbox.close()
        self.changed()
        task = self._task
        if task is None:
            return
        task.cancel()
        # Not `await task`: that could not tell its cancellation from ours.
        await asyncio.wait((task,))

    def publish(self, hints: Sequence[Hint]) -> None:
        if self._task is None or self._closed:
            return
        self._inbox.publish(hints)
        try:
            for project, some in groupby(hints, lambda hint: hint.change.project):
                self._publish(self.channel_of(project), tuple(some))
        except Exception:
            # The writer has committed: it must not learn of this.
            log.exception("%d hints could not be published", len(hints))

    def follow(self, project: str) -> None:
        if self._inbox.follow(project):
            channel = self.channel_of(project)
            self._followed[channel] = project
            if (link := self._link_of(channel)) is not None:
                link.add(channel)

    def unfollow(self, project: str) -> None:
        if self._inbox.unfollow(project):
            channel = self.channel_of(project)
            del self._followed[channel]
            self._counters.forget(channel)
            if (link := self._link_of(channel)) is not None:
                link.remove(channel)

    # Which channel, and over which link; a cluster has more of them.

    def channel_of(self, project: str) -> bytes:
        """Where a project's hints are published.

        The number of the database is in it because pub/sub, unlike keys, is shared by all.
        """
        return f"{self._namespace}:{self._address.db}:hints:{project}".encode()

    def canary_of(self, tag: str = "") -> bytes:
        """A channel of this process alone."""
        own = self._publisher.hex()
        return f"{self._namespace}:{self._address.db}:canary:{own}{tag}".encode()

    @abstractmethod
    def _link_of(self, channel: bytes) -> Link | None:
        """The link to whoever carries that channel; None if that is not known just now."""

    @abstractmethod
    async def _run(self) -> None:
        """Keeps the links up until it is cancelled."""

    @abstractmethod
    def _links_are_ok(self) -> bool: ...

    @abstractmethod
    def misplaced(self) -> None: ...

    # What links tell.

    def receive(self, channel: bytes, message: bytes) -> None:
        if channel not in self._followed:
            return
        if message.startswith(self._publisher) and len(message) >= HEADER.size:
            heard = self._counters.hear(channel, *HEADER.unpack_from(message))
            # What was sent before this channel was followed did not have to come back.
            if heard is Heard.HOLE:
                self._inbox.suspect(self._followed[channel], Suspicion.HOLE)
        else:
            self._inbox.receive(channel, message)

    def paused(self) -> None:
        self._inbox.hand_over()

    def flows(self, channel: bytes) -> None:
        if (project := self._followed.get(channel)) is not None:
            self._inbox.suspect(project, Suspicion.FOLLOWED)

    def suspect_all(self, reason: Suspicion) -> None:
        self._inbox.suspect(None, reason)

    def changed(self) -> None:
        ok = not self._closed and self._links_are_ok()
        if ok == (self._state is BrokerState.OK):
            return
        self._state = BrokerState.OK if ok else BrokerState.DEGRADED
        self._metrics.state(ok=ok)
        if not self._closed:
            log.info("the broker at %s is %s", self._address, self._state)

    # How it is done.

    async def _keep_running(self) -> None:
        while True:
            try:
                await self._run()
            except Exception:
                # None is known. One would otherwise be the silent end of all hints.
                log.exception("the broker at %s failed and begins anew", self._address)
            await asyncio.sleep(self._tuning.redial_most_s)

    def _publish(self, channel: bytes, hints: Sequence[Hint]) -> None:
        link = self._link_of(channel)
        if link is None or link.away:
            self._numbers.next(channel)
            self._metrics.dropped(len(hints), "away")
            return
        encoded: list[bytes] = []
        for hint in hints:
            if (one := encode(hint, self._tuning.inline_bytes)) is not None:
                encoded.append(one)
            else:
                self._numbers.next(channel)
                self._metrics.dropped(1, "unencodable")
        for body, count in pack(encoded, self._tuning.message_bytes):
            header = HEADER.pack(self._publisher, self._numbers.next(channel))
            link.publish(channel, header + body, count)

    def _read(self, channel: bytes, message: bytes) -> Reading:
        project = self._followed.get(channel)
        if project is None:
            return None, (), None
        if len(message) < HEADER.size:
            return project, (), Suspicion.UNREADABLE
        suspicion = TELLS[self._counters.hear(channel, *HEADER.unpack_from(message))]
        try:
            return project, unpack(memoryview(message)[HEADER.size :]), suspicion
        except msgspec.MsgspecError as error:
            # Anybody may have sent it: a later version of this program, or no such program.
            log.warning("a message on %r cannot be read: %s", channel, error)
            return project, (), Suspicion.UNREADABLE


class RedisBroker(PubSub):
    """One channel a project, on one server."""

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
        self._link = Link(self._address, self, self._tuning, self._metrics, canary=self.canary_of())

    def misplaced(self) -> None:
        """Never on one server: what it refused, it refused for another reason."""

    def _link_of(self, channel: bytes) -> Link | None:
        return self._link

    async def _run(self) -> None:
        await self._link.run()

    def _links_are_ok(self) -> bool:
        return self._link.ok
