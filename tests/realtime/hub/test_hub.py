"""The hub: whom it looks at, what it owes to the slow, and whom it lets go."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.subscription import Wish
from store.model import RunStatus
from tests.doubles import of_type
from tests.realtime.hub.setting import RUNS, setting
from tests.realtime.serving import until


async def test_nobody_is_looked_at_whom_a_change_does_not_concern(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And of those whom it concerns, all with the same wish are judged at once."""
    judged = 0
    admits = Wish.admits

    def counted(self: Wish, *args: Any) -> bool:
        nonlocal judged
        judged += 1
        return admits(self, *args)

    async with setting() as s:
        s.store.create("r")
        asked = {"type": "subscribeToRunsWithTag", "tag": "other"}
        for _ in range(20):
            await s.connect(*[asked] * 10)
        outlets = [await s.connect(RUNS, RUNS) for _ in range(10)]
        await s.settled()
        monkeypatch.setattr(Wish, "admits", counted)
        s.store.update("r", metadata={"n": 1})
        await until(lambda: all("change" in outlet.types() for outlet in outlets))
        assert judged == 2
        assert {tuple(of_type(outlet.said(), "change")[0]["ids"]) for outlet in outlets} == {(1, 2)}


async def test_a_batch_is_read_once_for_all_and_not_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime.hub.project.batches.INTERVAL_S", 0.05)
    async with setting() as s:
        s.store.batches["b"] = None
        asked = {"type": "subscribeToBatch", "batchId": "b"}
        outlets = [await s.connect(asked) for _ in range(10)]
        for n in range(100):
            s.store.create(f"r{n}", batch_id="b")
        await until(
            lambda: all(
                (found := of_type(outlet.said(), "batch")) and found[-1]["batch"]["size"] == 100
                for outlet in outlets
            )
        )
        assert s.store.reads.count("batch") < 15
        s.store.write(
            lambda tx: [tx.update(f"r{n}", status=RunStatus.COMPLETED) for n in range(100)]
        )
        s.store.write(lambda tx: tx.seal("b"))
        await until(lambda: all("end" in outlet.types() for outlet in outlets))
        for outlet in outlets:
            *_, last, end = outlet.said()
            assert last["batch"]["completedAt"] is not None
            assert end["reason"] == "completed"


async def test_a_project_that_nobody_follows_is_let_go() -> None:
    async with setting(linger_s=0.0) as s:
        outlet = await s.connect(RUNS)
        assert s.broker.followed == {"default"}
        connection = next(iter(s.hub.connections))
        connection.lost()
        await until(lambda: not s.hub.projects)
        assert not s.broker.followed
        assert outlet.types()[-1] == "live"
        await s.connect(RUNS)
        assert s.broker.followed == {"default"}


async def test_a_reader_that_takes_too_little_is_closed_and_can_resume() -> None:
    async with setting(mailbox_bytes=10_000) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        outlet.writable = False
        connection = next(iter(s.hub.connections))
        for n in range(100):
            s.store.update("r", metadata={"n": n})
        assert connection.mailbox.size == 0
        outlet.writable = True
        connection.writable()
        assert outlet.closed is not None
        assert outlet.closed[0] == 4408
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        again = await s.connect(RUNS | {"cursor": cursor})
        assert again.types().count("change") == 100


async def test_a_reader_of_the_latest_is_owed_one_state_a_run() -> None:
    async with setting(mailbox_bytes=10_000) as s:
        for n in range(5):
            s.store.create(f"r{n}")
        outlet = await s.connect(RUNS | {"delivery": "latest"})
        outlet.writable = False
        for n in range(1_000):
            s.store.update(f"r{n % 5}", metadata={"n": n})
        outlet.writable = True
        next(iter(s.hub.connections)).writable()
        changes = of_type(outlet.said(), "change")
        assert [change["run"]["version"] for change in changes] == [201] * 5
        assert outlet.closed is None


async def test_whoever_was_too_slow_again_and_again_starts_from_a_snapshot() -> None:
    """A replay that is never finished would be begun for ever."""
    async with setting(mailbox_bytes=1_000) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        for _ in range(3):
            s.hub.was_slow(cursor)
        again = await s.connect(RUNS | {"cursor": cursor})
        assert of_type(again.said(), "reset")[0]["reason"] == "too_far_behind"


async def test_one_that_fails_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    async with setting() as s:
        s.store.create("r")
        good = await s.connect(RUNS)
        bad = await s.connect(RUNS)

        def fails(*_: object) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(bad, "write", fails)
        s.store.update("r", metadata={"n": 1})
        await until(lambda: "change" in good.types())
        await until(lambda: bad.aborted)
        assert len(s.hub.connections) == 1
