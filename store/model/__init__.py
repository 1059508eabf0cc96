"""The nouns of the store: runs, batches, changes, horizons, cursors, selections."""

from store.model.asked import AwareTime, Filter, ListKey, Match, RunQuery, Selection, list_key
from store.model.batch import Batch
from store.model.change import Change, ChangeKind, Facet, Group
from store.model.horizon import Cursor, Horizon
from store.model.ids import IdMaker, new_id
from store.model.job_run import JobRun, Plan, PlannedStep
from store.model.pages import LogPage, SnapshotPage
from store.model.run import (
    ALWAYS_SENT,
    WIRE_FIELDS,
    Run,
    RunStatus,
    encodable,
    rfc3339,
    wire_run,
    wire_value,
)

__all__ = [
    "ALWAYS_SENT",
    "WIRE_FIELDS",
    "AwareTime",
    "Batch",
    "Change",
    "ChangeKind",
    "Cursor",
    "Facet",
    "Filter",
    "Group",
    "Horizon",
    "IdMaker",
    "JobRun",
    "ListKey",
    "LogPage",
    "Match",
    "Plan",
    "PlannedStep",
    "Run",
    "RunQuery",
    "RunStatus",
    "Selection",
    "SnapshotPage",
    "encodable",
    "list_key",
    "new_id",
    "rfc3339",
    "wire_run",
    "wire_value",
]
