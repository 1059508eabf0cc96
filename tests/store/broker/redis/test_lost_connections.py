"""A connection to Redis that is lost: said, made again, and at most hints are lost with it."""

from __future__ import annotations

from functools import partial

import pytest

from store.broker import Broker
from tests.faults import Cut, Proxy, Way, client_kill
from tests.servers import Valkey
from tests.store.broker.doubles import (
    Counts,
    Recorder,
    a_hint,
    carries,
    eventually,
    is_degraded,
    is_ok,
    running,
)
from tests.store.broker.redis.conftest import Make


async def test_a_subscriber_cut_off_says_so_and_subscribes_again(
    valkey: Valkey, make: Make
) -> None:
    """The client library's own reconnects are silent. Taken out: LOST and SUBSCRIBED."""
    counts = Counts()
    here, there = make(valkey.url), make(valkey.url, counts)
    async with running(here), running(there, "one", "two") as listener:
        for times in (2, 3, 4):
            assert client_kill(valkey) >= 1
            await eventually(partial(listener.was_suspected, "subscribed", times))
            assert listener.was_suspected("lost", times - 1)
            await eventually(is_ok(here, there))
            await carries_to(here, listener, "one")
            await carries_to(here, listener, "two")
    assert counts.of["reconnected subscriber"] >= 3


async def test_a_publisher_cut_off_sends_what_it_had(valkey: Valkey, make: Make) -> None:
    """Taken out: the second try at once of a pipeline whose connection was cut."""
    counts = Counts()
    here, there = make(valkey.url, counts), make(valkey.url)
    async with running(here), running(there, "default") as listener:
        await carries(here, listener)
        hints = []
        for _ in range(20):
            client_kill(valkey, "normal")
            hints.append(a_hint())
            here.publish(hints[-1:])
            await eventually(partial(listener.heard, hints[-1]))
    assert not sum(n for name, n in counts.of.items() if name.startswith("dropped"))


async def test_the_first_redial_is_refused(proxy: Proxy, valkey: Valkey, make: Make) -> None:
    """As when a server takes a moment to start again. Taken out: the second redial."""
    here, there = make(valkey.url), make(proxy.url)
    async with running(here), running(there, "default") as listener:
        proxy.refuse(3)
        proxy.cut()
        await eventually(partial(listener.was_suspected, "subscribed", 2))
        await eventually(is_ok(there))
        await carries(here, listener)


async def test_nobody_listens_for_a_while(proxy: Proxy, valkey: Valkey, make: Make) -> None:
    counts = Counts()
    here, there = make(valkey.url), make(proxy.url, counts)
    async with running(here), running(there, "default") as listener:
        async with proxy.closed():
            await eventually(partial(listener.was_suspected, "lost", 1))
            assert is_degraded(there)()
            # Dropped once a redial has failed, too.
            there.publish([a_hint()])
            await eventually(lambda: counts.of["dropped away"])
        await eventually(is_ok(there))
        await carries(here, listener)
        await carries_to(there, listener, "default")


@pytest.mark.parametrize("how", Cut)
async def test_a_connection_is_cut_inside_a_message(
    proxy: Proxy, valkey: Valkey, make: Make, how: Cut
) -> None:
    here, there = make(valkey.url), make(proxy.url)
    async with running(here), running(there, "default") as listener:
        for size in (1, 30, 700):
            before = listener.suspected("subscribed")
            proxy.cut_after(size, Way.DOWN, how)
            here.publish([a_hint() for _ in range(5)])
            await eventually(partial(listener.was_suspected, "subscribed", before + 1))
            await eventually(is_ok(there))
            await carries(here, listener)


async def test_bytes_come_one_by_one(proxy: Proxy, valkey: Valkey, make: Make) -> None:
    proxy.pieces(1)
    here, there = make(valkey.url), make(proxy.url)
    async with running(here), running(there, "default") as listener:
        here.publish([hint := a_hint()])
        await eventually(partial(listener.heard, hint))
        assert not listener.suspected("unreadable", "default")


async def carries_to(here: Broker, there: Recorder, project: str) -> None:
    here.publish([hint := a_hint(project)])
    await eventually(partial(there.heard, hint))
