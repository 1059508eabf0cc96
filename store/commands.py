"""What can be asked of the store, as values, and what follows from it.

A command's way: `check` looks at its shape once, where it enters the store and before it waits
for a writer; `create` and `apply` then decide under the lock what follows, rely on that check,
and do not look again. All of them are pure, and a command that is refused has changed nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import isfinite
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from store.errors import Conflict, Invalid, NotFound, TooLarge, TransitionRefused, VersionConflict
from store.jsonvalue import MAX_INTEGER, check_json, is_text, json_size, same
from store.lifecycle import LEADS_TO, Timer, advance, due, is_final, revised
from store.metadata import MetadataOp, MetadataOperation, merge_patch, mutate
from store.model import WIRE_FIELDS, Batch, JobRun, Run, RunStatus, wire_value

__all__ = [
    "ClaimRun",
    "Command",
    "CreateBatch",
    "CreateRun",
    "DeleteRun",
    "Done",
    "FireTimer",
    "JobOrder",
    "Limits",
    "MetadataOp",
    "MetadataOperation",
    "MetadataTarget",
    "MutateMetadata",
    "NewRun",
    "SealBatch",
    "StepOf",
    "Submission",
    "Timer",
    "UpdateRun",
    "apply",
    "apply_delete",
    "check",
    "check_new_run",
    "check_operations",
    "check_update",
    "create",
    "is_id",
]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How large the parts of a run may be; MB are 10^6 bytes of compact UTF-8 JSON.

    The limit of the output is also that of the error: both are what a run gave back.
    """

    payload_bytes: int = 3_000_000
    output_bytes: int = 10_000_000
    metadata_bytes: int = 256_000
    tags: int = 10
    tag_chars: int = 128
    nesting: int = 64
    """How many arrays and objects may lie around one another."""
    batch_items: int = 1_000
    operations: int = 1_000
    """Steps in one change of metadata."""

    def __post_init__(self) -> None:
        # Encoding and comparing recurse, in C and within Python's bound of 1,000 frames.
        if not 1 <= self.nesting <= 200:
            raise ValueError("nesting must be between 1 and 200")


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of a run that is to be made."""

    task_identifier: str
    payload: Any = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    idempotency_key: str | None = None
    delay_until: datetime | None = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    is_test: bool = False
    batch_id: str | None = None
    parent_run_id: str | None = None
    status: RunStatus | None = None
    max_attempts: int = 1


class JobOrder(msgspec.Struct, frozen=True):
    """What a job run is to execute."""

    job_id: str
    again: str | None = None
    """The job run whose snapshot is taken; None: the job as it is now."""


class StepOf(msgspec.Struct, frozen=True):
    """Which step of its parent, a job run, a run is."""

    workflow_id: str
    position: int


class CreateRun(msgspec.Struct, frozen=True, kw_only=True):
    """Make a run, or find the one that was made with its idempotency key."""

    project: str
    run_id: str
    new: NewRun
    one_time_token: str | None = None
    """The id of the one-time token that allows this create; used up in the same transaction."""
    job: JobOrder | None = None
    """Makes it a job run, and its first workflow run along with it."""
    step: StepOf | None = None
    """Makes it a workflow run: never asked for from outside, it follows from another change."""


class UpdateRun(msgspec.Struct, frozen=True, kw_only=True):
    """Change a run: its status, and whatever comes with it. UNSET fields are left alone."""

    project: str
    run_id: str
    status: RunStatus | UnsetType = UNSET
    output: Any = UNSET
    error: dict[str, Any] | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    """A JSON merge patch (RFC 7396)."""
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    cost_in_cents: float | UnsetType = UNSET
    base_cost_in_cents: float | UnsetType = UNSET
    delay_until: datetime | UnsetType = UNSET
    if_version: int | None = None
    if_attempt: int | None = None
    """Refused in another attempt: so a worker that has lost the run to another does no harm."""


class ClaimRun(msgspec.Struct, frozen=True, kw_only=True):
    """Begin a queued run for one worker, who keeps it by heartbeats."""

    project: str
    run_id: str
    worker: str
    lease_s: int


class MetadataTarget(StrEnum):
    SELF = "self"
    PARENT = "parent"
    ROOT = "root"


class MutateMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Change the metadata of a run, of its parent or of its root, step by step."""

    project: str
    run_id: str
    operations: tuple[MetadataOperation, ...]
    target: MetadataTarget = MetadataTarget.SELF


class DeleteRun(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a final run; its last change says so."""

    project: str
    run_id: str


class FireTimer(msgspec.Struct, frozen=True, kw_only=True):
    """A clock of a run has run out; does nothing if the run has moved on since it was read."""

    project: str
    run_id: str
    timer: Timer
    due_at: datetime
    """The due time that was read. Under the lock it must still be the run's due time."""


class CreateBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Open a batch; its runs are CreateRun commands of the same submission, or come later."""

    project: str
    batch_id: str


class SealBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Take no more runs into the batch."""

    project: str
    batch_id: str


Command: TypeAlias = (
    CreateRun
    | UpdateRun
    | ClaimRun
    | MutateMetadata
    | DeleteRun
    | FireTimer
    | CreateBatch
    | SealBatch
)


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Commands that one caller hands in together; their outcomes come in the same order.

    With `atomic` all are done or none: the first that is refused refuses the rest, and its
    error is what `execute` raises. Without, each stands or falls alone.
    """

    project: str
    commands: tuple[Command, ...]
    atomic: bool = False
    key: str | None = None
    """The caller's `Idempotency-Key`: repeated within 24 h, the first outcomes are returned."""
    fingerprint: str = ""
    """A digest of the request; the key with another one is refused."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A command was carried out."""

    run: Run | None = None
    """The run that was named, as it stood after this command; whole. For a delete the run as
    it was."""
    batch: Batch | None = None
    first: bool = True
    """False where a create found the run of its idempotency key."""
    job_run: JobRun | None = None
    """What a job run that was made is to execute, with its first workflow run."""


# -------------------------------------------------------------------------------- the shape of it

MAX_SECONDS: Final = 2**31 - 1
"""The longest ttl, maxDuration and heartbeatTimeout: what a database's integer holds."""

MAX_ATTEMPTS: Final = 1_000
MAX_LEASE_S: Final = 24 * 3600

AFTERTIME: Final = timedelta(hours=24)
"""How long after its end a run's tags and metadata may still be changed."""

_ID_CHARS: Final = 128
_TASK_CHARS: Final = 256
_KEY_CHARS: Final = 512
_BIRTHS: Final = frozenset(
    {
        RunStatus.QUEUED,
        RunStatus.EXECUTING,
        RunStatus.WAITING_FOR_DEPLOY,
        RunStatus.DELAYED,
    }
)


def check(command: Command, limits: Limits) -> None:
    """Looks at a command's shape, whatever the runs are that it is about.

    To be called once for each command, before `create` or `apply`, which rely on it. Raises
    Invalid or TooLarge with the path in the command as it is on the wire, and NotFound for an id
    that cannot be one.
    """
    match command:
        case CreateRun(new=new):
            check_new_run(new, limits)
        case UpdateRun():
            check_update(command, limits)
        case MutateMetadata(run_id=run_id, operations=operations):
            _check_run_id(run_id)
            check_operations(operations, limits)
        case ClaimRun(run_id=run_id, worker=worker, lease_s=lease_s):
            _check_run_id(run_id)
            check_claim(worker, lease_s)
        case DeleteRun(run_id=run_id) | FireTimer(run_id=run_id):
            _check_run_id(run_id)
        case SealBatch(batch_id=batch_id):
            if not is_id(batch_id):
                raise NotFound("batch", batch_id)
        case CreateBatch():
            pass


def check_new_run(new: NewRun, limits: Limits) -> None:
    """Looks at what is said of a run that is to be made; see `check`."""
    check_words("taskIdentifier", new.task_identifier, _TASK_CHARS)
    _check_tags("tags", new.tags, limits)
    if len(set(new.tags)) > limits.tags:
        raise Invalid("tags", f"a run has at most {limits.tags} tags")
    if new.idempotency_key is not None:
        check_words("idempotencyKey", new.idempotency_key, _KEY_CHARS)
    for path, seconds in (
        ("ttl", new.ttl),
        ("maxDuration", new.max_duration),
        ("heartbeatTimeout", new.heartbeat_timeout),
    ):
        if seconds is not None and not (type(seconds) is int and 1 <= seconds <= MAX_SECONDS):
            raise Invalid(path, f"must be whole seconds, from 1 to {MAX_SECONDS}")
    if not (type(new.max_attempts) is int and 1 <= new.max_attempts <= MAX_ATTEMPTS):
        raise Invalid("maxAttempts", f"must be a whole number from 1 to {MAX_ATTEMPTS}")
    for path, id in (("batchId", new.batch_id), ("parentRunId", new.parent_run_id)):
        if id is not None and not is_id(id):
            raise Invalid(path, "is no id")
    if new.status is not None and new.status not in _BIRTHS:
        raise Invalid("status", f"a run cannot begin as {new.status}")
    if new.delay_until is not None:
        _check_time("delayUntil", new.delay_until)
    _check_delay(new.status, new.delay_until)
    _check_object("metadata", new.metadata, limits.nesting)
    check_size("metadata", new.metadata, limits.metadata_bytes)
    check_json(new.payload, "payload", limits.nesting)
    check_size("payload", new.payload, limits.payload_bytes)


def check_update(command: UpdateRun, limits: Limits) -> None:
    """Looks at what is asked of a run; see `check`."""
    _check_run_id(command.run_id)
    if command.if_version is not None and type(command.if_version) is not int:
        raise Invalid("ifVersion", "must be an integer")
    if command.if_attempt is not None and type(command.if_attempt) is not int:
        raise Invalid("ifAttempt", "must be an integer")
    delay_until = None if command.delay_until is UNSET else command.delay_until
    if delay_until is not None:
        _check_time("delayUntil", delay_until)
    _check_delay(None if command.status is UNSET else command.status, delay_until)
    _check_tags("addTags", command.add_tags, limits)
    _check_tags("removeTags", command.remove_tags, limits)
    both = set(command.add_tags).intersection(command.remove_tags)
    if both:
        raise Invalid("removeTags", f"{min(both)!r} cannot be added and removed at once")
    for path, cost in (
        ("costInCents", command.cost_in_cents),
        ("baseCostInCents", command.base_cost_in_cents),
    ):
        if cost is not UNSET:
            _check_cost(path, cost)
    if command.metadata is not UNSET:
        _check_object("metadata", command.metadata, limits.nesting)
    if command.error is not UNSET and command.error is not None:
        _check_error(command.error)
        check_size("error", command.error, limits.output_bytes)
    if command.output is not UNSET:
        check_json(command.output, "output", limits.nesting)
        check_size("output", command.output, limits.output_bytes)


def check_claim(worker: str, lease_s: int) -> None:
    """Looks at who claims a run and for how long; see `check`."""
    check_words("worker", worker, _TASK_CHARS)
    if not (type(lease_s) is int and 1 <= lease_s <= MAX_LEASE_S):
        raise Invalid("leaseS", f"must be whole seconds, from 1 to {MAX_LEASE_S}")


def check_operations(operations: tuple[MetadataOperation, ...], limits: Limits) -> None:
    """Looks at the steps of a change of metadata; see `check`.

    A path has 1 to `nesting` keys, none of them empty; delete takes no value, every other step
    needs one; what increment adds is a finite number.
    """
    if len(operations) > limits.operations:
        raise Invalid("operations", f"has more than {limits.operations} steps")
    for number, operation in enumerate(operations):
        place = f"operations.{number}"
        op, value = operation.op, operation.value
        keys = operation.path.split(".")
        if not is_text(operation.path) or not all(keys):
            raise Invalid(f"{place}.path", "must be keys of whole characters joined by single dots")
        # The value lies in as many objects as the path has keys, and in the list it is appended
        # to: so no step makes a tree that a reader could not take.
        room = limits.nesting - len(keys) - (op is MetadataOp.APPEND)
        if room < 0:
            raise Invalid(f"{place}.path", f"leads deeper than {limits.nesting}")
        if op is MetadataOp.DELETE:
            if value is not UNSET:
                raise Invalid(f"{place}.value", "delete takes no value")
            continue
        if value is UNSET:
            raise Invalid(f"{place}.value", f"{op} needs a value")
        if op is MetadataOp.INCREMENT and type(value) not in (int, float):
            raise Invalid(f"{place}.value", "must be a number")
        check_json(value, f"{place}.value", room)


def is_id(text: str) -> bool:
    """Whether the text can be an id at all: what cannot is not worth asking a database for,
    and PostgreSQL would refuse some of it with an error of its own."""
    return 1 <= len(text) <= _ID_CHARS and text.isascii() and text.isprintable()


def _check_run_id(run_id: str) -> None:
    if not is_id(run_id):
        raise NotFound("run", run_id)


def check_words(path: str, text: str, chars: int) -> None:
    if not 1 <= len(text) <= chars:
        raise Invalid(path, f"must have 1 to {chars} characters")
    # What is printable holds none of it; the rest, such as wide spaces, is looked at closely.
    if not text.isprintable() and (
        not is_text(text) or any(unicodedata.category(char) == "Cc" for char in text)
    ):
        raise Invalid(path, "must not hold control characters")


def _check_tags(path: str, tags: tuple[str, ...], limits: Limits) -> None:
    for number, tag in enumerate(tags):
        check_words(f"{path}.{number}", tag, limits.tag_chars)


def _check_time(path: str, at: datetime) -> None:
    try:
        year = at.astimezone(UTC).year
    except OverflowError:
        year = 0
    # Below 1970 it is a mistake, such as another language's zero time.
    if at.tzinfo is None or year < 1970:
        raise Invalid(path, "must be a time between 1970 and 9999 with its offset from UTC")


def _check_delay(status: RunStatus | None, delay_until: datetime | None) -> None:
    if status is RunStatus.DELAYED and delay_until is None:
        raise Invalid("delayUntil", "a DELAYED run needs the time it waits for")
    if delay_until is not None and status not in (None, RunStatus.DELAYED):
        raise Invalid("status", f"{status} does not go with a delay")


def _check_cost(path: str, cost: float) -> None:
    # A whole number may be too large to become a float at all.
    whole = type(cost) is int and cost <= MAX_INTEGER
    if not (whole or (type(cost) is float and isfinite(cost))) or cost < 0:
        raise Invalid(path, "must be a finite number, 0 or more")


def _check_object(path: str, value: dict[str, Any], nesting: int) -> None:
    if type(value) is not dict:
        raise Invalid(path, "must be an object")
    check_json(value, path, nesting)


def _check_error(error: dict[str, Any]) -> None:
    for key in ("name", "message"):
        if key not in error:
            raise Invalid(f"error.{key}", "is missing")
    for key, text in error.items():
        if key not in ("name", "message", "stack"):
            raise Invalid("error", "has name, message and stack, and nothing else")
        if not isinstance(text, str) or not is_text(text):
            raise Invalid(f"error.{key}", "must be text without NUL")


def check_size(path: str, value: Any, limit: int) -> None:
    size = json_size(value)
    if size > limit:
        raise TooLarge(path, size, limit)


# ----------------------------------------------------------------------------- what follows from it

_UNTOLD: Final = frozenset({"payload", "version", "updated_at"})
"""A change says these by other means, or not at all: the payload is stored once, in the run."""


def create(
    command: CreateRun, *, number: int, parent: Run | None, at: datetime, limits: Limits
) -> tuple[Run, dict[str, Any]]:
    """The new run at version 1, and its change: every wire field but payload, version, updatedAt.

    `parent` is the run that `parent_run_id` names, None if it names none. Relies on `check`, and
    refuses nothing itself.
    """
    new = command.new
    delayed_until = None if new.delay_until is None else new.delay_until.astimezone(UTC)
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
        for name in WIRE_FIELDS
        if (old := getattr(before, name)) is not (new := getattr(after, name))
        and not same(old, new)
    ]
    return after, _told(after, differing)


def _told(run: Run, names: Iterable[str]) -> dict[str, Any]:
    return {
        WIRE_FIELDS[name]: wire_value(getattr(run, name)) for name in names if name not in _UNTOLD
    }
