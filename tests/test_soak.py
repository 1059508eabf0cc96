"""What the soak makes of what it saw: it runs for long, and is to blame the right ones."""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path

from tests.processes import Server
from tests.realtime.serving import LONG_S
from tests.soak.holdings import Holdings, at_rest
from tests.soak.load import AT_ONCE, CATCHES_UP_S, Load
from tests.soak.reader import Late
from tests.soak.silences import Course, Fault, silences

ASK = {"type": "subscribeToRuns"}


def late(made: float, delay: float, port: int = 1) -> Late:
    return Late(made + delay, delay, port, ASK, "run_1", 2)


def test_what_was_late_at_once_is_one_silence_with_what_went_on_then() -> None:
    """A gateway that stands still is told once, not for each of its streams."""
    course = Course(begun=100.0, faults=[Fault("redis frozen", 108.0, 112.0)])
    found = list(silences([late(110, 1.2), late(130, 1.1), late(110.5, 2.0)], course))
    assert [len(each.late) for each in found] == [2, 1]
    assert found[0].longest(course) == 2.0
    told = found[0].told(course, {1: "steady"})
    assert told.startswith("0:10.0: 2.00 s")
    assert "redis frozen from -2.0 s on" in told
    assert "no fault" in found[1].told(course, {1: "steady"})


def test_what_a_database_was_away_for_is_no_silence() -> None:
    """Nobody can tell what is not written; what was made well after it was back is held to it."""
    away = Fault("postgresql restarted", 108.0, 110.0, is_outage=True)
    course = Course(begun=100.0, faults=[away])
    assert list(silences([late(107, 3.0), late(112, 2.0)], course)) == []
    assert len(list(silences([late(115, 2.0)], course))) == 1


def test_what_the_soak_itself_was_late_by_is_not_the_servers() -> None:
    """It runs on the same machine, and measures no better than it is woken."""
    course = Course(begun=100.0, lags=[(105.0, 4.0), (111.0, 0.7)])
    (silence,) = silences([late(110, 1.5)], course)
    assert abs(silence.longest(course) - 0.8) < 1e-9


def test_more_of_anything_but_memory_and_pools_is_left_behind() -> None:
    """Pools fill as they are needed, up to their bound; the rest comes and goes with clients."""
    begun = Holdings(100.0, clients=0, pools=10, files=13, tasks=14, streams=0, owed=0)
    assert Holdings(150.0, 0, 16, 13, 14, 0, 0).beyond(begun) == []
    assert Holdings(100.0, 1, 10, 13, 15, 0, 0).beyond(begun) == [
        "clients: 0 before, 1 now",
        "tasks: 14 before, 15 now",
    ]
    assert Holdings(100.0, 0, 99, 13, 14, 0, 0).beyond(begun) != []


def test_a_server_holds_what_is_opened_and_no_more_once_it_is_closed(tmp_path: Path) -> None:
    """Else the comparison would find nothing, or something every time."""
    with Server(f"sqlite:///{tmp_path}/runstream.db") as server:
        while (begun := Holdings.of(server)).clients:
            pass  # those who asked whether it is ready
        with socket.create_connection(("127.0.0.1", server.port)):
            assert at_rest(server, begun, 0.0).beyond(begun) == ["clients: 0 before, 1 now"]
        assert at_rest(server, begun, LONG_S).beyond(begun) == []


def test_the_load_is_paced_and_catches_up_only_so_far() -> None:
    """After an outage of minutes a burst would be measured, not the rate that was asked for."""
    load = Load(random.Random(1), 500, [])
    now = time.monotonic() + 1_000
    sizes = []
    while size := load.due(now):
        sizes.append(size)
    assert max(sizes) == AT_ONCE
    assert sum(sizes) == 500 * CATCHES_UP_S
    assert load.due(now + 0.2) == AT_ONCE
