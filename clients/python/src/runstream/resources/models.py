"""The resources besides runs and batches, as a caller holds them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, cast

import msgspec

from runstream.models import AnyRun


class Workflow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One step that jobs can be made of."""

    id: str
    name: str
    task_identifier: str
    payload: Any = None
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
