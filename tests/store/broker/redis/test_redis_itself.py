"""What a broker does when Redis itself fails, freezes, moves, or lets nobody in."""

from __future__ import annotations

from functools import partial

import pytest

from tests.faults import client_kill
from tests.servers import Valkey
from tests.store.broker.doubles import (
    Counts,
    a_hint,
    carries,
    eventually,
    is_degraded,
    is_ok,
    led_through,
    running,
)
from tests.store.broker.redis.conftest import Make


async def test_it_starts_anew_and_empty(valkey: Valkey, make: Make) -> None:
    here, there = make(valkey.url), make(valkey.url)
    async with running(here, "default") as own, running(there, "default") as listener:
        valkey.kill()
        await eventually(is_degraded(here, there))
        await eventually(partial(listener.was_suspected, "lost", 1))
        here.publish([meanwhile := a_hint()])
        await eventually(partial(own.heard, meanwhile))
        valkey.start()
        await eventually(is_ok(here, there))
        assert listener.was_suspected("subscribed", 2)
        await carries(here, listener)
        # What was lost meanwhile is a hole, found by the first hint after it.
        assert listener.suspected("hole", "default") or listener.suspected(
            "unknown_publisher", "default"
        )


async def test_it_is_not_there_at_the_start(valkey: Valkey, make: Make) -> None:
    """A server starts, and its own subscribers are served, also then."""
    valkey.kill()
    here = make(valkey.url)
    async with running(here, "default", wait=False) as own:
        here.publish([hint := a_hint()])
        await eventually(partial(own.heard, hint))
        assert is_degraded(here)()
        assert not own.suspected("subscribed")
        valkey.start()
        await eventually(is_ok(here))
        assert own.suspected("subscribed") == 1


async def test_it_freezes(valkey: Valkey, make: Make) -> None:
    """Connections stand, and nothing comes. Taken out: the canary."""
    counts = Counts()
    here, there = make(valkey.url), make(valkey.url, counts)
    async with running(here, "default") as own, running(there, "default") as listener:
        with valkey.frozen_meanwhile():
            await eventually(is_degraded(here, there))
            await eventually(partial(listener.was_suspected, "canary", 1))
            assert counts.of["canary missed"] >= 1
            here.publish([meanwhile := a_hint()])
            await eventually(partial(own.heard, meanwhile))
        await eventually(is_ok(here, there))
        await carries(here, listener)
        await carries(there, own)


async def test_it_cuts_off_whoever_has_too_much_unsent(valkey: Valkey, make: Make) -> None:
    """A tiny output buffer: as a server does with subscribers that are too slow."""
    here, there = make(valkey.url), make(valkey.url)
    async with running(here), running(there, "default") as listener:
        valkey.set_config("client-output-buffer-limit", "pubsub 1kb 1kb 1")
        try:
            # Each a message of its own: several are then answered before the first is sent.
            for _ in range(100):
                here.publish([a_hint(output="x" * 10_000)])
            await eventually(lambda: listener.suspected("lost"))
            await eventually(lambda: listener.suspected("subscribed") >= 2)
        finally:
            valkey.set_config("client-output-buffer-limit", "pubsub 32mb 8mb 60")
        await eventually(is_ok(there))
        await carries(here, listener)


async def test_it_becomes_a_replica(valkey: Valkey, make: Make) -> None:
    """After a failover the old primary lives on as a replica. What is published there stays
    there, though the canary sings. Taken out: the look at ROLE."""
    broker = make(valkey.url)
    async with running(broker, "default") as listener:
        with Valkey() as primary:
            valkey.execute("REPLICAOF", "127.0.0.1", primary.port)
            try:
                await eventually(is_degraded(broker))
                await eventually(lambda: listener.suspected("lost"))
            finally:
                valkey.execute("REPLICAOF", "NO", "ONE")
        await eventually(is_ok(broker))


@pytest.mark.parametrize("moved", ["normal", "pubsub"])
async def test_another_takes_its_place(valkey: Valkey, make: Make, moved: str) -> None:
    """A failover behind one address moves one of the connections, and the other stands at
    the old server, alive and alone. Taken out: renewing both when the canary is silent."""
    with Valkey() as other:
        async with led_through(valkey.url) as proxy:
            here, there = make(proxy.url), make(proxy.url)
            async with running(here), running(there, "default") as listener:
                proxy._target_port = other.port
                client_kill(valkey, moved)
                await eventually(lambda: listener.suspected("canary"))
                await eventually(is_ok(here, there))
                await carries(here, listener)
                assert other.execute("PUBSUB", "CHANNELS", "*hints*")


async def test_it_does_not_let_us_in(valkey: Valkey, make: Make) -> None:
    """A wrong password is tried again, with waits: it may be Redis that has the wrong one."""
    valkey.execute("ACL", "SETUSER", "guest", "on", ">right", "+@all", "allchannels")
    try:
        broker = make(valkey.url.replace("//", "//guest:wrong@"))
        async with running(broker, "default", wait=False) as listener:
            await eventually(lambda: "WRONGPASS" in broker._link._complaint)
            assert is_degraded(broker)()
            valkey.execute("ACL", "SETUSER", "guest", ">wrong")
            await eventually(is_ok(broker))
            await carries(broker, listener)
    finally:
        valkey.execute("ACL", "DELUSER", "guest")


async def test_a_login_that_may_not_hear_a_project_makes_it_degraded(
    valkey: Valkey, make: Make, namespace: str
) -> None:
    """It is asked for again with each beat, so that a permission is all that it needs."""
    url = valkey.url.replace("//", "//limited:secret@")
    allowed = f"&{namespace}:0:canary:*"
    valkey.execute("ACL", "SETUSER", "limited", "on", ">secret", "+@all", "resetchannels", allowed)
    try:
        broker = make(url)
        async with running(broker) as listener:
            broker.follow("default")
            await eventually(is_degraded(broker))
            assert not listener.suspected("followed", "default")
            valkey.execute("ACL", "SETUSER", "limited", f"&{namespace}:0:hints:*")
            await eventually(is_ok(broker))
            assert listener.suspected("followed", "default") == 1
    finally:
        valkey.execute("ACL", "DELUSER", "limited")


async def test_a_login_that_may_publish_and_subscribe_and_no_more_is_enough(
    valkey: Valkey, make: Make
) -> None:
    url = valkey.url.replace("//", "//least:secret@")
    valkey.execute(
        "ACL", "SETUSER", "least", "on", ">secret", "-@all", "allchannels",
        "+publish", "+subscribe", "+unsubscribe", "+select",
    )  # fmt: skip
    try:
        here, there = make(url), make(url)
        async with running(here), running(there, "default") as listener:
            await carries(here, listener)
            client_kill(valkey, "normal")
            await carries(here, listener)
            there.unfollow("default")
    finally:
        valkey.execute("ACL", "DELUSER", "least")
