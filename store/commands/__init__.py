"""What can be asked of the store, as values, and what follows from it.

A command's way: `check` looks at its shape once, where it enters the store and before it waits
for a writer; `create` and `apply` then decide under the lock what follows, rely on that check,
and do not look again. All of them are pure, and a command that is refused has changed nothing.
"""

from store.commands.applying import apply, apply_delete, create
from store.commands.asked import (
    ClaimRun,
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    Done,
    FireTimer,
    JobOrder,
    Limits,
    MetadataTarget,
    MutateMetadata,
    NewRun,
    SealBatch,
    StepOf,
    Submission,
    UpdateRun,
)
from store.commands.checks import (
    AFTERTIME,
    MAX_SECONDS,
    check,
    check_claim,
    check_new_run,
    check_size,
    check_words,
    is_id,
)
from store.lifecycle import Timer
from store.metadata import MetadataOp, MetadataOperation

__all__ = [
    "AFTERTIME",
    "MAX_SECONDS",
    "ClaimRun",
    "Command",
    "CreateBatch",
    "CreateRun",
    "DeleteRun",
    "Done",
    "FireTimer",
    "JobOrder",
    "Limits",
    "MetadataOp",
    "MetadataOperation",
    "MetadataTarget",
    "MutateMetadata",
    "NewRun",
    "SealBatch",
    "StepOf",
    "Submission",
    "Timer",
    "UpdateRun",
    "apply",
    "apply_delete",
    "check",
    "check_claim",
    "check_new_run",
    "check_size",
    "check_words",
    "create",
    "is_id",
]
