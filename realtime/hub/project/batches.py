"""How far batches are: read once for all who follow one, and not too often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from realtime import protocol
from realtime.errors import MailboxFull
from realtime.hub.connection import connection_of, end
from realtime.hub.services import Services
from realtime.matching import Index
from realtime.protocol import EndReason
from realtime.session import Member
from store.errors import Unavailable
from store.lifecycle import FINAL
from store.model import Batch, ChangeKind, Group, Selection

INTERVAL_S: Final = 0.25


def is_complete(batch: Batch) -> bool:
    """Whether it is sealed and all its runs are over."""
    return batch.sealed_at is not None and batch.final(FINAL) == batch.size


class Batches:
    """Tells the subscribers of each batch of a project how far it is, and when it is complete.

    That it is complete it says only after a statement of the tail that saw so: a batch's runs may
    be shown later than they are counted.
    """

    def __init__(
        self,
        project: str,
        services: Services,
        index: Index[Member],
        wake_tail: Callable[[], None],
    ) -> None:
        self._project = project
        self._services = services
        self._index = index
        self._wake_tail = wake_tail
        self._watches: dict[str, BatchWatch] = {}
        self._wanted: set[str] = set()
        """Those that are to be read next."""
        self._marked: set[str] = set()
        """Those that seem complete."""
        self._composed: dict[str, list[Member]] = {}
        """Who follows those that the statement under way reads along."""

    @property
    def is_waiting(self) -> bool:
        """Whether one waits for a statement of the tail."""
        return bool(self._marked)

    # ------------------------------------------------------------------------------ how far they are

    def follow(self, batch_id: str) -> None:
        """Somebody who follows it has gone live."""
        if batch_id not in self._watches:
            self._watches[batch_id] = BatchWatch(self, self._services, batch_id)
        self._watches[batch_id].touch()

    def unfollow(self, batch_id: str) -> None:
        """Nobody follows it any more."""
        self._watches.pop(batch_id, None)
        self._marked.discard(batch_id)

    def touch(self, group: Group) -> None:
        """What was handed on may count in a batch."""
        if not self._watches:
            return
        first, last = group.first, group.last
        if first.kind is ChangeKind.SEALED:
            batch_id: str | None = first.run_id
        else:
            batch_id = None if group.run is None else group.run.batch_id
        watch = None if batch_id is None else self._watches.get(batch_id)
        if watch is not None and (
            first.before is None
            or last.kind is not ChangeKind.RUN
            or group.run is None
            or first.before.status is not group.run.status
            or len(group.changes) > 1
        ):
            watch.touch()

    async def read(self, batch_id: str) -> Batch | None:
        """The batch as it is, or None if there is none. Raises Unavailable."""
        # With those that others wait for: after a restart everybody asks at once.
        self._wanted.add(batch_id)
        found = await self._services.flights.get(("batches", self), self._read)
        return found.get(batch_id)

    async def _read(self) -> dict[str, Batch]:
        wanted, self._wanted = self._wanted, set()
        return await self._services.store.get_batches(self._project, sorted(wanted))

    def is_followed(self, batch_id: str) -> bool:
        """Whether anybody follows it, live or not yet."""
        return bool(self._index.of_batch(batch_id))

    def is_watched_by(self, watch: BatchWatch, batch_id: str) -> bool:
        """Whether it is this one's to tell of the batch still."""
        return self._watches.get(batch_id) is watch

    def live(self, batch_id: str) -> list[Member]:
        """Who follows it and is live."""
        return [member for member in self._index.of_batch(batch_id) if member.is_live]

    def tell(self, member: Member, batch: bytes) -> None:
        """How far its batch is, if that is news to it and its to know."""
        selection = Selection(project=self._project, batch_id=member.wish.selection.batch_id)
        if member.batch_shown == batch or not member.wish.grant.allows(selection):
            return
        member.batch_shown = batch
        try:
            member.mailbox.put(protocol.batch(member.id, batch))
        except MailboxFull:
            connection_of(member).overflowed()

    # -------------------------------------------------------------------------- that one is complete

    def mark_complete(self, batch_id: str) -> None:
        """The batch seems complete; the tail's next statement says whether it is."""
        self._marked.add(batch_id)
        self._wake_tail()

    def compose(self) -> Sequence[str]:
        """A statement of the tail is about to begin. The batches that it is to read along."""
        self._composed = {id: self.live(id) for id in self._marked}
        return list(self._composed)

    def passed(self, batches: Mapping[str, Batch]) -> None:
        """It has read these, and all that it saw was handed on."""
        composed, self._composed = self._composed, {}
        for batch_id, members in composed.items():
            self._have_read(batch_id, batches.get(batch_id), members)

    def _have_read(self, batch_id: str, batch: Batch | None, members: list[Member]) -> None:
        if batch is None or not is_complete(batch):
            self._marked.discard(batch_id)
            return
        for member in members:
            self.tell(member, protocol.batch_object(batch, FINAL))
            if member.wish.stop:
                end(member, EndReason.COMPLETED)
        # Whoever came after the statement had begun waits for the next one.
        if set(self.live(batch_id)) <= set(members):
            self._marked.discard(batch_id)
        else:
            self._wake_tail()

    def missed(self) -> None:
        """The statement came to nothing; what seems complete is read along by the next."""
        self._composed = {}

    def forget(self, member: Member) -> None:
        """It waits for no statement any more."""
        for members in self._composed.values():
            if member in members:
                members.remove(member)

    def clear(self) -> None:
        """The log goes on as another one: none seems complete any more."""
        self._marked.clear()
        self._composed = {}


class BatchWatch:
    """Tells the subscribers of one batch when its counts change or it is sealed."""

    def __init__(self, batches: Batches, services: Services, batch_id: str) -> None:
        self._batches = batches
        self._services = services
        self._batch_id = batch_id
        self._dirty = False
        self._running = False

    def touch(self) -> None:
        """Something has changed that may count."""
        self._dirty = True
        if not self._running:
            self._running = True
            self._services.tasks.start(self._run(), f"progress of {self._batch_id}")

    async def _run(self) -> None:
        try:
            while self._dirty and self._batches.is_followed(self._batch_id):
                self._dirty = False
                try:
                    batch = await self._batches.read(self._batch_id)
                except Unavailable:
                    self._dirty = True
                else:
                    if batch is None or not self._batches.is_watched_by(self, self._batch_id):
                        return  # another one has read it since, later than this did
                    self._tell(batch)
                await asyncio.sleep(INTERVAL_S)
        finally:
            self._running = False

    def _tell(self, batch: Batch) -> None:
        members = self._batches.live(self._batch_id)
        if not members:
            return
        if is_complete(batch):
            self._batches.mark_complete(self._batch_id)
            return
        encoded = protocol.batch_object(batch, FINAL)
        for member in members:
            self._batches.tell(member, encoded)
