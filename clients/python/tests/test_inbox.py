"""What waits for a caller: in order, within a bound, and merged under `latest`."""

from __future__ import annotations

from typing import Any

from clients.python.tests.builders import a_run
from runstream.changes import BatchProgress, Changed, Entered, Left, Reset
from runstream.inbox import Inbox, Mark
from runstream.merging import whole
from runstream.models import AnyRun, Batch


def an_inbox(*, conflating: bool = False, max_changes: int = 4, max_bytes: int = 1000) -> Inbox:
    return Inbox(conflating=conflating, max_changes=max_changes, max_bytes=max_bytes)


def run(name: str, version: int) -> AnyRun:
    return whole(a_run(name, version))


def taken(inbox: Inbox) -> list[Any]:
    found: list[Any] = []
    while (entry := inbox.take()) is not None:
        found.append(entry.cursor if isinstance(entry, Mark) else entry)
    return found


def test_every_keeps_each_change_in_order() -> None:
    inbox = an_inbox()
    changes: list[Any] = [Entered(run("a", 1)), Changed(run("a", 2)), Left(run("a", 3))]
    for change in changes:
        inbox.put_run(change, 1)
    assert taken(inbox) == changes


def test_latest_puts_a_newer_change_in_the_place_of_the_older() -> None:
    inbox = an_inbox(conflating=True)
    inbox.put_run(Changed(run("busy", 2)), 1)
    inbox.put_run(Changed(run("quiet", 2)), 1)
    inbox.put_run(Changed(run("busy", 3)), 1)
    assert taken(inbox) == [Changed(run("busy", 3)), Changed(run("quiet", 2))]


def test_latest_merges_by_the_rules_of_the_server() -> None:
    rules: list[tuple[Any, Any, Any]] = [
        (Entered(run("a", 1)), Changed(run("a", 2)), Entered(run("a", 2))),
        (Changed(run("a", 1)), Changed(run("a", 2)), Changed(run("a", 2))),
        (Changed(run("a", 1)), Left(run("a", 2)), Left(run("a", 2))),
        (Left(run("a", 1)), Entered(run("a", 2)), Entered(run("a", 2))),
    ]
    for first, second, outcome in rules:
        inbox = an_inbox(conflating=True)
        inbox.put_run(first, 1)
        inbox.put_run(second, 1)
        assert taken(inbox) == [outcome]


def test_latest_merges_nothing_across_a_reset() -> None:
    inbox = an_inbox(conflating=True)
    inbox.put_run(Changed(run("a", 7)), 1)
    inbox.put(Reset("epoch"))
    inbox.put_run(Entered(run("a", 1)), 1)
    inbox.put_run(Changed(run("a", 2)), 1)
    assert taken(inbox) == [Changed(run("a", 7)), Reset("epoch"), Entered(run("a", 2))]


def test_what_was_taken_is_not_merged_into() -> None:
    inbox = an_inbox(conflating=True)
    inbox.put_run(Changed(run("a", 1)), 1)
    inbox.take()
    inbox.put_run(Changed(run("a", 2)), 1)
    assert taken(inbox) == [Changed(run("a", 2))]


def test_it_is_full_by_changes_or_by_bytes_and_low_again_well_below() -> None:
    inbox = an_inbox()
    for version in range(4):
        assert not inbox.is_full
        inbox.put_run(Changed(run("a", version)), 1)
    assert inbox.is_full
    inbox.take()
    assert not inbox.is_full
    assert not inbox.is_low
    inbox.take()
    inbox.take()
    assert inbox.is_low
    inbox.put_run(Changed(run("a", 9)), 2000)
    assert inbox.is_full
    taken(inbox)
    assert inbox.is_low


def test_cursors_are_no_changes_and_only_the_last_of_several_is_kept() -> None:
    inbox = an_inbox()
    inbox.put_run(Changed(run("a", 1)), 1)
    for n in range(50):
        inbox.mark(f"c{n}")
    assert not inbox.is_full
    assert taken(inbox) == [Changed(run("a", 1)), "c49"]


def test_progress_that_nobody_has_read_becomes_one() -> None:
    inbox = an_inbox()
    at = run("a", 1).created_at
    for final in range(5):
        inbox.put(BatchProgress(Batch(id="b", created_at=at, size=5, final=final)))
    (progress,) = taken(inbox)
    assert progress.batch.final == 4


def test_what_is_kept_is_given_when_it_is_released_and_not_before() -> None:
    inbox = an_inbox()
    inbox.put_run(Changed(run("a", 1)), 1)
    inbox.mark("c1")
    inbox.keep()
    inbox.mark("c2")
    inbox.put_run(Changed(run("a", 2)), 1)
    assert (len(inbox), taken(inbox)) == (2, [Changed(run("a", 1)), "c1"])
    inbox.release()
    assert taken(inbox) == ["c2", Changed(run("a", 2))]


def test_what_is_dropped_leaves_room_and_what_came_before_it() -> None:
    inbox = an_inbox(conflating=True)
    inbox.put_run(Changed(run("a", 1)), 1)
    inbox.keep()
    for name in "abcd":
        inbox.put_run(Changed(run(name, 2)), 500)
    assert inbox.is_full
    inbox.drop()
    assert inbox.is_low
    inbox.put_run(Changed(run("a", 3)), 1)
    inbox.release()
    inbox.put_run(Changed(run("a", 4)), 1)
    assert taken(inbox) == [Changed(run("a", 1)), Changed(run("a", 4))]
    assert inbox.is_low
