"""One followed project: what is next of each run, and whom it is shown to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias
from weakref import WeakValueDictionary

from realtime import protocol
from realtime.errors import MailboxFull
from realtime.hub.cohorts import SMALLEST, Cohort, Cohorts
from realtime.hub.connection import Connection, connection_of
from realtime.hub.flights import Flights
from realtime.hub.measures import Measures
from realtime.hub.parcel import Item, Parcel
from realtime.hub.payloads import Payloads
from realtime.hub.progress import BatchWatch, is_complete
from realtime.hub.tasks import Tasks
from realtime.matching import Index
from realtime.protocol import Delivery, EndReason, ResetReason
from realtime.ring import Ring
from realtime.session import NO_CURSOR, Member, Moment
from realtime.subscription import Phase, Wish
from store.broker import Hint
from store.errors import CannotContinue, Unavailable
from store.lifecycle import FINAL
from store.model import (
    Batch,
    Change,
    ChangeKind,
    Group,
    Horizon,
    ListKey,
    LogPage,
    Selection,
    SnapshotPage,
)
from store.tail import TailStore

log = logging.getLogger(__name__)

HELD_HINTS: Final = 1_000
"""How many hints of one run wait while it is fetched."""
SLICE: Final = 100
"""After how many groups of a long read the sockets get their turn."""
FETCH_CHANGES: Final = 10_000
PARCELS: Final = 5_000
LOAD_RUNS: Final = 200
"""How many payloads are read at once."""


class Store(TailStore, Protocol):
    """What the hub reads. Everything raises Unavailable while the database is away."""

    async def snapshot(
        self, selection: Selection, *, after: ListKey | None = None, limit: int
    ) -> SnapshotPage: ...

    async def payloads(self, project: str, run_ids: Sequence[str]) -> dict[str, Any]: ...

    async def get_batches(self, project: str, batch_ids: Sequence[str]) -> dict[str, Batch]: ...

    async def witnesses(self, xmaxes: Sequence[int]) -> dict[int, int]: ...


@dataclass(frozen=True)
class Services:
    """What all projects of a hub share."""

    store: Store
    tasks: Tasks
    flights: Flights
    payloads: Payloads
    measures: Measures
    now: Callable[[], Moment]
    wake_tail: Callable[[str], None]
    delivered: Callable[[Change, int], None]
    """A change was shown to so many."""
    due: Callable[[Cohort], None]
    """A cohort is to be flushed at the end of this turn."""
    replay_changes: int
    join_s: float
    is_slow: Callable[[str], bool]
    """Whether whoever holds that cursor was too slow again and again."""


class Place(StrEnum):
    """Where a change stands to what the hub has handed on."""

    NEXT = "next"
    SEEN = "seen"
    REPEAT = "repeat"
    GAP = "gap"


@dataclass
class _Composed:
    """Who waits for the statement of the tail that is under way."""

    joined: list[Member] = field(default_factory=list)
    over: list[Member] = field(default_factory=list)
    batches: dict[str, list[Member]] = field(default_factory=dict)
    behind: list[asyncio.Future[None]] = field(default_factory=list)


class Project:
    """Settles order and repeats once per run, for all of its subscriptions alike.

    It is handed what hints tell and what the tail and fetches find, in any order and more than
    once, and shows each version once, in order. Everything but the reads happens without waiting.
    """

    def __init__(self, id: str, services: Services, join: Join) -> None:
        self.project = id
        self.services = services
        self._join = join
        self.index: Index[Member] = Index()
        self.connections: dict[Connection, int] = {}
        """The connections with subscriptions here, and how many each has."""
        self.ready = asyncio.Event()
        """Set once the horizon was taken."""
        self.epoch = ""
        self.horizon: Horizon | None = None
        self.ring: Ring | None = None
        self.is_stale = False
        self._oldest = 0
        self._oldest_since = 0.0
        self.wanted_logs: dict[tuple[str, Horizon | int], dict[Horizon, set[str | None]]] = {}
        """For each resume that waits for a read of the log: since when, and of which runs."""
        self.wanted_beginnings: dict[int, set[Horizon]] = {}
        """From where those come who wait for the ring to begin earlier."""
        self.wanted_witnesses: set[int] = set()
        self.wanted_batches: set[str] = set()
        self._parcels: dict[tuple[int, bool], Parcel] = {}
        """What those who join at the same time are shown alike."""
        self._behind: list[asyncio.Future[None]] = []
        self.cohorts = Cohorts(services.due, self.intern)
        self.news: dict[Connection, None] = {}
        """Those that were told something for which no cursor stands yet."""
        self._gathers = False
        self._last: dict[str, tuple[int, int]] = {}
        """The last version handed on of each run, and its transaction, until that is seen."""
        self._held: dict[str, list[Hint]] = {}
        """Hints of runs that wait for a fetch or for a payload."""
        self._lacking: set[str] = set()
        self._loading = False
        self._life = 0
        self._joins: dict[Member, asyncio.Task[None]] = {}
        self._joined: list[Member] = []
        self._over: dict[Member, None] = {}
        self._marked: set[str] = set()
        self._composed = _Composed()
        self._watches: dict[str, BatchWatch] = {}
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
        if self.is_stale:
            connection.session.mark_stale(True)
        task = self.services.tasks.start(
            self._join(self, connection, member),
            f"join of {member.id}",
            connection.broke,
        )
        self._joins[member] = task
        task.add_done_callback(lambda done: self._join_done(member, done))

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
            self.news.pop(connection, None)
        batch_id = member.wish.selection.batch_id
        if batch_id is not None and not self.index.of_batch(batch_id):
            self._watches.pop(batch_id, None)
            self._marked.discard(batch_id)

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
            self._joined.append(member)
        if member.over is not None:
            self._mark_over(member)
        batch_id = member.wish.selection.batch_id
        if batch_id is not None:
            if batch_id not in self._watches:
                self._watches[batch_id] = BatchWatch(self, batch_id)
            self._watches[batch_id].touch()
        if self.is_stale:
            connection.session.mark_stale(True)

    def _forget(self, member: Member) -> None:
        self._over.pop(member, None)
        for waiting in (self._joined, self._composed.joined, self._composed.over):
            if member in waiting:
                waiting.remove(member)
        for members in self._composed.batches.values():
            if member in members:
                members.remove(member)
        task = self._joins.pop(member, None)
        if task is not None:
            task.cancel()

    def _join_done(self, member: Member, task: asyncio.Task[None]) -> None:
        if self._joins.get(member) is task:
            del self._joins[member]
        if not self._joins:
            self._parcels.clear()

    def close(self) -> None:
        """It is followed no more."""
        self._life += 1
        self._held.clear()
        self._lacking.clear()
        for task in self._joins.values():
            task.cancel()

    # -------------------------------------------------------------------------------- what is next

    def hinted(self, hint: Hint) -> None:
        """A change that some process committed; perhaps late, doubled or out of order."""
        horizon, change = self.horizon, hint.change
        if horizon is None:
            # Before the first horizon there is nothing to compare with; the tail begins with it.
            self._count("unfollowed")
        elif horizon.seen(change.xid):
            self._count(Place.SEEN)
        elif (held := self._held.get(change.run_id)) is not None:
            self._count("held")
            if len(held) < HELD_HINTS:
                held.append(hint)
            else:
                self.wake_tail()
        else:
            self._offer(hint, {}, again=False)

    def _place(self, change: Change) -> Place:
        assert self.horizon is not None
        if self.horizon.seen(change.xid):
            return Place.SEEN
        last = self._last.get(change.run_id)
        if last is not None:
            if change.version <= last[0]:
                return Place.REPEAT
            return Place.NEXT if change.version == last[0] + 1 else Place.GAP
        if change.version == 1 or self.horizon.seen(change.previous_xid):
            return Place.NEXT
        return Place.GAP

    def _offer(self, hint: Hint, loaded: Mapping[str, bytes | None], *, again: bool) -> None:
        change, run = hint.change, hint.run
        place = self._place(change)
        if place in (Place.SEEN, Place.REPEAT):
            self._count(place)
            return
        is_whole = run is not None or change.kind is ChangeKind.SEALED
        if place is Place.GAP or not is_whole:
            if again:
                # The fetch did not see it. It is in the log or it is not: the tail will tell.
                self.wake_tail()
                return
            self._count(place if place is Place.GAP else "ids")
            self._held[change.run_id] = [hint]
            self.services.tasks.start(self._fetch(change.run_id), f"fetch of {change.run_id}")
            return
        self._count(Place.NEXT)
        if run is not None and run.has_payload and change.kind is ChangeKind.RUN:
            self.services.payloads.put(run.id, run.payload)
        if not self._dispatch(Group((change,), run), loaded):
            self._held[change.run_id] = [hint]
            self._lacking.add(change.run_id)
            if not self._loading:
                self._loading = True
                self.services.tasks.start(self._load_lacking(), "read of payloads")

    def _release(self, run_id: str, loaded: Mapping[str, bytes | None], *, again: bool) -> None:
        """What waited is as if it had been hinted just now, in the order of versions."""
        hints = self._held.pop(run_id, [])
        for hint in sorted(hints, key=lambda hint: hint.change.version):
            held = self._held.get(run_id)
            if held is not None:
                held.append(hint)
            else:
                self._offer(hint, loaded, again=again)

    async def _fetch(self, run_id: str) -> None:
        """Reads what the horizon has not seen of one run."""
        life, since, epoch = self._life, self.horizon, self.epoch
        assert since is not None
        services = self.services
        services.measures.fetches_total.inc()
        try:
            page = await services.flights.get(
                ("run", self.project, life, run_id),
                lambda: services.store.read_log(
                    self.project,
                    since,
                    epoch=epoch,
                    limit=FETCH_CHANGES,
                    selection=Selection(project=self.project, run_id=run_id),
                    payloads=True,
                ),
            )
            if life == self._life:
                await self._show_found(page.groups, by_tail=False)
        except (CannotContinue, Unavailable):
            self.wake_tail()
        finally:
            if life == self._life:
                self._release(run_id, {}, again=True)

    async def _load_lacking(self) -> None:
        """Reads the payloads of all runs that wait for one, together."""
        try:
            while self._lacking:
                life = self._life
                ids = sorted(self._lacking)[:LOAD_RUNS]
                self._lacking.difference_update(ids)
                try:
                    loaded = await self.load(ids)
                except Unavailable:
                    # The tail tries again and again, and comes with what it finds.
                    if life == self._life:
                        for id in ids:
                            self._held.pop(id, None)
                    self.wake_tail()
                    continue
                if life != self._life:
                    continue  # what waited then was let go, and something else may wait now
                for id in ids:
                    self._release(id, loaded, again=False)
        finally:
            self._loading = False

    async def load(self, run_ids: Sequence[str]) -> dict[str, bytes | None]:
        """The payloads of these runs as JSON; None for one that was deleted."""
        payloads = self.services.payloads
        loaded: dict[str, bytes | None] = {id: payloads.get(id) for id in run_ids}
        missing = [id for id, payload in loaded.items() if payload is None]
        for start in range(0, len(missing), LOAD_RUNS):
            found = await self.services.store.payloads(
                self.project, missing[start : start + LOAD_RUNS]
            )
            for id, payload in found.items():
                loaded[id] = payloads.put(id, payload)
        return loaded

    async def _show_found(self, groups: Sequence[Group], *, by_tail: bool) -> None:
        """Hands on what a read has found and no hint has told; each group or nothing of it."""
        life = self._life
        loaded: dict[str, bytes | None] = {}
        for start in range(0, len(groups), SLICE):
            left = groups[start : start + SLICE]
            while left:
                lacking = []
                for group in left:
                    fresh = self._not_handed_on(group)
                    if fresh is None:
                        continue
                    if not self._dispatch(fresh, loaded):
                        lacking.append(group)
                    elif by_tail:
                        self.services.measures.found_by_tail_total.inc(len(fresh.changes))
                left = lacking
                if lacking:
                    loaded = await self.load([group.first.run_id for group in lacking])
                    if life != self._life:
                        return
            if start + SLICE < len(groups):
                await asyncio.sleep(0)
                if life != self._life:
                    return

    def _not_handed_on(self, group: Group) -> Group | None:
        assert self.horizon is not None
        seen = self.horizon.seen
        version = self._last.get(group.first.run_id, (0, 0))[0]
        # The horizon may have moved since this was read, and what it covers was forgotten.
        fresh = tuple(
            change for change in group.changes if change.version > version and not seen(change.xid)
        )
        if not fresh:
            return None
        return group if len(fresh) == len(group.changes) else Group(fresh, group.run)

    async def found(self, groups: Sequence[Group]) -> None:
        """Some read of the log has found these; what no hint has told of them is handed on."""
        await self._show_found(groups, by_tail=False)

    # ------------------------------------------------------------------------------ whom it is shown

    def parcel(self, group: Group, payload: bytes | None) -> Parcel:
        """The group on its way to those who join; the same for all who are shown it now."""
        key = (id(group), payload is None)
        parcel = self._parcels.get(key)
        if parcel is None:
            if len(self._parcels) >= PARCELS:
                self._parcels.clear()
            parcel = self._parcels[key] = Parcel(group, payload)
        return parcel

    def _dispatch(self, group: Group, loaded: Mapping[str, bytes | None]) -> bool:
        """Shows the next group of a run to whom it concerns. False, and nothing is done, if that
        takes a payload that is neither loaded nor at hand."""
        run_id = group.first.run_id
        members = self.index.candidates(group)
        if members:
            payload = loaded.get(run_id) or self.services.payloads.get(run_id)
            gone = payload is None and run_id in loaded
            parcel = Parcel(group, payload, gone=gone)
            if not self._share(parcel, members):
                return False
            if not self._gathers:
                self.spread()
        self._last[run_id] = (group.last.version, group.last.xid)
        if self.ring is not None:
            self.ring.add(group)
        if self._watches:
            self._touch_batch(group)
        return True

    def gather(self) -> None:
        """Until `spread`, which comes in the same turn, mailboxes may be owed lines that are not
        in them: consecutive changes that concern the same members go into each with one call."""
        self._gathers = True

    def spread(self) -> None:
        """Whatever was gathered is in the mailboxes now."""
        self._gathers = False
        self.cohorts.spread()

    def _share(self, parcel: Parcel, members: list[Member]) -> bool:
        """Tells all at once that are to be told the same, and the others one by one."""
        if len(members) < SMALLEST:
            self.cohorts.spread()
            return self._deliver(parcel, members)
        audience = self.cohorts.audience(members)
        verdicts = [parcel.verdict(cohort.wish) for cohort in audience.cohorts]
        for cohort, verdict in zip(audience.cohorts, verdicts, strict=True):
            if parcel.lacks_payload(verdict, cohort.wish):
                return False
            if verdict.end or verdict.over:
                # Some are over with it: what they are owed comes before their end.
                self.cohorts.spread()
                return self._deliver(parcel, members)
        if audience.others and not self._deliver(parcel, audience.others):
            return False
        told = 0
        for cohort, verdict in zip(audience.cohorts, verdicts, strict=True):
            for item in parcel.items(verdict, cohort.wish):
                self.cohorts.owe(cohort, item.line((cohort.id,)))
            if verdict.kind is not None:
                told += len(cohort)
        if told:
            self.services.delivered(parcel.group.last, told)
        return True

    def _deliver(self, parcel: Parcel, members: Sequence[Member]) -> bool:
        group = parcel.group
        verdicts = []
        joining = []
        for member in members:
            if member.phase is Phase.LIVE:
                if member.is_settled:
                    verdict = parcel.verdict(member.wish)
                else:
                    left = member.trim(group)
                    if left is None:
                        continue
                    verdict = parcel.verdict(member.wish, left)
                if parcel.lacks_payload(verdict, member.wish):
                    return False
                if verdict.kind is not None or verdict.end or verdict.over:
                    verdicts.append((member, verdict))
            elif member.phase is Phase.JOINING:
                joining.append(member)
        for member in joining:
            member.hold(group)
        if not verdicts:
            return True
        if len(verdicts) == 1:
            member, verdict = verdicts[0]
            self._tell([member], parcel.items(verdict, member.wish))
        else:
            # Subscriptions of one connection that are told the same share a message.
            owed: dict[tuple[int, int], tuple[list[Member], Sequence[Item]]] = {}
            for member, verdict in verdicts:
                items = parcel.items(verdict, member.wish)
                key = (id(member.mailbox), id(items))
                if key in owed:
                    owed[key][0].append(member)
                else:
                    owed[key] = ([member], items)
            for told, items in owed.values():
                self._tell(told, items)
        self.services.delivered(group.last, len(verdicts))
        for member, verdict in verdicts:
            if verdict.end is not None:
                self.end(member, verdict.end)
            elif verdict.over is not None:
                member.over = verdict.over
                self._mark_over(member)
        return True

    def _tell(self, members: list[Member], items: Sequence[Item]) -> None:
        """Puts what is to be said into the mailbox of one connection."""
        mailbox = members[0].mailbox
        every = tuple(each.id for each in members if each.delivery is Delivery.EVERY)
        try:
            for item in items:
                if every:
                    mailbox.put(item.line(every))
                if len(every) < len(members):
                    for member in members:
                        if member.delivery is Delivery.LATEST:
                            mailbox.put_latest(
                                member.id,
                                item.run_id,
                                item.kind,
                                item.fields,
                                item.line((member.id,)),
                            )
        except MailboxFull:
            connection_of(members[0]).overflowed()

    def end(self, member: Member, reason: EndReason) -> None:
        """The subscription is over."""
        connection = connection_of(member)
        connection.say(lambda: connection.session.end(member, reason))

    def _mark_over(self, member: Member) -> None:
        """It seems over; it is when a statement of the tail that begins now has passed."""
        member.stand_alone()
        self._over[member] = None
        connection_of(member).session.wishes_changed()
        self.wake_tail()

    def mark_complete(self, batch_id: str) -> None:
        """The batch seems complete; the tail's next statement says whether it is."""
        self._marked.add(batch_id)
        self.wake_tail()

    def _touch_batch(self, group: Group) -> None:
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

    # ------------------------------------------------------------------- what the tail says (Follower)

    def begun(self, epoch: str, horizon: Horizon) -> None:
        """The horizon was taken."""
        self.epoch, self.horizon = epoch, horizon
        self.ring = Ring(horizon)
        self.ready.set()
        self._mark_fresh()

    def compose(self) -> Sequence[str]:
        """A statement of the tail is about to begin."""
        batches = {
            id: [member for member in self.index.of_batch(id) if member.is_live]
            for id in self._marked
        }
        self._composed = _Composed(self._joined, list(self._over), batches, self._behind)
        self._joined, self._behind = [], []
        return list(batches)

    async def hand_on(self, groups: Sequence[Group]) -> None:
        """The tail has found these."""
        await self._show_found(groups, by_tail=True)

    def passed(self, page: LogPage) -> None:
        """All that the statement saw was handed on."""
        composed, self._composed = self._composed, _Composed()
        horizon = self.horizon = page.horizon
        if horizon.xip and horizon.xmin != self._oldest:
            self._oldest, self._oldest_since = horizon.xmin, self.services.now().monotonic
        if self.ring is not None:
            self.ring.moved(horizon)
        self._last = {
            run_id: last for run_id, last in self._last.items() if not horizon.seen(last[1])
        }
        for member in composed.joined:
            member.settle()
        if composed.joined:
            self.cohorts.changed()
        for member in composed.over:
            self._over.pop(member, None)
            if member.over is not None:
                self.end(member, member.over)
        for batch_id, members in composed.batches.items():
            self._batch_read(batch_id, page.batches.get(batch_id), members)
        _wake(composed.behind)
        self._mark_fresh()
        self._send_checkpoints(horizon)

    def _batch_read(self, batch_id: str, batch: Batch | None, members: list[Member]) -> None:
        if batch is None or not is_complete(batch):
            self._marked.discard(batch_id)
            return
        for member in members:
            self.tell_batch(member, protocol.batch_object(batch, FINAL))
            if member.wish.stop:
                self.end(member, EndReason.COMPLETED)
        # Whoever came after the statement had begun waits for the next one.
        if all(
            member.batch_shown is not None and not member.wish.stop
            for member in self.index.of_batch(batch_id)
            if member.is_live
        ):
            self._marked.discard(batch_id)
        else:
            self.wake_tail()

    def tell_batch(self, member: Member, batch: bytes) -> None:
        """How far its batch is, if that is news to it and its to know."""
        selection = Selection(project=self.project, batch_id=member.wish.selection.batch_id)
        if member.batch_shown == batch or not member.wish.grant.allows(selection):
            return
        member.batch_shown = batch
        try:
            member.mailbox.put(protocol.batch(member.id, batch))
        except MailboxFull:
            connection_of(member).overflowed()

    def _send_checkpoints(self, horizon: Horizon) -> None:
        now = self.services.now()
        self.cohorts.send_cursors(now, self.cursor_for, heartbeat=False)
        written: dict[object, str] = {}
        for connection in list(self.news):
            if not connection.session.has_news or connection.mailbox.lane is not None:
                del self.news[connection]
                continue
            session = connection.session
            if session.checkpoint_is_due(now):
                cursor = session.cursor_for(self.epoch, horizon)
                key = (cursor.wishes, cursor.forced)
                if key not in written:
                    written[key] = cursor.encode()
                try:
                    session.checkpoint(written[key], now)
                except MailboxFull:
                    connection.overflowed()

    def cursor_for(self, connection: Connection) -> str:
        """What stands in for the cursor of each of the connection's live subscriptions."""
        session = connection.session
        if self.horizon is None or not any(m.is_live for m in session.subscriptions.values()):
            return NO_CURSOR
        return session.cursor_for(self.epoch, self.horizon).encode()

    def missed(self) -> None:
        """The statement came to nothing: who waited for it waits for the next."""
        self._joined.extend(self._composed.joined)
        self._behind.extend(self._composed.behind)
        self._composed = _Composed()

    def broken(self, reason: str, epoch: str, horizon: Horizon) -> None:
        """The log goes on as another one: every stream starts again."""
        log.warning("the log of %s can't be continued: %s", self.project, reason)
        self._life += 1
        self._last.clear()
        self._held.clear()
        self._lacking.clear()
        self._joined.clear()
        self._over.clear()
        self._marked.clear()
        _wake(self._behind)
        self._behind = []
        self._composed = _Composed()
        self.epoch, self.horizon = epoch, horizon
        self.ring = Ring(horizon)
        self._mark_fresh()
        for member in self.index:
            self.reset(member, ResetReason(reason))

    def reset(self, member: Member, reason: ResetReason) -> None:
        """The stream starts again from a snapshot."""
        self.services.measures.resets_total.labels(reason=reason).inc()
        connection = connection_of(member)
        connection.say(lambda: connection.session.reset(member, reason))

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

    def horizon_age_s(self, now: Moment) -> float:
        """For how long the oldest transaction has been open that the horizon waits for."""
        if self.horizon is None or not self.horizon.xip:
            return 0.0
        return now.monotonic - self._oldest_since

    def needs_statement(self) -> bool:
        """Whether somebody waits for a statement of the tail."""
        return bool(self._joined or self._over or self._marked or self._behind)

    async def caught_up(self) -> None:
        """Until a statement of the tail has passed that began after this was asked for."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._behind.append(future)
        self.wake_tail()
        await future

    async def read_batches(self) -> dict[str, Batch]:
        """The batches that somebody waits for."""
        wanted, self.wanted_batches = self.wanted_batches, set()
        return await self.services.store.get_batches(self.project, sorted(wanted))

    def wake_tail(self) -> None:
        """Have the log read at once."""
        self.services.wake_tail(self.project)

    def _count(self, result: str) -> None:
        self.services.measures.hints_total.labels(result=result).inc()


Join: TypeAlias = Callable[[Project, Connection, Member], Coroutine[Any, Any, None]]


def _wake(waiting: Sequence[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
