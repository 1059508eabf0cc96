"""What a caller holds: runs, with the types of their tasks, and batches."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar, cast, overload

import msgspec

from runstream.errors import DecodeError
from runstream.values import Decode, decoder

PayloadT = TypeVar("PayloadT")
OutputT = TypeVar("OutputT")
PayloadT_co = TypeVar("PayloadT_co", covariant=True)
OutputT_co = TypeVar("OutputT_co", covariant=True)

# The payloads and outputs of several tasks that are named together.
P1 = TypeVar("P1")
O1 = TypeVar("O1")
P2 = TypeVar("P2")
O2 = TypeVar("O2")
P3 = TypeVar("P3")
O3 = TypeVar("O3")
P4 = TypeVar("P4")
O4 = TypeVar("O4")


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

    @property
    def is_queued(self) -> bool:
        """It has not begun: it waits for its time, for a worker, or for one that knows the task."""
        return self in _QUEUED

    @property
    def is_executing(self) -> bool:
        """A worker is on it, or will be again after a failed attempt."""
        return self in _EXECUTING

    @property
    def is_waiting(self) -> bool:
        """It has begun and is paused by the system."""
        return self is RunStatus.FROZEN

    @property
    def is_final(self) -> bool:
        """The run is over; exactly one of success, failed and canceled holds."""
        return self in _FINAL

    @property
    def is_success(self) -> bool:
        """It is done, with an output."""
        return self is RunStatus.COMPLETED

    @property
    def is_failed(self) -> bool:
        """It is over, and neither completed nor canceled."""
        return self in _FAILED

    @property
    def is_canceled(self) -> bool:
        """A user stopped it."""
        return self is RunStatus.CANCELED


_QUEUED: Final = frozenset({RunStatus.WAITING_FOR_DEPLOY, RunStatus.DELAYED, RunStatus.QUEUED})
_EXECUTING: Final = frozenset({RunStatus.EXECUTING, RunStatus.REATTEMPTING})
_FAILED: Final = frozenset(
    {
        RunStatus.FAILED,
        RunStatus.CRASHED,
        RunStatus.INTERRUPTED,
        RunStatus.SYSTEM_FAILURE,
        RunStatus.EXPIRED,
        RunStatus.TIMED_OUT,
    }
)
_FINAL: Final = _FAILED | {RunStatus.COMPLETED, RunStatus.CANCELED}


class RunError(msgspec.Struct, frozen=True, rename="camel"):
    """Why a run failed."""

    name: str = ""
    message: str = ""
    stack: str | None = None


class Run(
    msgspec.Struct, Generic[PayloadT_co, OutputT_co], frozen=True, kw_only=True, rename="camel"
):
    """One execution of a task, as it stood at `version`.

    A run never changes: each change comes as a new `Run`. What it holds (`metadata`,
    `tags`, the payload) is shared between the versions, so read it and leave it as it is.
    Fields that a subscription skips hold None, 0 or nothing.
    """

    id: str
    version: int
    task_identifier: str
    status: RunStatus
    number: int = 0
    payload: PayloadT_co = cast(Any, None)
    output: OutputT_co | None = None
    error: RunError | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    tags: list[str] = msgspec.field(default_factory=list)
    batch_id: str | None = None
    parent_run_id: str | None = None
    root_run_id: str | None = None
    depth: int = 0
    attempt: int = 0
    idempotency_key: str | None = None
    created_at: datetime = cast(Any, None)
    updated_at: datetime = cast(Any, None)
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
    cost_in_cents: float = 0
    base_cost_in_cents: float = 0
    is_test: bool = False

    @property
    def is_queued(self) -> bool:
        """It has not begun: it waits for its time, for a worker, or for one that knows the task."""
        return self.status.is_queued

    @property
    def is_executing(self) -> bool:
        """A worker is on it, or will be again after a failed attempt."""
        return self.status.is_executing

    @property
    def is_waiting(self) -> bool:
        """It has begun and is paused by the system."""
        return self.status.is_waiting

    @property
    def is_final(self) -> bool:
        """It is over; exactly one of success, failed and canceled holds."""
        return self.status.is_final

    @property
    def is_success(self) -> bool:
        """It is done, with an output."""
        return self.status.is_success

    @property
    def is_failed(self) -> bool:
        """It is over, and neither completed nor canceled."""
        return self.status.is_failed

    @property
    def is_canceled(self) -> bool:
        """A user stopped it."""
        return self.status.is_canceled


AnyRun = Run[Any, Any]


class Task(Generic[PayloadT, OutputT]):
    """A kind of work, by its name, with the types of what its runs are given and give back.

    The types may be any that msgspec can read (dataclasses, TypedDicts, structs, plain
    types …) or pydantic models. Where one is left out, any JSON will do.
    """

    __slots__ = ("_read_output", "_read_payload", "name", "output", "payload")

    @overload
    def __init__(self: Task[Any, Any], name: str) -> None: ...
    @overload
    def __init__(self: Task[PayloadT, Any], name: str, *, payload: type[PayloadT]) -> None: ...
    @overload
    def __init__(self: Task[Any, OutputT], name: str, *, output: type[OutputT]) -> None: ...
    @overload
    def __init__(self, name: str, *, payload: type[PayloadT], output: type[OutputT]) -> None: ...
    @overload
    def __init__(self, name: str, *, payload: Any, output: Any) -> None: ...
    def __init__(self, name: str, *, payload: Any = Any, output: Any = Any) -> None:
        self.name: Final = name
        self.payload: Final[Any] = payload
        self.output: Final[Any] = output
        self._read_payload: Final[Decode | None] = decoder(payload)
        self._read_output: Final[Decode | None] = decoder(output)

    def __repr__(self) -> str:
        return f"Task({self.name!r})"

    @property
    def is_typed(self) -> bool:
        """Whether its runs' payload or output is anything else than plain JSON."""
        return self._read_payload is not None or self._read_output is not None

    def read(self, run: AnyRun, before: tuple[AnyRun, Any] | None = None) -> Run[PayloadT, OutputT]:
        """The run with payload and output of this task's types.

        `before` is an earlier version of it, as it came and as it was read: what has not
        changed since is not read again. Raises `DecodeError` if a value does not fit, or
        if the run is one of another task.
        """
        if run.task_identifier != self.name:
            detail = f"it is a run of {run.task_identifier}, not of {self.name}"
            raise DecodeError(run.id, "taskIdentifier", detail)
        if not self.is_typed:
            return run
        raw, typed = before if before is not None else (None, run)
        payload, output = run.payload, run.output
        # A payload is never null but where the subscription skips it or the run has none;
        # a type that has no room for null is then not asked.
        if self._read_payload is not None and payload is not None:
            if raw is not None and raw.payload is payload:
                payload = typed.payload
            else:
                payload = _read(run, "payload", payload, self._read_payload)
        if self._read_output is not None and output is not None:
            if raw is not None and raw.output is output:
                output = typed.output
            else:
                output = _read(run, "output", output, self._read_output)
        return msgspec.structs.replace(run, payload=payload, output=output)

    def read_payload(self, run: AnyRun) -> PayloadT:
        """The run's payload, which must fit also if there is none; for whoever executes the run.

        Raises `DecodeError` if it does not.
        """
        if self._read_payload is None:
            return cast(PayloadT, run.payload)
        return cast(PayloadT, _read(run, "payload", run.payload, self._read_payload))


AnyTask = Task[Any, Any]


def _read(run: AnyRun, field: str, value: Any, read: Decode) -> Any:
    try:
        return read(value)
    except (ValueError, TypeError) as error:
        raise DecodeError(run.id, field, str(error)) from error


class Batch(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Runs made together; complete when it is sealed and all its runs are final."""

    id: str
    created_at: datetime
    sealed_at: datetime | None = None
    size: int = 0
    final: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    completed_at: datetime | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it is sealed and all its runs are final."""
        return self.completed_at is not None
