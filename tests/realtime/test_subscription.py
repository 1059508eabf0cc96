"""The group rule, and what a subscription remembers of its joining."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from realtime.errors import BadCursor
from realtime.protocol import EndReason, Kind
from realtime.subscription import (
    BUFFER_CHANGES,
    Subscription,
    Wish,
    judge,
    read_cursor,
)
from store.lifecycle import FINAL
from store.model import (
    ChangeKind,
    Cursor,
    Facet,
    Filter,
    Group,
    Horizon,
    RunStatus,
    Selection,
)
from tests.builders import a_group, a_run
from tests.doubles import FakeGrant

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED
EVERYTHING = FakeGrant()


def wish(
    *,
    grant: FakeGrant = EVERYTHING,
    stop: bool = True,
    skip: tuple[str, ...] = (),
    **target: object,
) -> Wish:
    selection = Selection(project="default", **target)  # type: ignore[arg-type]
    return Wish(selection, grant, skip=frozenset(skip), stop=stop)


def history(*facets: Facet | None, deleted: bool = False, id: str = "r1") -> Group:
    """A group that leads through these states; the first is the one before."""
    *befores, last = facets
    known = last or befores[-1]
    assert known is not None
    version = len(befores) + (0 if befores[0] is None else 1)
    run = a_run(id=id, status=known.status, tags=known.tags, version=version, last_xid=100)
    group = a_group(run, befores=befores)
    if deleted:
        ended = replace(group.last, kind=ChangeKind.DELETED)
        group = Group((*group.changes[:-1], ended), run)
    return group


def has(*tags: str, status: RunStatus = QUEUED) -> Facet:
    return Facet(status, tags)


TAGGED = wish(tags=("a",))


@pytest.mark.parametrize(
    "facets, kind",
    [
        ([has("a"), has("a")], Kind.CHANGE),
        ([has("a"), has("a"), has("a")], Kind.CHANGE),
        ([None, has("a")], Kind.ENTER),
        ([has(), has("a")], Kind.ENTER),
        ([has(), has("a"), has("a")], Kind.ENTER),
        ([has("a"), has(), has("a")], Kind.ENTER),
        ([has("a"), has()], Kind.LEAVE),
        ([has(), has("a"), has()], Kind.LEAVE),
        ([None, has("a"), has()], Kind.LEAVE),
        ([has(), has()], None),
        ([None, has("b")], None),
    ],
)
def test_a_group_is_shown_by_where_it_begins_passes_and_ends(
    facets: list[Facet | None], kind: Kind | None
) -> None:
    """A state that the stream does not cover is never shown; a leave is said once too often."""
    assert judge(TAGGED, history(*facets)).kind == kind


FACETS = st.builds(
    Facet, st.sampled_from([QUEUED, EXECUTING]), st.sampled_from([(), ("a",), ("b",), ("a", "b")])
)


@given(st.lists(FACETS, min_size=2, max_size=5), st.booleans())
def test_whoever_obeys_has_the_run_exactly_if_it_matches(facets: list[Facet], has_it: bool) -> None:
    """The promise behind the rule, for every way that a run can take."""
    asked = wish(tags=("a",), filter=Filter(statuses=frozenset({QUEUED})))
    group = history(*facets)
    verdict = judge(asked, group)
    fits = [asked.admits(group.run, facet) for facet in facets]  # type: ignore[arg-type]
    holds = fits[0]  # a client has it before exactly if it matched
    if verdict.kind is Kind.ENTER:
        holds = True
    elif verdict.kind is Kind.LEAVE:
        holds = False
    elif verdict.kind is Kind.CHANGE:
        assert all(fits)
    assert holds == fits[-1]


def test_a_deleted_run_leaves() -> None:
    verdict = judge(TAGGED, history(has("a", status=COMPLETED), None, deleted=True))
    assert (verdict.kind, verdict.status, verdict.end) == (Kind.LEAVE, COMPLETED, None)


def test_the_stream_of_a_run_ends_with_its_first_final_version() -> None:
    """What comes after it, such as tags, is not of the stream, however they are read together."""
    group = history(has(), has(status=COMPLETED), has("late", status=COMPLETED))
    verdict = judge(wish(run_id="r1"), group)
    assert (verdict.kind, verdict.end) == (Kind.CHANGE, EndReason.COMPLETED)
    assert len(verdict.changes) == 1
    stays = judge(wish(run_id="r1", stop=False), group)
    assert (stays.kind, stays.end, len(stays.changes)) == (Kind.CHANGE, None, 2)


def test_what_comes_after_the_first_final_version_is_not_the_streams() -> None:
    """A cursor that came with `live` may lie past the end that was never told."""
    group = history(has(status=COMPLETED), has("late", status=COMPLETED))
    verdict = judge(wish(run_id="r1"), group)
    assert (verdict.kind, verdict.end) == (None, EndReason.COMPLETED)
    assert judge(wish(run_id="r1", stop=False), group).kind is Kind.CHANGE


def test_the_final_change_is_shown_also_if_the_run_was_deleted_with_it() -> None:
    """`end: completed` comes after the final change, never instead of it."""
    group = history(has(), has(status=COMPLETED), None, deleted=True)
    verdict = judge(wish(run_id="r1"), group)
    assert (verdict.kind, verdict.end) == (Kind.CHANGE, EndReason.COMPLETED)
    assert len(verdict.changes) == 1


def test_the_stream_of_a_deleted_run_ends() -> None:
    group = history(has(status=COMPLETED), None, deleted=True)
    for stop in (True, False):
        verdict = judge(wish(run_id="r1", stop=stop), group)
        assert (verdict.kind, verdict.end) == (Kind.LEAVE, EndReason.DELETED)


def test_a_grant_that_is_gone_ends_the_stream_of_a_run_and_tells_nothing_new() -> None:
    """The run was taken out of what the token covers: its new status is not for it to know."""
    limited = FakeGrant(tags=frozenset({"a"}))
    group = history(has("a"), has("b", status=EXECUTING))
    verdict = judge(wish(run_id="r1", grant=limited), group)
    assert (verdict.kind, verdict.status, verdict.end) == (
        Kind.LEAVE,
        QUEUED,
        EndReason.FORBIDDEN,
    )


def test_a_leave_by_the_filter_alone_says_how_the_run_stands() -> None:
    asked = wish(filter=Filter(statuses=frozenset({QUEUED})))
    verdict = judge(asked, history(has(), has(status=EXECUTING)))
    assert (verdict.kind, verdict.status) == (Kind.LEAVE, EXECUTING)


def test_a_job_run_is_only_marked_as_over() -> None:
    """Its children's last changes may still be on their way."""
    group = history(has(), has(status=COMPLETED))
    assert judge(wish(job_run_id="r1"), group).over is EndReason.COMPLETED
    assert judge(wish(job_run_id="r1"), group).end is None
    assert judge(wish(job_run_id="r1", stop=False), group).over is None
    gone = history(has(status=COMPLETED), None, deleted=True)
    assert judge(wish(job_run_id="r1", stop=False), gone).over is EndReason.DELETED


def test_every_final_status_ends_a_run() -> None:
    for status in RunStatus:
        verdict = judge(wish(run_id="r1"), history(has(), has(status=status)))
        assert (verdict.end is EndReason.COMPLETED) is (status in FINAL)


# ------------------------------------------------------------------------------------- joining


def a_subscription() -> Subscription[None]:
    return Subscription(1, TAGGED, None)


def test_what_the_join_has_seen_is_not_shown_again() -> None:
    """Its versions are closed downwards: what is left of a group is the end of it."""
    subscription = a_subscription()
    subscription.join_horizon = Horizon(99, 99)
    group = history(has("a"), has("a"), has("a"), has("a"))  # transactions 98, 99, 100
    left = subscription.trim(group)
    assert left is not None
    assert [change.xid for change in left.changes] == [99, 100]
    subscription.join_horizon = Horizon(101, 101)
    assert subscription.trim(group) is None
    subscription.settle()
    assert subscription.trim(group) is group


def test_of_a_run_that_can_not_be_shown_only_the_deletion_is() -> None:
    """It was deleted before it could enter; what came between is of no use to anybody."""
    subscription = a_subscription()
    subscription.lose("r1")
    assert subscription.trim(history(has("a"), has("a"), has("a"))) is None
    deleted = history(has("a"), has("a"), has("a"), deleted=True)
    left = subscription.trim(deleted)
    assert left is not None
    assert left.changes == (deleted.last,)
    subscription.settle()
    assert subscription.trim(deleted) is deleted


def test_what_a_later_page_has_shown_is_not_shown_again() -> None:
    """Pages after the first see more than the horizon that stands for all of them."""
    subscription = a_subscription()
    subscription.join_horizon = Horizon(10, 10)
    group = history(has("a"), has("a"), has("a"))
    subscription.shown["r1"] = group.first.version
    left = subscription.trim(group)
    assert left is not None
    assert [change.version for change in left.changes] == [group.last.version]


def test_the_buffer_of_a_join_is_bounded() -> None:
    """Whoever joins slowly in a storm must not hold all of it in memory."""
    subscription = a_subscription()
    group = history(has("a"), has("a"))
    for _ in range(BUFFER_CHANGES + 10):
        subscription.hold(group)
    assert subscription.overflowed
    assert not subscription.buffer
    subscription.clear_buffer()
    subscription.hold(group)
    assert subscription.take_buffer() == [group]


# ------------------------------------------------------------------------------------- cursors


def test_a_cursor_holds_for_its_own_wish_only() -> None:
    """With another filter, what was never shown would count as seen."""
    mine = wish(tags=("a",), skip=("payload",))
    cursor = Cursor("e", Horizon(1, 2, (1,)), (5, mine.hash)).encode()
    assert read_cursor(cursor, mine).horizon == Horizon(1, 2, (1,))
    others = [
        wish(tags=("a",)),
        wish(tags=("b",), skip=("payload",)),
        wish(tags=("a",), skip=("payload",), filter=Filter(is_test=True)),
        wish(skip=("payload",)),
        wish(run_id="a", skip=("payload",)),
        Wish(Selection(project="other", tags=("a",)), EVERYTHING, skip=mine.skip, stop=True),
    ]
    for other in others:
        with pytest.raises(BadCursor):
            read_cursor(cursor, other)


def test_a_cursor_holds_whether_or_not_the_stream_is_to_stop() -> None:
    assert wish(run_id="r1").hash == wish(run_id="r1", stop=False).hash


@pytest.mark.parametrize(
    "horizon",
    [
        Horizon(-1, 5),
        Horizon(6, 5),
        Horizon(1, 5, (7,)),
        Horizon(3, 5, (1,)),
        Horizon(1, 2**63),
        Horizon(1, 5, witness=2**63),
    ],
)
def test_a_cursor_that_nobody_made_is_malformed(horizon: Horizon) -> None:
    """It would go into SQL, where such numbers have no room."""
    with pytest.raises(BadCursor):
        read_cursor(Cursor("e", horizon, (TAGGED.hash,)).encode(), TAGGED)


@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.hex()), st.from_regex(r"[\w-]{0,40}")))
def test_no_text_breaks_the_reading_of_cursors(text: str) -> None:
    with pytest.raises(BadCursor):
        read_cursor(text, TAGGED)
