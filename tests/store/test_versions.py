"""Versions: 1, 2, 3 without gaps, each told by the history, given under the run's lock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from store.errors import TransitionRefused, VersionConflict
from store.model import Run, RunStatus, wire_run
from store.runs import RunStore
from tests.builders import PROJECT, seconds
from tests.store.asking import UNTOLD, as_json, create, replayed, update, whole_history
from tests.store.conftest import OpenStore

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED
NOW = datetime.now(UTC)


async def test_versions_are_1_2_3_and_their_history_replays_to_the_run(store: RunStore) -> None:
    run = await create(store, delay_until=NOW + seconds(3600))
    steps: list[dict[str, Any]] = [
        {"delay_until": NOW + seconds(7200)},
        {"status": QUEUED, "add_tags": ("late",)},
        {"status": EXECUTING, "metadata": {"progress": 0.5, "gone": None}},
        {"metadata": {"progress": True}},
        {"metadata": {"progress": 1}},
        {"cost_in_cents": 1.25, "base_cost_in_cents": 1, "remove_tags": ("nightly",)},
        {"status": RunStatus.FROZEN},
        {"status": EXECUTING},
        {"status": RunStatus.REATTEMPTING, "error": {"name": "E", "message": "m"}},
        {"status": EXECUTING, "error": None},
        {"status": COMPLETED, "output": {"total": [1, None]}},
        {"metadata": {"note": "afterwards"}},
    ]
    for version, step in enumerate(steps, 2):
        run = await update(store, run.id, **step)
        assert run.version == version
        assert run == await store.get_run(PROJECT, run.id)
    history = await whole_history(store, run.id)
    assert [change.version for change in history] == list(range(1, len(steps) + 2))
    assert [change.at for change in history] == sorted(change.at for change in history)
    assert history[-1].at == run.updated_at
    assert as_json(await replayed(store, run)) == as_json(wire_run(run, UNTOLD))
    assert [change.previous_xid for change in history] == [0, *(c.xid for c in history[:-1])]


async def test_true_takes_the_place_of_one(store: RunStore) -> None:
    """Python takes them for equal: the log told of the change, and the row stayed as it was.

    Taken out: `differing` by identity; it compared with `!=`.
    """
    run = await create(store, metadata={"done": 1}, tags=())
    run = await update(store, run.id, metadata={"done": True})
    assert (await store.get_run(PROJECT, run.id)).metadata["done"] is True
    run = await update(store, run.id, status=EXECUTING, output=[0])
    await update(store, run.id, output=[False])
    assert (await store.get_run(PROJECT, run.id)).output[0] is False


async def test_an_update_that_changes_nothing_is_no_version(store: RunStore) -> None:
    run = await create(store, status=EXECUTING, metadata={"a": 1})
    again = await update(
        store, run.id, status=EXECUTING, metadata={"a": 1.0}, add_tags=("user:7",), output=None
    )
    assert again == run == await store.get_run(PROJECT, run.id)
    assert len(await whole_history(store, run.id)) == 1


async def test_a_refused_update_changes_nothing_and_shows_the_run(store: RunStore) -> None:
    run = await create(store)
    with pytest.raises(TransitionRefused) as refused:
        await update(store, run.id, status=COMPLETED, metadata={"a": 1}, add_tags=("t",))
    assert refused.value.run == run
    with pytest.raises(VersionConflict) as conflict:
        await update(store, run.id, metadata={"a": 1}, if_version=2)
    assert conflict.value.run == run
    assert await store.get_run(PROJECT, run.id) == run
    assert (await update(store, run.id, metadata={"a": 1}, if_version=1)).version == 2


async def test_only_one_of_many_who_saw_the_same_version_changes_it(open_store: OpenStore) -> None:
    """`ifVersion` is looked at under the row's lock, not before."""
    stores = [await open_store(), await open_store()]
    run = await create(stores[0], metadata={})
    results = await asyncio.gather(
        *(update(stores[i % 2], run.id, metadata={"mine": i}, if_version=1) for i in range(1, 21)),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, Run)]
    assert len(won) == 1
    assert all(isinstance(r, VersionConflict) for r in results if not isinstance(r, Run))
    assert await stores[0].get_run(PROJECT, run.id) == won[0]
