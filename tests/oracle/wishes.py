"""What clients ask for: streams of every kind, with any options and filters."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from store.lifecycle import FINAL
from tests.oracle.client import Client
from tests.oracle.commands import TAGS, TASKS

if TYPE_CHECKING:
    from tests.oracle.world import World


def wish(world: World, client: Client, chance: random.Random) -> dict[str, Any] | None:
    """A message that asks for one; None if what it would be about is not there."""
    # Decided in any case, so that one choice does not move all those after it.
    options: dict[str, Any] = {
        "delivery": chance.choice(["every", "latest"]),
        "skip": chance.choice([[], [], ["payload", "metadata"]]),
        "stopOnCompletion": chance.random() < 0.7,
        "snapshot": chance.random() < 0.9,
    }
    filters: dict[str, Any] = {}
    if chance.random() < 0.4:
        filters["statuses"] = chance.choice(
            [["QUEUED"], ["QUEUED", "EXECUTING"], sorted(FINAL), ["EXECUTING", "COMPLETED"]]
        )
    if chance.random() < 0.1:
        filters["tasks"] = [chance.choice(TASKS)]
    if chance.random() < 0.1:
        filters["isTest"] = chance.random() < 0.3
    if chance.random() < 0.05:
        filters["createdAfter"] = datetime.now(UTC).isoformat()
    if world.bounds.small_limits:
        filters["limit"] = chance.choice([1, 3])
    project = client.project
    other = world.known.other(project)
    if other is not None and chance.random() < 0.08:
        project = other  # of which it must learn nothing
    runs = world.known.newest(project)
    tags, match = [chance.choice(TAGS)], "all"
    kinds = ["tag", "tags", "run", "run", "batch", "job", "all"]
    if "read:runs" not in client.scopes:
        kinds = ["run"]
        _, of, name = chance.choice(sorted(client.scopes)).split(":")
        match of:
            case "tags":
                tags, kinds = [name], ["tag", "run"]
            case "tasks":
                filters["tasks"] = [name]
                kinds = ["tag", "all", "run"]
            case "batch":
                kinds = ["batch", "run"]
            case "runs":
                kinds = ["run", "job"]
    match chance.choice(kinds):
        case "tags":
            tags = sorted(chance.sample(TAGS, 2))
            match = chance.choice(["all", "any"])
            return _tagged(tags, match) | options | filters
        case "tag":
            return _tagged(tags, match) | options | filters
        case "run" if runs:
            return {"type": "subscribeToRun", "runId": chance.choice(runs).id, **options}
        case "batch":
            batches = world.known.batches_of(project)
            if batches:
                id = chance.choice(batches)
                return {"type": "subscribeToBatch", "batchId": id, **options, **filters}
        case "job":
            jobs = [
                run for run in world.known.runs.values() if run.job_id and run.project == project
            ]
            if jobs:
                id = chance.choice(jobs).id
                return {"type": "subscribeToJobRun", "jobRunId": id, **options}
        case "all":
            return {"type": "subscribeToRuns", **options, **filters}
    return None


def _tagged(tags: list[str], match: str) -> dict[str, Any]:
    return {"type": "subscribeToRunsWithTag", "tags": tags, "match": match}
