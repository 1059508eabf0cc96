"""One followed project: its subscriptions on one side, the tail on the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias
from weakref import WeakValueDictionary

from realtime.errors import MailboxFull
from realtime.hub.cohorts import Cohorts
from realtime.hub.connection import Connection, connection_of, end
from realtime.hub.project.batches import Batches
from realtime.hub.project.checkpoints import Checkpoints
from realtime.hub.project.dispatch import Dispatch
from realtime.hub.project.order import Order
from realtime.hub.project.waits import Waits
from realtime.hub.services import Services
from realtime.matching import Index
from realtime.protocol import ResetReason
from realtime.ring import Ring
from realtime.session import Member
from realtime.subscription import Wish
from store.model import Group, Horizon, LogPage

log = logging.getLogger(__name__)


class Joins(Protocol):
    """Shows subscriptions their history, and makes them live: calls `Project.went_live` then, or
    `Project.reset` where a cursor can't be continued from."""

    def start(self, connection: Connection, member: Member) -> None:
        """It is in the index: what is handed on from now on is held back for it."""

    def stop(self, member: Member) -> None:
        """The subscription is over, or starts again; it may have been live for long."""

    def close(self) -> None:
        """Stops them all."""


class Project:
    """The subscriptions to one project, and the follower of its log.

    What hints tell goes to its `order`, which hands each version on once; from there it goes to
    whom it concerns, into the ring, and to who counts batches.
    """

    def __init__(self, id: str, services: Services, joins: MakeJoins) -> None:
        self.project = id
        self.services = services
        self.index: Index[Member] = Index()
        self.connections: dict[Connection, int] = {}
        """The connections with subscriptions here, and how many each has."""
        self.ready = asyncio.Event()
        """Set once the horizon was taken."""
        self.is_stale = False
        self.ring: Ring | None = None
        self.cohorts = Cohorts(services.due, self.intern)
        self.dispatch = Dispatch(
            services, self.index, self.cohorts, self._seems_over, self._remembers
        )
        self.order = Order(id, services, self._hand_on)
        self.waits = Waits(self.wake_tail)
        self.batches = Batches(id, services, self.index, self.wake_tail)
        self.checkpoints = Checkpoints(self.order, self.cohorts)
        self._joins = joins(self)
        self._wishes: WeakValueDictionary[tuple[object, ...], Wish] = WeakValueDictionary()

    # ------------------------------------------------------------------------------- subscriptions

    def add(self, connection: Connection, member: Member) -> None:
        """Joins the subscription, for the first time or again."""
        self.cohorts.changed()
        self.intern(member)
        if member in self.index:
            self._forget(member)
        else:
            self.index.add(member, member.wish.selection)
            self.connections[connection] = self.connections.get(connection, 0) + 1
        connection.session.mark_stale(self.is_stale)
        self._joins.start(connection, member)

    def remove(self, connection: Connection, member: Member) -> None:
        """The subscription is over."""
        if not self.index.remove(member):
            return
        self.cohorts.changed()
        self._forget(member)
        left = self.connections[connection] - 1
        if left:
            self.connections[connection] = left
        else:
            del self.connections[connection]
            self.checkpoints.news.pop(connection, None)
        batch_id = member.wish.selection.batch_id
        if batch_id is not None and not self.index.of_batch(batch_id):
            self.batches.unfollow(batch_id)

    def intern(self, member: Member) -> None:
        """Equal wishes become one, so that a verdict is found once for all of them."""
        try:
            member.wish = self._wishes.setdefault(member.wish.key, member.wish)
        except TypeError:
            pass  # a grant that can't be compared: its verdicts are found for it alone

    def went_live(self, connection: Connection, member: Member) -> None:
        """It was shown its history; what its joining remembers goes when the tail has passed."""
        self.cohorts.changed()
        if not member.is_settled:
            self.waits.joined.append(member)
        if member.over is not None:
            self._seems_over(member)
        batch_id = member.wish.selection.batch_id
        if batch_id is not None:
            self.batches.follow(batch_id)

    def reset(self, member: Member, reason: ResetReason) -> None:
        """The stream starts again from a snapshot."""
        self.services.measures.resets_total.labels(reason=reason).inc()
        connection = connection_of(member)
        connection.say(lambda: connection.session.reset(member, reason))

    def _seems_over(self, member: Member) -> None:
        """It is over when a statement of the tail that begins now has passed."""
        member.stand_alone()
        connection_of(member).session.wishes_changed()
        self.waits.over(member)

    def _remembers(self, member: Member) -> None:
        """It is to remember what it was shown until a statement that begins now has passed."""
        self.cohorts.changed()
        self.waits.anew(member)

    def _forget(self, member: Member) -> None:
        self.waits.forget(member)
        self.batches.forget(member)
        self._joins.stop(member)

    def close(self) -> None:
        """It is followed no more."""
        self.order.close()
        self._joins.close()

    # ---------------------------------------------------------------------- what comes next of a run

    def _hand_on(self, group: Group, loaded: Mapping[str, bytes | None]) -> bool:
        if not self.dispatch.show(group, loaded):
            return False
        if self.ring is not None:
            self.ring.add(group)
        self.batches.touch(group)
        return True

    # ------------------------------------------------------------------- what the tail says (Follower)

    def begun(self, epoch: str, horizon: Horizon) -> None:
        """The horizon was taken."""
        self._begin(epoch, horizon)
        self.ready.set()

    def _begin(self, epoch: str, horizon: Horizon) -> None:
        self.order.begin(epoch, horizon)
        self.ring = Ring(horizon)
        self._mark_fresh()

    def compose(self) -> Sequence[str]:
        """A statement of the tail is about to begin."""
        self.waits.compose()
        return self.batches.compose()

    async def hand_on(self, groups: Sequence[Group]) -> None:
        """The tail has found these."""
        await self.order.found(groups, by_tail=True)

    def passed(self, page: LogPage) -> None:
        """All that the statement saw was handed on."""
        composed = self.waits.passed()
        self.order.moved(page.horizon, self.services.now())
        if self.ring is not None:
            self.ring.moved(page.horizon)
        for member in composed.joined:
            member.settle()
        if composed.joined:
            self.cohorts.changed()
        for member in composed.over:
            if member.over is not None:
                end(member, member.over)
        self.batches.passed(page.batches)
        composed.wake()
        self._mark_fresh()
        self.checkpoints.send(self.services.now())

    def missed(self) -> None:
        """The statement came to nothing: who waited for it waits for the next."""
        self.waits.missed()
        self.batches.missed()

    def broken(self, reason: str, epoch: str, horizon: Horizon) -> None:
        """The log goes on as another one: every stream starts again."""
        log.warning("the log of %s can't be continued: %s", self.project, reason)
        self.waits.clear()
        self.batches.clear()
        self._begin(epoch, horizon)
        for member in self.index:
            self.reset(member, ResetReason(reason))

    def stale(self) -> None:
        """The log can't be read just now."""
        if not self.is_stale:
            self.is_stale = True
            self._tell_stale()

    def _mark_fresh(self) -> None:
        if self.is_stale:
            self.is_stale = False
            self._tell_stale()

    def _tell_stale(self) -> None:
        for connection in list(self.connections):
            try:
                connection.session.mark_stale(self.is_stale)
            except MailboxFull:
                connection.overflowed()

    def needs_statement(self) -> bool:
        """Whether somebody waits for a statement of the tail."""
        return bool(self.waits) or self.batches.is_waiting

    def wake_tail(self) -> None:
        """Have the log read at once."""
        self.services.wake_tail(self.project)


MakeJoins: TypeAlias = Callable[[Project], Joins]
