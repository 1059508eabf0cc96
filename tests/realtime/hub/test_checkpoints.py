"""Heartbeats and checkpoints: they break the silence, with no cursor from before a `live`."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.session import SessionSettings
from store.errors import Unavailable
from store.model import Cursor, LogPage
from tests.doubles import of_type
from tests.realtime.hub.setting import RUNS, protocol_line, setting
from tests.realtime.serving import until


async def test_no_cursor_takes_a_stream_to_before_its_own_live() -> None:
    """Whoever came back with it was told as news what its snapshot had left behind: changes of a
    run that it does not hold.

    Taken out: `has_come_to` in `Checkpoints.send` and in `Hub._send_cursor`; seed 500049.
    """
    async with setting(session=SessionSettings(checkpoint_s=0.0)) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.store.write(lambda tx: tx.create("later"), publish=False)
        (connection,) = s.hub.connections
        await connection.received(protocol_line(RUNS | {"id": 2, "statuses": ["QUEUED"]}))
        await until(lambda: outlet.types().count("live") == 2)
        before = outlet.types().count("checkpoint")
        s.store.update("r", metadata={"n": 1})
        await until(lambda: outlet.types().count("checkpoint") > before)
        said = outlet.said()
        joined = Cursor.decode(of_type(said, "live")[-1]["cursor"]).horizon
        assert Cursor.decode(of_type(said, "checkpoint")[before]["cursor"]).horizon.covers(joined)


async def test_who_has_joined_just_before_the_store_went_away_is_told_that_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A heartbeat takes a cursor, and there is none yet that is not before its `live`."""

    async def away(*_: Any, **__: Any) -> LogPage:
        raise Unavailable("away")

    async with setting(session=SessionSettings(heartbeat_s=0.05, checkpoint_s=1e6)) as s:
        s.store.create("r")
        await s.connect(RUNS)
        await s.settled()
        s.store.write(lambda tx: tx.create("later"), publish=False)
        # Its snapshot is the last that is read.
        monkeypatch.setattr(s.store, "read_log", away)
        outlet = await s.connect(RUNS)
        await until(lambda: outlet.types().count("stale") > 2)
        assert "heartbeat" not in outlet.types()
        monkeypatch.undo()
        await until(lambda: "heartbeat" in outlet.types())


async def test_a_heartbeat_breaks_the_silence() -> None:
    settings = SessionSettings(heartbeat_s=0.1)
    async with setting(session=settings) as s:
        outlet = await s.connect(RUNS)
        await until(lambda: outlet.types().count("heartbeat") > 1)
