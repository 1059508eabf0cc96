"""Hints: what one tells is read from nowhere, and what none told is found by the tail."""

from __future__ import annotations

import msgspec

from store.model import RunStatus
from tests.doubles import of_type
from tests.realtime.hub.setting import RUNS, setting
from tests.realtime.serving import until
from tests.realtime.watching import turns


async def test_a_change_that_a_hint_tells_is_read_from_no_database() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.store.reads.clear()
        s.store.update("r", status=RunStatus.EXECUTING)
        await until(lambda: "change" in outlet.types())
        assert not s.store.reads
        assert s.measures.hints_total.by["next"] == 1


async def test_what_no_hint_told_is_found_by_the_tail_and_counted() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        s.store.write(lambda tx: tx.update("r", metadata={"n": 1}), publish=False)
        s.tail()
        await until(lambda: "change" in outlet.types())
        assert s.measures.found_by_tail_total.total == 1


async def test_hints_out_of_order_are_fetched_once_and_shown_in_order() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.broker.at_once = False
        for n in range(6):
            s.store.update("r", metadata={"n": n})
        s.store.reads.clear()
        for index in (4, 2, 2, 1, 0):
            s.broker.deliver(index)
        await until(lambda: outlet.types().count("change") == 6)
        s.broker.deliver(0)
        await turns(20)
        versions = [message["run"]["version"] for message in of_type(outlet.said(), "change")]
        assert versions == [2, 3, 4, 5, 6, 7]
        assert s.store.reads == ["log"]
        assert s.measures.fetches_total.total == 1


async def test_a_hint_that_was_too_long_is_fetched() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        s.store.inline_bytes = 10
        s.store.update("r", metadata={"pad": "x" * 100})
        await until(lambda: "change" in outlet.types())
        assert s.measures.hints_total.by["ids"] == 1


async def test_a_hint_of_what_never_was_holds_nothing_up() -> None:
    """Whoever can publish can forge; the fetch finds nothing, and what follows is shown."""
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.broker.at_once = False
        s.store.update("r", metadata={"n": 1})
        forged = s.broker.waiting.pop()
        change = forged.change
        future = msgspec.structs.replace(change, version=50, xid=10_000, previous_xid=9_999)
        s.hub.hinted([msgspec.structs.replace(forged, change=future)])
        await turns(50)
        s.broker.at_once = True
        s.store.update("r", metadata={"n": 2})
        await until(lambda: outlet.types().count("change") == 2)


async def test_a_job_run_ends_after_the_last_changes_of_its_children() -> None:
    """They are of one transaction, and hints come in any order."""
    async with setting() as s:
        s.store.create("job", status=RunStatus.EXECUTING)
        s.store.create("step", parent_run_id="job", status=RunStatus.EXECUTING)
        outlet = await s.connect({"type": "subscribeToJobRun", "jobRunId": "job"})
        await s.settled()
        s.broker.at_once = False
        s.store.write(
            lambda tx: [tx.update(id, status=RunStatus.COMPLETED) for id in ("step", "job")]
        )
        s.broker.deliver(1)
        await until(lambda: "end" in outlet.types())
        assert outlet.types()[-3:] == ["change", "change", "end"]
