"""A few hundred fuzzed connections; `make fuzz` plays them for ten minutes and more."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.realtime.serving import until
from tests.security.fuzz import Fuzz, fuzzed
from tests.security.serving import KEY, serving
from tests.security.traffic import KEY as SPOKEN
from tests.security.traffic import talk


async def test_fuzzed_bytes_leave_it_serving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A good client is served beside them; no error is logged, no connection is left behind."""
    assert SPOKEN == KEY, "what is fuzzed has to get past the door"
    with serving(tmp_path, deflate=True, heartbeat_s=0.5) as served:
        fuzz = Fuzz(served.port, seed=1)
        with caplog.at_level(logging.ERROR):
            await fuzzed(fuzz, 0, lambda number: number < 200)
            assert fuzz.done == 200
            assert fuzz.checks
            state = served.server.server_state
            await until(lambda: not state.connections and not state.tasks, "all has ended")
            assert served.runtime.limits.bodies.held == 0
        assert [record.getMessage() for record in caplog.records] == []


def test_a_talk_can_be_said_again() -> None:
    """What was found is found again by its seed and number."""
    assert [talk(7, number) for number in range(50)] == [talk(7, number) for number in range(50)]
    assert talk(7, 0) != talk(8, 0)
