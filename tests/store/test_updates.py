"""Updates: what follows from one, and what is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from store.commands import (
    AFTERTIME,
    MetadataOp,
    MetadataOperation,
    MutateMetadata,
    UpdateRun,
    apply,
    check,
)
from store.errors import Conflict, Invalid, TooLarge, TransitionRefused, VersionConflict
from store.lifecycle import FINAL
from store.model import WIRE_FIELDS, RunStatus, rfc3339
from tests.builders import AT, a_run, seconds
from tests.store.applying import LATER, LIMITS, SMALL, a_mutation, an_update, updated

DELAYED, QUEUED, EXECUTING = RunStatus.DELAYED, RunStatus.QUEUED, RunStatus.EXECUTING
COMPLETED, FAILED, CANCELED = RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED


# -------------------------------------------------------------------------------------- their shape


@pytest.mark.parametrize(
    "fields,path",
    [
        ({"if_version": True}, "ifVersion"),
        ({"if_version": 1.0}, "ifVersion"),
        ({"status": DELAYED}, "delayUntil"),
        ({"status": QUEUED, "delay_until": LATER}, "status"),
        ({"status": CANCELED, "delay_until": LATER}, "status"),
        ({"delay_until": datetime(2030, 1, 1)}, "delayUntil"),  # noqa: DTZ001 -- refused for that
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


# ------------------------------------------------------------------------------------- what follows


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
