"""Commands carried out on a run without a store: the run that comes of each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from store.commands import (
    FireTimer,
    Limits,
    MetadataOperation,
    MutateMetadata,
    Timer,
    UpdateRun,
    apply,
    check,
    create,
)
from store.lifecycle import due
from store.model import Run
from tests.builders import AT, PROJECT, a_create, seconds

LIMITS = Limits()
SMALL = Limits(payload_bytes=20, output_bytes=20, metadata_bytes=20, tags=3, tag_chars=5)
LATER = AT + seconds(10)


def an_update(run_id: str = "run_1", **fields: Any) -> UpdateRun:
    return UpdateRun(project=PROJECT, run_id=run_id, **fields)


def updated(
    run: Run, at: datetime = LATER, limits: Limits = LIMITS, **fields: Any
) -> tuple[Run, dict[str, Any]]:
    """The run after such an update, its shape looked at first as the store does."""
    command = an_update(run.id, **fields)
    check(command, limits)
    return apply(run, command, at, limits)


def created(at: datetime = AT, parent: Run | None = None, **fields: Any) -> Run:
    command = a_create(**fields)
    check(command, LIMITS)
    return create(command, number=3, parent=parent, at=at, limits=LIMITS)[0]


def a_mutation(*operations: MetadataOperation) -> MutateMetadata:
    return MutateMetadata(project=PROJECT, run_id="run_1", operations=operations)


def a_firing(run: Run, timer: Timer, **over: Any) -> FireTimer:
    values = {"project": run.project, "run_id": run.id, "due_at": due(run, timer), "timer": timer}
    return FireTimer(**(values | over))
