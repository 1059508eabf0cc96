"""Payloads of runs that enter: they are at hand, or read for all of them together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from store.model import RunStatus
from tests.doubles import of_type
from tests.realtime.hub.setting import RUNS, setting
from tests.realtime.serving import until


async def test_payloads_of_runs_that_enter_together_are_read_together() -> None:
    async with setting(payload_cache_bytes=0) as s:
        for n in range(20):
            s.store.create(f"r{n:02}")
        outlet = await s.connect(RUNS | {"statuses": ["EXECUTING"]})
        await s.settled()
        s.store.reads.clear()
        s.store.write(
            lambda tx: [tx.update(f"r{n:02}", status=RunStatus.EXECUTING) for n in range(20)]
        )
        await until(lambda: outlet.types().count("change") == 20)
        assert len(s.store.reads) <= 2
        entered = of_type(outlet.said(), "change")
        assert [m["run"]["payload"] for m in entered] == [{"of": f"r{n:02}"} for n in range(20)]


async def test_a_payload_that_is_at_hand_is_not_read() -> None:
    async with setting() as s:
        outlet = await s.connect(RUNS | {"statuses": ["EXECUTING"]})
        s.store.create("r")
        s.store.reads.clear()
        s.store.update("r", status=RunStatus.EXECUTING)
        await until(lambda: "change" in outlet.types())
        assert "payloads" not in s.store.reads


async def test_the_payload_of_a_run_that_is_over_is_at_hand_no_longer() -> None:
    """Those of the runs that live have its room.

    Taken out: `drop` in `Order._advance`; the cache grew with every run that ended.
    """
    async with setting() as s:
        outlet = await s.connect(RUNS)
        s.store.create("r")
        s.store.update("r", status=RunStatus.EXECUTING)
        await s.settled()
        assert s.hub._services.payloads.get("r") is not None
        s.store.update("r", status=RunStatus.COMPLETED)
        await until(lambda: outlet.types().count("change") == 3)
        assert s.hub._services.payloads.get("r") is None


async def test_of_a_run_that_was_deleted_before_it_could_enter_no_change_is_shown() -> None:
    """Nobody has it to change.

    Taken out: what is remembered of it; `change` after `change` came between two leaves.
    """
    async with setting(payload_cache_bytes=0) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS | {"statuses": ["EXECUTING", "COMPLETED"]})
        await s.settled()
        s.store.held = asyncio.Event()
        s.store.update("r", status=RunStatus.EXECUTING)
        s.store.update("r", metadata={"n": 1})
        s.store.update("r", status=RunStatus.COMPLETED)
        s.store.write(lambda tx: tx.delete("r"))
        s.store.held.set()
        await until(lambda: "change" in outlet.types())
        await s.settled()
        told = of_type(outlet.said(), "change")
        assert {message["kind"] for message in told} == {"leave"}
        assert told[-1]["run"]["version"] == 5


async def test_a_read_of_payloads_that_fails_holds_up_no_hint_for_good(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What waited is told by the tail; every later hint of the run waited with it, for ever.

    Taken out: that any failure lets go of what waits; `later` came only when the tail was woken.
    """
    async with setting(payload_cache_bytes=0) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS | {"statuses": ["EXECUTING"]})
        await s.settled()
        payloads = s.hub._services.payloads

        async def fails(*_: Any) -> dict[str, Any]:
            monkeypatch.undo()
            raise RuntimeError("canceling statement due to user request")

        monkeypatch.setattr(payloads, "_read", fails)
        s.store.update("r", status=RunStatus.EXECUTING)
        await until(lambda: "change" in outlet.types(), "the tail tells of it")
        await s.settled()
        s.store.update("r", metadata={"n": "later"})
        await until(lambda: outlet.types().count("change") == 2, "later")
    assert "payloads could not be read" in caplog.text
