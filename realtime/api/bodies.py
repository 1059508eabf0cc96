"""What the HTTP calls take and give, as typed values."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from realtime.api.problems import FieldError, ProblemBody, unprocessable
from realtime.api.requests import AwareTime
from store.commands import MetadataOp, MetadataTarget, NewRun, UpdateRun
from store.model import Run, RunStatus

Seconds = Annotated[float, Meta(ge=0, le=2**31 - 1)]


class NewRunBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                 forbid_unknown_fields=True):  # fmt: skip
    """A run that is to be made."""

    task_identifier: str
    payload: Any = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    idempotency_key: str | None = None
    delay_until: AwareTime | None = None
    delay: Seconds | None = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    is_test: bool = False
    batch_id: str | None = None
    parent_run_id: str | None = None
    status: RunStatus | None = None
    max_attempts: int = 1
    """How many workers may lose it before it is CRASHED."""

    def new_run(self, batch_id: str | None = None, path: str = "") -> NewRun:
        """As the store takes it. Raises 422."""
        if self.delay is not None and self.delay_until is not None:
            raise unprocessable(
                [FieldError(f"{path}delay", "does not go together with delayUntil")]
            )
        if batch_id is not None and self.batch_id not in (None, batch_id):
            raise unprocessable([FieldError(f"{path}batchId", "is another batch")])
        return NewRun(
            task_identifier=self.task_identifier,
            payload=self.payload,
            tags=self.tags,
            metadata=self.metadata,
            idempotency_key=self.idempotency_key,
            delay_until=self.delay_until,
            delay=self.delay,
            ttl=self.ttl,
            max_duration=self.max_duration,
            heartbeat_timeout=self.heartbeat_timeout,
            is_test=self.is_test,
            batch_id=batch_id or self.batch_id,
            parent_run_id=self.parent_run_id,
            status=self.status,
            max_attempts=self.max_attempts,
        )


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                 forbid_unknown_fields=True):  # fmt: skip
    """What is to change of a run; what is left out stays as it is."""

    status: RunStatus | UnsetType = UNSET
    output: Any = UNSET
    error: dict[str, Any] | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    """A JSON merge patch (RFC 7396)."""
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    cost_in_cents: float | UnsetType = UNSET
    base_cost_in_cents: float | UnsetType = UNSET
    delay_until: AwareTime | UnsetType = UNSET
    if_version: int | None = None
    if_attempt: int | None = None
    """Refused if the run is in another attempt: for a worker that may have lost it."""

    def update(self, project: str, run_id: str) -> UpdateRun:
        """As the store takes it."""
        return UpdateRun(
            project=project,
            run_id=run_id,
            status=self.status,
            output=self.output,
            error=self.error,
            metadata=self.metadata,
            add_tags=self.add_tags,
            remove_tags=self.remove_tags,
            cost_in_cents=self.cost_in_cents,
            base_cost_in_cents=self.base_cost_in_cents,
            delay_until=self.delay_until,
            if_version=self.if_version,
            if_attempt=self.if_attempt,
        )


class UpdateItem(UpdateBody, frozen=True, kw_only=True, rename="camel",
                 forbid_unknown_fields=True):  # fmt: skip
    """What is to change of which run."""

    run_id: str


class BulkBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands that each stand or fall alone."""

    commands: list[Any]
    """Each as BulkItem; read one by one, since one that does not fit must not stop the others."""


class BulkItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Just one of the two."""

    create: NewRunBody | UnsetType = UNSET
    update: UpdateItem | UnsetType = UNSET


class BulkItems(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Commands that each stand or fall alone, at most 1,000 of them."""

    commands: list[BulkItem]


class OperationBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step at one place of the metadata; `path` is keys joined by `.`."""

    op: MetadataOp
    path: str
    value: Any = UNSET


class MetadataBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps, done in their order, all or none."""

    operations: list[OperationBody]
    target: MetadataTarget = MetadataTarget.SELF


def body_limit(*values: int) -> int:
    """How long a body with values of so many bytes may be.

    The limits count compact UTF-8. A character written as \\uXXXX takes up to three times as
    much.
    """
    return 3 * sum(values) + 65_536


Limit = Annotated[int, Meta(ge=1, le=1_000)]


class NoBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing, or an empty object."""


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that takes no query."""


class NewBatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch that is to be made, with its first runs."""

    items: list[NewRunBody] = []
    sealed: bool | UnsetType = UNSET
    """Whether it takes no more; by default if there are items."""


class ItemsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """More runs for a batch."""

    items: list[NewRunBody]


class TokenBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                forbid_unknown_fields=True):  # fmt: skip
    """A public access token that is to be made."""

    scopes: list[str]
    expires_in: Annotated[int, Meta(ge=1, le=30 * 24 * 3600)] = 900
    """Seconds."""
    skip: list[str] = []
    one_time: bool | UnsetType = UNSET
    """Whether it triggers one run and no more; by default if it triggers at all."""


class HeartbeatBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker's sign of life."""

    attempt: int | None = None
    """The attempt that it is on; 409 if the run is not executing in that."""


class RunsQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                forbid_unknown_fields=True):  # fmt: skip
    """Which runs to list, newest first."""

    status: list[RunStatus] = []
    tag: list[str] = []
    """All of them."""
    task: list[str] = []
    batch_id: str | None = None
    parent_run_id: str | None = None
    is_test: bool | None = None
    created_after: AwareTime | None = None
    created_before: AwareTime | None = None
    limit: Limit = 50
    after: str | None = None
    """The `next` of the page before."""


class ChangesQuery(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
                   forbid_unknown_fields=True):  # fmt: skip
    """Which part of a run's history."""

    after_version: Annotated[int, Meta(ge=0, le=2**62)] = 0
    limit: Limit = 100


class ChangeBody(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a run, as its history has it."""

    version: int
    at: AwareTime
    changed: dict[str, Any]
    """Each field that changed, with its value from then on."""


class RunsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs."""

    data: list[Run]
    next: str | None


class ChangesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a run's history; `next` is the `afterVersion` of the next page."""

    data: list[ChangeBody]
    next: int | None


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A batch, and how many of its runs stand where."""

    id: str
    created_at: AwareTime
    sealed_at: AwareTime | None
    size: int
    final: int
    counts: dict[RunStatus, int]
    completed_at: AwareTime | None


class NewBatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The batch, and its runs in the order of the items."""

    batch: BatchBody
    runs: list[Run]


class ItemsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The runs, in the order of the items."""

    runs: list[Run]


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A new token; it is shown this once."""

    token: str
    id: str
    expires_at: AwareTime


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two."""

    run: Run | UnsetType = UNSET
    error: ProblemBody | UnsetType = UNSET


class BulkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The outcomes, in the order of the commands."""

    results: list[BulkResult]
