"""Follows the log for one process, and finds what no hint has told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from store.errors import CannotContinue, StoreError, Unavailable
from store.model import Group, Horizon, LogPage, Selection

log = logging.getLogger(__name__)

PAGE_CHANGES: Final = 1_000
RETRY_FIRST_S: Final = 0.1
RETRY_LONGEST_S: Final = 3.0


class Commits(NamedTuple):
    """Two numbers: one moves with each commit of anybody, one with those of other processes."""

    anybody: int
    others: int


class TailStore(Protocol):
    """What the tail reads. Raises Unavailable while the database is away."""

    async def horizon(self, project: str) -> tuple[str, Horizon]: ...

    async def read_log(
        self,
        project: str,
        since: Horizon,
        *,
        epoch: str | None,
        after: str | None = None,
        limit: int,
        selection: Selection | None = None,
        batches: Sequence[str] = (),
        payloads: bool = False,
    ) -> LogPage: ...

    async def commits(self) -> Commits | None:
        """Whether anybody has committed, and who; None where that can't be seen."""
        ...


class Follower(Protocol):
    """Who is handed what the tail finds in one project. Called on the event loop.

    A follower is followed once: after `unfollow` the project needs a new one.
    """

    @property
    def project(self) -> str: ...

    def begun(self, epoch: str, horizon: Horizon) -> None:
        """Followed from here on: what this horizon has not seen will be handed on."""

    def compose(self) -> Sequence[str]:
        """A statement is about to begin. The batches that it is to read along."""

    async def hand_on(self, groups: Sequence[Group]) -> None:
        """Changes that the horizon had not seen; hints may have told some of them."""

    def passed(self, page: LogPage) -> None:
        """All that this statement saw has been handed on; it is the last that was composed."""

    def missed(self) -> None:
        """The statement that was composed came to nothing."""

    def broken(self, reason: str, epoch: str, horizon: Horizon) -> None:
        """The log can't be continued, it goes on from here: another epoch, or cut too far."""

    def stale(self) -> None:
        """The log can't be read just now. May be said more than once."""

    def needs_statement(self) -> bool:
        """Whether a statement would serve it also if nobody has committed anything."""


@dataclass
class _Following:
    """One project, followed without a break. Its horizon is moved by its own statements only."""

    follower: Follower
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """A statement is wanted at once."""
    is_behind: bool = False
    """Something was committed, of which hints have told: a statement is wanted in its time."""
    task: asyncio.Task[None] | None = None


class Tail:
    """Reads, for each followed project, what its horizon has not seen.

    About every `interval_s`, every `degraded_s` while hints can't be trusted, and at once when
    woken. Where the store tells whether anybody has committed (SQLite), it reads only if somebody
    has: at once, if it was another process, which it looks for every `look_s`. What this process
    commits comes as a hint that is never lost, and only the horizon has to follow.
    """

    def __init__(
        self,
        store: TailStore,
        *,
        degraded: Callable[[], bool],
        interval_s: float = 1.0,
        degraded_s: float = 0.1,
        look_s: float = 0.05,
        page_changes: int = PAGE_CHANGES,
    ) -> None:
        self._store = store
        self._degraded = degraded
        self._interval_s = interval_s
        self._degraded_s = degraded_s
        self._look_s = look_s
        self._page_changes = page_changes
        self._following: dict[str, _Following] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._watches = False
        self._any = asyncio.Event()

    async def run(self) -> None:
        """Follows until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for following in self._following.values():
                    self._start(following)
                await self._watch()
                await asyncio.Event().wait()
            finally:
                self._tasks = None
                for following in self._following.values():
                    if following.task is not None:
                        following.task.cancel()
                self._following.clear()

    def follow(self, follower: Follower) -> None:
        """Follows a project from now on; it must not be followed yet."""
        assert follower.project not in self._following
        following = self._following[follower.project] = _Following(follower)
        self._any.set()
        if self._tasks is not None:
            self._start(following)

    def unfollow(self, project: str) -> None:
        """Follows it no more. A statement that is under way counts for nothing."""
        following = self._following.pop(project, None)
        if following is not None and following.task is not None:
            following.task.cancel()

    def wake(self, project: str | None = None) -> None:
        """Read now: one project, or all of them."""
        if project is None:
            for following in self._following.values():
                following.woken.set()
        elif (one := self._following.get(project)) is not None:
            one.woken.set()

    # ----------------------------------------------------------------------------- one project

    def _start(self, following: _Following) -> None:
        assert self._tasks is not None
        name = f"tail of {following.follower.project}"
        following.task = self._tasks.create_task(self._follow(following), name=name)

    async def _follow(self, following: _Following) -> None:
        follower = following.follower
        epoch, horizon = await self._present(follower)
        follower.begun(epoch, horizon)
        following.woken.set()  # whatever was hinted at until now was dropped
        wait_s = 0.0
        now = asyncio.get_running_loop().time
        begun_at = now()
        while True:
            await self._pause(following, wait_s, begun_at)
            begun_at = now()
            following.woken.clear()
            following.is_behind = False
            try:
                epoch, horizon = await self._read(follower, epoch, horizon)
            except CannotContinue as error:
                follower.missed()
                epoch, horizon = await self._present(follower)
                follower.broken(error.reason, epoch, horizon)
            except Unavailable:
                follower.missed()
                follower.stale()
                wait_s = min(max(wait_s * 2, RETRY_FIRST_S), RETRY_LONGEST_S)
                continue
            except asyncio.CancelledError:
                raise
            except Exception:
                # Whatever it is, to stop following would be to lose what comes after.
                log.exception("the tail of %s could not be read", follower.project)
                follower.missed()
                wait_s = min(max(wait_s * 2, RETRY_FIRST_S), RETRY_LONGEST_S)
                continue
            wait_s = 0.0

    async def _present(self, follower: Follower) -> tuple[str, Horizon]:
        wait_s = RETRY_FIRST_S
        while True:
            try:
                return await self._store.horizon(follower.project)
            except StoreError:
                follower.stale()
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("the horizon of %s could not be read", follower.project)
                follower.stale()
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_LONGEST_S)

    async def _read(self, follower: Follower, epoch: str, since: Horizon) -> tuple[str, Horizon]:
        """One statement, or one for each page; the first one's horizon is what counts."""
        batches = follower.compose()
        first = page = await self._store.read_log(
            follower.project, since, epoch=epoch, limit=self._page_changes, batches=batches
        )
        while True:
            await follower.hand_on(page.groups)
            if page.next is None:
                break
            page = await self._store.read_log(
                follower.project,
                since,
                epoch=epoch,
                after=page.next,
                limit=self._page_changes,
            )
        follower.passed(first)
        return first.epoch, first.horizon

    async def _pause(self, following: _Following, retry_s: float, begun_at: float) -> None:
        """Until it is time for the next statement.

        That is counted from the beginning of the last one: how long it took under load must not
        be added to what a change waits that no hint tells of.
        """
        if retry_s:
            await asyncio.sleep(retry_s)
            return
        while not following.woken.is_set():
            # When the broker's state changes it also says that hints may have been lost, which
            # wakes this: the interval need not be looked at in the middle of the wait.
            interval_s = self._degraded_s if self._degraded() else self._interval_s
            took_s = asyncio.get_running_loop().time() - begun_at
            try:
                async with asyncio.timeout(max(interval_s - took_s, interval_s / 4)):
                    await following.woken.wait()
            except TimeoutError:
                if not self._watches or following.is_behind or following.follower.needs_statement():
                    return

    # ---------------------------------------------------------------------------------- SQLite

    async def _watch(self) -> None:
        """Looks whether anybody has committed, where that can be seen for nothing."""
        last: Commits | None = None
        while True:
            if not self._following:
                self._any.clear()
                await self._any.wait()
            try:
                # Before the statement, not after: a commit in between is then seen twice at
                # worst, and never not at all.
                seen = await self._store.commits()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # By the clock, until it can be seen again; `last` is then another's, so that
                # what was missed meanwhile is read.
                if not isinstance(error, StoreError):
                    log.exception("could not see whether anybody has committed")
                self._watches, last = False, None
                await asyncio.sleep(self._interval_s)
                continue
            if seen is None:
                return  # no such database: it goes by the clock
            self._watches = True
            if last is None or seen.others != last.others:
                self.wake()
            elif seen != last:
                for following in self._following.values():
                    following.is_behind = True
            last = seen
            await asyncio.sleep(self._look_s)
