"""The nouns of the store: runs, batches, changes, horizons, cursors, selections."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec


class RunStatus(StrEnum):
    """Where a run stands."""

    WAITING_FOR_DEPLOY = "WAITING_FOR_DEPLOY"
    DELAYED = "DELAYED"
    QUEUED = "QUEUED"
    EXECUTING = "EXECUTING"
    REATTEMPTING = "REATTEMPTING"
    FROZEN = "FROZEN"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    INTERRUPTED = "INTERRUPTED"
    SYSTEM_FAILURE = "SYSTEM_FAILURE"
    EXPIRED = "EXPIRED"
    TIMED_OUT = "TIMED_OUT"


# ---------------------------------------------------------------------------------------- ids

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case


class IdMaker:
    """Makes ids that sort by the time of their making, also within one millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self, prefix: str) -> str:
        """A new id: the prefix, `_`, and 26 characters of time and chance."""
        with self._lock:
            # 48 bits of milliseconds, 16 of a counter that keeps the order inside one
            # millisecond (and when the clock steps back), 66 of chance.
            self._last = max((time.time_ns() // 1_000_000) << 16, self._last + 1)
            number = (self._last << 66) | secrets.randbits(66)
        digits = []
        for _ in range(26):
            number, digit = divmod(number, 32)
            digits.append(_ALPHABET[digit])
        return f"{prefix}_{''.join(reversed(digits))}"


new_id: Final = IdMaker()


# ---------------------------------------------------------------------------------------- runs


class Run(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One execution of a task, as it stands at one version.

    The fields are DESIGN.md's, but for the last ones, which never leave the store's process
    family: they are not in `WIRE_FIELDS`.
    """

    id: str
    project: str
    version: int
    number: int
    task_identifier: str
    status: RunStatus
    payload: Any = None
    output: Any = None
    error: Any = None
    metadata: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    batch_id: str | None = None
    parent_run_id: str | None = None
    root_run_id: str | None = None
    depth: int = 0
    attempt: int = 0
    idempotency_key: str | None = None
    created_at: datetime
    updated_at: datetime
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    delayed_until: datetime | None = None
    expired_at: datetime | None = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    workflow_id: str | None = None
    position: int | None = None
    duration_ms: int = 0
    cost_in_cents: float = 0.0
    base_cost_in_cents: float = 0.0
    is_test: bool = False

    job_id: str | None = None
    """The job that it is an execution of: it is a job run, and its children are the steps."""
    max_attempts: int = 1
    """How many times it may begin executing before a lost lease is its end."""
    worker: str | None = None
    lease_s: int | None = None
    """Who has claimed it, and for how long each heartbeat of theirs holds; only while EXECUTING."""
    executing_since: datetime | None = None
    """When the present spell of executing began; what `duration_ms` grows from."""
    last_xid: int = 0
    """The transaction that made this version."""
    has_payload: bool = True
    """False where the payload was left out on purpose, as in hints and in the tail's reads."""


WIRE_FIELDS: Final[Mapping[str, str]] = {
    name: "".join(part if i == 0 else part.capitalize() for i, part in enumerate(name.split("_")))
    for name in Run.__struct_fields__
    if name
    not in (
        "project",
        "job_id",
        "max_attempts",
        "worker",
        "lease_s",
        "executing_since",
        "last_xid",
        "has_payload",
    )
}
"""Python name to wire name, for every field of a run that clients may see, in order."""

ALWAYS_SENT: Final = frozenset({"id", "version", "status", "taskIdentifier", "updatedAt"})
"""Wire names that no `skip` leaves out and that every change carries."""


_WIRE_NAMES: Final = tuple(WIRE_FIELDS.values())
_WIRE_TIMES: Final = tuple(
    WIRE_FIELDS[field.name]
    for field in msgspec.structs.fields(Run)
    if field.name in WIRE_FIELDS and field.type in (datetime, datetime | None)
)
_wire_values: Final = attrgetter(*WIRE_FIELDS)


def rfc3339(at: datetime) -> str:
    """The time as the wire has it: UTC, always six digits of a second, and `Z`."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="microseconds")[:-6] + "Z"


def wire_value(value: Any) -> Any:
    """A field's value as the wire has it."""
    if isinstance(value, datetime):
        return rfc3339(value)
    return value


def wire_run(run: Run, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The whole run with the wire's names, less the skipped ones."""
    fields: dict[str, Any] = dict(zip(_WIRE_NAMES, _wire_values(run), strict=True))
    for name in _WIRE_TIMES:
        at = fields[name]
        if at is not None:
            fields[name] = rfc3339(at)
    for name in skip:
        fields.pop(name, None)
    return fields


_Encodable: Final = msgspec.defstruct(
    "_Encodable",
    [(field, Any) for field in WIRE_FIELDS],
    rename=dict(WIRE_FIELDS),
    frozen=True,
    gc=False,
)
_times: Final = attrgetter(
    *(field for field, name in WIRE_FIELDS.items() if name in _WIRE_TIMES),
)


def encodable(run: Run) -> Any:
    """What becomes the same JSON as `wire_run(run)`, faster."""
    for at in _times(run):
        # msgspec leaves out a fraction of nothing, and has no Z for another zone.
        if at is not None and (at.tzinfo is not UTC or not at.microsecond):
            return wire_run(run)
    return _Encodable(*_wire_values(run))


# ------------------------------------------------------------------------------------ job runs


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A workflow as a job run will execute it, whatever becomes of the workflow meanwhile."""

    workflow_id: str
    name: str
    task_identifier: str
    payload: Any = None
    ttl: int | None = None
    max_duration: int | None = None
    heartbeat_timeout: int | None = None
    max_attempts: int = 1


Plan = tuple[PlannedStep, ...]
"""What a job run executes, in order; it never changes."""


class JobRun(msgspec.Struct, frozen=True, kw_only=True):
    """A job run as it stands: the run, what it executes, and how far that has come."""

    run: Run
    config: dict[str, Any]
    """The job's config when the job run was made."""
    plan: Plan
    steps: tuple[Run, ...]
    """The workflow runs that were made so far, by position."""


# --------------------------------------------------------------------------------- the change log


class Horizon(msgspec.Struct, frozen=True, array_like=True):
    """What a statement could see of the log: a transaction snapshot.

    On PostgreSQL it is `pg_current_snapshot()`; on SQLite, where one writer makes the log's
    order, `xmax` is the log's sequence plus one and nothing is open below it.
    """

    xmin: int
    xmax: int
    xip: tuple[int, ...] = ()
    witness: int = 0
    """SQLite: the stamp of the newest commit that was seen, which tells two histories apart."""

    def seen(self, xid: int) -> bool:
        """Whether a change made by that transaction was visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.xip)

    def is_sound(self) -> bool:
        """Whether a database can have made it: places in order, each within 63 bits."""
        return (
            0 <= self.xmin <= self.xmax < 2**63
            and all(self.xmin <= xid < self.xmax for xid in self.xip)
            and -(2**63) <= self.witness < 2**63
        )


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place to go on from: all that `horizon` covers was put on the socket before it.

    `wishes` are short hashes of the subscriptions that it holds for, so that a cursor is not
    taken for another's; `forced` is one of the fields that the token forced out.
    """

    epoch: str
    horizon: Horizon
    wishes: tuple[int, ...] = ()
    forced: int = 0

    def encode(self) -> str:
        """The cursor as clients hold it: opaque."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises ValueError for anything that `encode` did not make."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            cursor = msgspec.msgpack.decode(raw, type=cls)
            # Anybody can send one: what no database counts to must not reach a statement, and a
            # second spelling of a cursor is not one.
            if not cursor.horizon.is_sound() or cursor.encode() != text:
                raise ValueError("not a cursor")
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError("not a cursor") from error
        return cursor


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


# ------------------------------------------------------------------------------- what is asked for


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


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Runs made together, and how far they are."""

    id: str
    project: str
    created_at: datetime
    sealed_at: datetime | None
    counts: dict[RunStatus, int]
    last_finished_at: datetime | None

    @property
    def size(self) -> int:
        return sum(self.counts.values())

    def final(self, finals: Iterable[RunStatus]) -> int:
        """How many of its runs are over."""
        return sum(self.counts.get(status, 0) for status in finals)


# ------------------------------------------------------------------------------- pages of reads


class SnapshotPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the runs of a selection, and what the statement that read them could see."""

    runs: Sequence[Run]
    horizon: Horizon
    epoch: str
    next: ListKey | None
    """Give it as `after` for the next page; None: this was the last."""
    found: bool = True
    """For a selection by one run or batch or job run: whether that exists."""
    batch: Batch | None = None
    """For a selection by batch: the batch as the same statement saw it."""


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some groups of the log that a horizon had not seen, whole runs at a time."""

    groups: Sequence[Group]
    horizon: Horizon
    epoch: str
    next: str | None
    """Give it as `after` for the next page; None: this was the last."""
    batches: Mapping[str, Batch] = {}
    """The batches that were asked for, as the same statement saw them."""
    found: bool = True
    """For a selection by one run, batch or job run: whether that exists."""
