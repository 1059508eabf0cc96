"""What clients may say, message by message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from realtime.protocol.words import (
    ID_MAX,
    NAME_CHARS_MAX,
    SKIPPABLE,
    SNAPSHOT_LIMIT,
    SNAPSHOT_LIMIT_MAX,
    TAG_CHARS_MAX,
    Delivery,
)
from store.model import (
    Filter,
    Match,
    RunStatus,
    Selection,
)

SubscriptionId: TypeAlias = Annotated[int, Meta(ge=0, le=ID_MAX)]
# Neither control characters nor, what the pattern's engine counts among the letters, NUL.
_Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_Names: TypeAlias = Annotated[list[_Id], Meta(min_length=1)]
_Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
_Limit: TypeAlias = Annotated[int, Meta(ge=1, le=SNAPSHOT_LIMIT_MAX)]


def check_text(field: str, text: str) -> None:
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in text):
        raise ValueError(f"{field}: control characters are not allowed")


def quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    pass


class Authenticate(_Message, frozen=True, kw_only=True, tag_field="type", tag="authenticate"):
    """The token, at first or instead of the one before."""

    token: Annotated[str, Meta(max_length=16_384)]


class Unsubscribe(_Message, frozen=True, kw_only=True, tag_field="type", tag="unsubscribe"):
    """End a subscription."""

    id: SubscriptionId


class Ping(_Message, frozen=True, kw_only=True, tag_field="type", tag="ping"):
    """Asks for a pong with the same data."""

    data: Any = UNSET


class Subscribe(_Message, frozen=True, kw_only=True):
    """What all subscriptions have in common: the options."""

    id: SubscriptionId
    cursor: Annotated[str, Meta(max_length=32_768)] | None = None
    delivery: Delivery = Delivery.EVERY
    skip: list[str] = []
    stop_on_completion: bool = True
    snapshot: bool = True

    def __post_init__(self) -> None:
        for name in self.skip:
            if name not in SKIPPABLE:
                raise ValueError(f"skip: {quoted(name)} is no field that can be skipped")

    @property
    def snapshot_limit(self) -> int:
        """How many runs its snapshot may hold."""
        return SNAPSHOT_LIMIT

    def selection(self, project: str) -> Selection:
        """Which runs are asked for."""
        raise NotImplementedError


class _Filtered(Subscribe, frozen=True, kw_only=True):
    limit: _Limit = SNAPSHOT_LIMIT
    tasks: _Names | None = None
    statuses: Annotated[list[RunStatus], Meta(min_length=1)] | None = None
    created_after: _Time | None = None
    is_test: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks or ():
            check_text("tasks", task)

    @property
    def snapshot_limit(self) -> int:
        return self.limit

    def filter(self) -> Filter:
        return Filter(
            tasks=None if self.tasks is None else frozenset(self.tasks),
            statuses=None if self.statuses is None else frozenset(self.statuses),
            created_after=self.created_after,
            is_test=self.is_test,
        )


class SubscribeToRun(Subscribe, frozen=True, kw_only=True, tag_field="type", tag="subscribeToRun"):
    """One run."""

    run_id: _Id

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("runId", self.run_id)

    def selection(self, project: str) -> Selection:
        return Selection(project=project, run_id=self.run_id)


class SubscribeToRunsWithTag(
    _Filtered, frozen=True, kw_only=True, tag_field="type", tag="subscribeToRunsWithTag"
):
    """The runs with one tag, with all of several, or with any of several."""

    tag: str | UnsetType = UNSET
    tags: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET
    match: Match = Match.ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tag is UNSET) == (self.tags is UNSET):
            raise ValueError("give either tag or tags")
        for tag in self.all_tags():
            if not 1 <= len(tag) <= TAG_CHARS_MAX:
                raise ValueError(f"tags: a tag has 1 to {TAG_CHARS_MAX} characters")
            check_text("tags", tag)

    def all_tags(self) -> Sequence[str]:
        """The tags, whichever way they were given."""
        return [self.tag] if isinstance(self.tag, str) else self.tags or []

    def selection(self, project: str) -> Selection:
        # Sorted and without repeats, so that one wish is one wish however it is written.
        tags = tuple(sorted(set(self.all_tags())))
        match = Match.ALL if len(tags) == 1 else self.match
        return Selection(project=project, tags=tags, match=match, filter=self.filter())


class SubscribeToBatch(
    _Filtered, frozen=True, kw_only=True, tag_field="type", tag="subscribeToBatch"
):
    """The runs of a batch, and its progress."""

    batch_id: _Id

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("batchId", self.batch_id)

    def selection(self, project: str) -> Selection:
        return Selection(project=project, batch_id=self.batch_id, filter=self.filter())


class SubscribeToJobRun(
    Subscribe, frozen=True, kw_only=True, tag_field="type", tag="subscribeToJobRun"
):
    """A job run and its workflow runs."""

    job_run_id: _Id
    limit: _Limit = SNAPSHOT_LIMIT

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("jobRunId", self.job_run_id)

    @property
    def snapshot_limit(self) -> int:
        return self.limit

    def selection(self, project: str) -> Selection:
        return Selection(project=project, job_run_id=self.job_run_id)


class SubscribeToRuns(
    _Filtered, frozen=True, kw_only=True, tag_field="type", tag="subscribeToRuns"
):
    """All runs of the project."""

    def selection(self, project: str) -> Selection:
        return Selection(project=project, filter=self.filter())


AnySubscribe: TypeAlias = (
    SubscribeToRun | SubscribeToRunsWithTag | SubscribeToBatch | SubscribeToJobRun | SubscribeToRuns
)
ClientMessage: TypeAlias = Authenticate | AnySubscribe | Unsubscribe | Ping

TYPES: Final[Mapping[str, type[ClientMessage]]] = {
    "authenticate": Authenticate,
    "subscribeToRun": SubscribeToRun,
    "subscribeToRunsWithTag": SubscribeToRunsWithTag,
    "subscribeToBatch": SubscribeToBatch,
    "subscribeToJobRun": SubscribeToJobRun,
    "subscribeToRuns": SubscribeToRuns,
    "unsubscribe": Unsubscribe,
    "ping": Ping,
}
