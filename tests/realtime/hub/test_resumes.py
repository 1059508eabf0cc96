"""Coming back with a cursor: out of the ring, or out of a log that is read for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from realtime.ring import Ring
from store.model import RunStatus
from tests.doubles import of_type
from tests.realtime.hub.setting import RUNS, Setting, setting
from tests.realtime.serving import until


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


async def test_a_cursor_of_a_process_that_is_ahead_waits_for_the_tail_and_not_for_a_replay() -> (
    None
):
    """The other gateway read the log later; its clients come over all at once."""
    async with setting() as one:
        one.store.create("r1")
        await one.connect(RUNS)
        await one.settled()
        store = one.store
        other = Setting(store=store)
        running = asyncio.create_task(other.hub.run())
        await other.hub.ready.wait()
        one.broker.at_once = False
        store.update("r1", metadata={"n": 2})
        ahead = await other.connect({"type": "subscribeToRun", "runId": "r1"})
        cursor = of_type(ahead.said(), "live")[0]["cursor"]
        store.reads.clear()
        asked = {"type": "subscribeToRun", "runId": "r1", "cursor": cursor}
        outlets = await asyncio.gather(*(one.connect(asked) for _ in range(20)))
        assert store.reads.count("log") <= 2
        assert one.measures.resumes_total.by == {"ring": 20}
        assert not any(of_type(outlet.said(), "change") for outlet in outlets)
        running.cancel()
        await asyncio.wait([running])


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
