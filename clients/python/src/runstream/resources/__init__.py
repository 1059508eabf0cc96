"""The HTTP calls, one file a resource."""

from runstream.resources.artifacts import Artifacts
from runstream.resources.batches import Batches, MadeBatch
from runstream.resources.jobs import JobRuns, Jobs, Workflows
from runstream.resources.paging import Listing, Page
from runstream.resources.runs import Created, Runs
from runstream.resources.tokens import Tokens
from runstream.resources.webhooks import Webhooks

__all__ = [
    "Artifacts",
    "Batches",
    "Created",
    "JobRuns",
    "Jobs",
    "Listing",
    "MadeBatch",
    "Page",
    "Runs",
    "Tokens",
    "Webhooks",
    "Workflows",
]
