"""What follows from a command: pure, decided under the lock, and a refusal has changed nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from store.commands.asked import ClaimRun, CreateRun, FireTimer, Limits, MutateMetadata, UpdateRun
from store.commands.checks import AFTERTIME, check_size
from store.errors import Conflict, Invalid, TransitionRefused, VersionConflict
from store.jsonvalue import same
from store.lifecycle import LEADS_TO, Timer, advance, due, is_final, revised
from store.metadata import merge_patch, mutate
from store.model import WIRE_FIELDS, Run, RunStatus, wire_value

_UNTOLD: Final = frozenset({"payload", "version", "updated_at"})
"""A change says these by other means, or not at all: the payload is stored once, in the run."""
_told_of: Final = attrgetter(*WIRE_FIELDS)


def create(
    command: CreateRun, *, number: int, parent: Run | None, at: datetime, limits: Limits
) -> tuple[Run, dict[str, Any]]:
    """The new run at version 1, and its change: every wire field but payload, version, updatedAt.

    `parent` is the run that `parent_run_id` names, None if it names none. Relies on `check`, and
    refuses nothing itself.
    """
    new = command.new
    delayed_until = None if new.delay_until is None else new.delay_until.astimezone(UTC)
    if new.delay is not None:
        # By the clock that says when it is due, not by whoever passed the wish on.
        delayed_until = at + timedelta(seconds=new.delay)
    if new.status is not None:
        status = new.status
    elif delayed_until is not None and delayed_until > at:
        status = RunStatus.DELAYED
    else:
        status = RunStatus.QUEUED
    executing = status is RunStatus.EXECUTING
    run = Run(
        id=command.run_id,
        project=command.project,
        version=1,
        number=number,
        task_identifier=new.task_identifier,
        status=status,
        payload=new.payload,
        metadata=new.metadata,
        tags=tuple(dict.fromkeys(new.tags)),
        batch_id=new.batch_id,
        parent_run_id=None if parent is None else parent.id,
        root_run_id=None if parent is None else parent.root_run_id or parent.id,
        depth=0 if parent is None else parent.depth + 1,
        # Work that has begun already waited for nobody: it is in its first attempt, and was
        # queued and started at once, so that "started less queued" is 0 and not unknown.
        attempt=1 if executing else 0,
        queued_at=at if executing or status is RunStatus.QUEUED else None,
        started_at=at if executing else None,
        executing_since=at if executing else None,
        idempotency_key=new.idempotency_key,
        created_at=at,
        updated_at=at,
        delayed_until=delayed_until,
        ttl=new.ttl,
        max_duration=new.max_duration,
        heartbeat_timeout=new.heartbeat_timeout,
        is_test=new.is_test,
        max_attempts=new.max_attempts,
        job_id=None if command.job is None else command.job.job_id,
        workflow_id=None if command.step is None else command.step.workflow_id,
        position=None if command.step is None else command.step.position,
    )
    return run, _told(run, WIRE_FIELDS)


def apply(
    run: Run,
    command: UpdateRun | ClaimRun | MutateMetadata | FireTimer,
    at: datetime,
    limits: Limits,
) -> tuple[Run, dict[str, Any]]:
    """The run after the command, and what changed: wire name to wire value.

    One version on if anything changed; else the same object and no change, and there is nothing
    to write. A value that is the same JSON value as the one that stands is no change, whatever
    the run's status. `run` is the run that changes: for MutateMetadata the target's.

    The heartbeats of workers are kept outside the run. So for the timer of them the caller sees
    to it, under the same lock, that `due_at` is still what the last heartbeat left; here it is
    held against the run alone: no earlier than the run's spell of executing allows.

    Relies on `check`. Raises a Conflict, with the run as it stands, where the command does not
    fit it; Invalid or TooLarge where the outcome would be over a limit.
    """
    match command:
        case UpdateRun():
            return _update(run, command, at, limits)
        case ClaimRun():
            return _claim(run, command, at)
        case MutateMetadata():
            return _mutate(run, command, at, limits)
        case FireTimer():
            return _fire(run, command, at)


def apply_delete(run: Run, at: datetime) -> Run:
    """The run at its last version, which tells of its deletion.

    Raises Conflict unless the run is final.
    """
    if not is_final(run.status):
        raise Conflict(f"run {run.id} is {run.status}; only a final run can be deleted", run)
    return revised(run, at)


def _update(
    run: Run, command: UpdateRun, at: datetime, limits: Limits
) -> tuple[Run, dict[str, Any]]:
    if command.if_version is not None and command.if_version != run.version:
        raise VersionConflict(run, command.if_version)
    if command.if_attempt is not None and command.if_attempt != run.attempt:
        raise Conflict(
            f"run {run.id} is in attempt {run.attempt}, not {command.if_attempt}", run
        )  # fmt: skip

    to: RunStatus | None = None
    until = None if command.delay_until is UNSET else command.delay_until.astimezone(UTC)
    if command.status is not UNSET and command.status != run.status:
        to = command.status
    elif until is not None and until != run.delayed_until:
        if run.status != RunStatus.DELAYED:
            raise Conflict(f"run {run.id} is {run.status}; only a DELAYED run can be moved", run)
        to = RunStatus.DELAYED
    # First of all the step: whoever asks for one that there is not has misjudged the run, and
    # what else does not fit follows from that.
    stepped = None if to is None else advance(run, to, at, delayed_until=until)

    wanted: dict[str, Any] = {}
    if command.output is not UNSET:
        wanted["output"] = command.output
    if command.error is not UNSET:
        wanted["error"] = command.error
    if command.metadata is not UNSET:
        wanted["metadata"] = merge_patch(run.metadata, command.metadata)
    if command.add_tags or command.remove_tags:
        wanted["tags"] = _tags(run, command, limits)
    if command.cost_in_cents is not UNSET:
        wanted["cost_in_cents"] = float(command.cost_in_cents)
    if command.base_cost_in_cents is not UNSET:
        wanted["base_cost_in_cents"] = float(command.base_cost_in_cents)
    return _settle(run, wanted, at, limits, stepped)


def _claim(run: Run, command: ClaimRun, at: datetime) -> tuple[Run, dict[str, Any]]:
    if run.status != RunStatus.QUEUED:
        raise TransitionRefused(run, RunStatus.EXECUTING)
    begun = advance(run, RunStatus.EXECUTING, at)
    return _finish(run, replace(begun, worker=command.worker, lease_s=command.lease_s))


def _tags(run: Run, command: UpdateRun, limits: Limits) -> tuple[str, ...]:
    gone = set(command.remove_tags)
    tags = tuple(tag for tag in dict.fromkeys((*run.tags, *command.add_tags)) if tag not in gone)
    # A run may have more than the limit, from before it was lowered: it may lose some.
    if len(tags) > max(limits.tags, len(run.tags)):
        raise Invalid("addTags", f"a run has at most {limits.tags} tags")
    return tags


def _mutate(
    run: Run, command: MutateMetadata, at: datetime, limits: Limits
) -> tuple[Run, dict[str, Any]]:
    try:
        metadata = mutate(run.metadata, command.operations)
    except Conflict as refused:
        raise Conflict(str(refused), run) from None
    return _settle(run, {"metadata": metadata}, at, limits)


_RAN_OUT: Final = {
    Timer.TTL: ("Expired", "ttl", "no worker took the run within its"),
    Timer.MAX_DURATION: ("TimedOut", "max_duration", "the run executed longer than its"),
    Timer.HEARTBEAT: ("HeartbeatLost", "heartbeat_timeout", "no heartbeat came within its"),
    Timer.LEASE: ("LeaseLost", "lease_s", "its worker sent no heartbeat within the"),
}
"""For each clock whose end is a failure: the error's name, the field that ran out, and how."""


def _fire(run: Run, command: FireTimer, at: datetime) -> tuple[Run, dict[str, Any]]:
    # Who read the due time may have lost a race: to another server, to a worker, to a caller.
    # The due time says it all, since whatever they did has moved it or stopped the clock.
    still = due(run, command.timer)
    if still is None or command.due_at > at:
        return run, {}
    if still != command.due_at and not (
        command.timer in (Timer.HEARTBEAT, Timer.LEASE) and still < command.due_at
    ):
        return run, {}
    to = LEADS_TO[command.timer]
    if to is RunStatus.REATTEMPTING and run.attempt >= run.max_attempts:
        to = RunStatus.CRASHED
    stepped = advance(run, to, at)
    if is_final(to) and command.timer in _RAN_OUT:
        name, field, what = _RAN_OUT[command.timer]
        message = f"{what} {WIRE_FIELDS.get(field, 'lease')} of {getattr(run, field)} s"
        stepped = replace(stepped, error={"name": name, "message": message})
    return _finish(run, stepped)


def _settle(
    run: Run,
    wanted: dict[str, Any],
    at: datetime,
    limits: Limits,
    stepped: Run | None = None,
) -> tuple[Run, dict[str, Any]]:
    """The run with the wanted fields; `stepped` is the run after its step, if it makes one."""
    fields = {name: value for name, value in wanted.items() if not same(getattr(run, name), value)}
    if is_final(run.status):
        _check_afterwards(run, fields, at)
    if "metadata" in fields:
        check_size("metadata", fields["metadata"], limits.metadata_bytes)
    if stepped is not None:
        return _finish(run, replace(stepped, **fields) if fields else stepped)
    if fields:
        return _finish(run, revised(run, at, **fields))
    return run, {}


def _check_afterwards(run: Run, fields: Iterable[str], at: datetime) -> None:
    for name in fields:
        if name not in ("tags", "metadata"):
            raise Conflict(f"run {run.id} is {run.status}; its {WIRE_FIELDS[name]} stays", run)
        if at - (run.finished_at or run.updated_at) > AFTERTIME:
            raise Conflict(
                f"run {run.id} has been {run.status} for more than 24 h; "
                f"its {WIRE_FIELDS[name]} stays",
                run,
            )


def _finish(before: Run, after: Run) -> tuple[Run, dict[str, Any]]:
    # Most fields are the very same object still: that is the quick question, so it comes first.
    differing = [
        name
        for name, old, new in zip(WIRE_FIELDS, _told_of(before), _told_of(after), strict=True)
        if old is not new and not same(old, new)
    ]
    return after, _told(after, differing)


def _told(run: Run, names: Iterable[str]) -> dict[str, Any]:
    return {
        WIRE_FIELDS[name]: wire_value(getattr(run, name)) for name in names if name not in _UNTOLD
    }
