"""The face of the store: what is put in comes out, on both databases alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from store.commands import (
    DeleteRun,
    Done,
    Limits,
    MetadataOp,
    MetadataOperation,
    MetadataTarget,
    MutateMetadata,
    Submission,
    UpdateRun,
)
from store.errors import (
    Conflict,
    Invalid,
    NotFound,
    StoreError,
    TooLarge,
    TransitionRefused,
    Unavailable,
    VersionConflict,
)
from store.model import ListKey, Match, Run, RunQuery, RunStatus, Selection, new_id, wire_run
from store.runs import RunStore
from store.tables import run_tags
from tests.builders import PROJECT, a_create, json_objects, json_values, seconds
from tests.store.asking import (
    ask,
    create,
    delete,
    finish,
    one,
    open_batch,
    rows,
    sql,
    update,
    whole_history,
)
from tests.store.conftest import OpenStore, bare_store

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED
NOW = datetime.now(UTC)

UNTOLD = frozenset({"payload", "version", "updatedAt"})


async def replayed(store: RunStore, run: Run) -> dict[str, Any]:
    """The run as its history tells it."""
    fields: dict[str, Any] = {}
    for change in await whole_history(store, run.id, project=run.project):
        fields |= change.changed
    return fields


def as_json(value: Any) -> bytes:
    """What the value is on the wire: there 1 is not true, and 1.0 is not 1."""
    return msgspec.json.encode(value, order="deterministic")


# ------------------------------------------------------------------------------- create and get


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


# ------------------------------------------------------------------------------------------ list


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


# ---------------------------------------------------------------------------------------- update


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


# ----------------------------------------------------------------------------------------- delete


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


# --------------------------------------------------------------------------------------- metadata


async def test_increments_from_fifty_callers_on_parent_and_root_add_up(
    open_store: OpenStore,
) -> None:
    """The target is locked, not only the run in the URL.

    Taken out: the target's id among those that `Held` locks; nothing was then found to change.
    """
    stores = [await open_store(), await open_store()]
    root = await create(stores[0], metadata={})
    parent = await create(stores[0], metadata={}, parent_run_id=root.id)
    children = [await create(stores[0], metadata={}, parent_run_id=parent.id) for _ in range(5)]

    async def add(i: int) -> Done:
        return await one(
            stores[i % 2],
            MutateMetadata(
                project=PROJECT,
                run_id=children[i % 5].id,
                target=MetadataTarget.PARENT if i % 3 else MetadataTarget.ROOT,
                operations=(MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),),
            ),
        )

    done = await asyncio.gather(*(add(i) for i in range(50)))
    assert all(answer.run is not None and answer.run.version == 1 for answer in done)
    on_root = await stores[0].get_run(PROJECT, root.id)
    on_parent = await stores[0].get_run(PROJECT, parent.id)
    assert (on_root.metadata["n"], on_parent.metadata["n"]) == (17, 33)
    assert (on_root.version, on_parent.version) == (18, 34)


async def test_metadata_of_a_parent_that_is_not_there_is_refused(store: RunStore) -> None:
    run = await create(store)
    operations = (MetadataOperation(op=MetadataOp.SET, path="a", value=1),)
    with pytest.raises(Invalid):
        await one(
            store,
            MutateMetadata(
                project=PROJECT,
                run_id=run.id,
                target=MetadataTarget.PARENT,
                operations=operations,
            ),
        )
    for target in MetadataTarget:
        with pytest.raises(NotFound):
            await one(
                store,
                MutateMetadata(
                    project=PROJECT, run_id="run_none", target=target, operations=operations
                ),
            )
    done = await one(
        store,
        MutateMetadata(
            project=PROJECT, run_id=run.id, target=MetadataTarget.ROOT, operations=operations
        ),
    )
    assert done.run is not None
    assert done.run.metadata["a"] == 1


async def test_a_run_made_in_the_same_submission_can_be_a_parent(store: RunStore) -> None:
    parent, child = a_create(metadata={}), new_id("run")
    outcomes = await ask(
        store,
        parent,
        a_create(run_id=child, parent_run_id=parent.run_id),
        MutateMetadata(
            project=PROJECT,
            run_id=child,
            target=MetadataTarget.PARENT,
            operations=(MetadataOperation(op=MetadataOp.SET, path="a", value=1),),
        ),
        atomic=True,
    )
    assert outcomes[1].run.root_run_id == parent.run_id
    assert (await store.get_run(PROJECT, parent.run_id)).metadata == {"a": 1}


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


async def test_a_closed_store_takes_no_more(open_store: OpenStore) -> None:
    store = await open_store()
    await store.close()
    with pytest.raises(Unavailable):
        await create(store)


async def test_finishing_is_seen_in_a_list_by_status(store: RunStore) -> None:
    run = await finish(store, (await create(store)).id)
    query = RunQuery(project=PROJECT, statuses=frozenset({COMPLETED}))
    assert await store.list_runs(query) == ([run], None)
