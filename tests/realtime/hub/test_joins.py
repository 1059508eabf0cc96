"""Joining: history first, then what is live, and nothing of either twice."""

from __future__ import annotations

import asyncio

from tests.doubles import RecordingOutlet, of_type
from tests.realtime.hub.setting import RUNS, setting
from tests.realtime.serving import until
from tests.realtime.watching import turns


async def test_many_who_come_together_share_their_reads() -> None:
    """A gateway that is stormed must not storm its database."""
    async with setting() as s:
        for n in range(5):
            s.store.create(f"r{n}")
        await s.connect(RUNS)
        outlet = await s.connect(RUNS)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        s.store.reads.clear()
        s.store.held = asyncio.Event()
        outlets = [await s.connect(RUNS, live=False) for _ in range(50)]
        await turns(10)
        s.store.held.set()
        await until(lambda: all("live" in outlet.types() for outlet in outlets))
        assert s.store.reads.count("snapshot") <= 3
        s.store.reads.clear()
        outlets = [await s.connect(RUNS | {"cursor": cursor}) for _ in range(50)]
        assert "log" not in s.store.reads[1:]
        assert s.measures.resumes_total.by["ring"] == 50


async def test_a_join_is_remembered_until_a_statement_has_passed_that_began_after_it() -> None:
    """One that was under way has an older horizon: by it, what the join has shown is unseen."""
    async with setting() as s:
        s.store.create("r")
        await s.connect(RUNS)
        await s.settled()
        s.broker.at_once = False
        outlet = RecordingOutlet()

        async def change_and_join(read: str) -> None:
            nonlocal outlet
            assert read == "log"
            s.store.update("r", metadata={"n": 1})
            outlet = await s.connect(RUNS)

        s.store.meanwhile = change_and_join
        s.tail()
        await until(lambda: outlet.lines)
        await turns(20)
        s.broker.deliver(0)
        await turns(20)
        assert of_type(outlet.said(), "snapshot")[0]["runs"][0]["version"] == 2
        assert "change" not in outlet.types()


async def test_what_a_later_page_of_a_replay_has_shown_is_not_shown_again() -> None:
    """Each page is a statement of its own, and sees more than the one before."""
    async with setting(linger_s=0.0) as s:
        for id in ("a", "b"):
            s.store.create(id)
        outlet = await s.connect(RUNS)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        next(iter(s.hub.connections)).lost()
        await until(lambda: not s.hub.projects)
        s.store.pages_of = 1
        for id in ("a", "b"):
            s.store.update(id, metadata={"n": 1})
        follows = await s.connect(RUNS | {"snapshot": False})
        await s.settled()
        s.broker.at_once = False

        async def change_b(read: str) -> None:
            assert read == "log"
            s.store.update("b", metadata={"n": 2})

        s.store.meanwhile = change_b
        again = await s.connect(RUNS | {"cursor": cursor})
        assert again.types().count("change") == 3
        s.broker.deliver(0)
        await until(lambda: "change" in follows.types())
        assert again.types().count("change") == 3


async def test_a_subscription_waits_for_a_store_that_is_away_but_not_for_ever() -> None:
    async with setting(join_s=0.3) as s:
        s.store.away = True
        waits = await s.connect(RUNS, live=False)
        await until(lambda: "error" in waits.types())
        assert of_type(waits.said(), "error")[0]["code"] == "unavailable"
        assert "stale" in waits.types()


async def test_a_subscription_that_waited_for_the_store_joins_when_it_is_back() -> None:
    async with setting() as s:
        s.store.away = True
        outlet = await s.connect(RUNS, live=False)
        await until(lambda: "stale" in outlet.types())
        s.store.away = False
        await until(lambda: "live" in outlet.types())
        await until(lambda: "fresh" in outlet.types())
