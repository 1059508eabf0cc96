"""Which runs are asked for."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, NamedTuple, TypeAlias

import msgspec

from store.model.change import Facet
from store.model.run import Run, RunStatus


class Match(StrEnum):
    """How several tags of one wish are joined."""

    ALL = "all"
    ANY = "any"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked besides the topic; None asks nothing."""

    tasks: frozenset[str] | None = None
    statuses: frozenset[RunStatus] | None = None
    created_after: datetime | None = None
    is_test: bool | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs of a project somebody asks for: one topic and a filter.

    Just one of `run_id`, `tags`, `batch_id` and `job_run_id` is set, or none: all runs.
    """

    project: str
    run_id: str | None = None
    tags: tuple[str, ...] = ()
    match: Match = Match.ALL
    batch_id: str | None = None
    job_run_id: str | None = None
    filter: Filter = Filter()

    def covers(self, run: Run) -> bool:
        """Whether what never changes of the run fits."""
        asked = self.filter
        return (
            run.project == self.project
            and (self.run_id is None or run.id == self.run_id)
            and (self.batch_id is None or run.batch_id == self.batch_id)
            and (self.job_run_id is None or self.job_run_id in (run.id, run.parent_run_id))
            and (asked.tasks is None or run.task_identifier in asked.tasks)
            and (asked.is_test is None or run.is_test == asked.is_test)
            and (asked.created_after is None or run.created_at > asked.created_after)
        )

    def admits(self, facet: Facet | None) -> bool:
        """Whether what may change of the run fits; None is no run."""
        if facet is None:
            return False
        statuses = self.filter.statuses
        if statuses is not None and facet.status not in statuses:
            return False
        if not self.tags:
            return True
        have = (tag in facet.tags for tag in self.tags)
        return all(have) if self.match is Match.ALL else any(have)


AwareTime: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone, also where it is read from what somebody sent."""


class ListKey(NamedTuple):
    """A run's place in a list, the newest first: it never changes."""

    created_at: AwareTime
    number: int
    """Of runs made in one moment, the higher is the newer."""


def list_key(run: Run) -> ListKey:
    """Where the run stands in lists."""
    return ListKey(run.created_at, run.number)


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list of runs, newest first."""

    project: str
    statuses: frozenset[RunStatus] = frozenset()
    tags: tuple[str, ...] = ()
    tasks: frozenset[str] = frozenset()
    batch_id: str | None = None
    parent_run_id: str | None = None
    is_test: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    limit: int = 50
    after: ListKey | None = None
    """The last run of the page before."""
