"""What a key or token grants, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Final

from store.model import ALWAYS_SENT, WIRE_FIELDS, Facet, Match, Run, Selection

DEFAULT_PROJECT: Final = "default"
SCOPES_MAX: Final = 100
SCOPE_CHARS_MAX: Final = 512
SKIPPABLE: Final = frozenset(WIRE_FIELDS.values()) - ALWAYS_SENT
"""Fields of a run that may be left out."""


class Denied(StrEnum):
    """Why a token was not taken."""

    MISSING = "missing"
    INVALID = "invalid"
    EXPIRED = "expired"
    REVOKED = "revoked"


_SAID: Final = {
    Denied.MISSING: "send an API key or a public access token: Authorization: Bearer …",
    Denied.INVALID: "the API key or token is not valid",
    Denied.EXPIRED: "the token has expired",
    Denied.REVOKED: "the API key or token was revoked",
}


class Unauthorized(Exception):
    """There is no token, or not a good one."""

    def __init__(self, reason: Denied) -> None:
        super().__init__(_SAID[reason])
        self.reason = reason


class Forbidden(Exception):
    """The token is good, but not for this."""


# -------------------------------------------------------------------------------------- grants


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a key or token allows, and until when."""

    project: str
    full: bool = False
    """A key that may do everything."""
    read_only: bool = False
    """A key that may read everything."""
    scopes: frozenset[str] = frozenset()
    expires_at: datetime | None = None
    skip: frozenset[str] = frozenset()
    """Fields that are left out of everything that is read with it, in the wire's names."""
    token_id: str | None = None
    key_id: str | None = None
    one_time: bool = False
    """It triggers one run and no more."""

    @cached_property
    def _read(self) -> dict[str, frozenset[str]]:
        """What its scopes let it read: kind (`runs`, `tags`, …) to names."""
        names: dict[str, set[str]] = {}
        for scope in self.scopes:
            # Split at the first two colons only: a tag may hold more.
            verb, _, rest = scope.partition(":")
            kind, _, name = rest.partition(":")
            if verb == "read" and name:
                names.setdefault(kind, set()).add(name)
        return {kind: frozenset(some) for kind, some in names.items()}

    @cached_property
    def reads_all(self) -> bool:
        """Whether every run of the project may be read."""
        return self.full or self.read_only or "read:runs" in self.scopes

    @cached_property
    def sight(self) -> tuple[object, ...]:
        """Equal for all grants that let the same be read, whosever they are and until when."""
        scopes = () if self.reads_all else (s for s in self.scopes if s.startswith("read:"))
        return self.project, self.reads_all, frozenset(scopes), self.skip

    def _names(self, kind: str) -> frozenset[str]:
        return self._read.get(kind, frozenset())

    def covers(self, run: Run, facet: Facet) -> bool:
        """Whether the run, with that status and those tags, may be read."""
        if run.project != self.project:
            return False
        if self.reads_all:
            return True
        runs = self._names("runs")
        return (
            run.id in runs
            # A scope for a job run covers its workflow runs, but not just any child.
            or (run.workflow_id is not None and run.parent_run_id in runs)
            or run.batch_id in self._names("batch")
            or run.task_identifier in self._names("tasks")
            or not self._names("tags").isdisjoint(facet.tags)
        )

    def reads(self, run: Run) -> bool:
        """Whether the run as it stands may be read."""
        return self.covers(run, Facet(run.status, run.tags))

    def reads_batch(self, batch_id: str) -> bool:
        """Whether the batch itself may be read: how many of its runs stand where."""
        return self.reads_all or batch_id in self._names("batch")

    def allows(self, selection: Selection) -> bool:
        """Whether so much may be asked for at all; `covers` then decides run by run."""
        if selection.project != self.project:
            return False
        if self.reads_all:
            return True
        tasks = selection.filter.tasks
        if tasks and tasks <= self._names("tasks"):
            return True
        if selection.run_id is not None:
            # Which scopes cover it is only known with the run.
            return bool(self._read)
        if selection.job_run_id is not None:
            return selection.job_run_id in self._names("runs")
        if selection.batch_id is not None:
            return selection.batch_id in self._names("batch")
        if selection.tags:
            granted = self._names("tags")
            if selection.match is Match.ALL:
                return not granted.isdisjoint(selection.tags)
            return granted.issuperset(selection.tags)
        return False

    @property
    def may_write(self) -> bool:
        """Whether it may change anything in the project."""
        return self.full

    def may_trigger(self, task: str) -> bool:
        """Whether it may make a run of that task."""
        return self.full or f"trigger:tasks:{task}" in self.scopes


def check_scope(scope: str) -> str | None:
    """What is wrong with a scope, or None."""
    if len(scope) > SCOPE_CHARS_MAX:
        return f"a scope has at most {SCOPE_CHARS_MAX} characters"
    if not scope.isprintable():
        return "a scope has no control characters"
    verb, _, rest = scope.partition(":")
    kind, colon, name = rest.partition(":")
    if scope == "read:runs" or (
        colon
        and name
        and (verb, kind)
        in {
            ("read", "runs"),
            ("read", "tags"),
            ("read", "batch"),
            ("read", "tasks"),
            ("trigger", "tasks"),
        }
    ):
        return None
    return (
        "expected read:runs, read:runs:<id>, read:tags:<tag>, read:batch:<id>, "
        "read:tasks:<task> or trigger:tasks:<task>"
    )
