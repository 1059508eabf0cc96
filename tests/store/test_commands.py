"""Commands of every kind: what they may name, what may be deleted, and any history of them."""

from __future__ import annotations

import json
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from store.commands import (
    CreateBatch,
    DeleteRun,
    FireTimer,
    Limits,
    MetadataOp,
    MetadataOperation,
    MutateMetadata,
    SealBatch,
    Timer,
    UpdateRun,
    apply,
    apply_delete,
    check,
    is_id,
)
from store.errors import Conflict, NotFound, StoreError
from store.lifecycle import NEXT, due, is_final
from store.model import Run, RunStatus, rfc3339, wire_run
from tests.builders import AT, PROJECT, a_run, json_objects, json_values
from tests.store.applying import LATER, LIMITS, a_firing, an_update, created

DELAYED, QUEUED = RunStatus.DELAYED, RunStatus.QUEUED
EXECUTING, COMPLETED = RunStatus.EXECUTING, RunStatus.COMPLETED


@pytest.mark.parametrize("run_id", ["", "a\0", "run_\ud800", "r" * 129, "run\n", "läuft"])
def test_what_cannot_be_an_id_is_not_found(run_id: str) -> None:
    """It would be an error of the database's own, or a needless question to it."""
    assert not is_id(run_id)
    for command in (
        an_update(run_id),
        MutateMetadata(project=PROJECT, run_id=run_id, operations=()),
        DeleteRun(project=PROJECT, run_id=run_id),
        SealBatch(project=PROJECT, batch_id=run_id),
    ):
        with pytest.raises(NotFound):
            check(command, LIMITS)


def test_commands_of_the_store_itself_have_a_good_shape() -> None:
    check(CreateBatch(project=PROJECT, batch_id="batch_1"), LIMITS)
    check(SealBatch(project=PROJECT, batch_id="batch_1"), LIMITS)
    check(DeleteRun(project=PROJECT, run_id="run_1"), LIMITS)
    check(FireTimer(project=PROJECT, run_id="run_1", timer=Timer.TTL, due_at=AT), LIMITS)


def test_nesting_beyond_what_an_encoder_can_take_is_no_setting() -> None:
    with pytest.raises(ValueError, match="nesting"):
        Limits(nesting=100_000)


def test_only_a_final_run_can_be_deleted_and_that_is_its_last_version() -> None:
    for status in RunStatus:
        run = a_run(status=status)
        if is_final(status):
            gone = apply_delete(run, LATER)
            assert gone == replace(run, version=run.version + 1, updated_at=LATER)
        else:
            with pytest.raises(Conflict, match="only a final run") as refused:
                apply_delete(run, LATER)
            assert refused.value.run is run


# --------------------------------------------------------------------------------- whatever happens

words = st.sampled_from(["a", "b", "c", "d"])
paths = st.lists(words, min_size=1, max_size=2).map(".".join)
offsets = st.integers(-200_000, 200_000).map(lambda ms: AT + timedelta(milliseconds=ms))
costs = st.floats(0, 100) | st.integers(0, 3)
steps = st.one_of(
    st.builds(MetadataOperation, op=st.just(MetadataOp.DELETE), path=paths),
    st.builds(
        MetadataOperation, op=st.just(MetadataOp.INCREMENT), path=paths, value=st.integers(-2, 2)
    ),
    st.builds(
        MetadataOperation,
        op=st.sampled_from([MetadataOp.SET, MetadataOp.APPEND, MetadataOp.REMOVE]),
        path=paths,
        value=json_values(3),
    ),
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "output": json_values(3),
        "error": st.none() | st.fixed_dictionaries({"name": words, "message": words}),
        "metadata": json_objects(3),
        "add_tags": st.lists(words, max_size=3).map(tuple),
        "remove_tags": st.lists(words, max_size=2).map(tuple),
        "cost_in_cents": costs,
        "base_cost_in_cents": costs,
    },
)


@st.composite
def commands(draw: st.DrawFn, run: Run) -> UpdateRun | MutateMetadata | FireTimer:
    """Something to ask of the run as it stands; much of it fits."""
    match draw(st.sampled_from(["step", "step", "update", "mutate", "fire"])):
        case "step":
            to = draw(st.sampled_from(sorted(NEXT[run.status] | {run.status, COMPLETED})))
            with_it = {"delay_until": draw(offsets)} if to is DELAYED else {}
            return an_update(run.id, status=to, **with_it, **draw(fields))
        case "update":
            version = draw(st.none() | st.integers(run.version - 1, run.version))
            move = {"delay_until": draw(offsets)} if draw(st.integers(0, 4)) == 0 else {}
            return an_update(run.id, if_version=version, **move, **draw(fields))
        case "mutate":
            operations = tuple(draw(st.lists(steps, max_size=3)))
            return MutateMetadata(project=run.project, run_id=run.id, operations=operations)
        case _:
            timer = draw(st.sampled_from(Timer))
            return a_firing(run, timer, due_at=due(run, timer) or draw(offsets))


@st.composite
def first_runs(draw: st.DrawFn) -> Run:
    status = draw(
        st.none() | st.sampled_from([QUEUED, EXECUTING, DELAYED, RunStatus.WAITING_FOR_DEPLOY])
    )
    delay = draw(offsets) if status is DELAYED or (status is None and draw(st.booleans())) else None
    clock = st.none() | st.integers(1, 100)
    return created(
        status=status,
        delay_until=delay,
        payload=draw(json_values(3)),
        metadata=draw(json_objects(3)),
        tags=tuple(draw(st.lists(words, max_size=3))),
        ttl=draw(clock),
        max_duration=draw(clock),
        heartbeat_timeout=draw(clock),
    )


def on_the_wire(run: Run) -> dict[str, str]:
    """Each field as its JSON text, which also keeps it from being changed in place."""
    return {name: json.dumps(value) for name, value in wire_run(run).items()}


@given(st.data())
def test_any_history_of_commands_keeps_every_promise(data: st.DataObject) -> None:
    """Random commands at random times, also with the clock stepping back."""
    run = data.draw(first_runs())
    limits = Limits(tags=3, metadata_bytes=60)
    for _ in range(data.draw(st.integers(1, 8))):
        command = data.draw(commands(run))
        at = data.draw(offsets)
        before = on_the_wire(run)
        try:
            check(command, limits)
            after, changed = apply(run, command, at, limits)
        except StoreError as refused:
            assert on_the_wire(run) == before, "a refused command changed something"
            shown = refused.run if isinstance(refused, Conflict) else run
            assert shown is run
            continue
        assert on_the_wire(run) == before, "the old version was changed in place"

        if not changed:
            assert after is run
            continue
        now = on_the_wire(after)
        assert after.version == run.version + 1
        assert after.updated_at == max(at, run.updated_at)
        differing = {name for name in now if now[name] != before[name]}
        assert changed.keys() == differing - {"version", "updatedAt"}
        assert {name: json.dumps(value) for name, value in changed.items()} == {
            name: now[name] for name in changed
        }
        # What a client does with a change.
        merged = wire_run(run) | changed
        merged |= {"version": after.version, "updatedAt": rfc3339(after.updated_at)}
        assert merged == wire_run(after)
        msgspec.json.encode(changed)

        assert after.status is run.status or after.status in NEXT[run.status]
        assert not is_final(run.status) or after.status is run.status
        assert is_final(run.status) <= (changed.keys() <= {"tags", "metadata"})
        assert is_final(after.status) == (after.finished_at is not None)
        assert after.duration_ms >= run.duration_ms
        assert after.attempt - run.attempt in (0, 1)
        assert len(set(after.tags)) == len(after.tags)
        # The same command once more: done already, or refused for what it has become.
        try:
            again, _ = apply(after, command, at, limits)
        except StoreError:
            pass
        else:
            repeatable = isinstance(command, MutateMetadata)
            assert again is after or repeatable
        run = after
