"""What one subscriber was shown, and what a group means to it."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from datetime import datetime
from enum import Enum
from functools import cached_property
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from realtime.errors import BadCursor
from realtime.protocol import Delivery, EndReason, Kind
from store.lifecycle import FINAL
from store.model import (
    Change,
    ChangeKind,
    Cursor,
    Facet,
    Group,
    Horizon,
    Run,
    RunStatus,
    Selection,
    rfc3339,
)

BUFFER_CHANGES: Final = 10_000
"""How many changes wait for a subscription that joins; more are thrown away, and read from the
log when it comes to them."""

_LOST: Final = 2**63
"""In the place of the version that was shown of a run that can't be shown any more."""

OutboxT = TypeVar("OutboxT")


class Grant(Protocol):
    """What a token allows."""

    @property
    def project(self) -> str: ...

    @property
    def expires_at(self) -> datetime | None: ...

    @property
    def skip(self) -> frozenset[str]:
        """Fields that are never shown to it, in the wire's names."""
        ...

    @property
    def token_id(self) -> str | None: ...

    @property
    def sight(self) -> Hashable:
        """Equal for grants that let the same be seen; when they end does not count."""
        ...

    def covers(self, run: Run, facet: Facet) -> bool:
        """Whether the run, with that status and those tags, may be read."""
        ...

    def allows(self, selection: Selection) -> bool:
        """Whether so much may be asked for at all; `covers` then decides run by run."""
        ...


# ------------------------------------------------------------------------------------- the wish


class Wish:
    """What is asked for and allowed: all that decides what a group means.

    Wishes are compared by identity, which makes a verdict once found cheap to find again; equal
    ones have the same `key`.
    """

    def __init__(
        self, selection: Selection, grant: Grant, *, skip: frozenset[str], stop: bool
    ) -> None:
        self.selection = selection
        self.grant = grant
        self.skip = skip
        self.stop = stop
        self.hidden = skip | grant.skip
        """The fields that are not sent: those not wanted, and those not allowed."""

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What makes two wishes the same."""
        return self.selection, self.skip, self.stop, self.grant.sight

    def admits(self, run: Run, facet: Facet | None) -> bool:
        """Whether the run belongs to it with that status and those tags."""
        return facet is not None and self.selection.admits(facet) and self.grant.covers(run, facet)

    def has(self, run: Run) -> bool:
        """Whether the run as it stands belongs to it."""
        return self.selection.covers(run) and self.admits(run, Facet(run.status, run.tags))

    @property
    def is_about_one(self) -> bool:
        """Whether it is about one run."""
        return self.selection.run_id is not None

    @cached_property
    def hash(self) -> int:
        """Names project, target, filters and skipped fields in a cursor."""
        return self._hash("")

    @cached_property
    def hash_going_on(self) -> int:
        """The same, in a cursor whose horizon is known to lie before the stream's end.

        A resume with it needs not ask the database whether the run is over.
        """
        return self._hash("going on")

    def _hash(self, what: str) -> int:
        selection, asked = self.selection, self.selection.filter
        said = (
            what,
            selection.project,
            selection.run_id,
            sorted(selection.tags),
            selection.match,
            selection.batch_id,
            selection.job_run_id,
            None if asked.tasks is None else sorted(asked.tasks),
            None if asked.statuses is None else sorted(asked.statuses),
            None if asked.created_after is None else rfc3339(asked.created_after),
            asked.is_test,
            sorted(self.skip),
        )
        return zlib.crc32(msgspec.msgpack.encode(said))

    @cached_property
    def forced(self) -> int:
        """Names the fields that the token forces out in a cursor; 0 for none."""
        return zlib.crc32(",".join(sorted(self.grant.skip)).encode()) if self.grant.skip else 0


def read_cursor(text: str, wish: Wish) -> Cursor:
    """The cursor that a client handed in; raises BadCursor if it is none or another wish's."""
    try:
        cursor = Cursor.decode(text)
    except (ValueError, OverflowError, RecursionError):
        raise BadCursor("the cursor is malformed") from None
    if wish.hash not in cursor.wishes and wish.hash_going_on not in cursor.wishes:
        raise BadCursor("the cursor is of another subscription: other target, filters or skip")
    return cursor


# --------------------------------------------------------------------------------- the group rule


class Verdict(NamedTuple):
    """What a group means to a wish."""

    kind: Kind | None
    """How it is shown; None: not at all."""
    changes: Sequence[Change] = ()
    """The changes that it is about: each is sent, if `kind` is CHANGE."""
    status: RunStatus | None = None
    """For a leave, the last status that may be known."""
    end: EndReason | None = None
    """The stream is over after it."""
    over: EndReason | None = None
    """The stream will be over once the tail has passed: a job run's own row is."""
    lost: bool = False
    """It would enter, but was deleted meanwhile, and can't be shown whole any more."""
    unsure: bool = False
    """The token of now covers none of these states of the one run. It may cover the run as it
    stands, if it is a newer one; the store knows."""

    @property
    def is_for_each(self) -> bool:
        """Whether more comes of it than what is said, for each who is told."""
        return bool(self.end or self.over or self.lost or self.unsure)


NOTHING: Final = Verdict(None)


def judge(wish: Wish, group: Group) -> Verdict:
    """The one rule by which groups are shown, wherever they come from.

    If the state before and every state after matches, each change is sent; else, if the last
    state matches, one `enter` with it; else, if any of them matched, one `leave`; else nothing.
    """
    run = group.run
    if run is None or not wish.selection.covers(run):
        return NOTHING
    changes = group.changes
    facets = group.facets()
    fits = [wish.admits(run, facet) for facet in facets]
    finals = [i for i, facet in enumerate(facets) if i and facet and facet.status in FINAL]
    if wish.is_about_one:
        return _judge_one(wish, group, facets, fits, finals)
    over: EndReason | None = None
    if run.id == wish.selection.job_run_id:
        if group.deleted:
            over = EndReason.DELETED
        elif finals and wish.stop:
            over = EndReason.COMPLETED
    if all(fits):
        return Verdict(Kind.CHANGE, changes, over=over)
    if fits[-1]:
        return Verdict(Kind.ENTER, changes, over=over)
    if any(fits):
        return Verdict(Kind.LEAVE, changes, _known(wish, run, facets, fits), over=over)
    return Verdict(None, over=over)


def _judge_one(
    wish: Wish,
    group: Group,
    facets: list[Facet | None],
    fits: list[bool],
    finals: list[int],
) -> Verdict:
    """The same for the stream of one run, which may end with it."""
    assert group.run is not None
    changes = group.changes
    completed = EndReason.COMPLETED if finals and wish.stop else None
    before = facets[0]
    was_over = wish.stop and before is not None and before.status in FINAL and fits[0]
    if was_over and not group.deleted:
        # A resume from a cursor that has seen the end: nothing of this is the stream's any more.
        return Verdict(None, end=EndReason.COMPLETED)
    if completed and not was_over and all(fits[: finals[0] + 1]):
        # The stream is over with the first final version; what came after is not its.
        return Verdict(Kind.CHANGE, changes[: finals[0]], end=completed)
    if all(fits):
        return Verdict(Kind.CHANGE, changes)
    if fits[-1]:
        return Verdict(Kind.ENTER, changes, end=completed)
    # It has no filter: what does not fit is gone, or no longer this token's to see.
    if any(fits):
        end = EndReason.DELETED if group.deleted else EndReason.FORBIDDEN
        return Verdict(Kind.LEAVE, changes, _known(wish, group.run, facets, fits), end=end)
    return Verdict(None, end=EndReason.DELETED) if group.deleted else Verdict(None, unsure=True)


def _known(wish: Wish, run: Run, facets: list[Facet | None], fits: list[bool]) -> RunStatus | None:
    last = facets[-1]
    if last is not None and wish.grant.covers(run, last):
        return last.status
    # What the token does not cover is not told, not even by the message that says so.
    seen = [facet for facet, fit in zip(facets, fits, strict=True) if fit]
    return seen[-1].status if seen and seen[-1] is not None else None


# ---------------------------------------------------------------------------- the subscription


class Phase(Enum):
    """Where a subscription stands."""

    JOINING = "joining"
    LIVE = "live"
    ENDED = "ended"


class Company(Protocol):
    """Subscriptions that are told the same, together."""

    def part(self, subscription: Any, /) -> None:
        """This one is told for itself from now on."""


class Subscription(Generic[OutboxT]):
    """One wish inside a session: what it was shown, as long as that must be remembered.

    While it joins, groups are held back. Once live it remembers the horizon it joined with, and
    the versions that pages read later have shown, until `settle`; after that nothing.
    """

    __slots__ = (
        "batch_shown",
        "buffer",
        "buffered",
        "company",
        "cursor",
        "cursor_text",
        "delivery",
        "id",
        "is_ending",
        "join_horizon",
        "limit",
        "live_at",
        "mailbox",
        "over",
        "overflowed",
        "phase",
        "shown",
        "snapshot",
        "was_live",
        "wish",
    )

    def __init__(
        self,
        id: int,
        wish: Wish,
        mailbox: OutboxT,
        *,
        delivery: Delivery = Delivery.EVERY,
        cursor: Cursor | None = None,
        cursor_text: str = "",
        snapshot: bool = True,
        limit: int = 1_000,
    ) -> None:
        self.id = id
        self.wish = wish
        self.mailbox = mailbox
        self.delivery = delivery
        self.cursor = cursor
        self.cursor_text = cursor_text
        self.snapshot = snapshot
        self.limit = limit
        self.phase = Phase.JOINING
        self.was_live = False
        """Whether `live` was ever said: before that, most ends must wait for it."""
        self.live_at = 0
        """The number of its last `live` among all that was put into the mailbox."""
        self.join_horizon: Horizon | None = None
        self.shown: dict[str, int] = {}
        self.buffer: list[Group] = []
        self.buffered = 0
        self.overflowed = False
        self.over: EndReason | None = None
        self.is_ending = False
        """Whether `end` follows its `live` at once."""
        self.batch_shown: bytes | None = None
        self.company: Company | None = None
        """Those with whom it is told all together."""

    def stand_alone(self) -> None:
        """From now on it may be told something else than others that were told the same."""
        if self.company is not None:
            self.company.part(self)

    @property
    def is_live(self) -> bool:
        return self.phase is Phase.LIVE

    @property
    def is_settled(self) -> bool:
        """Whether nothing is remembered of its joining."""
        return self.join_horizon is None and not self.shown

    @property
    def cursor_hash(self) -> int:
        """How it is named in a cursor made now."""
        wish = self.wish
        # The cursor of an ending may have seen the end: whoever loses the connection before it
        # is told would else wait for it for ever.
        going_on = wish.stop and self.over is None and not self.is_ending and (
            wish.is_about_one or wish.selection.job_run_id is not None
        )  # fmt: skip
        return wish.hash_going_on if going_on else wish.hash

    def hold(self, group: Group) -> None:
        """Keeps a group back until history has been shown."""
        if self.overflowed:
            return
        self.buffered += len(group.changes)
        if self.buffered > BUFFER_CHANGES:
            self.buffer = []
            self.overflowed = True
        else:
            self.buffer.append(group)

    def take_buffer(self) -> list[Group]:
        """What was held back, to be shown now."""
        held, self.buffer, self.buffered = self.buffer, [], 0
        return held

    def trim(self, group: Group) -> Group | None:
        """What of the group was not shown by its joining; None: all of it was."""
        changes = group.changes
        if self.join_horizon is not None:
            seen = self.join_horizon.seen
            if seen(changes[-1].xid) or seen(changes[0].xid):
                # Versions that are seen are so without a gap: what is left is the end of it.
                changes = tuple(change for change in changes if not seen(change.xid))
        if self.shown:
            version = self.shown.get(group.first.run_id, 0)
            if changes and changes[0].version <= version:
                changes = tuple(
                    change
                    for change in changes
                    if change.version > version
                    or (version == _LOST and change.kind is ChangeKind.DELETED)
                )
        if not changes:
            return None
        return group if len(changes) == len(group.changes) else Group(changes, group.run)

    def lose(self, run_id: str) -> None:
        """The run can't be shown: until `settle`, of all that comes only its deletion is."""
        self.stand_alone()
        self.shown[run_id] = _LOST

    def restart(self) -> None:
        """Joins again, from a snapshot."""
        self.stand_alone()
        self.phase = Phase.JOINING
        self.cursor = None
        self.cursor_text = ""
        self.snapshot = True
        self.join_horizon = None
        self.shown = {}
        self.over = None
        self.is_ending = False
        self.batch_shown = None
        self.clear_buffer()

    def clear_buffer(self) -> None:
        """Throws away what is held back: it is read otherwise."""
        self.buffer = []
        self.buffered = 0
        self.overflowed = False

    def settle(self) -> None:
        """Forgets its joining: the hub's horizon has passed it."""
        self.join_horizon = None
        self.shown = {}
