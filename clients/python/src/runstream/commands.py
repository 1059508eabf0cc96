"""What can be asked of runs, as values: a new run, an update, a change of metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, Literal, TypedDict

import msgspec

from runstream.models import AnyTask, OutputT, PayloadT, RunStatus, Task

UNSET: Final[Any] = msgspec.UNSET
"""Not given: null is a value of its own."""


class RunOptions(TypedDict, total=False):
    """What may be said of a new run besides its task and its payload."""

    tags: Sequence[str] | None
    metadata: Mapping[str, Any] | None
    idempotency_key: str | None
    """A second run of the same task with this key is not made: the first is returned."""
    delay_until: datetime | None
    delay: float | timedelta | None
    """In seconds."""
    ttl: int | None
    """Seconds it may wait in QUEUED."""
    max_duration: int | None
    """Seconds it may execute."""
    heartbeat_timeout: int | None
    """Seconds without the heartbeats that its worker promises by this."""
    is_test: bool
    batch_id: str | None
    parent_run_id: str | None
    status: RunStatus | None
    """EXECUTING for work that has begun already."""
    max_attempts: int | None
    """How many times a worker may begin it before a lost lease is its end; 1 by default."""


@dataclass(frozen=True)
class NewRun(Generic[PayloadT, OutputT]):
    """A run to be made; for `batches.create` and `runs.bulk`, where there are several."""

    task: Task[PayloadT, OutputT] | str
    payload: PayloadT | None = None
    tags: Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    delay_until: datetime | None = None
    delay: float | timedelta | None = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    is_test: bool = False
    batch_id: str | None = None
    parent_run_id: str | None = None
    status: RunStatus | None = None
    max_attempts: int | None = None

    def body(self) -> dict[str, Any]:
        """It as JSON has it."""
        delay = self.delay.total_seconds() if isinstance(self.delay, timedelta) else self.delay
        return given(
            taskIdentifier=name_of(self.task),
            payload=self.payload,
            tags=strings(self.tags),
            metadata=self.metadata,
            idempotencyKey=self.idempotency_key,
            delayUntil=aware(self.delay_until),
            delay=delay,
            ttl=self.ttl,
            maxDuration=self.max_duration,
            heartbeatTimeout=self.heartbeat_timeout,
            isTest=self.is_test or None,
            batchId=self.batch_id,
            parentRunId=self.parent_run_id,
            status=self.status,
            maxAttempts=self.max_attempts,
        )


@dataclass(frozen=True)
class RunUpdate:
    """A change to a run; for `runs.bulk`. What is left out stays as it is."""

    run_id: str
    status: RunStatus | None = None
    output: Any = UNSET
    error: Mapping[str, Any] | BaseException | None = UNSET
    metadata: Mapping[str, Any] | None = None
    """A JSON merge patch: null takes a key out."""
    add_tags: Sequence[str] | None = None
    remove_tags: Sequence[str] | None = None
    cost_in_cents: float | None = None
    base_cost_in_cents: float | None = None
    delay_until: datetime | None = None
    if_version: int | None = None
    """Only if the run is still at this version; else `Conflict`, with the run as it is."""
    if_attempt: int | None = None
    """Only if the run is still in this attempt; else `Conflict`, with the run as it is."""

    def body(self) -> dict[str, Any]:
        """It as JSON has it, less the run's id."""
        error = self.error
        if isinstance(error, BaseException):
            error = {"name": type(error).__name__, "message": str(error)}
        body = given(
            status=self.status,
            metadata=self.metadata,
            addTags=strings(self.add_tags),
            removeTags=strings(self.remove_tags),
            costInCents=self.cost_in_cents,
            baseCostInCents=self.base_cost_in_cents,
            delayUntil=aware(self.delay_until),
            ifVersion=self.if_version,
            ifAttempt=self.if_attempt,
        )
        if self.output is not UNSET:
            body["output"] = self.output
        if error is not UNSET:
            body["error"] = error
        return body


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of metadata; `path` is keys joined by dots."""

    op: Literal["set", "delete", "append", "remove", "increment"]
    path: str
    value: Any = msgspec.UNSET


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def strings(several: Sequence[str] | None) -> list[str] | None:
    """A list of strings; one string is one of them, and not its letters."""
    if several is None:
        return None
    return [several] if isinstance(several, str) else [*several]


def aware(at: datetime | None) -> datetime | None:
    """The time with a zone: one without is meant as this machine's."""
    return at if at is None or at.tzinfo is not None else at.astimezone()


def time_text(at: datetime) -> str:
    """A time as the wire has it; one without a zone is taken as this machine's."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def name_of(task: AnyTask | str) -> str:
    """A task's name."""
    return task if isinstance(task, str) else task.name


AnyTasks = AnyTask | str | Sequence[AnyTask | str]


def split_tasks(tasks: AnyTasks | None) -> tuple[list[str] | None, tuple[AnyTask, ...]]:
    """The names of tasks, to ask for; and those with types, to read by."""
    if tasks is None:
        return None, ()
    several = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    return [name_of(task) for task in several], tuple(
        task for task in several if isinstance(task, Task)
    )
