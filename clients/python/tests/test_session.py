"""What a connection owes to its subscriptions when messages cross on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from clients.python.tests.builders import a_run, a_snapshot, live, the_end
from clients.python.tests.world import GREETED, World
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
