"""The tail: what correctness rests on, without a database and without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from store.model import Group, Horizon, LogPage, RunStatus
from store.tail import Commits, Tail
from tests.doubles import FakeStore
from tests.store.asking import until

LONG_S = 1_000.0


class Recorder:
    """A follower that keeps what it is told."""

    project = "default"

    def __init__(self) -> None:
        self.told: list[str] = []
        self.groups: list[Group] = []
        self.horizons: list[Horizon] = []
        self.batches: list[str] = []
        self.read: dict[str, object] = {}
        self.needs = False
        self.meanwhile: Callable[[], None] = lambda: None

    def begun(self, epoch: str, horizon: Horizon) -> None:
        self.told.append(f"begun {epoch}")
        self.horizons.append(horizon)

    def compose(self) -> Sequence[str]:
        self.told.append("compose")
        return self.batches

    async def hand_on(self, groups: Sequence[Group]) -> None:
        await asyncio.sleep(0)
        self.meanwhile()
        self.groups += groups

    def passed(self, page: LogPage) -> None:
        self.told.append("passed")
        self.horizons.append(page.horizon)
        self.read |= page.batches

    def missed(self) -> None:
        self.told.append("missed")

    def broken(self, reason: str, epoch: str, horizon: Horizon) -> None:
        self.told.append(f"broken {reason} {epoch}")
        self.horizons.append(horizon)

    def stale(self) -> None:
        self.told.append("stale")

    def needs_statement(self) -> bool:
        return self.needs

    def count(self, what: str) -> int:
        return self.told.count(what)

    def versions(self, run_id: str) -> list[int]:
        return [c.version for g in self.groups for c in g.changes if c.run_id == run_id]


@asynccontextmanager
async def tailing(
    store: FakeStore, *, degraded: bool = False, interval_s: float = LONG_S, **how: float
) -> AsyncIterator[tuple[Tail, Recorder]]:
    tail = Tail(store, degraded=lambda: degraded, interval_s=interval_s, **how)  # type: ignore[arg-type]
    running = asyncio.create_task(tail.run())
    follower = Recorder()
    tail.follow(follower)
    await until(lambda: follower.count("passed"))
    try:
        yield tail, follower
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert len(asyncio.all_tasks()) == 1


async def test_it_hands_on_what_nobody_hinted_when_it_is_woken() -> None:
    store = FakeStore()
    store.create("before")
    async with tailing(store) as (tail, follower):
        store.create("after")
        tail.wake("default")
        await until(lambda: follower.groups)
    assert [group.first.run_id for group in follower.groups] == ["after"]


async def test_what_commits_late_is_found_although_later_ids_were_seen() -> None:
    """A reader who remembers the greatest id that it has seen loses this one for ever."""
    store = FakeStore()
    async with tailing(store) as (tail, follower):
        late = store.begin()
        late.create("late")
        store.create("early")
        tail.wake()
        await until(lambda: follower.versions("early"))
        late.commit()
        tail.wake()
        await until(lambda: follower.versions("late"))
    assert follower.versions("early") == [1]


async def test_it_reads_each_change_once() -> None:
    store = FakeStore()
    async with tailing(store) as (tail, follower):
        open_ = store.begin()  # holds the oldest place of every horizon
        for n in range(5):
            store.create(f"r{n}")
            tail.wake()
            await until(lambda n=n: follower.versions(f"r{n}"))  # type: ignore[misc]
        open_.abort()
    assert len(follower.groups) == 5


async def test_it_comes_by_itself_and_faster_while_hints_cannot_be_trusted() -> None:
    store = FakeStore()
    async with tailing(store, interval_s=0.01) as (_, follower):
        store.create("r")
        await until(lambda: follower.groups)
    async with tailing(store, degraded=True, degraded_s=0.01) as (_, follower):
        store.create("s")
        await until(lambda: follower.groups)


async def test_the_horizon_is_that_of_the_first_page_after_all_of_them() -> None:
    """A run of the first page may change while the second is read: the next read must find it."""
    store = FakeStore()
    async with tailing(store) as (tail, follower):
        store.pages_of = 1
        store.create("a")
        store.create("b")

        def change_a() -> None:
            follower.meanwhile = lambda: None
            store.update("a", status=RunStatus.EXECUTING)

        follower.meanwhile = change_a
        passed = follower.count("passed")
        tail.wake()
        await until(lambda: follower.count("passed") > passed)
        assert follower.versions("a") == [1]
        assert follower.versions("b") == [1]
        tail.wake()
        await until(lambda: follower.versions("a") == [1, 2])


async def test_nothing_passes_before_all_was_handed_on() -> None:
    store = FakeStore()
    async with tailing(store) as (tail, follower):
        order: list[str] = []
        follower.meanwhile = lambda: order.append("handed on")
        passed = follower.passed

        def then(page: LogPage) -> None:
            order.append("passed")
            passed(page)

        follower.passed = then  # type: ignore[method-assign]
        store.create("r")
        tail.wake()
        await until(lambda: "passed" in order)
    assert order[:2] == ["handed on", "passed"]


async def test_it_asks_for_the_batches_that_are_marked() -> None:
    store = FakeStore()
    store.batches["b"] = None
    async with tailing(store) as (tail, follower):
        follower.batches = ["b"]
        tail.wake()
        await until(lambda: follower.read)
    assert list(follower.read) == ["b"]


async def test_while_the_database_is_away_it_says_so_and_goes_on() -> None:
    store = FakeStore()
    async with tailing(store) as (tail, follower):
        store.away = True
        store.create("r")
        tail.wake()
        await until(lambda: follower.count("stale") > 1)
        assert not follower.groups
        store.away = False
        await until(lambda: follower.groups)
    assert follower.count("missed") == follower.count("stale")


async def test_it_waits_for_a_database_that_is_away_at_the_start() -> None:
    store = FakeStore()
    store.away = True
    tail = Tail(store, degraded=lambda: False, interval_s=LONG_S)
    running = asyncio.create_task(tail.run())
    follower = Recorder()
    tail.follow(follower)
    await until(lambda: follower.count("stale"))
    assert not follower.count("begun e1")
    store.away = False
    await until(lambda: follower.count("begun e1"))
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("reason", ["epoch", "retention"])
async def test_a_log_that_cannot_be_continued_is_begun_again(reason: str) -> None:
    store = FakeStore()
    async with tailing(store) as (tail, follower):
        if reason == "epoch":
            store.epoch = "e2"
        else:
            store.cut_xid = 1_000
        tail.wake()
        await until(lambda: follower.count(f"broken {reason} {store.epoch}"))
        store.cut_xid = 0
        store.create("r")
        tail.wake()
        await until(lambda: follower.versions("r"))


async def test_a_statement_of_a_following_that_is_over_counts_for_nothing() -> None:
    """Unfollowed and followed again, the project has a horizon of its own: what the old statement
    saw was handed to nobody."""
    store = FakeStore()
    async with tailing(store) as (tail, follower):
        store.held = asyncio.Event()
        store.create("r")
        tail.wake()
        await until(lambda: follower.told[-1] == "compose")
        tail.unfollow("default")
        second = Recorder()
        tail.follow(second)
        passed = follower.count("passed")
        store.held.set()
        await until(lambda: second.count("passed"))
        assert follower.count("passed") == passed
        assert not follower.groups


async def test_where_commits_can_be_seen_it_reads_only_if_there_was_one() -> None:
    """Several processes on one SQLite file have no broker: so this is how they hear of another."""
    store = FakeStore()
    seen, looks = Commits(1, 1), 0

    async def commits() -> Commits:
        nonlocal looks
        looks += 1
        return seen

    store.commits = commits  # type: ignore[method-assign]
    async with tailing(store, interval_s=0.01, look_s=0.001) as (_, follower):
        passed = follower.count("passed")
        await until(lambda: looks > 50)
        assert follower.count("passed") <= passed + 1
        store.create("r")
        seen = Commits(2, 2)
        await until(lambda: follower.groups)
        follower.needs = True
        passed = follower.count("passed")
        await until(lambda: follower.count("passed") > passed + 2)


async def test_what_this_process_commits_is_read_in_its_time() -> None:
    """A hint has told of it; to read the log for each commit costs as much as the commit."""
    store = FakeStore()
    seen, looks = Commits(1, 1), 0

    async def commits() -> Commits:
        nonlocal looks
        looks += 1
        return seen

    store.commits = commits  # type: ignore[method-assign]

    async def looked() -> None:
        before = looks
        await until(lambda: looks > before + 2)

    async with tailing(store, look_s=0.001) as (_, follower):
        await looked()
        passed = follower.count("passed")
        store.create("r")
        seen = Commits(2, 1)
        await looked()
        assert follower.count("passed") == passed
        seen = Commits(3, 2)
        await until(lambda: follower.groups)
    async with tailing(store, interval_s=0.01, look_s=0.001) as (_, follower):
        await looked()
        store.create("s")
        seen = Commits(4, 2)
        await until(lambda: follower.groups)
