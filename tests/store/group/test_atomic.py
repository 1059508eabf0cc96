"""Atomic submissions: all or nothing, beside others in one group."""

from __future__ import annotations

import asyncio

import pytest

from store.commands import CreateBatch, DeleteRun, SealBatch, Submission, UpdateRun
from store.errors import TransitionRefused
from store.model import RunStatus, new_id
from store.runs import RunStore
from store.tables import (
    answers,
    batches,
    changes,
    heartbeats,
    idempotency_keys,
    run_tags,
    runs,
    used_tokens,
)
from tests.builders import PROJECT, a_create
from tests.store.asking import ask, create, outcome, rows, update, whole_history, with_token

EXECUTING, COMPLETED = RunStatus.EXECUTING, RunStatus.COMPLETED


async def test_nothing_is_left_of_a_refused_atomic_submission(store: RunStore) -> None:
    """Rows, log, tags, keys, tokens, heartbeats, batch: also of what shares its group.

    Taken out: the undoing in `carry_out`.
    """
    kept = await create(store, tags=("a",), metadata={"n": 0}, status=EXECUTING)
    over = await create(store, status=EXECUTING, idempotency_key="over")
    await update(store, over.id, status=COMPLETED)
    tables = [runs, changes, run_tags, idempotency_keys, used_tokens, heartbeats, batches, answers]
    before = [sorted(map(repr, await rows(store, table))) for table in tables]
    batch_id = new_id("batch")
    with pytest.raises(TransitionRefused):
        await ask(
            store,
            CreateBatch(project=PROJECT, batch_id=batch_id),
            a_create(batch_id=batch_id, idempotency_key="k", tags=("x",), status=EXECUTING),
            with_token("t"),
            a_create(idempotency_key="over"),
            UpdateRun(
                project=PROJECT,
                run_id=kept.id,
                add_tags=("b",),
                remove_tags=("a",),
                metadata={"n": 1},
                status=RunStatus.FROZEN,
            ),
            DeleteRun(project=PROJECT, run_id=over.id),
            SealBatch(project=PROJECT, batch_id=batch_id),
            UpdateRun(project=PROJECT, run_id=kept.id, status=COMPLETED),
            atomic=True,
            key="answer",
            fingerprint="f",
        )
    after = [sorted(map(repr, await rows(store, table))) for table in tables]
    assert after == before


async def test_a_refused_submission_does_no_harm_to_its_neighbours(store: RunStore) -> None:
    """In one group with it: what they have done stands, and their versions have no gap."""
    run = await create(store, metadata={}, status=EXECUTING)
    submissions = []
    for i in range(20):
        update_ = UpdateRun(project=PROJECT, run_id=run.id, metadata={str(i): i})
        bad = UpdateRun(project=PROJECT, run_id=run.id, status=RunStatus.QUEUED)
        lot = (update_, bad) if i % 2 else (update_,)
        submissions.append(Submission(project=PROJECT, commands=lot, atomic=True))
    results = await asyncio.gather(*map(store.execute, submissions), return_exceptions=True)
    assert [outcome(result) for result in results] == ["list", "TransitionRefused"] * 10
    run = await store.get_run(PROJECT, run.id)
    assert run.metadata == {str(i): i for i in range(0, 20, 2)}
    history = await whole_history(store, run.id)
    assert [change.version for change in history] == list(range(1, 12))
