"""How what was received is handed over; a fast reader of a socket alone cannot show it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from store.broker import Suspicion
from store.broker.inbox import TURN_BYTES, TURN_SHARE, Inbox, Reading
from store.broker.metrics import NO_METRICS
from tests.store.broker.doubles import Recorder, a_hint, eventually


def read(origin: bytes, message: bytes) -> Reading:
    return "p", [a_hint("p", id=message[:8].decode())], None


async def test_a_flood_is_handed_over_in_pieces() -> None:
    """Else decoding it would keep the sockets of this process waiting."""
    inbox, listener = Inbox(NO_METRICS, read), Recorder()
    inbox.open(listener)
    inbox.follow("p")
    for number in range(100):
        inbox.receive(b"c", b"%08d" % number + bytes(TURN_BYTES // 10))
    await eventually(lambda: len(listener.hints) == 100)
    assert listener.runs == [f"{number:08}" for number in range(100)]
    assert len(listener.calls) > 5
    assert max(map(len, listener.calls)) <= 100 // TURN_SHARE + 1
    inbox.close()


async def test_a_flood_that_lasts_is_kept_up_with() -> None:
    """Each turn brings more than one turn's least share: what waits must not grow for ever,
    and be thrown away, while there is all the time to read it."""
    inbox, listener = Inbox(NO_METRICS, read, max_bytes=20 * TURN_BYTES), Recorder()
    inbox.open(listener)
    inbox.follow("p")
    for number in range(400):
        inbox.receive(b"c", b"%08d" % number + bytes(TURN_BYTES // 2))
        if number % 4 == 3:
            await asyncio.sleep(0)
    await eventually(lambda: len(listener.hints) == 400)
    assert not listener.suspicions
    inbox.close()


@pytest.mark.parametrize("bound", [{"max_messages": 5}, {"max_bytes": 45}])
async def test_more_than_fits_is_thrown_away_and_said(bound: dict[str, Any]) -> None:
    inbox, listener = Inbox(NO_METRICS, read, **bound), Recorder()
    inbox.open(listener)
    inbox.follow("p")
    for number in range(7):
        inbox.receive(b"c", b"%08d" % number)
    await eventually(lambda: listener.suspicions)
    assert listener.suspicions == [(None, "overflow")]
    assert listener.runs == ["00000006"]
    inbox.close()


async def test_a_suspicion_is_told_once_a_turn() -> None:
    inbox, listener = Inbox(NO_METRICS, read), Recorder()
    inbox.open(listener)
    for _ in range(3):
        inbox.suspect("p", Suspicion.HOLE)
    await eventually(lambda: listener.suspicions)
    assert listener.suspicions == [("p", "hole")]
    inbox.close()
