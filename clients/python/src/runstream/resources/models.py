"""The resources besides runs and batches, as a caller holds them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, cast

import msgspec

from runstream.models import AnyRun, RunError, RunStatus


class Workflow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One step that jobs can be made of."""

    id: str
    name: str
    task_identifier: str
    payload: Any = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    max_attempts: int = 1
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A sequence of workflows."""

    id: str
    name: str
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def workflow_execution_order(self) -> list[str]:
        """The ids of its workflows, in order."""
        return list(self.config.get("workflowExecutionOrder", ()))


class PlannedRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A workflow run that has not been made yet."""

    workflow_id: str
    position: int


JobRunStatus = Literal["PENDING", "IN_PROGRESS", "COMPLETED", "FAILED"]


class JobRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One execution of a job. It is a run, too: `run`, with the same id."""

    id: str
    job_id: str
    status: JobRunStatus
    job_config_json_snapshot: dict[str, Any] = msgspec.field(default_factory=dict)
    created_at: datetime = cast(Any, None)
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run: AnyRun
    workflow_runs: list[AnyRun | PlannedRun] = msgspec.field(default_factory=list)


class TimelineStep(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A step of a job run at one glance; `run_id` and `status` are None until it has been made."""

    workflow_id: str
    position: int
    name: str = ""
    task_identifier: str = ""
    run_id: str | None = None
    status: RunStatus | None = None
    attempt: int = 0
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    waited_ms: int | None = None
    duration_ms: int = 0
    error: RunError | None = None


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One change of a job run (`position` is None) or of one of its steps.

    `changed` are its fields by their names in JSON, as they then were; `lasted_ms` is, with
    a transition, how long the status before it lasted, if that began on the same page.
    """

    at: datetime
    run_id: str
    position: int | None = None
    version: int
    changed: dict[str, Any]
    since_start_ms: int = 0
    lasted_ms: int | None = None


class Timeline(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What happened in a job run, in order: a page of it, and all its steps.

    `next` is the `after` of the next page, or None.
    """

    job_run_id: str
    status: JobRunStatus
    steps: list[TimelineStep] = msgspec.field(default_factory=list)
    data: list[TimelineEntry] = msgspec.field(default_factory=list)
    next: str | None = None


class Artifact(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that a run leaves behind: what is known of it, less its bytes."""

    id: str
    run_id: str
    name: str
    content_type: str | None = None
    size: int = 0
    sha256: str = ""
    created_at: datetime | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An endpoint that is told of changes; `secret` is there once, when it is made."""

    id: str
    url: str
    events: list[str] = msgspec.field(default_factory=list)
    tags: list[str] | None = None
    tasks: list[str] | None = None
    secret: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One message to a webhook, and how it went; `details` is all that the server tells of it."""

    id: str
    details: dict[str, Any] = msgspec.field(default_factory=dict)


class Token(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A public access token, as it was made; it is shown this once."""

    token: str
    id: str
    expires_at: datetime


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one change did to a run: its fields by their names in JSON, as they then were."""

    version: int
    at: datetime
    changed: dict[str, Any]
