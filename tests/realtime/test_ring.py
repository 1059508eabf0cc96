"""The ring: whom it may serve, and whom only the database can."""

from __future__ import annotations

import random
from typing import Any

import pytest

from realtime.ring import RUN_CHANGES, Ring, meet
from store.model import (
    Change,
    Cursor,
    Facet,
    Group,
    Horizon,
    Match,
    RunStatus,
    Selection,
)
from tests.builders import a_change, a_run


def a_group(
    run_id: str, version: int, xid: int, had: tuple[str, ...] | None = None, **fields: Any
) -> Group:
    run = a_run(id=run_id, version=version, last_xid=xid, **fields)
    before = None if version == 1 else Facet(RunStatus.QUEUED, run.tags if had is None else had)
    return Group((a_change(run, before=before, changed={}),), run)


def cursor(xmin: int, xmax: int | None = None, *open_: int, witness: int = 0) -> Cursor:
    return Cursor("e", Horizon(xmin, xmax or xmin, open_, witness))


def versions(groups: list[Group] | None) -> dict[str, list[int]] | None:
    if groups is None:
        return None
    found = {group.first.run_id: [c.version for c in group.changes] for group in groups}
    assert len(found) == len(groups)
    return found


def test_it_gives_what_the_cursor_has_not_seen_run_by_run() -> None:
    ring = Ring(Horizon(10, 10))
    for version, xid in ((1, 10), (2, 12), (3, 13)):
        ring.add(a_group("r1", version, xid))
    ring.add(a_group("r2", 1, 11))
    ring.moved(Horizon(14, 14))
    found = ring.since(cursor(10))
    assert versions(found) == {"r1": [1, 2, 3], "r2": [1]}
    assert found is not None
    assert found[0].run is not None
    assert found[0].run.version == 3
    assert versions(ring.since(cursor(12))) == {"r1": [2, 3]}
    assert versions(ring.since(cursor(14))) == {}


def test_what_was_before_it_began_only_the_database_knows() -> None:
    ring = Ring(Horizon(10, 10))
    assert ring.since(cursor(9)) is None
    assert ring.since(cursor(10)) == []


def test_a_cursor_ahead_of_it_is_for_the_database_to_judge() -> None:
    """It may be of another gateway, or of another history."""
    ring = Ring(Horizon(10, 10))
    assert ring.since(cursor(11)) is None
    ring.moved(Horizon(11, 11))
    assert ring.since(cursor(11)) == []


def test_what_had_to_go_only_the_database_has() -> None:
    ring = Ring(Horizon(10, 10), max_changes=3)
    for n in range(5):
        ring.add(a_group(f"r{n}", 1, 10 + n))
    ring.moved(Horizon(15, 15))
    assert len(ring) == 3
    assert ring.since(cursor(11)) is None
    assert versions(ring.since(cursor(12))) == {"r2": [1], "r3": [1], "r4": [1]}


def test_a_transaction_that_was_open_keeps_nobody_out_as_long_as_it_is_open() -> None:
    """One that stays open for hours must not send every resume to the database."""
    ring = Ring(Horizon(5, 10, (5,)))
    ring.moved(Horizon(5, 20, (5,)))
    assert ring.since(cursor(5, 15, 5)) == []
    ring.add(a_group("r1", 1, 5))  # it has committed, and a hint told so
    assert versions(ring.since(cursor(5, 15, 5))) == {"r1": [1]}


def test_a_transaction_that_was_open_and_is_seen_by_now_is_for_the_database() -> None:
    """It may have committed before this ring began to follow."""
    ring = Ring(Horizon(10, 10))
    ring.moved(Horizon(20, 20))
    assert ring.since(cursor(5, 15, 5)) is None


def test_nothing_of_an_open_transaction_may_have_gone() -> None:
    ring = Ring(Horizon(5, 10, (5,)), max_changes=1)
    ring.add(a_group("r1", 1, 5))
    ring.add(a_group("r2", 1, 11))
    ring.moved(Horizon(5, 20, (5,)))
    assert ring.since(cursor(5, 15, 5)) is None


def test_a_busy_run_does_not_push_out_all_the_others() -> None:
    ring = Ring(Horizon(10, 10), max_changes=10_000)
    ring.add(a_group("quiet", 1, 10))
    for version in range(1, RUN_CHANGES + 2):
        ring.add(a_group("busy", version, 10 + version))
    ring.moved(Horizon(100_000, 100_000))
    assert len(ring) <= RUN_CHANGES // 2 + 1
    newest = cursor(10 + RUN_CHANGES)
    assert versions(ring.since(newest)) == {"busy": [RUN_CHANGES, RUN_CHANGES + 1]}
    assert ring.since(cursor(12)) is None


def test_its_memory_is_bounded_by_what_the_runs_hold() -> None:
    ring = Ring(Horizon(10, 10), max_bytes=100_000)
    for n in range(50):
        run = a_run(id=f"r{n}", version=1, last_xid=10 + n, output="x" * 10_000)
        ring.add(Group((a_change(run),), run))
    assert len(ring) < 10


def test_on_sqlite_it_serves_only_horizons_that_this_process_has_seen() -> None:
    """A file restored from a backup counts on from an earlier number: only the stamp tells."""
    ring = Ring(Horizon(10, 10, (), 111))
    ring.add(a_group("r1", 1, 10))
    ring.moved(Horizon(11, 11, (), 222))
    assert versions(ring.since(cursor(10, witness=111))) == {"r1": [1]}
    assert ring.since(cursor(10, witness=999)) is None
    ring.saw(Horizon(11, 11, (), 222))
    assert ring.since(cursor(11, witness=222)) == []


@pytest.mark.parametrize("seed", range(30))
def test_whatever_it_serves_is_all_that_the_cursor_has_not_seen(seed: int) -> None:
    """Against every change that the hub ever handed on, with transactions in any order."""
    chance = random.Random(seed)
    ring = Ring(Horizon(10, 10), max_changes=chance.choice([3, 10, 100]))
    handed: list[tuple[str, int, int]] = []
    open_: list[int] = []
    next_xid = 10
    last: dict[str, int] = {}
    horizons = [Horizon(10, 10)]
    for _ in range(200):
        what = chance.random()
        if what < 0.4:
            open_.append(next_xid)
            next_xid += 1
        elif what < 0.8 and open_:
            xid = open_.pop(chance.randrange(len(open_)))
            run = f"r{chance.randrange(6)}"
            last[run] = last.get(run, 0) + 1
            handed.append((run, last[run], xid))
            ring.add(a_group(run, last[run], xid))
        else:
            horizon = Horizon(min(open_, default=next_xid), next_xid, tuple(sorted(open_)))
            ring.moved(horizon)
            horizons.append(horizon)
        at = chance.choice(horizons)
        found = versions(ring.since(Cursor("e", at)))
        if found is None:
            continue
        expected: dict[str, list[int]] = {}
        for run, version, xid in handed:
            if not at.seen(xid):
                expected.setdefault(run, []).append(version)
        assert found == expected


def test_by_what_is_asked_it_gives_only_what_may_concern_that() -> None:
    """Thousands come back at once: none of them may cost a look at everything."""
    ring = Ring(Horizon(10, 10))
    batch: dict[str, Any] = {"batch_id": "b1", "parent_run_id": "j1"}
    ring.add(a_group("r1", 1, 10, tags=("a", "b")))
    ring.add(a_group("r2", 1, 11, tags=("b",), **batch))
    # It has left the stream of a, and that needs saying.
    ring.add(a_group("r1", 2, 12, had=("a", "b"), tags=("c",)))
    ring.add(a_group("j1", 1, 13))
    ring.moved(Horizon(20, 20))

    def found(**asked: Any) -> set[str] | None:
        groups = ring.since(cursor(10), Selection(project="default", **asked))
        return None if groups is None else {group.first.run_id for group in groups}

    assert found() == {"r1", "r2", "j1"}
    assert found(run_id="r1") == {"r1"}
    assert found(run_id="r9") == set()
    assert found(batch_id="b1") == {"r2"}
    assert found(job_run_id="j1") == {"j1", "r2"}
    assert found(tags=("b",)) == {"r1", "r2"}
    assert found(tags=("a", "c"), match=Match.ANY) == {"r1"}
    assert found(tags=("b", "z")) == set()
    assert found(tags=("a",)) == {"r1"}
    assert versions(ring.since(cursor(12), Selection(project="default", run_id="r1"))) == {
        "r1": [2]
    }


def test_what_had_to_go_is_found_under_no_topic_any_more() -> None:
    ring = Ring(Horizon(10, 10), max_changes=2)
    for n in range(5):
        ring.add(a_group(f"r{n}", 1, 10 + n, tags=("a",)))
        ring.moved(Horizon(11 + n, 11 + n))
        ring.since(cursor(11 + n), Selection(project="default", tags=("a",)))
    tagged = Selection(project="default", tags=("a",))
    assert versions(ring.since(cursor(13), tagged)) == {"r3": [1], "r4": [1]}
    assert len(ring) == 2


def test_what_nobody_asks_for_is_forgotten_with_what_had_to_go() -> None:
    """Taken out: what `_evict` takes out of `_unlooked`, which had every run that ever was."""
    ring = Ring(Horizon(10, 10), max_changes=5)
    for n in range(50):
        ring.add(a_group(f"r{n}", 1, 10 + n))
    assert len(ring._unlooked) == 5


def test_what_several_have_seen_is_what_each_of_them_has() -> None:
    one, other = Horizon(5, 20, (5, 12)), Horizon(7, 15, (7, 13))
    both = meet([one, other])
    assert both.is_sound()
    for xid in range(25):
        assert both.seen(xid) is (one.seen(xid) and other.seen(xid))
    assert meet([one]) is one


@pytest.mark.parametrize("seed", range(30))
def test_made_to_begin_earlier_it_serves_whoever_comes_from_there(seed: int) -> None:
    """As after a restart: the log has what was handed on before, and more and more comes."""
    chance = random.Random(seed)
    log: list[tuple[str, int, int]] = []
    open_: list[int] = []
    next_xid = 10
    last: dict[str, int] = {}
    horizons = [Horizon(10, 10)]
    ring: Ring | None = None

    def step() -> None:
        nonlocal next_xid
        what = chance.random()
        if what < 0.4 and len(open_) < 4:
            open_.append(next_xid)
            next_xid += 1
        elif what < 0.8 and open_:
            xid = open_.pop(chance.randrange(len(open_)))
            run = f"r{chance.randrange(6)}"
            last[run] = last.get(run, 0) + 1
            log.append((run, last[run], xid))
            if ring is not None:
                ring.add(a_group(run, last[run], xid))
        else:
            horizon = Horizon(min(open_, default=next_xid), next_xid, tuple(sorted(open_)))
            horizons.append(horizon)
            if ring is not None:
                ring.moved(horizon)

    def unseen(since: Horizon) -> dict[str, list[tuple[int, int]]]:
        found: dict[str, list[tuple[int, int]]] = {}
        for run, version, xid in log:
            if not since.seen(xid):
                found.setdefault(run, []).append((version, xid))
        return found

    while len(log) < 60:
        step()
    begun = Horizon(min(open_, default=next_xid), next_xid, tuple(sorted(open_)))
    horizons.append(begun)
    ring = Ring(begun, max_changes=chance.choice([40, 1_000]))
    for _ in range(chance.randrange(40)):
        step()
    served = 0
    for _ in range(60):
        step()
        at = chance.choice(horizons)
        if ring.since(Cursor("e", at)) is None and ring.may_reach(at):
            waiting = [at, *chance.sample(horizons, 2)]
            beginning = ring.beginning(ring.step_to(at), waiting)
            if beginning is not None:
                groups = []
                for run, found in unseen(beginning).items():
                    parts = [a_group(run, version, xid) for version, xid in found]
                    changes: list[Change] = [part.first for part in parts]
                    groups.append(Group(tuple(changes), parts[-1].run))
                ring.reach_back(beginning, groups)
        found_now = versions(ring.since(Cursor("e", at)))
        if found_now is not None:
            served += at.xmax < begun.xmax
            expected = {run: [v for v, _ in found] for run, found in unseen(at).items()}
            assert found_now == expected
    assert served or ring.room < 100
