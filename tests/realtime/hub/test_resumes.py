"""Coming back with a cursor: out of the ring, or out of a log that is read for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from realtime.ring import Ring
from store.model import Cursor, RunStatus
from tests.doubles import FakeGrant, FakeStore, RecordingOutlet, of_type
from tests.realtime.hub.setting import RUNS, Held, Setting, setting
from tests.realtime.serving import until
from tests.realtime.watching import turns


def cursor_of(outlet: RecordingOutlet) -> str:
    """The one that came with its first `live`."""
    cursor: str = of_type(outlet.said(), "live")[0]["cursor"]
    return cursor


async def test_a_resume_ends_although_the_end_lies_before_its_cursor() -> None:
    """The cursor may come from a stream that was to stay: nothing after it says `final`."""
    async with setting() as s:
        s.store.create("r", status=RunStatus.COMPLETED)
        asked = {"type": "subscribeToRun", "runId": "r"}
        outlet = await s.connect(asked | {"stopOnCompletion": False})
        assert outlet.types()[-1] == "live"
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        again = await s.connect(asked | {"cursor": cursor})
        await until(lambda: "end" in again.types())
        assert again.types() == ["welcome", "live", "end"]


async def test_a_stream_that_goes_on_resumes_without_a_look_at_its_run() -> None:
    """Five thousand that come back at once must not be five thousand statements."""
    async with setting() as s:
        s.store.create("r")
        asked = {"type": "subscribeToRun", "runId": "r"}
        outlet = await s.connect(asked)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        s.store.reads.clear()
        again = await s.connect(asked | {"cursor": cursor})
        assert again.types() == ["welcome", "live"]
        assert not s.store.reads


@asynccontextmanager
async def restarted() -> AsyncIterator[tuple[Setting, list[str]]]:
    """A hub that is new, and the cursors of ten readers of the one before it, each of which had
    seen a run more than the last."""
    cursors: list[str] = []
    async with setting() as before:
        for n in range(10):
            before.store.create(f"r{n}", tags=("a",))
            outlet = await before.connect({"type": "subscribeToRunsWithTag", "tag": "a"})
            cursors.append(of_type(outlet.said(), "live")[0]["cursor"])
    async with setting(store=before.store) as after:
        await after.connect({"type": "subscribeToRun", "runId": "r0"})
        await after.settled()
        yield after, cursors


async def test_after_a_restart_the_log_is_read_once_for_all_who_come_back() -> None:
    """However far back each of them was: who comes later finds in the ring what was read."""
    async with restarted() as (after, cursors):
        after.store.reads.clear()
        asked = [{"type": "subscribeToRunsWithTag", "tag": "a", "cursor": c} for c in cursors]
        outlets = await asyncio.gather(*(after.connect(each) for each in asked))
        assert after.store.reads.count("log") == 1
        assert after.measures.resumes_total.by == {"ring": 10}
        for n, outlet in enumerate(outlets):
            shown = [each["run"]["id"] for each in of_type(outlet.said(), "change")]
            assert sorted(shown) == [f"r{i}" for i in range(n + 1, 10)]
        late = await after.connect(asked[3])
        assert len(of_type(late.said(), "change")) == 6
        assert after.store.reads.count("log") == 1


async def test_what_a_read_for_the_ring_has_found_is_shown_once() -> None:
    """It is in the log and no hint has told it: out of the ring, or when the hint comes."""
    async with setting() as before:
        before.store.create("r1")
        first = await before.connect({"type": "subscribeToRun", "runId": "r1"})
        cursor = of_type(first.said(), "live")[0]["cursor"]
        before.store.update("r1", metadata={"n": 2})
    async with setting(store=before.store) as after:
        await after.connect(RUNS)
        await after.settled()
        after.broker.at_once = False
        after.store.update("r1", metadata={"n": 3})
        outlet = await after.connect({"type": "subscribeToRun", "runId": "r1", "cursor": cursor})
        after.broker.deliver(0)
        after.store.update("r1", metadata={"n": 4})
        after.broker.deliver(0)
        await until(lambda: len(of_type(outlet.said(), "change")) >= 3)
        late = await after.connect({"type": "subscribeToRun", "runId": "r1", "cursor": cursor})
        for each in outlet, late:
            shown = [change["run"]["version"] for change in of_type(each.said(), "change")]
            assert shown == [2, 3, 4]


@asynccontextmanager
async def another(store: FakeStore) -> AsyncIterator[Setting]:
    """A second gateway of the same database, which is told of nothing that was written before."""
    other = Setting(store=store)
    running = asyncio.create_task(other.hub.run())
    await other.hub.ready.wait()
    try:
        yield other
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_cursor_of_a_process_that_is_ahead_waits_for_the_tail_and_not_for_a_replay() -> (
    None
):
    """The other gateway read the log later; its clients come over all at once."""
    async with setting() as one:
        one.store.create("r1")
        await one.connect(RUNS)
        await one.settled()
        store = one.store
        async with another(store) as other:
            one.broker.at_once = False
            store.update("r1", metadata={"n": 2})
            ahead = await other.connect({"type": "subscribeToRun", "runId": "r1"})
            store.reads.clear()
            asked = {"type": "subscribeToRun", "runId": "r1", "cursor": cursor_of(ahead)}
            outlets = await asyncio.gather(*(one.connect(asked) for _ in range(20)))
            assert store.reads.count("log") <= 2
            assert one.measures.resumes_total.by == {"ring": 20}
            assert not any(of_type(outlet.said(), "change") for outlet in outlets)


async def test_a_cursor_that_has_seen_what_the_hub_has_not_waits_for_the_tail() -> None:
    """Two gateways may each know of a commit that the other does not: neither is ahead. Whoever
    went live at once, with a cursor from before its own, was told as news what its snapshot had
    left behind: changes of a run that it does not hold.

    Taken out: `covers` in `Ring.is_behind`, which compared how far they had come; a `change` and
    a `leave` of a run that had left.
    """
    tagged = {"type": "subscribeToRunsWithTag", "tag": "a"}
    async with setting() as one:
        store = one.store
        store.create("r", tags=["a"])
        leaving, changing = store.begin(), store.begin()
        await one.connect(tagged)
        await one.settled()  # both are open still, as far as this gateway knows
        one.broker.at_once = False
        changing.update("r", metadata={"n": 2})
        changing.commit()
        leaving.update("r", tags=[])
        leaving.commit()
        async with another(store) as other:
            cursor = cursor_of(await other.connect(tagged))
        outlet = await one.connect(tagged | {"cursor": cursor})
        given = Cursor.decode(cursor_of(outlet)).horizon
        while one.broker.waiting:
            one.broker.deliver(0)
        store.create("later", tags=["a"])
        one.tail()
        await until(lambda: "change" in outlet.types())
        told = [(each["kind"], each["run"]["id"]) for each in of_type(outlet.said(), "change")]
        assert told == [("enter", "later")]
        assert given.covers(Cursor.decode(cursor).horizon)


async def test_several_replays_from_about_the_same_place_share_their_reads() -> None:
    """The ring could not hold it all: the log is read, for all of them together."""
    async with restarted() as (after, cursors):
        project = next(iter(after.hub.projects.values()))
        assert project.order.horizon is not None
        project.ring = Ring(project.order.horizon, max_changes=2)
        after.store.reads.clear()
        asked = [{"type": "subscribeToRunsWithTag", "tag": "a", "cursor": c} for c in cursors[:5]]
        outlets = await asyncio.gather(*(after.connect(each) for each in asked))
        assert after.store.reads.count("log") <= 3
        assert after.measures.resumes_total.by == {"log": 5}
        for n, outlet in enumerate(outlets):
            shown = [each["run"]["id"] for each in of_type(outlet.said(), "change")]
            assert sorted(shown) == [f"r{i}" for i in range(n + 1, 10)]


async def test_a_page_of_a_lost_history_is_handed_on_to_nobody() -> None:
    """A database that is restored takes versions back and gives them again. Whoever was told the
    lost one is never told the other, which has its number.

    Taken out: `project.ring is not ring` before what the page brings is handed on; the change that
    was lost was told after the reset, and the real one never.
    """
    run = {"type": "subscribeToRun", "runId": "r"}
    async with setting() as before:
        before.store.create("r")
        cursor = cursor_of(await before.connect(run))
        before.store.update("r", metadata={"n": 2})
    store = before.store
    async with setting(store=store) as s:
        watching = await s.connect(RUNS)
        await s.settled()
        await turns(50)  # the tail reads nothing more by itself
        backup = dict(store.runs), list(store.log), store.next_xid, dict(store.states)
        store.write(lambda tx: tx.update("r", metadata={"n": "lost"}), publish=False)
        page = Held(store, "log")
        back = await s.connect(run | {"cursor": cursor}, live=False)
        await page.reached.wait()
        store.runs, store.log, store.next_xid, store.states = backup
        store.epoch = "e2"
        s.tail()
        await until(lambda: watching.types().count("live") == 2, "it starts again")
        page.let_go()
        await turns(50)
        store.update("r", metadata={"n": "real"})
        s.tail()
        await until(lambda: "change" in back.types())
        told = [each["run"]["metadata"] for each in of_type(watching.said(), "change")]
        assert told == [{"n": "real"}]


async def test_a_project_that_is_followed_again_does_not_share_the_reads_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A read that waits for its place knows from where those come who asked for it while the
    project was followed before; whoever comes now from further back lost what lies between.

    Taken out: the log itself in the key of its flight, which was the project's id; version 2 was
    not shown.
    """
    monkeypatch.setattr(Ring, "may_reach", lambda ring, since: False)  # the log is to be read
    async with setting(linger_s=0.0, cold_reads=1) as s:
        s.store.create("r")
        cursors = []
        for n in (2, 3):
            outlet = await s.connect(RUNS)
            cursors.append(cursor_of(outlet))
            s.store.update("r", metadata={"n": n})
            s.connection(outlet).lost()
            await until(lambda: not s.hub.projects)
        early, late = cursors
        elsewhere = Held(s.store, "snapshot")
        await s.connect(RUNS, live=False, grants=[FakeGrant(project="other")])
        await elsewhere.reached.wait()  # and has the one place
        before = await s.connect(RUNS | {"cursor": late}, live=False)
        await until(lambda: s.hub.projects["default"].ready.is_set())
        await turns(50)
        s.connection(before).lost()
        await until(lambda: "default" not in s.hub.projects)
        again = await s.connect(RUNS | {"cursor": early}, live=False)
        await until(lambda: s.hub.projects["default"].ready.is_set())
        await turns(50)
        elsewhere.let_go()
        await until(lambda: "live" in again.types())
        assert [each["run"]["version"] for each in of_type(again.said(), "change")] == [2, 3]
