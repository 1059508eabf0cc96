"""A run as it stands, and how the wire has it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

import msgspec


class RunStatus(StrEnum):
    """Where a run stands."""

    WAITING_FOR_DEPLOY = "WAITING_FOR_DEPLOY"
    DELAYED = "DELAYED"
    QUEUED = "QUEUED"
    EXECUTING = "EXECUTING"
    REATTEMPTING = "REATTEMPTING"
    FROZEN = "FROZEN"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    INTERRUPTED = "INTERRUPTED"
    SYSTEM_FAILURE = "SYSTEM_FAILURE"
    EXPIRED = "EXPIRED"
    TIMED_OUT = "TIMED_OUT"


class Run(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One execution of a task, as it stands at one version.

    `project` and the fields from `job_id` on are not in `WIRE_FIELDS`: they never leave the
    servers.
    """

    id: str
    project: str
    version: int
    number: int
    task_identifier: str
    status: RunStatus
    payload: Any = None
    output: Any = None
    error: Any = None
    metadata: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    batch_id: str | None = None
    parent_run_id: str | None = None
    root_run_id: str | None = None
    depth: int = 0
    attempt: int = 0
    idempotency_key: str | None = None
    created_at: datetime
    updated_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    delayed_until: datetime | None = None
    expired_at: datetime | None = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    workflow_id: str | None = None
    position: int | None = None
    duration_ms: int = 0
    cost_in_cents: float = 0.0
    base_cost_in_cents: float = 0.0
    is_test: bool = False

    job_id: str | None = None
    """The job that it is an execution of: it is a job run, and its children are the steps."""
    max_attempts: int = 1
    """How many times it may begin executing before a lost lease is its end."""
    worker: str | None = None
    lease_s: int | None = None
    """Who has claimed it, and for how long each heartbeat of theirs holds; only while EXECUTING."""
    executing_since: datetime | None = None
    """When the present spell of executing began; what `duration_ms` grows from."""
    last_xid: int = 0
    """The transaction that made this version."""
    has_payload: bool = True
    """False where the payload was left out on purpose, as in hints and in the tail's reads."""


WIRE_FIELDS: Final[Mapping[str, str]] = {
    name: "".join(part if i == 0 else part.capitalize() for i, part in enumerate(name.split("_")))
    for name in Run.__struct_fields__
    if name
    not in (
        "project",
        "job_id",
        "max_attempts",
        "worker",
        "lease_s",
        "executing_since",
        "last_xid",
        "has_payload",
    )
}
"""Python name to wire name, for every field of a run that clients may see, in order."""

ALWAYS_SENT: Final = frozenset({"id", "version", "status", "taskIdentifier", "updatedAt"})
"""Wire names that no `skip` leaves out and that every change carries."""


_WIRE_NAMES: Final = tuple(WIRE_FIELDS.values())
_WIRE_TIMES: Final = tuple(
    WIRE_FIELDS[field.name]
    for field in msgspec.structs.fields(Run)
    if field.name in WIRE_FIELDS and field.type in (datetime, datetime | None)
)
_wire_values: Final = attrgetter(*WIRE_FIELDS)


def rfc3339(at: datetime) -> str:
    """The time as the wire has it: UTC, always six digits of a second, and `Z`."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="microseconds")[:-6] + "Z"


def wire_value(value: Any) -> Any:
    """A field's value as the wire has it."""
    if isinstance(value, datetime):
        return rfc3339(value)
    return value


def wire_run(run: Run, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The whole run with the wire's names, less the skipped ones."""
    fields: dict[str, Any] = dict(zip(_WIRE_NAMES, _wire_values(run), strict=True))
    for name in _WIRE_TIMES:
        at = fields[name]
        if at is not None:
            fields[name] = rfc3339(at)
    for name in skip:
        fields.pop(name, None)
    return fields


_Encodable: Final = msgspec.defstruct(
    "_Encodable",
    [(field, Any) for field in WIRE_FIELDS],
    rename=dict(WIRE_FIELDS),
    frozen=True,
    gc=False,
)
_times: Final = attrgetter(
    *(field for field, name in WIRE_FIELDS.items() if name in _WIRE_TIMES),
)


def encodable(run: Run) -> Any:
    """What becomes the same JSON as `wire_run(run)`, faster."""
    for at in _times(run):
        # msgspec leaves out a fraction of nothing, and has no Z for another zone.
        if at is not None and (at.tzinfo is not UTC or not at.microsecond):
            return wire_run(run)
    return _Encodable(*_wire_values(run))
