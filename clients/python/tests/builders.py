"""Runs and messages as the server has them, with everything filled in."""

from __future__ import annotations

from typing import Any

AT = "2026-03-01T12:00:00.000000Z"
RUN = "run_1"
RUN_PATH = f"/v1/runs/{RUN}"
"""Where that one is found."""


def a_run(run_id: str = RUN, version: int = 1, **fields: Any) -> dict[str, Any]:
    """A whole run."""
    return {
        "id": run_id,
        "version": version,
        "number": 1,
        "taskIdentifier": "send-invoice",
        "status": "QUEUED",
        "payload": {"order_id": 42},
        "output": None,
        "error": None,
        "metadata": {},
        "tags": [],
        "batchId": None,
        "parentRunId": None,
        "rootRunId": None,
        "depth": 0,
        "attempt": 0,
        "idempotencyKey": None,
        "createdAt": AT,
        "updatedAt": AT,
        "queuedAt": AT,
        "startedAt": None,
        "finishedAt": None,
        "delayedUntil": None,
        "expiredAt": None,
        "ttl": None,
        "maxDuration": None,
        "heartbeatTimeout": None,
        "workflowId": None,
        "position": None,
        "durationMs": 0,
        "costInCents": 0,
        "baseCostInCents": 0,
        "isTest": False,
        **fields,
    }


def some_fields(run_id: str, version: int, status: str, **fields: Any) -> dict[str, Any]:
    """What a change carries of a run."""
    always = {"id": run_id, "version": version, "status": status}
    return {**always, "taskIdentifier": "send-invoice", "updatedAt": AT, **fields}


def a_change(
    version: int,
    status: str = "EXECUTING",
    *,
    run_id: str = RUN,
    ids: list[int] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    run = some_fields(run_id, version, status, **fields)
    return {"type": "change", "ids": ids or [1], "kind": "change", "run": run}


def an_enter(run: dict[str, Any], ids: list[int] | None = None) -> dict[str, Any]:
    return {"type": "change", "ids": ids or [1], "kind": "enter", "run": run}


def a_leave(
    version: int, status: str = "EXECUTING", *, run_id: str = RUN, ids: list[int] | None = None
) -> dict[str, Any]:
    run = some_fields(run_id, version, status)
    return {"type": "change", "ids": ids or [1], "kind": "leave", "run": run}


def a_snapshot(*runs: dict[str, Any], id: int = 1) -> dict[str, Any]:
    return {"type": "snapshot", "id": id, "runs": list(runs)}


def live(
    cursor: str = "c1", *, id: int = 1, resumed: bool = False, truncated: bool = False
) -> dict[str, Any]:
    return {"type": "live", "id": id, "cursor": cursor, "resumed": resumed, "truncated": truncated}


def the_end(reason: str = "completed", *, id: int = 1) -> dict[str, Any]:
    return {"type": "end", "id": id, "reason": reason}


def a_batch(final: int = 0, *, complete: bool = False) -> dict[str, Any]:
    return {
        "id": "batch_1",
        "createdAt": AT,
        "sealedAt": AT,
        "size": 3,
        "final": final,
        "counts": {"COMPLETED": final, "QUEUED": 3 - final},
        "completedAt": AT if complete else None,
    }
