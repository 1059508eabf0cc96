"""Values with everything filled in, so that a test says only what it is about."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from store.commands import CreateRun, NewRun
from store.model import Change, ChangeKind, Facet, Group, Run, RunStatus, new_id, wire_run

PROJECT = "default"
AT = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
"""When the runs below were made, unless a test says otherwise."""

_BEGUN = frozenset(RunStatus) - {
    RunStatus.WAITING_FOR_DEPLOY,
    RunStatus.DELAYED,
    RunStatus.QUEUED,
    RunStatus.EXPIRED,
}
_ENDED = frozenset(
    {
        RunStatus.COMPLETED,
        RunStatus.CANCELED,
        RunStatus.FAILED,
        RunStatus.CRASHED,
        RunStatus.INTERRUPTED,
        RunStatus.SYSTEM_FAILURE,
        RunStatus.EXPIRED,
        RunStatus.TIMED_OUT,
    }
)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def a_run(**over: Any) -> Run:
    """A run as it may well stand in its status: QUEUED, if the test does not say.

    It was made at `AT`; queued, begun and ended one second after the other, as far as it got.
    """
    status = over.get("status", RunStatus.QUEUED)
    begun, ended = status in _BEGUN, status in _ENDED
    queued = begun or status in (RunStatus.QUEUED, RunStatus.EXPIRED)
    values: dict[str, Any] = {
        "id": new_id("run"),
        "project": PROJECT,
        "version": 1 + begun + ended,
        "number": 7,
        "task_identifier": "send-invoice",
        "status": status,
        "payload": {"invoice": 42},
        "output": {"total": 99} if status is RunStatus.COMPLETED else None,
        "error": {"name": "Boom", "message": "it broke"} if status is RunStatus.FAILED else None,
        "metadata": {"progress": 0.5, "steps": ["read", "write"]},
        "tags": ("user:7", "nightly"),
        "attempt": int(begun),
        "idempotency_key": None,
        "created_at": AT,
        "updated_at": AT + seconds(begun + ended),
        "queued_at": AT if queued else None,
        "started_at": AT + seconds(1) if begun else None,
        "executing_since": AT + seconds(1) if status is RunStatus.EXECUTING else None,
        "finished_at": AT + seconds(begun + ended) if ended else None,
        "expired_at": AT + seconds(1) if status is RunStatus.EXPIRED else None,
        "delayed_until": AT + seconds(60) if status is RunStatus.DELAYED else None,
        "duration_ms": 1_000 if begun and ended else 0,
        "cost_in_cents": 2.5,
        "base_cost_in_cents": 2.0,
        "last_xid": 700,
    }
    return Run(**(values | over))


def a_new_run(**over: Any) -> NewRun:
    """What somebody says of a run to be made, with each of its parts."""
    values: dict[str, Any] = {
        "task_identifier": "send-invoice",
        "payload": {"invoice": 42},
        "tags": ("user:7", "nightly"),
        "metadata": {"progress": 0.0},
        "ttl": 600,
        "max_duration": 3_600,
        "heartbeat_timeout": 30,
    }
    return NewRun(**(values | over))


def a_create(*, project: str = PROJECT, run_id: str | None = None, **over: Any) -> CreateRun:
    """The command that makes `a_new_run(**over)`."""
    return CreateRun(project=project, run_id=run_id or new_id("run"), new=a_new_run(**over))


def a_change(run: Run | None = None, **over: Any) -> Change:
    """The change by which the run came to the version at which it stands.

    Version 1 says the whole run; a later one that it came out of QUEUED.
    """
    run = run or a_run()
    whole = wire_run(run, frozenset({"payload", "version", "updatedAt"}))
    first = run.version == 1
    values: dict[str, Any] = {
        "project": run.project,
        "run_id": run.id,
        "version": run.version,
        "xid": run.last_xid,
        "previous_xid": 0 if first else run.last_xid - 1,
        "at": run.updated_at,
        "changed": whole if first else {"status": run.status},
        "before": None if first else Facet(RunStatus.QUEUED, run.tags),
        "kind": ChangeKind.RUN,
    }
    return Change(**(values | over))


def a_group(run: Run | None = None, *, befores: Sequence[Facet | None] = (None,)) -> Group:
    """The versions that led to the run, one for each state that was before: the last is the
    run's own version."""
    run = run or a_run(version=len(befores))
    first = run.version - len(befores) + 1
    return Group(
        tuple(
            a_change(
                run,
                version=first + i,
                xid=run.last_xid - len(befores) + 1 + i,
                previous_xid=0 if first + i == 1 else run.last_xid - len(befores) + i,
                before=before,
            )
            for i, before in enumerate(befores)
        ),
        run,
    )


@functools.cache  # they are costly to make, and some tests ask for them at every step
def json_values(max_leaves: int = 12) -> st.SearchStrategy[Any]:
    """JSON values that the store takes; small ones, with numbers that are easily mistaken for
    one another."""
    texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 3),
        st.integers(-(2**63), 2**64 - 1),
        st.sampled_from([0.0, -0.0, 1.0, 1.5]),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from("abcd") | texts, inner, max_size=4)
        ),
        max_leaves=max_leaves,
    )


@functools.cache
def json_objects(max_leaves: int = 12) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of such values, with keys that meet often."""
    return st.dictionaries(st.sampled_from("abcd"), json_values(max_leaves), max_size=4)
