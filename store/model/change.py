"""What happened to a run, as the change log has it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from store.model.run import Run, RunStatus


class ChangeKind(StrEnum):
    """What a row of the log is about."""

    RUN = "run"
    DELETED = "deleted"
    SEALED = "sealed"


class Facet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The part of a run's state that can move it into a stream or out of it."""

    status: RunStatus
    tags: tuple[str, ...]


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one command did to one run, at one version.

    For `SEALED`, `run_id` is the batch's id and `version` 1; it is no version of a run.
    """

    project: str
    run_id: str
    version: int
    xid: int
    previous_xid: int
    """The transaction of the run's change before this; 0 for version 1."""
    at: datetime
    changed: dict[str, Any]
    """Wire name to wire value of each field that changed, but for `version`, `updatedAt`
    and `payload`."""
    before: Facet | None
    """How it was before; None for version 1 and for a batch's seal."""
    kind: ChangeKind = ChangeKind.RUN


class Group(msgspec.Struct, frozen=True):
    """Consecutive versions of one run, with the run as it stands after the last of them.

    After a deletion `run` is what the log kept of it: the fields that decide which streams it
    was in. For a seal it is None, and `changes` has just that one.
    """

    changes: tuple[Change, ...]
    run: Run | None

    @property
    def first(self) -> Change:
        return self.changes[0]

    @property
    def last(self) -> Change:
        return self.changes[-1]

    @property
    def deleted(self) -> bool:
        return self.last.kind is ChangeKind.DELETED

    def facets(self) -> list[Facet | None]:
        """The state before the first change and after each; None where the run is not there."""
        states = [change.before for change in self.changes]
        after = None if self.deleted or self.run is None else Facet(self.run.status, self.run.tags)
        return [*states, after]

    def after(self, version: int) -> Group | None:
        """What is left of it without the versions up to that one."""
        kept = tuple(change for change in self.changes if change.version > version)
        return Group(kept, self.run) if kept else None
