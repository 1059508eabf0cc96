"""A way to Redis that stands and carries nothing, or too late: the canary tells."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import pytest

from store.broker.redis.link import BEAT
from tests.faults import Proxy, Way
from tests.servers import Valkey
from tests.store.broker.doubles import (
    HURRIED,
    Counts,
    carries,
    eventually,
    is_degraded,
    is_ok,
    running,
)
from tests.store.broker.redis.conftest import Make


@pytest.mark.parametrize("ways", [(Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)])
async def test_a_half_open_connection_is_noticed_and_left(
    proxy: Proxy, valkey: Valkey, make: Make, ways: tuple[Way, ...]
) -> None:
    """Taken out: the canary; then nothing is noticed for as long as the kernel likes."""
    counts = Counts()
    here, there = make(valkey.url), make(proxy.url, counts)
    async with running(here), running(there, "default") as listener:
        with proxy.stalled(*ways):
            await eventually(is_degraded(there))
            await eventually(partial(listener.was_suspected, "canary", 1))
            await eventually(partial(listener.was_suspected, "lost", 1))
            assert counts.of["canary missed"] >= 1
        await eventually(is_ok(there))
        await carries(here, listener)


async def test_a_way_slower_than_the_canary_is_no_good_way(
    proxy: Proxy, valkey: Valkey, make: Make
) -> None:
    """Every heartbeat comes, and each too late."""
    counts = Counts()
    tuning = replace(HURRIED, connect_s=30.0, send_s=30.0)
    there = make(proxy.url, counts, tuning)
    async with running(there, "default"):
        proxy.delay(0.5)
        await eventually(is_degraded(there))
        await eventually(lambda: counts.of["canary missed"] >= 2)
        proxy.delay(0)
        await eventually(is_ok(there))


async def test_a_heartbeat_that_is_old_proves_nothing(
    valkey: Valkey, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a backlog grows bit by bit one comes with every beat, later and later. Taken
    out: the age of a heartbeat."""
    counts = Counts()
    there = make(valkey.url, counts)
    async with running(there):
        beating = there._link._publisher
        beat = beating.beat

        def beat_late(channel: bytes, message: bytes) -> None:
            life, sent_at = BEAT.unpack(message)
            beat(channel, BEAT.pack(life, sent_at - 10))

        with monkeypatch.context() as patch:
            patch.setattr(beating, "beat", beat_late)
            await eventually(is_degraded(there))
            await eventually(lambda: counts.of["canary missed"] >= 2)
        await eventually(is_ok(there))


async def test_our_own_stall_is_not_taken_for_one_of_redis(valkey: Valkey, make: Make) -> None:
    """Beats are counted, not seconds: a process that was stopped for long has heard nothing,
    and nothing is wrong."""
    counts = Counts()
    there = make(valkey.url, counts)
    async with running(there):
        beats = published(valkey)
        time.sleep(  # noqa: ASYNC251 -- the loop is what shall stand still
            HURRIED.beat_s * (HURRIED.silent_beats + 3)
        )
        await eventually(lambda: published(valkey) > beats + 3)
    assert not counts.of["canary missed"]
    assert not counts.of["reconnected subscriber"]


def published(valkey: Valkey) -> int:
    """How many messages it was ever given."""
    calls: int = valkey.execute("INFO", "commandstats")["cmdstat_publish"]["calls"]
    return calls
