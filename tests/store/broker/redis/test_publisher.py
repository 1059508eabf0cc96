"""The publisher: in no writer's way, whatever becomes of Redis; what it drops is counted."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial

import psutil
import pytest

from store.broker.redis import publisher
from tests.servers import Valkey
from tests.store.broker.doubles import (
    HURRIED,
    Counts,
    a_hint,
    carries,
    eventually,
    is_degraded,
    is_ok,
    running,
)
from tests.store.broker.redis.conftest import Make


async def test_a_frozen_redis_costs_a_writer_nothing(valkey: Valkey, make: Make) -> None:
    """Hints beyond the bounds are dropped, and the counter still rises: it shows as a hole.
    Taken out: the bounds of the queue."""
    counts = Counts()
    tuning = replace(HURRIED, queue_bytes=100_000, queue_messages=50)
    here, there = make(valkey.url, counts, tuning), make(valkey.url)
    async with running(here, "default") as own, running(there, "default") as listener:
        await carries(here, listener)
        listener.forget()
        hints = [a_hint() for _ in range(2_000)]
        with valkey.frozen_meanwhile():
            longest = 0.0
            for first in range(0, 2_000, 20):
                began = time.thread_time()
                here.publish(hints[first : first + 20])
                longest = max(longest, time.thread_time() - began)
            await eventually(lambda: own.heard(*hints))
            await eventually(lambda: sum(counts.of.values()) and counts.of["dropped overflow"])
            await eventually(is_degraded(here))
            await eventually(lambda: counts.of["dropped away"])
            here.publish([a_hint()])
        assert longest < 0.05
        await eventually(is_ok(here, there))
        await carries(here, listener)
        await eventually(lambda: listener.suspected("hole", "default"))
    lost = counts.of["dropped overflow"] + counts.of["dropped away"]
    assert 1_000 < lost <= 2_100


async def test_a_hint_that_is_refused_is_counted(
    valkey: Valkey, make: Make, namespace: str
) -> None:
    url = valkey.url.replace("//", "//mute:secret@")
    valkey.execute(
        "ACL", "SETUSER", "mute", "on", ">secret", "+@all", "resetchannels",
        f"&{namespace}:0:canary:*",
    )  # fmt: skip
    try:
        counts = Counts()
        here = make(url, counts)
        async with running(here):
            here.publish([a_hint(), a_hint()])
            await eventually(lambda: counts.of["dropped refused"] == 2)
            assert is_ok(here)()
    finally:
        valkey.execute("ACL", "DELUSER", "mute")


async def test_what_cannot_be_encoded_is_a_hole(valkey: Valkey, make: Make) -> None:
    counts = Counts()
    here, there = make(valkey.url, counts), make(valkey.url)
    async with running(here), running(there, "default") as listener:
        await carries(here, listener)
        here.publish([a_hint(id="x" * 20_000)])
        here.publish([hint := a_hint()])
        await eventually(partial(listener.heard, hint))
        await eventually(lambda: listener.suspected("hole", "default"))
    assert counts.of["dropped unencodable"] == 1


async def test_it_closes_at_once_while_redis_is_frozen(
    valkey: Valkey, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no socket that goes on trying to be rid of its bytes."""
    # More in one pipeline than the kernel takes for a peer that reads nothing.
    monkeypatch.setattr(publisher, "PIPELINE_BYTES", 50_000_000)
    # What waited for the server would wait for an hour.
    broker = make(valkey.url, tuning=replace(HURRIED, queue_bytes=50_000_000, send_s=3_600.0))
    async with running(broker, "default"):
        with valkey.frozen_meanwhile():
            broker.publish([a_hint(output="x" * 16_000) for _ in range(2_000)])
            await eventually(lambda: not broker._link._publisher._queue)
            async with asyncio.timeout(60):
                await broker.close()
            await eventually(lambda: not connections_to(valkey.port), within_s=5)


def connections_to(port: int) -> int:
    """How many of this process stand."""
    return sum(
        bool(one.raddr) and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp4")
    )
