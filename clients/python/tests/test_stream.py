"""What a stream tells its caller while its state is not sure yet: nothing by halves."""

from __future__ import annotations

import pytest

from clients.python.tests.builders import (
    a_change,
    a_leave,
    a_run,
    a_snapshot,
    an_enter,
    live,
    the_end,
)
from clients.python.tests.world import GREETED, World, told
from runstream.effects import State
from runstream.errors import BadRequest, Forbidden
from runstream.merging import whole
from runstream.stream import Stream, StreamState

RESET = {"type": "reset", "id": 1, "reason": "retention"}


# What comes without a cursor


def test_a_first_snapshot_is_told_when_it_is_live_and_not_before() -> None:
    """The next one may have other versions: who had been told both would see a gap."""
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run("run_1"), a_run("run_2")), a_change(2))
    assert told(stream) == []
    world.closes()
    world.opens(**GREETED)
    # Of run_2 nothing comes again; run_3 changes before it is live.
    world.says(a_snapshot(a_run("run_1", 5), a_run("run_3")), a_change(2, run_id="run_3"))
    assert told(stream) == []
    world.says(live(), a_change(6))
    assert told(stream) == [
        "Entered run_1 5",
        "Entered run_3 1",
        "Changed run_3 2",
        "Live",
        "c1",
        "Changed run_1 6",
    ]


def test_a_snapshot_after_a_reset_is_told_when_it_is_live_and_not_before() -> None:
    """Today's version 3 and, after a lost connection, version 5 of another would be a gap."""
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run("run_1"), a_run("run_2")), live())
    told(stream)
    world.says(RESET, a_snapshot(a_run("run_1", 3)), a_change(4))
    assert told(stream) == ["Reset"]
    world.closes()
    assert world.sent()[-1] == {"type": "subscribeToRuns", "id": 1}
    world.opens(**GREETED)
    world.says(a_snapshot(a_run("run_1", 6)))
    assert told(stream) == []
    world.says(live("c2"))
    assert told(stream) == ["Entered run_1 6", "Left run_2 1", "Live", "c2"]


def test_the_reset_of_a_caller_s_cursor_is_told_once_and_not_lost() -> None:
    """What the caller keeps from before its restart is not valid, whatever happens then."""
    world = World()
    stream = world.stream(cursor="old", snapshot=False)
    world.opens(**GREETED)
    world.says(an_enter(a_run("run_1")), RESET, a_snapshot(a_run("run_1", 3)))
    world.closes()
    world.sent()
    world.opens(**GREETED)
    assert world.sent() == [{"type": "subscribeToRuns", "id": 1}], "the present state is owed"
    world.says(a_snapshot(a_run("run_2", 5)), live())
    assert told(stream) == [
        "Entered run_1 1",
        "Reset",
        "Entered run_2 5",
        "Left run_1 1",
        "Live",
        "c1",
    ]
    world.closes()
    world.opens(**GREETED)
    assert world.sent() == [
        {"type": "subscribeToRuns", "id": 1, "cursor": "c1", "snapshot": False}
    ], "and once it is live, no longer"


def test_a_reset_to_nothing_is_the_end_of_what_was_there() -> None:
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run()), live(), RESET)
    assert told(stream) == ["Entered run_1 1", "Live", "c1", "Reset"]
    world.says(live("c2"))
    assert told(stream) == ["Left run_1 1", "Live", "c2"]
    assert not stream.held


def reset_to_a_truncated_snapshot(world: World) -> Stream:
    """A stream that was shown run_1 and run_2, and then that run_3 is among those that match."""
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run("run_1"), a_run("run_2")), live())
    told(stream)
    world.says(RESET, a_snapshot(a_run("run_3")), live("c2", truncated=True))
    assert told(stream) == ["Reset", "Entered run_3 1", "Live", "c2"]
    return stream


def test_runs_that_a_truncated_snapshot_had_no_room_for_have_not_left() -> None:
    """More match than it holds, and nothing says that these are not among them."""
    world = World()
    stream = reset_to_a_truncated_snapshot(world)
    world.says(a_leave(7, run_id="run_1"), a_change(4, run_id="run_2"))
    assert told(stream) == ["Left run_1 7"], "the server has said so; the other is read"
    world.perform(world.session.fetched("run_2", whole(a_run("run_2", 4)), world.time))
    assert told(stream) == ["Entered run_2 4"]
    world.says(RESET, a_snapshot(a_run("run_3", 2)), live("c3"))
    assert told(stream) == ["Reset", "Entered run_3 2", "Left run_2 4", "Live", "c3"]


def test_what_a_later_snapshot_has_room_for_and_does_not_hold_has_left() -> None:
    world = World()
    stream = reset_to_a_truncated_snapshot(world)
    world.says(RESET, a_snapshot(a_run("run_2", 5)), live("c3"))
    expected = ["Reset", "Entered run_2 5", "Left run_1 1", "Left run_3 1", "Live", "c3"]
    assert told(stream) == expected


def test_a_run_that_leaves_while_a_truncated_snapshot_is_joined_has_left() -> None:
    """The server has said so, whatever the snapshot has room for; it has left by that version."""
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run("run_1"), a_run("run_2")), live())
    told(stream)
    world.says(RESET, a_snapshot(a_run("run_3")), a_leave(7, run_id="run_1"))
    assert told(stream) == ["Reset"]
    world.says(live("c2", truncated=True))
    assert told(stream) == ["Entered run_3 1", "Left run_1 7", "Live", "c2"]


@pytest.mark.parametrize("truncated", [False, True], ids=["whole", "truncated"])
def test_a_run_that_a_snapshot_holds_and_that_leaves_before_live_leaves_once(
    truncated: bool,
) -> None:
    """Taken out: the look at `_gone` when `live` comes; it was told as left there once more."""
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run()), live())
    told(stream)
    world.says(RESET, a_snapshot(a_run("run_1", 3)), a_leave(4), live("c2", truncated=truncated))
    assert told(stream) == ["Reset", "Entered run_1 3", "Left run_1 4", "Live", "c2"]


def test_what_left_before_live_leaves_again_if_that_was_cut_off() -> None:
    """It was kept from the caller until `live`, and dropped with the connection."""
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run()), live(), RESET, a_leave(4))
    told(stream)
    world.closes()
    world.opens(**GREETED)
    world.says(live("c2"))
    assert told(stream) == ["Left run_1 1", "Live", "c2"]


def test_a_run_that_is_no_more_after_a_truncated_snapshot_has_left() -> None:
    world = World()
    stream = reset_to_a_truncated_snapshot(world)
    world.says(a_change(4, run_id="run_1"))
    world.perform(world.session.fetched("run_1", None, world.time))
    assert told(stream) == ["Left run_1 4"]
    world.says(RESET, live("c3"))
    assert told(stream) == ["Reset", "Left run_2 1", "Left run_3 1", "Live", "c3"]


def test_a_run_that_has_entered_again_unsaid_has_not_left_with_a_reset() -> None:
    """It was read ahead of the stream and told as left; the caller has it no more.

    Taken out: the look at `_hushed` in `reset`; it was told as left a second time.
    """
    world = World()
    stream = world.stream(snapshot=False)
    world.opens(**GREETED)
    world.says(live(), a_change(3))
    world.perform(world.session.fetched("run_1", whole(a_run("run_1", 7)), world.time))
    world.says(a_leave(4), an_enter(a_run("run_1", 5)))
    assert told(stream) == ["Live", "c1", "Entered run_1 7", "Left run_1 4"]
    world.says(RESET, live("c2"))
    assert told(stream) == ["Reset", "Live", "c2"]


def test_a_second_reset_before_live_takes_back_what_came_after_the_first() -> None:
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run()), live())
    told(stream)
    world.says(RESET, a_snapshot(a_run("run_2")), RESET, a_snapshot(a_run("run_3")), live("c2"))
    assert told(stream) == ["Reset", "Reset", "Entered run_3 1", "Left run_1 1", "Live", "c2"]


def test_what_is_there_by_halves_is_not_told_when_it_is_refused() -> None:
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run()), the_end("forbidden"))
    assert isinstance(stream.error, Forbidden)
    assert told(stream) == []


def test_what_was_told_before_a_reset_is_still_there_when_the_client_is_closed() -> None:
    world = World()
    stream = world.stream()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run()), live(), RESET, a_snapshot(a_run("run_2")))
    world.perform(world.session.close())
    assert told(stream) == ["Entered run_1 1", "Live", "c1", "Reset"]


def test_latest_merges_nothing_into_what_may_be_taken_back() -> None:
    world = World()
    stream = world.stream(delivery="latest")
    world.opens(**GREETED)
    world.says(a_snapshot(a_run()), live(), a_change(2), RESET, a_snapshot(a_run("run_1", 3)))
    world.closes()
    world.opens(**GREETED)
    world.says(a_snapshot(a_run("run_1", 7)), live("c2"), a_change(8), a_change(9))
    assert told(stream) == [
        "Entered run_1 1",
        "Live",
        "c1",
        "Changed run_1 2",
        "Reset",
        "Entered run_1 7",
        "Live",
        "c2",
        "Changed run_1 9",
    ]


# Final runs that are let go


def letting_go(world: World) -> Stream:
    """A stream that keeps one run, and was shown two that are final: run_1 at 3 and run_2 at 1."""
    stream = world.stream()
    stream._max_held = 1
    world.opens(**GREETED)
    final = [a_run("run_1", 3, status="COMPLETED"), a_run("run_2", status="COMPLETED")]
    world.says(a_snapshot(*final), live())
    assert told(stream) == ["Entered run_1 3", "Entered run_2 1", "Live", "c1"]
    assert list(stream.held) == ["run_2"]
    return stream


def test_a_run_that_was_let_go_leaves_like_any_other() -> None:
    """The caller has it still.

    Taken out: `_let_go` in `_left`; nothing was told.
    """
    world = World()
    stream = letting_go(world)
    world.says(a_leave(2, "COMPLETED"))
    assert told(stream) == [], "which is older than what was told"
    world.says(a_leave(4, "COMPLETED"), a_leave(4, "COMPLETED"))
    assert told(stream) == ["Left run_1 4"]
    world.says(RESET, live("c2"))
    assert told(stream) == ["Reset", "Left run_2 1", "Live", "c2"]


def test_a_reset_tells_of_the_runs_that_were_let_go() -> None:
    world = World()
    stream = letting_go(world)
    world.says(RESET, live("c2"))
    assert told(stream) == ["Reset", "Left run_1 3", "Left run_2 1", "Live", "c2"]


def test_what_is_let_go_of_a_snapshot_has_not_left() -> None:
    world = World()
    stream = letting_go(world)
    final = [a_run(run_id, 4, status="COMPLETED") for run_id in ("run_1", "run_2")]
    world.says(RESET, a_snapshot(*final), live("c2"))
    assert told(stream) == ["Reset", "Entered run_1 4", "Entered run_2 4", "Live", "c2"]


def test_a_run_that_was_let_go_and_is_no_more_has_left() -> None:
    world = World()
    stream = letting_go(world)
    world.says(a_change(4, "COMPLETED"))
    assert stream.wants("run_1")
    world.perform(world.session.fetched("run_1", None, world.time))
    assert told(stream) == ["Left run_1 4"]


def test_what_is_repeated_of_a_run_that_was_let_go_is_not_read_again() -> None:
    world = World()
    stream = letting_go(world)
    world.says(a_change(3, "COMPLETED"), an_enter(a_run("run_1", 3, status="COMPLETED")))
    assert not stream.wants("run_1")
    assert told(stream) == []


def test_of_runs_that_were_let_go_no_more_are_kept_in_mind_than_are_held() -> None:
    world = World()
    stream = letting_go(world)
    world.says(an_enter(a_run("run_3", status="COMPLETED")))
    told(stream)
    world.says(RESET, live("c2"))
    assert told(stream) == ["Reset", "Left run_2 1", "Left run_3 1", "Live", "c2"]


# What is longer than the server takes


def too_long(length: int = 70_000) -> list[str]:
    return ["x" * length]


def test_what_is_too_long_is_refused_here_and_costs_nobody_else_the_socket() -> None:
    """The server would close the socket with 1009, for all streams on it, again and again."""
    world = World()
    small, long = world.stream(), world.stream(tasks=too_long())
    world.opens(server="s/1", limits={"messageBytes": 65_536})
    assert isinstance(long.error, BadRequest)
    assert long in world.woken
    assert world.sent() == [{"type": "subscribeToRuns", "id": 1}]
    later = world.stream(tasks=too_long())
    assert isinstance(later.error, BadRequest)
    assert (world.sent(), world.hung_up) == ([], 0)
    assert small.state is StreamState.JOINING
    world.stream()
    assert world.sent() == [{"type": "subscribeToRuns", "id": 2}]


def test_a_server_that_takes_more_says_so_and_is_sent_more() -> None:
    """So what is longer than usual waits for its `welcome`."""
    world = World()
    long = world.stream(tasks=too_long())
    world.opens()
    assert world.sent() == []
    world.says({"type": "welcome", "limits": {"messageBytes": 100_000}})
    assert [message["id"] for message in world.sent()] == [1]
    assert long.state is StreamState.JOINING
    assert long.error is None


def test_one_that_is_asked_for_again_waits_for_welcome_like_the_others() -> None:
    """And is not looked at again and again meanwhile."""
    world = World()
    stream = world.stream()
    world.opens()
    world.closes(1009)
    world.sent()
    world.opens(**GREETED)
    world.says({"type": "error", "id": 1, "code": "unavailable", "message": ""})
    world.closes()
    world.sent()
    world.opens()
    world.time += 5
    world.perform(world.session.tick(world.time))
    assert world.sent() == []
    assert (world.session.deadline or 0.0) > world.time
    world.says({"type": "welcome"})
    world.perform(world.session.tick(world.time))
    assert [message["id"] for message in world.sent()] == [1]
    assert stream.state is StreamState.JOINING


@pytest.mark.parametrize("greets", [True, False], ids=["after `welcome`", "before"])
def test_a_server_that_takes_less_refuses_once(greets: bool) -> None:
    world = World()
    long, small = world.stream(tasks=too_long(2_000)), world.stream()
    limits = {"limits": {"messageBytes": 1_024}}
    world.opens(**(limits if greets else {}))
    assert len(world.sent()) == 2
    world.closes(1009)
    world.opens(**limits)
    assert isinstance(long.error, BadRequest)
    assert world.sent() == [{"type": "subscribeToRuns", "id": 1}]
    assert small.state is StreamState.JOINING


def test_the_last_one_that_is_too_long_leaves_the_connection_to_linger() -> None:
    world = World()
    world.stream(tasks=too_long())
    world.opens(server="s/1", limits={"messageBytes": 65_536})
    states = [world.session.state]
    for _ in range(5):
        world.time = world.session.deadline or world.time
        world.perform(world.session.tick(world.time))
        world.says({"type": "pong"})
        states.append(world.session.state)
    assert (states[0], states[-1]) == (State.OPEN, State.IDLE)
