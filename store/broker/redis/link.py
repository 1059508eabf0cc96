"""The link to one Redis server: one connection to publish, one to listen, a canary over both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Iterable
from typing import Final, Protocol

from store.broker import Suspicion
from store.broker.metrics import BrokerMetrics
from store.broker.redis.address import Address
from store.broker.redis.backoff import Backoff
from store.broker.redis.publisher import Outgoing, Publisher
from store.broker.redis.subscriber import Subscriber
from store.broker.redis.tuning import Tuning

log = logging.getLogger(__name__)

BEAT: Final = struct.Struct("<Qd")
"""A heartbeat: which of our connections it is meant for, and when it was sent by our own clock."""


class Owner(Protocol):
    """The broker, as its links see it."""

    def receive(self, channel: bytes, message: bytes) -> None:
        """A message came on a channel that was asked for."""

    def paused(self) -> None:
        """No more messages for now."""

    def flows(self, channel: bytes) -> None:
        """A channel that was added to a standing link has been confirmed."""

    def suspect_all(self, reason: Suspicion) -> None:
        """The link stands again, or has been lost."""

    def changed(self) -> None:
        """`ok` of a link may have changed."""

    def misplaced(self) -> None:
        """A channel was asked for here and belongs to another node."""


class Link:
    """Keeps both connections up until it is cancelled.

    It is `ok` while every channel that was asked for is confirmed and the canary is heard: each
    beat this process publishes a heartbeat on one connection and must hear it on the other. A
    half-open connection, a frozen server, and two connections that ended at two servers all look
    the same to it. Beats are counted, not seconds, so that a stall of our own is not taken for
    one of the server.
    """

    def __init__(
        self,
        address: Address,
        owner: Owner,
        tuning: Tuning,
        metrics: BrokerMetrics,
        *,
        canary: bytes,
        sharded: bool = False,
    ) -> None:
        """`canary` is a channel that no other process has."""
        self.address = address
        self.ok = False
        self._owner = owner
        self._tuning = tuning
        self._metrics = metrics
        self._canary = canary
        self._sharded = sharded
        self._tls = None if address.tls is None else address.tls.context()
        self._channels: dict[bytes, None] = {}
        self._missing: set[bytes] = set()
        self._subscriber: Subscriber | None = None
        self._stands = False
        self._stood_before = False
        self._life = 0
        self._heard = False
        self._silent = 0
        self._tick = asyncio.Event()
        self._complaint = ""
        self._publisher = Publisher(
            address,
            tuning,
            metrics,
            sharded=sharded,
            refused=owner.misplaced,
            demoted=self._demoted,
        )

    # What a broker asks for.

    @property
    def away(self) -> bool:
        """What is published now would be dropped."""
        return self._publisher.away

    def publish(self, channel: bytes, message: bytes, hints: int) -> None:
        self._publisher.put(Outgoing(channel, message, hints))

    def add(self, channel: bytes) -> None:
        if channel not in self._channels:
            self._channels[channel] = None
            if self._subscriber is not None:
                self._subscriber.subscribe([channel])

    def remove(self, channel: bytes) -> None:
        if channel in self._channels:
            del self._channels[channel]
            self._missing.discard(channel)
            if self._subscriber is not None:
                self._subscriber.unsubscribe(channel)
            self._judge()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._publisher.run())
            group.create_task(self._watch())

    # What a subscriber tells.

    def heard(self, channel: bytes, message: bytes) -> None:
        if channel == self._canary:
            self._hear_canary(message)
        else:
            self._owner.receive(channel, message)

    def paused(self) -> None:
        self._owner.paused()

    def confirmed(self, channel: bytes) -> None:
        self._missing.discard(channel)
        if self._stands and channel in self._channels:
            self._owner.flows(channel)
            self._judge()

    def refused(self, channel: bytes, reason: str) -> None:
        if channel == self._canary or channel in self._channels:
            self._complain(f"not subscribed to {channel!r}: {reason}")
            self._missing.add(channel)
            self._judge()
            self._owner.misplaced()

    # Listening.

    async def _listen(self) -> None:
        backoff = Backoff(self._tuning)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            stood = await self._listen_once()
            await asyncio.sleep(backoff.next_s(loop.time() - began if stood else 0.0))

    async def _listen_once(self) -> bool:
        """One connection, from its dial to its end; whether it ever stood."""
        subscriber = Subscriber(self, sharded=self._sharded)
        stood = False
        why = "stopped"
        try:
            async with asyncio.timeout(self._tuning.connect_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: subscriber, self.address.host, self.address.port, ssl=self._tls
                )
                # From here on `add` and `remove` write to it themselves.
                self._subscriber = subscriber
                self._missing.clear()
                self._life += 1
                subscriber.begin(self.address, self._asked())
                await asyncio.wait(
                    (subscriber.settled, subscriber.closed), return_when=asyncio.FIRST_COMPLETED
                )
            stood = not subscriber.closed.done()
            if stood:
                self._up()
            why = await subscriber.closed
        except TimeoutError:
            why = f"no answer within {self._tuning.connect_s} s"
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            why = str(error)
        finally:
            subscriber.abort(why)
            self._down(why)
        return stood

    def _asked(self) -> Iterable[bytes]:
        return (self._canary, *self._channels)

    def _up(self) -> None:
        self._stands = True
        self._silent = 0
        if self._stood_before:
            self._metrics.reconnected("subscriber")
        self._stood_before = True
        self._owner.suspect_all(Suspicion.SUBSCRIBED)
        self._tick.set()

    def _down(self, why: str) -> None:
        stood, self._stands = self._stands, False
        self._subscriber = None
        self._heard = False
        self._complain(why)
        self._judge()
        if stood:
            self._owner.suspect_all(Suspicion.LOST)

    # The canary.

    async def _watch(self) -> None:
        while True:
            if self._silent >= self._tuning.silent_beats:
                self._silent = 0
                self._metrics.canary_missed()
                self._owner.suspect_all(Suspicion.CANARY)
                self._renew("the canary was not heard")
            elif self._stands:
                self._again()
                self._silent += 1
                now = asyncio.get_running_loop().time()
                self._publisher.beat(self._canary, BEAT.pack(self._life, now))
            self._tick.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tuning.beat_s):
                    await self._tick.wait()

    def _hear_canary(self, message: bytes) -> None:
        if len(message) != BEAT.size:
            return
        life, sent_at = BEAT.unpack(message)
        age_s = asyncio.get_running_loop().time() - sent_at
        # One that is as old as that proves that the link is slow, not that it is well.
        if life == self._life and age_s <= self._tuning.silent_beats * self._tuning.beat_s:
            self._heard = True
            self._silent = 0
            self._judge()

    def _again(self) -> None:
        """Asks once more for what was refused."""
        if self._missing and self._subscriber is not None:
            self._subscriber.subscribe(tuple(self._missing))

    def _demoted(self) -> None:
        self._renew("it is a replica: what is published to it stays there")
        self._owner.misplaced()

    def _renew(self, why: str) -> None:
        """Both connections anew."""
        self._publisher.renew()
        if self._subscriber is not None:
            self._subscriber.abort(why)

    # What others see.

    def _judge(self) -> None:
        """`ok` once the canary was heard, and until the connection is gone: one beat that fails
        to come is no news yet, `silent_beats` of them end the connection."""
        before = self.ok
        self.ok = self._stands and not self._missing and (before or self._heard)
        if self.ok != before:
            if self.ok:
                self._complaint = ""
            self._owner.changed()

    def _complain(self, why: str) -> None:
        if why not in (self._complaint, "stopped"):
            self._complaint = why
            log.warning("listening to Redis at %s: %s", self.address, why)
