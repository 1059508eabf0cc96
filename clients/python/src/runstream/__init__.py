"""Follow background jobs as they happen: live status, progress and output, pushed.

async with Runstream("http://localhost:8080", api_key="…") as client:
    async for run in client.subscribe_to_run(run_id):
        print(run.status, run.metadata.get("progress"))
"""

from runstream.changes import BatchProgress, Change, Changed, Entered, Left, Live, Reset
from runstream.client import Runstream
from runstream.commands import NewRun, Operation, RunUpdate
from runstream.effects import State
from runstream.errors import (
    BadRequest,
    ClientClosed,
    Conflict,
    ConnectionLost,
    DecodeError,
    FieldError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    ProtocolError,
    Refused,
    RunstreamError,
    StreamEnded,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unprocessable,
)
from runstream.models import Batch, Run, RunError, RunStatus, Task
from runstream.report import Report, ReportedRun, current_run
from runstream.resources import Created, Listing, MadeBatch, Page
from runstream.resources.models import (
    Artifact,
    Delivery,
    HistoryEntry,
    Job,
    JobRun,
    PlannedRun,
    Timeline,
    TimelineEntry,
    TimelineStep,
    Token,
    Webhook,
    Workflow,
)
from runstream.stats import Stats
from runstream.subscription import Subscription
from runstream.timing import Timing
from runstream.worker import Work, Worker, executes

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "BadRequest",
    "Batch",
    "BatchProgress",
    "Change",
    "Changed",
    "ClientClosed",
    "Conflict",
    "ConnectionLost",
    "Created",
    "DecodeError",
    "Delivery",
    "Entered",
    "FieldError",
    "Forbidden",
    "HistoryEntry",
    "Job",
    "JobRun",
    "Left",
    "Listing",
    "Live",
    "MadeBatch",
    "NewRun",
    "NotFound",
    "Operation",
    "OutcomeUnknown",
    "Page",
    "PayloadTooLarge",
    "PlannedRun",
    "ProtocolError",
    "Refused",
    "Report",
    "ReportedRun",
    "Reset",
    "Run",
    "RunError",
    "RunStatus",
    "RunUpdate",
    "Runstream",
    "RunstreamError",
    "State",
    "Stats",
    "StreamEnded",
    "Subscription",
    "Task",
    "Timeline",
    "TimelineEntry",
    "TimelineStep",
    "Timing",
    "Token",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "Unprocessable",
    "Webhook",
    "Work",
    "Worker",
    "Workflow",
    "current_run",
    "executes",
]
