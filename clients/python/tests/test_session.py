"""What a connection owes to its subscriptions when messages cross on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from clients.python.tests.builders import a_run, a_snapshot, live, the_end
from clients.python.tests.world import GREETED, World
from runstream.effects import State
from runstream.errors import NotFound
from runstream.stream import StreamState

# Ids that are used again


def an_error(code: str) -> dict[str, Any]:
    return {"type": "error", "id": 1, "code": code, "message": ""}


# What a server says that unsubscribes what it has ended, or refuses, at the same moment.
CROSSED = {
    "completed": [the_end("completed"), an_error("not_found")],
    "forbidden": [the_end("forbidden"), an_error("not_found")],
    "refused": [an_error("unavailable"), an_error("not_found")],
    "no such run": [an_error("not_found"), the_end("not_found"), an_error("not_found")],
    "nothing": [the_end("unsubscribed")],
}


@pytest.mark.parametrize("crossed", CROSSED.values(), ids=CROSSED)
def test_an_id_is_used_again_only_when_its_unsubscribe_is_answered(
    crossed: list[dict[str, Any]],
) -> None:
    """What the server knows no more it answers with `error` not_found, and that id.

    Taken out: `_Owed.ERROR`; the subscription that came next had the id by then, and was told that
    there is no such run.
    """
    world = World()
    first, _other = world.stream(), world.stream()
    world.opens(**GREETED)
    world.perform(world.session.unsubscribe(first, world.time))
    world.sent()
    later = []
    for message in crossed:
        later.append(world.stream())
        world.says(message)
    assert [each["id"] for each in world.sent()] == [*range(3, 3 + len(crossed))]
    assert {each.state for each in later} == {StreamState.JOINING}
    world.stream()
    assert [each["id"] for each in world.sent()] == [1], "and then it is free"


def test_the_second_word_about_a_run_that_is_not_there_is_not_taken_for_another_s() -> None:
    """Such a subscription is told `error` not_found, and then `end` not_found.

    Taken out: `_Owed.END`; a subscription that came between the two took the id, and ended.
    """
    world = World()
    first, _other = world.stream(), world.stream()
    world.opens(**GREETED)
    world.says(an_error("not_found"))
    assert isinstance(first.error, NotFound)
    between = world.stream()
    world.says(the_end("not_found"), a_snapshot(a_run(), id=3), live(id=3))
    assert between.state is StreamState.LIVE
    world.sent()
    world.stream()
    assert [each["id"] for each in world.sent()] == [1]


# A server that goes away before it has greeted

RECONNECT = {"type": "reconnect", "afterMs": 60_000, "reason": "draining"}


def test_a_server_that_goes_away_before_it_greets_is_not_waited_for_in_circles() -> None:
    """Taken out: what forgets `_greeted_by` there; it was due from then on, and never acted upon."""
    world = World()
    world.stream()
    world.opens()
    world.says(RECONNECT)
    for _ in range(20):
        deadline = world.session.deadline
        assert deadline is not None
        assert deadline > world.time, "it is woken for what it does not do"
        world.time = deadline
        world.perform(world.session.tick(world.time))
        if world.session.state is not State.DRAINING:
            break
        world.says({"type": "pong"})
    assert (world.session.state, world.time) == (State.DIALING, 60.0)


def test_what_waits_for_welcome_is_sent_when_it_comes_after_reconnect() -> None:
    """Taken out: `_is_welcome`; it was taken for an answer to `authenticate`."""
    world = World()
    stream = world.stream(tasks=["x" * 70_000])
    world.opens()
    world.says(RECONNECT)
    assert world.sent() == []
    world.says({"type": "welcome", "limits": {"messageBytes": 100_000}})
    assert [each["type"] for each in world.sent()] == ["subscribeToRuns"]
    assert (world.session.state, stream.state) == (State.DRAINING, StreamState.JOINING)
    assert world.session.stats.connects == 1


def test_what_is_long_is_not_refused_before_welcome_also_after_reconnect() -> None:
    world = World()
    world.stream()
    world.opens()
    world.says(RECONNECT)
    late = world.stream(tasks=["x" * 70_000])
    assert late.error is None
    world.says({"type": "welcome", "limits": {"messageBytes": 100_000}})
    assert late.state is StreamState.JOINING


def test_one_that_took_too_little_before_welcome_is_sent_nothing_after_reconnect() -> None:
    world = World()
    world.stream(tasks=["x" * 2_000])
    world.opens()
    world.closes(1009)
    world.opens()
    world.says(RECONNECT)
    world.sent()
    world.stream()
    assert world.sent() == []
    world.says({"type": "welcome", **GREETED})
    assert len(world.sent()) == 2
