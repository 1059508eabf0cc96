"""What can go wrong in the store, each error with its facts."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.model import Run, RunStatus


class StoreError(Exception):
    """Base of everything that the store raises."""


class NotFound(StoreError):
    """There is no such run, batch or other resource in this project."""

    def __init__(self, what: str, id: str) -> None:
        super().__init__(f"there is no {what} {id}")
        self.what = what
        self.id = id


class Conflict(StoreError):
    """A command does not fit the run as it stands; `run` is how it stands, if it is about one."""

    def __init__(self, detail: str, run: Run | None = None) -> None:
        super().__init__(detail)
        self.run = run


class TransitionRefused(Conflict):
    """The lifecycle has no such step."""

    def __init__(self, run: Run, to: RunStatus) -> None:
        super().__init__(f"run {run.id} is {run.status} and cannot become {to}", run)
        self.to = to


class VersionConflict(Conflict):
    """The command was meant for another version of the run."""

    def __init__(self, run: Run, expected: int) -> None:
        super().__init__(f"run {run.id} is at version {run.version}, not {expected}", run)
        self.expected = expected


class Invalid(StoreError):
    """A value does not fit; `path` says which, in the words of the wire."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class TooLarge(StoreError):
    """A value is over its limit in bytes."""

    def __init__(self, path: str, size: int, limit: int) -> None:
        super().__init__(f"{path} has {size} bytes; the limit is {limit}")
        self.path = path
        self.size = size
        self.limit = limit


class TokenUsed(StoreError):
    """A one-time token was used before, with another idempotency key or none."""


class Unavailable(StoreError):
    """The database cannot be reached just now; nothing was changed."""


class BlobsAway(Unavailable):
    """The store of artifacts' bytes cannot be reached just now."""


class OutcomeUnknown(StoreError):
    """The database went away during the commit, and nobody can say whether it was done."""


class CannotContinue(StoreError):
    """A cursor cannot be continued from; `reason` is `epoch`, `retention` or `too_far_behind`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the cursor cannot be continued from: {reason}")
        self.reason = reason


class SchemaTooNew(StoreError):
    """The database was migrated by a newer version of this program."""

    def __init__(self, found: str, newest: str) -> None:
        super().__init__(
            f"the database is at schema {found}, which this version does not know "
            f"(it knows up to {newest}); start the newer version of the server"
        )
        self.found = found
        self.newest = newest


class IdempotencyKeyReused(StoreError):
    """An `Idempotency-Key` came again with another request."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the idempotency key {key!r} was used for another request")
        self.key = key


class RunDeleted(StoreError):
    """The run is gone; raised where a read raced with its deletion."""

    def __init__(self, run_id: str, at: datetime) -> None:
        super().__init__(f"run {run_id} was deleted")
        self.run_id = run_id
        self.at = at
