"""Kept answers: a submission repeated under its key is told what the first was told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from store.commands import DeleteRun, Done, UpdateRun
from store.errors import IdempotencyKeyReused, TransitionRefused
from store.model import RunStatus
from store.runs import RunStore
from store.tables import answers
from tests.builders import PROJECT, a_create
from tests.store.asking import all_runs, ask, create, outcome, rows, update, with_token
from tests.store.conftest import OpenStore

EXECUTING, COMPLETED = RunStatus.EXECUTING, RunStatus.COMPLETED


async def test_a_submission_repeated_under_its_key_is_answered_as_the_first_time(
    open_store: OpenStore,
) -> None:
    """Refusals too: the second time the run would allow what it refused the first."""
    stores = [await open_store(), await open_store()]
    run = await create(stores[0])
    commands = (
        UpdateRun(project=PROJECT, run_id=run.id, status=COMPLETED),
        a_create(payload={"big": "x" * 1000}),
        UpdateRun(project=PROJECT, run_id=run.id, metadata={"n": 1}, if_version=7),
        UpdateRun(project=PROJECT, run_id="run_none", output=1),
        a_create(batch_id="batch_none"),
        UpdateRun(project=PROJECT, run_id=run.id, status=EXECUTING),
        DeleteRun(project=PROJECT, run_id=run.id),
        with_token("t"),
        with_token("t"),
    )
    first = await ask(stores[0], *commands, key="k", fingerprint="f")
    words = [
        "TransitionRefused",
        "Done",
        "VersionConflict",
        "NotFound",
        "Invalid",
        "Done",
        "Conflict",
        "Done",
        "TokenUsed",
    ]
    assert [outcome(result) for result in first] == words
    for store in stores:
        again = await ask(store, *commands, key="k", fingerprint="f")
        assert [outcome(result) for result in again] == words
        for then, now in zip(first, again, strict=True):
            if isinstance(then, Done):
                assert now == then
            else:
                assert str(now) == str(then)
                assert getattr(now, "run", None) == getattr(then, "run", None)
    assert len(await all_runs(stores[0])) == 3


async def test_a_key_with_another_request_is_refused(store: RunStore) -> None:
    await ask(store, a_create(), key="k", fingerprint="f")
    with pytest.raises(IdempotencyKeyReused):
        await ask(store, a_create(), key="k", fingerprint="g")
    await ask(store, a_create(project="other"), key="k", fingerprint="g", project="other")
    assert len(await all_runs(store)) == 1


async def test_two_at_once_under_one_key_are_one_in_one_server_and_in_two(
    open_store: OpenStore,
) -> None:
    """Taken out: `again` in `Writer._take`; two in one group were both carried out. And the
    insert in `take_answers`; two servers were."""
    stores = [await open_store(), await open_store()]
    # Whatever is in flight first, so that the rest are taken together.
    before = [create(store, task_identifier="other") for store in stores for _ in range(2)]
    _, *results = await asyncio.gather(
        asyncio.gather(*before),
        *(ask(stores[i % 2], a_create(payload=i), key="k", fingerprint="f") for i in range(12)),
    )
    assert len({result[0].run.id for result in results}) == 1
    assert len(await all_runs(stores[0])) == 5


async def test_a_submission_that_was_refused_whole_may_be_tried_again_under_its_key(
    store: RunStore,
) -> None:
    """It changed nothing: to keep the refusal for a day would punish who mends the cause."""
    run = await create(store)
    command = UpdateRun(project=PROJECT, run_id=run.id, status=COMPLETED)
    for _ in range(2):
        with pytest.raises(TransitionRefused):
            await ask(store, command, key="k", fingerprint="f", atomic=True)
    assert await rows(store, answers) == []
    await update(store, run.id, status=EXECUTING)
    (done,) = await ask(store, command, key="k", fingerprint="f", atomic=True)
    again = await ask(store, command, key="k", fingerprint="f", atomic=True)
    assert again == [done]


async def test_an_answer_is_kept_with_the_change_or_neither_is(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer alone would say that something was done that was not; a change alone would be
    made twice."""
    from store.writer import group

    whole = group.run_group

    def broken(*args: Any) -> Any:
        whole(*args)
        raise ZeroDivisionError

    monkeypatch.setattr("store.writer.run_group", broken)
    with pytest.raises(ZeroDivisionError):
        await ask(store, a_create(), key="k", fingerprint="f")
    monkeypatch.undo()
    assert (await rows(store, answers), await all_runs(store)) == ([], [])
