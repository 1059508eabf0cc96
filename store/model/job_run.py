"""A job run as it stands."""

from __future__ import annotations

from typing import Any

import msgspec

from store.model.run import Run


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A workflow as a job run will execute it, whatever becomes of the workflow meanwhile."""

    workflow_id: str
    name: str
    task_identifier: str
    payload: Any = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    max_attempts: int = 1


Plan = tuple[PlannedStep, ...]
"""What a job run executes, in order; it never changes."""


class JobRun(msgspec.Struct, frozen=True, kw_only=True):
    """A job run as it stands: the run, what it executes, and how far that has come."""

    run: Run
    config: dict[str, Any]
    """The job's config when the job run was made."""
    plan: Plan
    steps: tuple[Run, ...]
    """The workflow runs that were made so far, by position."""
