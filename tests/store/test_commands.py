"""What follows from a command, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from store.commands import (
    AFTERTIME,
    MAX_SECONDS,
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
    create,
    is_id,
)
from store.errors import (
    Conflict,
    Invalid,
    NotFound,
    StoreError,
    TooLarge,
    TransitionRefused,
    VersionConflict,
)
from store.lifecycle import FINAL, NEXT, WATCHED_IN, due, is_final
from store.model import WIRE_FIELDS, Run, RunStatus, rfc3339, wire_run
from tests.builders import (
    AT,
    PROJECT,
    a_create,
    a_run,
    json_objects,
    json_values,
    seconds,
)

LIMITS = Limits()
SMALL = Limits(payload_bytes=20, output_bytes=20, metadata_bytes=20, tags=3, tag_chars=5)
LATER = AT + seconds(10)

DELAYED, QUEUED, EXECUTING = RunStatus.DELAYED, RunStatus.QUEUED, RunStatus.EXECUTING
COMPLETED, FAILED, CANCELED = RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED


def an_update(run_id: str = "run_1", **fields: Any) -> UpdateRun:
    return UpdateRun(project=PROJECT, run_id=run_id, **fields)


def updated(
    run: Run, at: datetime = LATER, limits: Limits = LIMITS, **fields: Any
) -> tuple[Run, dict[str, Any]]:
    """The run after such an update, its shape looked at first as the store does."""
    command = an_update(run.id, **fields)
    check(command, limits)
    return apply(run, command, at, limits)


def created(at: datetime = AT, parent: Run | None = None, **fields: Any) -> Run:
    command = a_create(**fields)
    check(command, LIMITS)
    return create(command, number=3, parent=parent, at=at, limits=LIMITS)[0]


def a_mutation(*operations: MetadataOperation) -> MutateMetadata:
    return MutateMetadata(project=PROJECT, run_id="run_1", operations=operations)


# -------------------------------------------------------------------------------------------- create


def test_a_new_run_is_what_was_asked_for_at_version_1() -> None:
    command = a_create(run_id="run_1", idempotency_key="k", batch_id="batch_1", is_test=True)
    run, _ = create(command, number=3, parent=None, at=AT, limits=LIMITS)
    new = command.new
    assert (run.id, run.project, run.version, run.number) == ("run_1", PROJECT, 1, 3)
    assert (run.status, run.queued_at, run.attempt) == (QUEUED, AT, 0)
    assert run.created_at == run.updated_at == AT
    for name in (
        "task_identifier",
        "payload",
        "metadata",
        "tags",
        "idempotency_key",
        "batch_id",
        "ttl",
        "max_duration",
        "heartbeat_timeout",
        "is_test",
    ):
        assert getattr(run, name) == getattr(new, name)


def test_version_1_tells_every_field_but_the_payload_and_what_each_change_says_itself() -> None:
    run, changed = create(a_create(), number=3, parent=None, at=AT, limits=LIMITS)
    assert changed == wire_run(run, frozenset({"payload", "version", "updatedAt"}))


@pytest.mark.parametrize(
    "asked,delay,status",
    [
        (None, None, QUEUED),
        (None, 60, DELAYED),
        (None, 0, QUEUED),
        (None, -60, QUEUED),
        (QUEUED, None, QUEUED),
        (EXECUTING, None, EXECUTING),
        (RunStatus.WAITING_FOR_DEPLOY, None, RunStatus.WAITING_FOR_DEPLOY),
        (DELAYED, 60, DELAYED),
        (DELAYED, -60, DELAYED),
    ],
)
def test_a_run_begins_as_asked_or_by_its_delay(
    asked: RunStatus | None, delay: int | None, status: RunStatus
) -> None:
    delay_until = None if delay is None else AT + seconds(delay)
    run = created(status=asked, delay_until=delay_until)
    assert run.status is status
    assert run.delayed_until == delay_until
    assert run.queued_at == (AT if status in (QUEUED, EXECUTING) else None)


def test_work_that_has_begun_already_is_in_its_first_attempt() -> None:
    """It was queued and started at once: so its waiting time is 0, and not unknown."""
    run = created(status=EXECUTING)
    assert (run.attempt, run.queued_at, run.started_at, run.executing_since) == (1, AT, AT, AT)
    after, _ = updated(run, AT + seconds(2), status=COMPLETED)
    assert after.duration_ms == 2_000


def test_a_relative_delay_counts_from_the_writers_moment() -> None:
    """A gateway whose clock is ahead or behind must not make it longer or shorter."""
    run = created(delay=90)
    assert (run.status, run.delayed_until) == (DELAYED, AT + seconds(90))
    assert created(delay=0).status is QUEUED
    assert created(delay=0.5, status=DELAYED).delayed_until == AT + timedelta(seconds=0.5)


def test_a_delay_is_kept_in_utc() -> None:
    berlin = timezone(timedelta(hours=1))
    run = created(delay_until=(AT + seconds(60)).astimezone(berlin))
    moved, _ = updated(run, delay_until=(AT + seconds(90)).astimezone(berlin))
    for version, until in ((run, AT + seconds(60)), (moved, AT + seconds(90))):
        assert repr(version.delayed_until) == repr(until)


def test_a_child_knows_its_root_and_depth() -> None:
    root = a_run(id="run_root")
    child = created(parent=root, parent_run_id=root.id)
    grandchild = created(parent=child, parent_run_id=child.id)
    assert (child.parent_run_id, child.root_run_id, child.depth) == (root.id, root.id, 1)
    assert (grandchild.parent_run_id, grandchild.root_run_id, grandchild.depth) == (
        child.id,
        root.id,
        2,
    )
    assert (root.root_run_id, root.depth) == (None, 0)


def test_tags_are_kept_once_in_their_order() -> None:
    assert created(tags=("b", "a", "b", "c", "a")).tags == ("b", "a", "c")


@pytest.mark.parametrize(
    "fields,path",
    [
        ({"task_identifier": ""}, "taskIdentifier"),
        ({"task_identifier": "t" * 257}, "taskIdentifier"),
        ({"task_identifier": "a\nb"}, "taskIdentifier"),
        ({"task_identifier": "a\x9fb"}, "taskIdentifier"),
        ({"task_identifier": "\ud800"}, "taskIdentifier"),
        ({"tags": ("ok", "")}, "tags.1"),
        ({"tags": ("a\x00",)}, "tags.0"),
        ({"tags": ("a\x7f",)}, "tags.0"),
        ({"tags": ("a\u0085",)}, "tags.0"),
        ({"tags": ("t" * 129,)}, "tags.0"),
        ({"tags": tuple("abcdefghijk")}, "tags"),
        ({"idempotency_key": ""}, "idempotencyKey"),
        ({"idempotency_key": "k" * 513}, "idempotencyKey"),
        ({"idempotency_key": "a\0"}, "idempotencyKey"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 2**31}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": 1.5}, "ttl"),
        ({"max_duration": 0}, "maxDuration"),
        ({"heartbeat_timeout": 10**5_000}, "heartbeatTimeout"),
        ({"batch_id": "a b\0"}, "batchId"),
        ({"parent_run_id": ""}, "parentRunId"),
        ({"parent_run_id": "r" * 129}, "parentRunId"),
        ({"status": DELAYED}, "delayUntil"),
        ({"status": EXECUTING, "delay_until": LATER}, "status"),
        ({"status": QUEUED, "delay_until": LATER}, "status"),
        ({"status": EXECUTING, "delay": 1}, "status"),
        ({"delay": 1, "delay_until": LATER}, "delay"),
        ({"delay": -1}, "delay"),
        ({"delay": 2**31}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": True}, "delay"),
        ({"status": RunStatus.WAITING_FOR_DEPLOY, "delay_until": LATER}, "status"),
        *(({"status": s}, "status") for s in FINAL),
        ({"status": RunStatus.FROZEN}, "status"),
        ({"status": RunStatus.REATTEMPTING}, "status"),
        ({"delay_until": datetime(1, 1, 1, tzinfo=UTC)}, "delayUntil"),
        ({"delay_until": datetime(2030, 1, 1)}, "delayUntil"),  # noqa: DTZ001
        (
            {"delay_until": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))},
            "delayUntil",
        ),
        ({"payload": {"items": [{"name": "a\0"}]}}, "payload.items.0.name"),
        ({"payload": 2**64}, "payload"),
        ({"metadata": {"at": float("nan")}}, "metadata.at"),
        ({"metadata": []}, "metadata"),
    ],
)
def test_a_new_run_that_does_not_fit_is_refused_and_the_place_named(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check(a_create(**fields), LIMITS)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "fields",
    [
        {"task_identifier": "t" * 256, "idempotency_key": "k" * 512},
        {"tags": ("ä:\u00a0\u3000x ", "t" * 128, "\U0001f600" * 128)},
        {"tags": ("a",) * 50},
        {"ttl": 1, "max_duration": MAX_SECONDS, "heartbeat_timeout": MAX_SECONDS},
        {"delay_until": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)},
        {"payload": None},
        {"payload": "", "metadata": {}},
    ],
)
def test_a_new_run_at_its_limits_is_taken(fields: dict[str, Any]) -> None:
    check(a_create(**fields), LIMITS)
    created(**fields)


@pytest.mark.parametrize(
    "fields,path,size",
    [
        ({"payload": "x" * 19}, "payload", 21),
        ({"payload": "ä" * 10}, "payload", 22),
        ({"payload": None, "metadata": {"k": "x" * 20}}, "metadata", 28),
    ],
)
def test_sizes_are_bytes_of_compact_json(fields: dict[str, Any], path: str, size: int) -> None:
    values = {"tags": (), "metadata": {}} | fields
    with pytest.raises(TooLarge) as refused:
        check(a_create(**values), SMALL)
    assert (refused.value.path, refused.value.size, refused.value.limit) == (path, size, 20)
    check(a_create(tags=(), metadata={}, payload="x" * 18), SMALL)


# --------------------------------------------------------------------------------- the update's shape


@pytest.mark.parametrize(
    "fields,path",
    [
        ({"if_version": True}, "ifVersion"),
        ({"if_version": 1.0}, "ifVersion"),
        ({"status": DELAYED}, "delayUntil"),
        ({"status": QUEUED, "delay_until": LATER}, "status"),
        ({"status": CANCELED, "delay_until": LATER}, "status"),
        ({"delay_until": datetime(2030, 1, 1)}, "delayUntil"),  # noqa: DTZ001
        ({"add_tags": ("a", "b\t")}, "addTags.1"),
        ({"remove_tags": ("",)}, "removeTags.0"),
        ({"add_tags": ("a", "b"), "remove_tags": ("b",)}, "removeTags"),
        ({"cost_in_cents": -0.01}, "costInCents"),
        ({"cost_in_cents": float("nan")}, "costInCents"),
        ({"cost_in_cents": True}, "costInCents"),
        ({"cost_in_cents": "1"}, "costInCents"),
        ({"cost_in_cents": 10**5_000}, "costInCents"),
        ({"base_cost_in_cents": float("inf")}, "baseCostInCents"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"a": ["\0"]}}, "metadata.a.0"),
        ({"output": {"n": 2**64}}, "output.n"),
        ({"error": {"name": "E"}}, "error.message"),
        ({"error": {"message": "m"}}, "error.name"),
        ({"error": {"name": "E", "message": 1}}, "error.message"),
        ({"error": {"name": "E", "message": "m", "stack": None}}, "error.stack"),
        ({"error": {"name": "E", "message": "m\0"}}, "error.message"),
        ({"error": {"name": "E", "message": "m", "code": "1"}}, "error"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_the_place_named(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check(an_update(**fields), LIMITS)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "fields,path",
    [
        ({"output": "x" * 19}, "output"),
        ({"error": {"name": "E", "message": "m"}}, "error"),
    ],
)
def test_what_a_run_gives_back_has_one_limit(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(TooLarge) as refused:
        check(an_update(**fields), SMALL)
    assert refused.value.path == path


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


# ------------------------------------------------------------------------------------------- updates


def test_a_transition_and_what_comes_with_it_are_one_version() -> None:
    run = a_run(status=EXECUTING)
    after, changed = updated(
        run, status=COMPLETED, output={"total": 1}, metadata={"progress": 1}, add_tags=("done",)
    )
    assert after.version == run.version + 1
    assert changed == {
        "status": COMPLETED,
        "output": {"total": 1},
        "metadata": {"progress": 1, "steps": ["read", "write"]},
        "tags": ("user:7", "nightly", "done"),
        "finishedAt": rfc3339(LATER),
        "durationMs": 9_000,
    }


@pytest.mark.parametrize("status", RunStatus)
def test_the_status_that_the_run_already_has_changes_nothing(status: RunStatus) -> None:
    """So a retry is answered well, also when the first answer was lost."""
    run = a_run(status=status)
    fields: dict[str, Any] = {"status": status, "output": run.output, "error": run.error}
    if status is DELAYED:
        fields["delay_until"] = run.delayed_until
    after, changed = updated(
        run,
        **fields,
        add_tags=run.tags[:1],
        remove_tags=("unknown",),
        metadata={"progress": 0.5, "never": None},
        cost_in_cents=2.5,
    )
    assert after is run
    assert changed == {}


def test_the_present_status_with_other_fields_is_no_transition() -> None:
    run = a_run(status=EXECUTING)
    after, changed = updated(run, status=EXECUTING, metadata={"progress": 0.75})
    assert changed == {"metadata": {"progress": 0.75, "steps": ["read", "write"]}}
    assert (after.attempt, after.executing_since) == (run.attempt, run.executing_since)


@pytest.mark.parametrize(
    "old,new,changes", [(1, 1.0, False), (1, True, True), ({"a": 0}, {"a": False}, True)]
)
def test_an_output_changes_if_it_is_another_json_value(old: Any, new: Any, changes: bool) -> None:
    run = a_run(status=EXECUTING, output=old)
    after, changed = updated(run, output=new)
    assert changed == ({"output": new} if changes else {})
    assert repr(after.output) == repr(new if changes else old)


def test_an_update_for_another_version_is_refused_first() -> None:
    """Before the lifecycle: whoever says a version has decided by what it was then."""
    run = a_run(status=COMPLETED, version=5)
    for version in (4, 6, 0, 10**30):
        with pytest.raises(VersionConflict) as refused:
            updated(run, status=EXECUTING, if_version=version)
        assert (refused.value.run, refused.value.expected) == (run, version)
    assert updated(run, status=COMPLETED, if_version=5) == (run, {})


@pytest.mark.parametrize("status", sorted(FINAL))
def test_cancelling_is_refused_after_another_end_and_repeated_after_itself(
    status: RunStatus,
) -> None:
    run = a_run(status=status)
    if status is CANCELED:
        assert updated(run, status=CANCELED) == (run, {})
    else:
        with pytest.raises(TransitionRefused) as refused:
            updated(run, status=CANCELED)
        assert refused.value.run is run


def test_a_refused_transition_shows_the_run_as_it_stands() -> None:
    for status in (QUEUED, FAILED):
        run = a_run(status=status)
        with pytest.raises(TransitionRefused) as refused:
            updated(run, status=COMPLETED, output=1, metadata={"progress": 1}, cost_in_cents=1)
        assert refused.value.run is run


def test_a_time_alone_moves_a_delayed_run() -> None:
    run = a_run(status=DELAYED)
    until = LATER + seconds(60)
    after, changed = updated(run, delay_until=until)
    assert changed == {"delayedUntil": rfc3339(until)}
    assert after.version == run.version + 1
    assert updated(run, status=DELAYED, delay_until=until)[1] == changed


@pytest.mark.parametrize("status", [s for s in RunStatus if s is not DELAYED])
def test_a_time_alone_moves_no_other_run(status: RunStatus) -> None:
    run = a_run(status=status)
    with pytest.raises(Conflict, match="only a DELAYED run can be moved") as refused:
        updated(run, delay_until=LATER)
    assert refused.value.run is run


def test_a_queued_run_becomes_delayed_also_until_a_time_it_has_waited_for_before() -> None:
    run = a_run(delayed_until=LATER)
    after, changed = updated(run, status=DELAYED, delay_until=LATER)
    assert (after.status, after.delayed_until) == (DELAYED, LATER)
    assert changed == {"status": DELAYED}


@pytest.mark.parametrize(
    "field,value",
    [
        ("output", {"total": 0}),
        ("error", {"name": "E", "message": "m"}),
        ("cost_in_cents", 9),
        ("base_cost_in_cents", 9),
    ],
)
@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_final_run_keeps_what_it_gave_back(status: RunStatus, field: str, value: Any) -> None:
    """Its stream has ended: nobody would be told."""
    run = a_run(status=status)
    with pytest.raises(Conflict, match=WIRE_FIELDS[field]) as refused:
        updated(run, **{field: value, "metadata": {"progress": 1}})
    assert refused.value.run is run


@pytest.mark.parametrize(
    "fields", [{"metadata": {"seen": True}}, {"add_tags": ("x",)}, {"remove_tags": ("nightly",)}]
)
def test_tags_and_metadata_may_change_for_24_hours_after_the_end(fields: dict[str, Any]) -> None:
    run = a_run(status=COMPLETED)
    assert run.finished_at is not None
    last = run.finished_at + AFTERTIME
    after, _ = updated(run, last, status=COMPLETED, **fields)
    assert after.version == run.version + 1
    with pytest.raises(Conflict, match="24 h") as refused:
        updated(run, last + timedelta(microseconds=1), **fields)
    assert refused.value.run is run


def test_after_24_hours_what_changes_nothing_is_still_answered() -> None:
    run = a_run(status=COMPLETED)
    assert updated(
        run,
        AT + timedelta(days=30),
        add_tags=run.tags,
        metadata={"progress": 0.5},
        output=run.output,
    ) == (run, {})


def test_operations_have_the_same_24_hours() -> None:
    run = a_run(status=FAILED)
    command = a_mutation(MetadataOperation(op=MetadataOp.SET, path="a", value=1))
    assert apply(run, command, LATER, LIMITS)[0].version == run.version + 1
    with pytest.raises(Conflict, match="24 h"):
        apply(run, command, AT + timedelta(days=2), LIMITS)


def test_tags_are_added_at_the_end_and_removed_in_place() -> None:
    run = a_run(tags=("a", "b", "c"))
    after, changed = updated(run, add_tags=("d", "a", "d"), remove_tags=("b", "x"))
    assert after.tags == changed["tags"] == ("a", "c", "d")


def test_the_limit_of_tags_counts_what_is_left_after_removing() -> None:
    run = a_run(tags=("a", "b", "c"))
    assert updated(run, limits=SMALL, add_tags=("d",), remove_tags=("a",))[0].tags == (
        "b",
        "c",
        "d",
    )
    with pytest.raises(Invalid) as refused:
        updated(run, limits=SMALL, add_tags=("d",))
    assert refused.value.path == "addTags"


def test_a_run_with_more_tags_than_a_lowered_limit_may_lose_some() -> None:
    run = a_run(tags=tuple("abcdef"))
    assert len(updated(run, limits=SMALL, remove_tags=("a",))[0].tags) == 5
    with pytest.raises(Invalid):
        updated(run, limits=SMALL, add_tags=("x",))


@pytest.mark.parametrize(
    "command",
    [
        an_update(metadata={"b": "x" * 10}),
        a_mutation(MetadataOperation(op=MetadataOp.SET, path="b", value="x" * 10)),
    ],
)
def test_the_limit_of_metadata_is_that_of_the_whole(command: UpdateRun | MutateMetadata) -> None:
    run = a_run(metadata={"a": "1"})
    check(command, SMALL)
    with pytest.raises(TooLarge) as refused:
        apply(run, command, LATER, SMALL)
    assert (refused.value.path, refused.value.limit) == ("metadata", 20)


def test_costs_are_kept_as_numbers_of_one_kind() -> None:
    after, changed = updated(a_run(), cost_in_cents=3, base_cost_in_cents=2)
    assert repr(after.cost_in_cents) == "3.0"
    assert changed == {"costInCents": 3.0}


# ------------------------------------------------------------------------------ metadata, step by step


def test_operations_are_one_version_or_none() -> None:
    run = a_run(metadata={"n": 1})
    after, changed = apply(
        run,
        a_mutation(
            MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),
            MetadataOperation(op=MetadataOp.APPEND, path="log", value="x"),
        ),
        LATER,
        LIMITS,
    )
    assert after.version == run.version + 1
    assert changed == {"metadata": {"n": 2, "log": ["x"]}}
    back_and_forth = a_mutation(
        MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),
        MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=-1),
    )
    assert apply(run, back_and_forth, LATER, LIMITS) == (run, {})
    assert apply(run, a_mutation(), LATER, LIMITS) == (run, {})


def test_refused_operations_show_the_run() -> None:
    run = a_run(metadata={"n": "one"})
    command = a_mutation(MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1))
    with pytest.raises(Conflict, match="not a number") as refused:
        apply(run, command, LATER, LIMITS)
    assert refused.value.run is run


@pytest.mark.parametrize(
    "operation,path",
    [
        (MetadataOperation(op=MetadataOp.SET, path="", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path="a..b", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path=".a", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path="a\0", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.DELETE, path="a." * 64 + "a"), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.APPEND, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.REMOVE, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.INCREMENT, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.DELETE, path="a", value=1), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.INCREMENT, path="a", value=True), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.INCREMENT, path="a", value="1"), "operations.0.value"),
        (
            MetadataOperation(op=MetadataOp.INCREMENT, path="a", value=float("inf")),
            "operations.0.value",
        ),
        (
            MetadataOperation(op=MetadataOp.SET, path="a", value={"b": 2**64}),
            "operations.0.value.b",
        ),
    ],
)
def test_an_operation_that_does_not_fit_is_refused_and_the_place_named(
    operation: MetadataOperation, path: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check(a_mutation(operation), LIMITS)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "kind,keys,fits",
    [
        (MetadataOp.SET, 64, True),
        (MetadataOp.SET, 65, False),
        (MetadataOp.APPEND, 63, True),
        (MetadataOp.APPEND, 64, False),
    ],
)
def test_no_operation_makes_metadata_nested_deeper_than_a_create_may(
    kind: MetadataOp, keys: int, fits: bool
) -> None:
    command = a_mutation(MetadataOperation(op=kind, path=".".join("k" * keys), value=1))
    if not fits:
        with pytest.raises(Invalid, match="deeper"):
            check(command, LIMITS)
        return
    check(command, LIMITS)
    after, _ = apply(a_run(metadata={}), command, LATER, LIMITS)
    check(a_create(metadata=after.metadata), LIMITS)


def test_steps_are_bounded_in_number() -> None:
    step = MetadataOperation(op=MetadataOp.DELETE, path="a")
    check(a_mutation(*[step] * 1_000), LIMITS)
    with pytest.raises(Invalid, match="1000"):
        check(a_mutation(*[step] * 1_001), LIMITS)


# -------------------------------------------------------------------------------- timers and deletion

CLOCKS: dict[str, Any] = {
    "ttl": 1,
    "max_duration": 3,
    "heartbeat_timeout": 2,
    "lease_s": 2,
    "delayed_until": AT + seconds(5),
}


def a_firing(run: Run, timer: Timer, **over: Any) -> FireTimer:
    values = {"project": run.project, "run_id": run.id, "due_at": due(run, timer), "timer": timer}
    return FireTimer(**(values | over))


@pytest.mark.parametrize(
    "timer,to,error",
    [
        (Timer.DELAY, QUEUED, None),
        (
            Timer.TTL,
            RunStatus.EXPIRED,
            {"name": "Expired", "message": "no worker took the run within its ttl of 1 s"},
        ),
        (
            Timer.MAX_DURATION,
            RunStatus.TIMED_OUT,
            {"name": "TimedOut", "message": "the run executed longer than its maxDuration of 3 s"},
        ),
        (
            Timer.HEARTBEAT,
            RunStatus.CRASHED,
            {
                "name": "HeartbeatLost",
                "message": "no heartbeat came within its heartbeatTimeout of 2 s",
            },
        ),
    ],
)
def test_a_clock_that_ran_out_moves_the_run_and_says_what_ran_out(
    timer: Timer, to: RunStatus, error: Any
) -> None:
    run = a_run(status=WATCHED_IN[timer], **CLOCKS)
    after, changed = apply(run, a_firing(run, timer), LATER, LIMITS)
    assert (after.status, after.version, after.error) == (to, run.version + 1, error)
    assert changed["status"] is to


@pytest.mark.parametrize("timer", Timer)
def test_a_clock_is_not_early(timer: Timer) -> None:
    run = a_run(status=WATCHED_IN[timer], **CLOCKS)
    at = due(run, timer)
    assert at is not None
    early = at - timedelta(microseconds=1)
    assert apply(run, a_firing(run, timer), early, LIMITS) == (run, {})
    assert apply(run, a_firing(run, timer), at, LIMITS)[0].version == run.version + 1


@pytest.mark.parametrize("timer", Timer)
@pytest.mark.parametrize("status", RunStatus)
def test_a_clock_fires_once_however_many_servers_watch_it(status: RunStatus, timer: Timer) -> None:
    """Each reads the due time, one gets the lock first: the others find another run."""
    read = a_run(status=WATCHED_IN[timer], **CLOCKS)
    firing = a_firing(read, timer)
    run = a_run(id=read.id, status=status, **CLOCKS)
    after, changed = apply(run, firing, LATER, LIMITS)
    assert (after is not run) == (status is WATCHED_IN[timer]) == bool(changed)
    again, changed = apply(after, firing, LATER + seconds(60), LIMITS)
    assert again is after
    assert changed == {}


@pytest.mark.parametrize(
    "timer,moved",
    [
        (Timer.DELAY, {"delayed_until": AT + seconds(6)}),
        (Timer.DELAY, {"delayed_until": AT + seconds(4)}),
        (Timer.TTL, {"queued_at": AT + seconds(2)}),
        (Timer.MAX_DURATION, {"duration_ms": 1}),
        (Timer.HEARTBEAT, {"executing_since": AT + seconds(4)}),
        (Timer.LEASE, {"executing_since": AT + seconds(4)}),
    ],
)
def test_a_clock_that_has_been_set_anew_does_not_fire(timer: Timer, moved: dict[str, Any]) -> None:
    run = a_run(status=WATCHED_IN[timer], **CLOCKS)
    assert apply(replace(run, **moved), a_firing(run, timer), LATER, LIMITS)[1] == {}


def test_a_lost_heartbeat_may_be_due_later_than_the_run_itself_says() -> None:
    """The last heartbeat stands outside the run; whoever fires has compared with it."""
    run = a_run(status=EXECUTING, **CLOCKS)
    firing = a_firing(run, Timer.HEARTBEAT, due_at=due(run, Timer.HEARTBEAT, AT + seconds(6)))
    assert apply(run, firing, LATER, LIMITS)[0].status is RunStatus.CRASHED


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


# ---------------------------------------------------------------------------------- whatever happens

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
