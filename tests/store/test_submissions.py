"""Submissions: each command sees what those before it did, and in the end all tables agree."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from store.commands import (
    DeleteRun,
    Done,
    MetadataOp,
    MetadataOperation,
    MutateMetadata,
    Submission,
    UpdateRun,
)
from store.errors import Invalid, NotFound, StoreError, TransitionRefused
from store.model import RunQuery, RunStatus, new_id, wire_run
from store.runs import RunStore
from store.tables import run_tags
from tests.builders import PROJECT, a_create, json_objects, json_values
from tests.store.asking import UNTOLD, as_json, ask, create, replayed, rows, sql, whole_history
from tests.store.conftest import bare_store

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


async def test_each_command_of_a_submission_sees_what_the_ones_before_have_done(
    store: RunStore,
) -> None:
    run = await create(store)
    outcomes = await ask(
        store,
        UpdateRun(project=PROJECT, run_id=run.id, status=EXECUTING),
        UpdateRun(project=PROJECT, run_id=run.id, status=QUEUED),
        UpdateRun(project=PROJECT, run_id=run.id, status=COMPLETED, output=1),
        UpdateRun(project=PROJECT, run_id="run_none", output=1),
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Done, TransitionRefused, Done, NotFound]
    assert [outcomes[0].run.version, outcomes[2].run.version] == [2, 3]
    assert outcomes[1].run == outcomes[0].run  # as it stood then
    assert await store.get_run(PROJECT, run.id) == outcomes[2].run


async def test_a_command_that_does_not_fit_fails_alone_and_in_its_place(store: RunStore) -> None:
    outcomes = await ask(
        store, a_create(tags=("\0",)), a_create(), a_create(payload="\0"), a_create()
    )
    assert [type(outcome) for outcome in outcomes] == [Invalid, Done, Invalid, Done]


# -------------------------------------------------------------------------------- all of it at once

TAGS = st.lists(st.sampled_from(["a", "b", "c", "é"]), max_size=3, unique=True).map(tuple)
STATUSES = st.sampled_from(list(RunStatus))


@st.composite
def commands(draw: st.DrawFn, project: str, ids: list[str]) -> Any:
    kind = draw(st.sampled_from(["create", "update", "update", "update", "mutate", "delete"]))
    run_id = draw(st.sampled_from(ids))
    if kind == "create":
        return a_create(
            project=project,
            run_id=new_id("run"),
            tags=draw(TAGS),
            metadata=draw(json_objects(4)),
            payload=draw(json_values(4)),
            idempotency_key=draw(st.sampled_from([None, None, "k1", "k2"])),
        )
    if kind == "delete":
        return DeleteRun(project=project, run_id=run_id)
    if kind == "mutate":
        op = draw(st.sampled_from([MetadataOp.INCREMENT, MetadataOp.APPEND, MetadataOp.SET]))
        value = 1 if op is MetadataOp.INCREMENT else draw(json_values(2))
        return MutateMetadata(
            project=project,
            run_id=run_id,
            operations=(
                MetadataOperation(op=op, path=draw(st.sampled_from(["a", "b.c"])), value=value),
            ),
        )
    added = draw(TAGS)
    return UpdateRun(
        project=project,
        run_id=run_id,
        status=draw(st.just(UNSET) | STATUSES.filter(lambda s: s is not RunStatus.DELAYED)),
        add_tags=added,
        remove_tags=tuple(tag for tag in draw(TAGS) if tag not in added),
        output=draw(st.just(UNSET) | json_values(2)),
        metadata=draw(st.just(UNSET) | json_objects(2)),
    )


def test_whatever_is_asked_tags_history_keys_and_answers_agree_with_the_runs(
    migrated_url: str,
) -> None:
    """Random commands on few runs, in random submissions.

    Taken out: the removal of tags in `Staged`; the undoing of a refused atomic submission.
    """

    # To shrink takes minutes, on a database.
    @settings(max_examples=20, phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(data=st.data())
    def example(data: st.DataObject) -> None:
        runner.run(_some_submissions(store, data))

    with asyncio.Runner() as runner:
        store = runner.run(bare_store(migrated_url))
        try:
            example()
        finally:
            runner.run(store.close())


async def _some_submissions(store: RunStore, data: st.DataObject) -> None:
    project = new_id("project")
    ids = [(await create(store, project=project, status=EXECUTING)).id for _ in range(3)]
    for _ in range(data.draw(st.integers(1, 5))):
        lot = data.draw(st.lists(commands(project, ids), min_size=1, max_size=5))
        atomic = data.draw(st.booleans())
        submission = Submission(project=project, commands=tuple(lot), atomic=atomic)
        try:
            outcomes = await store.execute(submission)
        except StoreError:
            assert atomic
            continue
        ids += [done.run.id for done in outcomes if isinstance(done, Done) and done.run]
    await assert_consistent(store, project)


async def assert_consistent(store: RunStore, project: str) -> None:
    """What the tables say of each other's business."""
    found, after = await store.list_runs(RunQuery(project=project, limit=1000))
    assert after is None
    indexed = {
        (row.tag, row.number) for row in await rows(store, run_tags) if row.project == project
    }
    assert indexed == {(tag, run.number) for run in found for tag in run.tags}
    keys = await sql(store, "SELECT * FROM idempotency_keys WHERE project = :p", p=project)
    assert sorted((key.key, key.run_id) for key in keys) == sorted(
        (run.idempotency_key, run.id) for run in found if run.idempotency_key is not None
    )
    for run in found:
        history = await whole_history(store, run.id, project=project)
        assert [change.version for change in history] == list(range(1, run.version + 1))
        told = await replayed(store, run)
        assert as_json(told) == as_json(wire_run(run, UNTOLD))
        assert run.last_xid == history[-1].xid
