"""Webhooks as values: endpoints, what they want, deliveries, attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from store.lifecycle import is_final
from store.model import Change, ChangeKind, Group, Horizon, Run, RunStatus

RUN_CREATED: Final = "run.created"
JOB_RUN_STARTED: Final = "job_run.started"
JOB_RUN_COMPLETED: Final = "job_run.completed"
JOB_RUN_FAILED: Final = "job_run.failed"
BATCH_COMPLETED: Final = "batch.completed"

TYPES: Final = (
    RUN_CREATED,
    *(f"run.{status.lower()}" for status in RunStatus),
    JOB_RUN_STARTED,
    JOB_RUN_COMPLETED,
    JOB_RUN_FAILED,
    BATCH_COMPLETED,
)
"""Everything that an endpoint can be told of."""

PATTERNS: Final = frozenset({*TYPES, "*", *(f"{type.partition('.')[0]}.*" for type in TYPES)})
"""What an endpoint can ask for."""


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What messages to an endpoint are signed with."""

    secret: str
    until: datetime | None = None
    """From then on it signs no more; None is the present one."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook: where to, and what of."""

    id: str
    project: str
    url: str
    events: tuple[str, ...]
    tags: tuple[str, ...] | None
    """All of them; None asks for none."""
    tasks: tuple[str, ...] | None
    """Any of them."""
    secrets: tuple[Secret, ...]
    epoch: str
    horizon: Horizon
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None = None
    paused_at: datetime | None = None
    paused_reason: str | None = None

    def keys(self, at: datetime) -> list[str]:
        """The secrets that sign at that time, the present one first."""
        return [one.secret for one in self.secrets if one.until is None or one.until > at]

    def wants(self, types: Iterable[str]) -> str | None:
        """The first of the types that it asked for."""
        return next((type for type in types if _asked(self.events, type)), None)

    def covers(self, run: Run | None) -> bool:
        """Whether what is told of has its tags and tasks; a batch has neither."""
        if run is None:
            return self.tags is None and self.tasks is None
        return (self.tasks is None or run.task_identifier in self.tasks) and (
            self.tags is None or set(self.tags) <= set(run.tags)
        )

    def saw(self, change: Change, epoch: str) -> bool:
        """Whether the change was there before it."""
        return self.epoch == epoch and self.horizon.seen(change.xid)


def _asked(patterns: Iterable[str], type: str) -> bool:
    kind = type.partition(".")[0]
    return any(pattern in ("*", f"{kind}.*", type) for pattern in patterns)


class State(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Attempt(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One try of a delivery."""

    at: datetime
    duration_ms: int
    status: int | None
    """Of the response; None where there was none."""
    response: str
    """The beginning of its body."""
    error: str | None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one endpoint; its id is the `webhook-id` of every try."""

    id: str
    project: str
    webhook_id: str
    type: str
    subject: str
    body: str
    state: State
    attempts: tuple[Attempt, ...]
    created_at: datetime
    gives_up_at: datetime
    next_at: datetime | None
    claim: str | None
    by_hand: bool


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one try."""

    status: int | None
    body: str
    error: str | None
    duration_ms: int
    retry_after: str | None = None

    @property
    def is_taken(self) -> bool:
        return self.error is None and self.status is not None and 200 <= self.status < 300


ATTEMPT_S: Final = 15.0
"""How long one try may take in all."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host name. Raises OSError."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one change is told as: of each entry an endpoint gets the first type that it wants."""

    change: Change
    entries: Sequence[tuple[str, ...]]


def told(group: Group) -> list[Told]:
    """What there is to tell of a run's changes."""
    if group.run is None:
        return []
    found = []
    for change in group.changes:
        if change.kind is not ChangeKind.RUN or "status" not in change.changed:
            continue
        status = RunStatus(change.changed["status"])
        entries: list[tuple[str, ...]]
        if change.version == 1:
            # One change is told once: as the creation, or to whoever did not ask for that, as
            # the run's coming into its first status.
            entries = [(RUN_CREATED, f"run.{status.lower()}")]
        else:
            entries = [(f"run.{status.lower()}",)]
        if group.run.job_id is not None:
            entries += _of_job_run(status)
        found.append(Told(change=change, entries=entries))
    return found


def _of_job_run(status: RunStatus) -> list[tuple[str, ...]]:
    if status == RunStatus.EXECUTING:
        return [(JOB_RUN_STARTED,)]
    if status == RunStatus.COMPLETED:
        return [(JOB_RUN_COMPLETED,)]
    return [(JOB_RUN_FAILED,)] if is_final(status) else []


def may_complete_batch(group: Group) -> str | None:
    """The batch that one of the changes may have completed."""
    for change in group.changes:
        if change.kind is ChangeKind.SEALED:
            return change.run_id
        if (
            change.kind is ChangeKind.RUN
            and group.run is not None
            and group.run.batch_id is not None
            and "status" in change.changed
            and is_final(RunStatus(change.changed["status"]))
        ):
            return group.run.batch_id
    return None


def as_of(run: Run, history: Iterable[Change]) -> dict[str, Any]:
    """The wire fields of a run as they stood after these changes, all of them from the first."""
    fields: dict[str, Any] = {}
    version = 0
    for change in history:
        fields |= change.changed
        version = change.version
        fields["updatedAt"] = change.at
    return {**fields, "version": version, "payload": run.payload}
