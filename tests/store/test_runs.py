"""The face of the store: what is put in comes out, on both databases alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from store.commands import DeleteRun, Limits
from store.errors import Conflict, Invalid, NotFound, TooLarge, Unavailable
from store.model import RunQuery, RunStatus, Selection
from store.runs import RunStore
from store.tables import run_tags
from tests.builders import PROJECT, a_create, seconds
from tests.store.asking import ask, create, delete, one, open_batch, rows, update
from tests.store.conftest import OpenStore

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED
NOW = datetime.now(UTC)


async def test_a_run_comes_back_with_every_field_as_it_was_given(store: RunStore) -> None:
    """A field that one database rounds or drops would differ between what a command answers,
    what a read answers and what the log tells."""
    batch_id = await open_batch(store)
    parent = await create(store)
    given_: dict[str, Any] = {
        "task_identifier": "send-invoice/ä✓",
        "payload": {"a": [1, 1.5, -0.0, 2**64 - 1, -(2**63), None, True, "é\U0001f600"], "b": {}},
        "tags": ("user:7", "a b", "é\U0001f600", "user:7"),
        "metadata": {"progress": 0.1 + 0.2, "deep": {"er": [1, True]}},
        "idempotency_key": "key é",
        "delay_until": NOW + seconds(3600),
        "ttl": 2**31 - 1,
        "max_duration": 1,
        "heartbeat_timeout": 2**31 - 1,
        "is_test": True,
        "batch_id": batch_id,
        "parent_run_id": parent.id,
    }
    made = await create(store, **given_)
    assert made == await store.get_run(PROJECT, made.id)
    for name, value in given_.items():
        if name == "delay_until":
            name = "delayed_until"
        if name == "tags":
            value = ("user:7", "a b", "é\U0001f600")
        assert getattr(made, name) == value, name
    assert (made.version, made.status) == (1, RunStatus.DELAYED)
    assert (made.root_run_id, made.depth) == (parent.id, 1)
    assert repr(made.payload) == repr(given_["payload"])  # -0.0, and True is not 1
    assert made.created_at.tzinfo is not None
    assert abs(made.created_at - datetime.now(UTC)) < seconds(60)


async def test_a_run_that_was_only_named_has_the_defaults(store: RunStore) -> None:
    run = await create(
        store,
        payload=None,
        tags=(),
        metadata={},
        ttl=None,
        max_duration=None,
        heartbeat_timeout=None,
    )
    assert run == await store.get_run(PROJECT, run.id)
    assert (run.status, run.attempt, run.queued_at) == (QUEUED, 0, run.created_at)
    empty = {"payload", "output", "error", "batch_id", "parent_run_id", "root_run_id", "started_at"}
    assert all(getattr(run, name) is None for name in empty)


async def test_work_that_has_begun_already_is_executing_from_the_start(store: RunStore) -> None:
    run = await create(store, status=EXECUTING)
    assert (run.status, run.attempt, run.started_at) == (EXECUTING, 1, run.created_at)


async def test_numbers_are_unique_and_rise_with_each_run(open_store: OpenStore) -> None:
    """Lists and snapshots page by them: two alike would be shown once, or twice."""
    first, second = await open_store(), await open_store()
    made = await asyncio.gather(*(create(random.choice([first, second])) for _ in range(60)))
    assert len({run.number for run in made}) == 60
    one_after = [(await create(first)).number for _ in range(5)]
    assert one_after == sorted(one_after)
    assert min(one_after) > max(run.number for run in made)


ODD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"payload": {"a": ["x\0"]}}, "payload.a.0"),
    ({"payload": {"k\0": 1}}, "payload.k"),
    ({"metadata": {"a": "\ud800"}}, "metadata.a"),
    ({"tags": ("a\0",)}, "tags.0"),
    ({"tags": ("a\nb",)}, "tags.0"),
    ({"tags": ("",)}, "tags.0"),
    ({"tags": ("x" * 129,)}, "tags.0"),
    ({"tags": tuple(map(str, range(11)))}, "tags"),
    ({"task_identifier": "a\0"}, "taskIdentifier"),
    ({"idempotency_key": "a\0"}, "idempotencyKey"),
    ({"payload": float("nan")}, "payload"),
    ({"payload": 2**64}, "payload"),
    ({"batch_id": "batch\0"}, "batchId"),
    ({"parent_run_id": "é"}, "parentRunId"),
    ({"batch_id": "batch_unknown"}, "batchId"),
    ({"parent_run_id": "run_unknown"}, "parentRunId"),
]


async def test_odd_values_are_refused_alike_on_both_databases(store: RunStore) -> None:
    """PostgreSQL refuses NUL with an error of its own, SQLite keeps it: neither is asked."""
    for over, path in ODD_VALUES:
        with pytest.raises(Invalid) as refused:
            await create(store, **over)
        assert refused.value.path.startswith(path)
    assert (await store.list_runs(RunQuery(project=PROJECT)))[0] == []


ODD_IDS = ["", "run_\0", "\ud800", "é", "x" * 129, "run\n"]


async def test_an_id_that_cannot_be_one_is_of_nothing(store: RunStore) -> None:
    """Taken out: the look at ids in `reads`; PostgreSQL then fails with NUL in it."""
    for odd in ODD_IDS:
        asked: list[Callable[[str], Awaitable[object]]] = [
            lambda odd: store.get_run(PROJECT, odd),
            lambda odd: store.history(PROJECT, odd, 0, 10),
            lambda odd: store.get_batch(PROJECT, odd),
            lambda odd: store.heartbeat(PROJECT, odd),
            lambda odd: update(store, odd, output=1),
            lambda odd: one(store, DeleteRun(project=PROJECT, run_id=odd)),
        ]
        for ask_for in asked:
            with pytest.raises(NotFound):
                await ask_for(odd)
        assert await store.payloads(PROJECT, [odd]) == {}
        epoch, horizon = await store.horizon(PROJECT)
        for selection in (
            Selection(project=PROJECT, run_id=odd),
            Selection(project=PROJECT, batch_id=odd),
            Selection(project=PROJECT, job_run_id=odd),
        ):
            page = await store.snapshot(selection, limit=10)
            assert (list(page.runs), page.found) == ([], False)
            log = await store.read_log(PROJECT, horizon, epoch=epoch, selection=selection)
            assert (list(log.groups), log.found) == ([], False)


async def test_an_odd_idempotency_key_is_refused_before_the_database(store: RunStore) -> None:
    with pytest.raises(Invalid):
        await ask(store, a_create(), key="a\0", fingerprint="f")


async def test_limits_are_in_bytes_of_json_and_name_what_is_too_large(
    open_store: OpenStore,
) -> None:
    small = await open_store(limits=Limits(payload_bytes=10, metadata_bytes=40, output_bytes=10))
    with pytest.raises(TooLarge) as refused:
        await create(small, payload="ä" * 5, metadata={})
    assert (refused.value.path, refused.value.size, refused.value.limit) == ("payload", 12, 10)
    run = await create(small, payload="ä" * 4, metadata={})
    with pytest.raises(TooLarge):
        await update(small, run.id, output="x" * 9)
    run = await update(small, run.id, metadata={"a": "x" * 30})
    with pytest.raises(TooLarge):
        await update(small, run.id, metadata={"b": "x" * 30})
    assert (await small.get_run(PROJECT, run.id)).metadata == run.metadata


async def test_runs_of_another_project_are_not_there(store: RunStore) -> None:
    run = await create(store, project="other")
    for ask_for in (
        lambda: store.get_run(PROJECT, run.id),
        lambda: store.history(PROJECT, run.id, 0, 10),
        lambda: store.heartbeat(PROJECT, run.id),
        lambda: update(store, run.id, output=1),
        lambda: create(store, parent_run_id=run.id),
    ):
        with pytest.raises((NotFound, Invalid)):
            await ask_for()
    assert await store.payloads(PROJECT, [run.id]) == {}
    assert not (await store.snapshot(Selection(project=PROJECT, run_id=run.id), limit=1)).found


async def test_a_final_run_is_deleted_with_all_that_points_to_it(store: RunStore) -> None:
    run = await create(store, idempotency_key="k", status=EXECUTING)
    with pytest.raises(Conflict):
        await delete(store, run.id)
    run = await update(store, run.id, status=COMPLETED)
    assert (await one(store, DeleteRun(project=PROJECT, run_id=run.id))).run == run
    for ask_for in (
        lambda: store.get_run(PROJECT, run.id),
        lambda: store.history(PROJECT, run.id, 0, 10),
        lambda: delete(store, run.id),
        lambda: update(store, run.id, metadata={"a": 1}),
    ):
        with pytest.raises(NotFound):
            await ask_for()
    assert await rows(store, run_tags) == []
    again = await create(store, idempotency_key="k")
    assert (again.id != run.id, again.version) == (True, 1)


async def test_a_closed_store_takes_no_more(open_store: OpenStore) -> None:
    store = await open_store()
    await store.close()
    with pytest.raises(Unavailable):
        await create(store)
