"""Lists and snapshots: exactly the runs that a filter lets through, page by page."""

from __future__ import annotations

import random
from typing import Any

import pytest

from store.model import ListKey, Match, Run, RunQuery, RunStatus, Selection
from store.runs import RunStore
from tests.builders import PROJECT
from tests.store.asking import create, finish, open_batch, update

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


async def test_a_list_of_what_cannot_be_is_empty(store: RunStore) -> None:
    await create(store)
    odd_lists: list[dict[str, Any]] = [
        {"tags": ("a\0",)},
        {"tags": ("\ud800",)},
        {"tags": ("user:7", "a\0")},
        {"tasks": frozenset({"a\0"})},
        {"batch_id": "\0"},
        {"parent_run_id": "\ud800"},
    ]
    for over in odd_lists:
        assert await store.list_runs(RunQuery(project=PROJECT, **over)) == ([], None)


async def a_mixed_lot(store: RunStore) -> list[Run]:
    """Runs that differ in everything that a list can be asked for, the newest first."""
    dice = random.Random(7)
    batch_id = await open_batch(store)
    parent = await create(store, tags=(), payload=None)
    made = [parent]
    for i in range(40):
        run = await create(
            store,
            task_identifier=dice.choice(["a", "b", "c"]),
            tags=tuple(tag for tag in ("x", "y", "z") if dice.random() < 0.5),
            is_test=dice.random() < 0.5,
            batch_id=batch_id if dice.random() < 0.3 else None,
            parent_run_id=parent.id if dice.random() < 0.3 else None,
            payload=i,
        )
        if dice.random() < 0.4:
            run = await update(store, run.id, status=EXECUTING, add_tags=("w",))
        made.append(run)
    await create(store, project="other", tags=("x",))
    return made[::-1]


async def test_a_list_has_exactly_the_runs_that_every_filter_lets_through(
    store: RunStore,
) -> None:
    made = await a_mixed_lot(store)
    batch_id = next(run.batch_id for run in made if run.batch_id)
    parent_id = made[-1].id
    some, other = made[30].created_at, made[10].created_at
    asked: list[tuple[dict[str, Any], Any]] = [
        ({}, lambda r: True),
        ({"statuses": frozenset({EXECUTING})}, lambda r: r.status == EXECUTING),
        ({"statuses": frozenset({EXECUTING, QUEUED})}, lambda r: True),
        ({"tags": ("x",)}, lambda r: "x" in r.tags),
        ({"tags": ("x", "y", "w")}, lambda r: {"x", "y", "w"} <= set(r.tags)),
        ({"tags": ("x", "x")}, lambda r: "x" in r.tags),
        ({"tasks": frozenset({"a", "c"})}, lambda r: r.task_identifier in "ac"),
        ({"batch_id": batch_id}, lambda r: r.batch_id == batch_id),
        ({"parent_run_id": parent_id}, lambda r: r.parent_run_id == parent_id),
        ({"is_test": True}, lambda r: r.is_test),
        ({"is_test": False}, lambda r: not r.is_test),
        ({"created_after": some}, lambda r: r.created_at > some),
        ({"created_before": other}, lambda r: r.created_at < other),
        (
            {"created_after": some, "created_before": other, "tags": ("y",), "is_test": True},
            lambda r: some < r.created_at < other and "y" in r.tags and r.is_test,
        ),
    ]
    for over, fits in asked:
        found, after = await store.list_runs(RunQuery(project=PROJECT, limit=1000, **over))
        assert found == [run for run in made if fits(run)], over
        assert after is None


@pytest.mark.parametrize("limit", [1, 7, 41, 42])
async def test_pages_show_each_run_once_also_when_more_come_meanwhile(
    store: RunStore, limit: int
) -> None:
    """Pages by offset would show a run twice for each that came since."""
    made = await a_mixed_lot(store)
    found: list[Run] = []
    after: ListKey | None = None
    while True:
        page, after = await store.list_runs(RunQuery(project=PROJECT, limit=limit, after=after))
        found += page
        assert len(page) <= limit
        if after is None:
            break
        if len(found) < 20:
            await create(store)
    assert found == made


@pytest.mark.parametrize("match", list(Match))
async def test_a_snapshot_has_the_runs_of_its_selection_in_pages(
    store: RunStore, match: Match
) -> None:
    made = await a_mixed_lot(store)
    selection = Selection(project=PROJECT, tags=("x", "w"), match=match)
    join = all if match is Match.ALL else any
    found: list[Run] = []
    after: ListKey | None = None
    while True:
        page = await store.snapshot(selection, after=after, limit=5)
        found += page.runs
        after = page.next
        if after is None:
            break
    assert found == [run for run in made if join(tag in run.tags for tag in ("x", "w"))]


async def test_finishing_is_seen_in_a_list_by_status(store: RunStore) -> None:
    run = await finish(store, (await create(store)).id)
    query = RunQuery(project=PROJECT, statuses=frozenset({COMPLETED}))
    assert await store.list_runs(query) == ([run], None)
