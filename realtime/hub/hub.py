"""Hands each change to the subscriptions that it matches, in one process."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from realtime.errors import AlreadyRunning, MailboxFull
from realtime.hub.admission import Admission
from realtime.hub.cohorts import Cohort
from realtime.hub.connection import Authenticate, Connection, Outlet
from realtime.hub.flights import Flights
from realtime.hub.joining import Joins
from realtime.hub.looks import Looks
from realtime.hub.measures import Measures, NoMeasures
from realtime.hub.packing import Packing
from realtime.hub.payloads import Payloads
from realtime.hub.project import Project
from realtime.hub.services import Services, Store
from realtime.hub.settings import HubSettings
from realtime.hub.tasks import Tasks
from realtime.protocol import EndReason, ErrorCode
from realtime.session import NO_CURSOR, Member, Moment, SessionSettings
from realtime.subscription import Grant
from store.broker import Broker, BrokerState, Hint
from store.errors import StoreError
from store.model import Change, Selection, new_id
from store.tail import Tail

log = logging.getLogger(__name__)

SLOW_TIMES: Final = 3
SLOW_WITHIN_S: Final = 60.0
SLOW_REMEMBERED: Final = 10_000
CHANGES_REMEMBERED: Final = 10_000
LOOKS: Final = 4
"""How often in a tick it is looked for connections that something is due for."""


class Hub:
    """The middle of the gateway: hints and the tail on one side, connections on the other.

    `run` must be running before the first connection comes, and follows until it is cancelled:
    it starts the broker with the hub as its listener. Closing the broker is left to who made it.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        *,
        settings: HubSettings | None = None,
        measures: Measures | None = None,
    ) -> None:
        self.settings = settings or HubSettings()
        self.measures = measures or NoMeasures()
        self.connections: dict[Connection, None] = {}
        self.projects: dict[str, Project] = {}
        self.is_draining = False
        self.ready = asyncio.Event()
        """Set once it is running."""
        self._store = store
        self._broker = broker
        self._tasks = Tasks()
        self._tail = Tail(
            store,
            degraded=lambda: broker.state is BrokerState.DEGRADED,
            interval_s=self.settings.tail_s,
            degraded_s=self.settings.tail_degraded_s,
            look_s=self.settings.look_s,
        )
        self._services = Services(
            store=store,
            tasks=self._tasks,
            flights=Flights(self._tasks, self.settings.cold_reads),
            payloads=Payloads(store.payloads, self.settings.payload_cache_bytes),
            measures=self.measures,
            now=self.now,
            wake_tail=self._tail.wake,
            delivered=self._delivered,
            due=self._due,
            replay_changes=self.settings.replay_changes,
            join_s=self.settings.join_s,
            is_slow=self._is_slow,
        )
        session = self.settings.session
        self._tick_s = max(
            0.02,
            min(
                1.0,
                session.heartbeat_s / 5,
                session.authenticate_s / 5,
                self.settings.slow_consumer_s / 5,
            ),
        )
        self._dirty: dict[Connection, None] = {}
        self._cohorts: list[Cohort] = []
        self._flush_is_due = False
        self._lagging: dict[Connection, None] = {}
        """Those that something is left to be sent to."""
        self._looks = Looks(self._tick_s / LOOKS)
        self._changes: deque[datetime] = deque(maxlen=CHANGES_REMEMBERED)
        """When the changes were made that this turn of the loop has shown."""
        self._slow: OrderedDict[str, deque[float]] = OrderedDict()
        self._lingering: dict[str, asyncio.TimerHandle] = {}
        self._admission = Admission(self.settings, self.measures)
        self._is_running = False
        self._one_closed = asyncio.Event()

    async def run(self) -> None:
        """Serves until it is cancelled; then nothing of it is left."""
        if self._is_running:
            raise AlreadyRunning("the hub")
        self._is_running = True
        try:
            await self._broker.start(self)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tail.run(), name="tail")
                tasks.create_task(self._tick(), name="hub ticks")
                self.ready.set()
        finally:
            for connection in list(self.connections):
                connection.abort()
            for timer in self._lingering.values():
                timer.cancel()
            await self._tasks.close()

    def now(self) -> Moment:
        """The time, by both clocks."""
        return Moment(time.monotonic(), datetime.now(UTC))

    # -------------------------------------------------------------------- what hints tell (Listener)

    def hinted(self, hints: Sequence[Hint]) -> None:
        """Changes that some process committed."""
        gathering: set[Project] = set()
        for hint in hints:
            project = self.projects.get(hint.change.project)
            if project is None:
                self.measures.hints_total.labels(result="unfollowed").inc()
                continue
            project.dispatch.gather()
            gathering.add(project)
            try:
                project.order.hinted(hint)
            except Exception:
                # A hint is hope; the tail finds what this one has failed to tell.
                log.exception("a hint could not be taken")
                self._tail.wake(project.project)
        for project in gathering:
            project.dispatch.spread()

    def suspect(self, project: str | None, reason: str) -> None:
        """Hints may have been lost."""
        log.debug("hints of %s may have been lost: %s", project or "every project", reason)
        self._tail.wake(project)

    # ------------------------------------------------------------------------------- connections

    def connect(
        self,
        outlet: Outlet,
        authenticate: Authenticate,
        *,
        kind: str = "websocket",
        session: SessionSettings | None = None,
        address: str | None = None,
    ) -> Connection:
        """A new connection. Over the limit, or while draining, it is closed at once.

        `kind` is what it is counted as.
        """
        connection = Connection(
            self,
            outlet,
            authenticate,
            new_id("conn"),
            session or self.settings.session,
            self.settings.mailbox_bytes,
            kind,
        )
        self.connections[connection] = None
        self.look(connection)
        if self._admission.admit(connection, address) and self.is_draining:
            after_ms = random.randint(100, 1_000)
            connection.say(lambda: connection.session.turn_away(after_ms, "draining"))
        return connection

    def opened(self, connection: Connection) -> None:
        """A connection is authenticated."""
        self._admission.opened(connection)

    def closed(self, connection: Connection, code: int) -> None:
        """A connection is over."""
        if connection in self.connections:
            del self.connections[connection]
            self._admission.closed(connection)
            self.measures.closes_total.labels(code=str(code) if code else "lost").inc()
            self._one_closed.set()
        self._looks.forget(connection)
        self._lagging.pop(connection, None)
        self._dirty.pop(connection, None)

    def join(self, connection: Connection, member: Member) -> None:
        """Joins a subscription, for the first time or again."""
        project = self.projects.get(member.wish.selection.project)
        if project is None:
            project = self._follow(member.wish.selection.project)
        timer = self._lingering.pop(project.project, None)
        if timer is not None:
            timer.cancel()
        project.add(connection, member)

    def leave(self, connection: Connection, member: Member) -> None:
        """A subscription is over."""
        project = self.projects.get(member.wish.selection.project)
        if project is None:
            return
        project.remove(connection, member)
        if not project.index and project.project not in self._lingering:
            self._lingering[project.project] = asyncio.get_running_loop().call_later(
                self.settings.linger_s, self._unfollow, project
            )

    def recheck(self, connection: Connection, member: Member) -> None:
        """Does its token cover the one run? How far is the batch?"""
        selection = member.wish.selection
        project = self.projects.get(selection.project)
        if project is None:
            return
        project.intern(member)
        if selection.batch_id is None:
            self._tasks.start(
                self._recheck(connection, member), f"recheck of {member.id}", connection.broke
            )
        elif member.is_live:
            project.batches.follow(selection.batch_id)

    async def _recheck(self, connection: Connection, member: Member) -> None:
        wish = member.wish
        selection = Selection(project=wish.selection.project, run_id=wish.selection.run_id)
        page = None
        wait_s = 0.1
        while page is None:
            try:
                page = await self._services.flights.get(
                    ("snapshot", selection, 1), lambda: self._store.snapshot(selection, limit=1)
                )
            except StoreError:
                # There may be no next change with which it would be looked at again.
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, 2.0)
                if member.wish is not wish or not connection.session.holds(member):
                    return
        if member.wish is wish and page.runs and not wish.has(page.runs[0]):
            if member.was_live:
                connection.say(lambda: connection.session.end(member, EndReason.FORBIDDEN))
            else:
                connection.say(
                    lambda: connection.session.deny(
                        member, ErrorCode.FORBIDDEN, "the token does not cover it"
                    )
                )

    def revoked(self, stands: Callable[[Grant], bool]) -> None:
        """Ends every connection whose token no longer stands."""
        for connection in list(self.connections):
            grant = connection.session.grant
            if grant is not None and not stands(grant):
                lose_grant = connection.session.lose_grant
                connection.say(partial(lose_grant, EndReason.TOKEN_REVOKED))

    async def drain(self, deadline_s: float) -> None:
        """Sends every connection away, one after the other; returns when all are gone, or after
        the deadline, when those that are left have been dropped."""
        self.is_draining = True
        now = self.now()
        last_ms = int(deadline_s * 800)
        for connection in list(self.connections):
            after_ms = random.randint(last_ms // 10, last_ms) if last_ms else 0
            try:
                connection.session.send_away(after_ms, "draining", now)
            except MailboxFull:
                connection.overflowed()
            self.look(connection)
        try:
            async with asyncio.timeout(deadline_s):
                while self.connections:
                    self._one_closed.clear()
                    await self._one_closed.wait()
        except TimeoutError:
            pass
        for connection in list(self.connections):
            connection.abort()

    # -------------------------------------------------------------------------------- projects

    def _follow(self, id: str) -> Project:
        # Not a word of this waits: between the look and the change nobody else may come.
        project = self.projects[id] = Project(id, self._services, Joins)
        self._broker.follow(id)
        self._tail.follow(project)
        return project

    def _unfollow(self, project: Project) -> None:
        self._lingering.pop(project.project, None)
        if project.index or self.projects.get(project.project) is not project:
            return
        del self.projects[project.project]
        self._broker.unfollow(project.project)
        self._tail.unfollow(project.project)
        project.close()

    # ---------------------------------------------------------------------------------- flushing

    def dirty(self, connection: Connection) -> None:
        """Something is to be written to it at the end of this turn of the loop."""
        self._dirty[connection] = None
        self._flush_soon()

    def _due(self, cohort: Cohort) -> None:
        self._cohorts.append(cohort)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Writes to each connection what it is owed, all that has come up in this turn at once."""
        self._flush_is_due = False
        now = time.monotonic()
        cohorts, self._cohorts = self._cohorts, []
        for cohort in cohorts:
            cohort.flush(now)
        dirty, self._dirty = self._dirty, {}
        packing = Packing()
        for connection in dirty:
            try:
                connection.flush(now, packing)
            except Exception as error:
                log.exception("a connection could not be written to")
                connection.broke(error)
                connection.abort()
        if self._changes:
            at = datetime.now(UTC)
            for changed_at in self._changes:
                self.measures.delivery_seconds.observe((at - changed_at).total_seconds())
            self._changes.clear()

    def _delivered(self, change: Change, times: int) -> None:
        self._changes.append(change.at)
        self.measures.delivered_total.inc(times)

    # --------------------------------------------------------------------------------------- time

    async def _tick(self) -> None:
        turn = 0
        while True:
            # What is due at a time of its own is looked for more often: it is found at once.
            await asyncio.sleep(self._tick_s / LOOKS)
            # Not here: what a loop had last in its hands would be kept until the next time.
            now = self.now()
            self._look_at_due(now)
            turn += 1
            if turn % LOOKS == 0:
                self._send_cursors(now)
                self._look_at_lagging(now)
                self._measure(now)

    def _look_at_due(self, now: Moment) -> None:
        for connection in self._looks.take(now.monotonic):
            self._guarded(connection, partial(self._look, connection, now))

    def _look_at_lagging(self, now: Moment) -> None:
        owed = 0
        for connection in list(self._lagging):
            if connection.is_late(now.monotonic, self.settings.slow_consumer_s):
                owed += connection.mailbox.size
            else:
                self._lagging.pop(connection, None)
        self.measures.mailbox_bytes.set(owed)

    def _measure(self, now: Moment) -> None:
        projects = self.projects.values()
        self.measures.subscriptions.set(sum(len(each.index) for each in projects))
        self.measures.horizon_age_seconds.set(
            max((each.order.horizon_age_s(now) for each in projects), default=0.0)
        )

    def _send_cursors(self, now: Moment) -> None:
        for project in self.projects.values():
            checkpoints = project.checkpoints
            project.cohorts.send_cursors(now, checkpoints.cursor_for, heartbeat=True)
            for connection in list(checkpoints.news):
                if connection.session.has_news and connection.mailbox.lane is None:
                    self._guarded(connection, partial(self._send_cursor, connection, now))
                else:
                    checkpoints.news.pop(connection, None)

    def _guarded(self, connection: Connection, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            log.exception("a connection could not be looked after")
            connection.broke(error)

    def _look(self, connection: Connection, now: Moment) -> None:
        connection.tick(now)
        if connection.mailbox.lane is None:
            self._send_cursor(connection, now)
        self.look(connection)

    def look(self, connection: Connection) -> None:
        """Has it looked at when something may be due without anybody's doing."""
        if connection in self.connections:
            now = self.now()
            at = connection.session.looks_again_at(now)
            # Never much later: the wall clock, by which tokens end, may be set. And what is due
            # by now needs a turn to be done.
            soonest, latest = self._tick_s / LOOKS, self.settings.session.heartbeat_s
            self._looks.put(
                connection, min(max(at, now.monotonic + soonest), now.monotonic + latest)
            )

    def lags(self, connection: Connection) -> None:
        """Something is left to be sent to it."""
        self._lagging[connection] = None

    def has_news(self, connection: Connection) -> None:
        """It was told something that no cursor stands for yet."""
        project = self.projects.get(connection.project or "")
        if project is not None and connection in project.connections:
            project.checkpoints.news[connection] = None

    def _send_cursor(self, connection: Connection, now: Moment) -> None:
        """A heartbeat after a silence; a checkpoint after the last of some changes."""
        session = connection.session
        silent = session.heartbeat_is_due(now)
        if not silent and not session.checkpoint_is_due(now):
            return
        project = self.projects.get(connection.project or "")
        try:
            if project is not None and not project.checkpoints.has_come_to(connection):
                # The tail has not passed its joining yet, and does so at once if it can.
                project.wake_tail()
                if silent and project.is_stale:
                    session.say_stale()
                return
            cursor = NO_CURSOR if project is None else project.checkpoints.cursor_for(connection)
            if silent:
                session.heartbeat(cursor, now)
            elif cursor != session.last_cursor:
                session.checkpoint(cursor, now)
        except MailboxFull:
            connection.overflowed()

    def was_slow(self, cursor: str) -> None:
        """Whoever resumed from there was too slow to come as far as `live`."""
        times = self._slow.setdefault(cursor, deque(maxlen=SLOW_TIMES))
        self._slow.move_to_end(cursor)
        times.append(time.monotonic())
        while len(self._slow) > SLOW_REMEMBERED:
            self._slow.popitem(last=False)

    def _is_slow(self, cursor: str) -> bool:
        """Whether it was closed three times in a minute, each time before it went live."""
        times = self._slow.get(cursor)
        return (
            times is not None
            and len(times) == SLOW_TIMES
            and time.monotonic() - times[0] <= SLOW_WITHIN_S
        )
