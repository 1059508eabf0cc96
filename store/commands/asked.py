"""What can be asked of the store, as values."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from store.lifecycle import Timer
from store.metadata import MetadataOperation
from store.model import Batch, JobRun, Run, RunStatus


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
    delay: float | None = None
    """Seconds from the moment that it is made, instead of `delay_until`."""
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
    as_job_run: bool = False
    """Only a job run is meant: another run is not found, and the outcome has its steps too."""


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
    forgets: str | None = None
    """An `Idempotency-Key` that is as if never used once this is done."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A command was carried out."""

    run: Run | None = None
    """The run that was named, as it stood after this command; whole. For a delete the run as
    it was."""
    batch: Batch | None = None
    first: bool = True
    """False where a create found the run of its idempotency key."""
    job_run: JobRun | None = None
    """The job run with its workflow runs, where one was made, or changed `as_job_run`."""
