"""Messages made by hand, as another process would send them, or never would."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import redis

from store.broker.redis.codec import HEADER, encode, pack
from tests.servers import Valkey
from tests.store.broker.doubles import HURRIED, Counts, a_hint, carries, eventually, running
from tests.store.broker.redis.conftest import Make


def message(publisher: bytes, number: int) -> bytes:
    encoded = encode(a_hint(), 16_384)
    assert encoded is not None
    ((body, _),) = pack([encoded], 65_536)
    return HEADER.pack(publisher, number) + body


async def test_a_jump_of_a_counter_is_a_hole(valkey: Valkey, make: Make) -> None:
    """Taken out: the counters. Then only the tail finds it, up to a second later."""
    broker = make(valkey.url)
    channel = broker.channel_of("default")
    async with running(broker, "default") as listener:
        for count, number in enumerate((7, 8, 8, 9), 1):
            publish(valkey, channel, message(b"stranger", number))
            await eventually(partial(listener.has_hints, count))
        assert listener.suspected("unknown_publisher", "default") == 1
        assert not listener.suspected("hole", "default")
        publish(valkey, channel, message(b"stranger", 11))
        await eventually(lambda: listener.suspected("hole", "default"))
        assert len(listener.hints) == 5


async def test_our_own_jump_is_a_hole_too(valkey: Valkey, make: Make) -> None:
    """What we sent and did not get back, others may have missed as well."""
    broker = make(valkey.url)
    channel = broker.channel_of("default")
    async with running(broker, "default") as listener:
        own = broker._publisher
        for number in (5, 6):
            publish(valkey, channel, message(own, number))
        publish(valkey, channel, message(own, 9))
        await eventually(lambda: listener.suspected("hole", "default"))
    assert not listener.suspected("unknown_publisher", "default")
    assert not listener.hints


@pytest.mark.parametrize(
    "rubbish", [b"", b"short", b"x" * 16, b"x" * 16 + b"\xc1", b"x" * 16 + b"\x93\x01\x02\x03"]
)
async def test_what_cannot_be_read_is_suspect(valkey: Valkey, make: Make, rubbish: bytes) -> None:
    """A later version of this program may say more than this one understands."""
    broker = make(valkey.url)
    async with running(broker, "default") as listener:
        publish(valkey, broker.channel_of("default"), rubbish)
        await eventually(lambda: listener.suspected("unreadable", "default"))
        publish(valkey, broker.channel_of("default"), message(b"stranger", 1))
        await eventually(lambda: listener.hints)
    assert listener.suspected("lost") == 0


async def test_a_strange_canary_is_not_heard(valkey: Valkey, make: Make) -> None:
    broker = make(valkey.url)
    async with running(broker, "default") as listener:
        for rubbish in (b"", b"x" * 15, b"x" * 16, b"x" * 17):
            publish(valkey, broker.canary_of(), rubbish)
        publish(valkey, broker.channel_of("default"), message(b"stranger", 1))
        await eventually(lambda: listener.hints)
    assert listener.suspected("lost") == 0


async def test_more_than_is_taken_is_thrown_away_and_said(valkey: Valkey, make: Make) -> None:
    counts = Counts()
    tuning = replace(HURRIED, inbox_messages=3)
    here, there = make(valkey.url), make(valkey.url, counts, tuning)
    async with running(here), running(there, "default") as listener:
        for _ in range(200):
            here.publish([a_hint()])
        await eventually(lambda: listener.suspected("overflow"))
        await carries(here, listener)


def publish(valkey: Valkey, channel: bytes, message: bytes) -> None:
    with redis.Redis(port=valkey.port, protocol=2) as client:
        client.publish(channel, message)
