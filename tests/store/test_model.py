"""The nouns: ids, horizons, cursors, groups, selections and the run as the wire has it."""

from __future__ import annotations

import base64
import re
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store.model import (
    ALWAYS_SENT,
    WIRE_FIELDS,
    Batch,
    Change,
    ChangeKind,
    Cursor,
    Facet,
    Filter,
    Group,
    Horizon,
    IdMaker,
    Match,
    Run,
    RunStatus,
    Selection,
    encodable,
    new_id,
    rfc3339,
    wire_run,
)
from tests.builders import AT, a_change, a_group, a_run, json_objects, seconds

QUEUED, EXECUTING, COMPLETED = RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED


# --------------------------------------------------------------------------------------------- ids


def test_an_id_is_its_prefix_and_26_characters_that_are_safe_everywhere() -> None:
    assert re.fullmatch(r"batch_[0-9a-hjkmnp-tv-z]{26}", new_id("batch"))


def test_ids_sort_as_they_were_made_also_within_one_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pages of runs go by id: two that changed places would be skipped or shown twice."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_750_000_000_000_000_000)
    make = IdMaker()
    ids = [make("run") for _ in range(70_000)]  # more than one millisecond's counter holds
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_ids_sort_as_they_were_made_when_the_clock_steps_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([2_000_000_000, 1_000_000_000, 1_500_000_000, 3_000_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 1_000)
    make = IdMaker()
    ids = [make("run") for _ in range(4)]
    assert ids == sorted(ids)


def test_ids_of_several_threads_are_unique_and_each_later_one_sorts_later() -> None:
    make = IdMaker()
    before = make("run")
    made: list[list[str]] = [[] for _ in range(4)]
    start = threading.Barrier(len(made))

    def many(mine: list[str]) -> None:
        start.wait()
        mine.extend(make("run") for _ in range(3_000))

    threads = [threading.Thread(target=many, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = make("run")

    everyone = [id for mine in made for id in mine]
    assert all(mine == sorted(mine) for mine in made)
    assert len(set(everyone)) == len(everyone)
    assert before < min(everyone)
    assert max(everyone) < after


def test_an_id_says_when_it_was_made() -> None:
    earlier, made = IdMaker()("run"), time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == made:
        pass  # ids of two makers are in order from one millisecond to the next
    assert earlier < IdMaker()("run")


# -------------------------------------------------------------------------------- the run on the wire


def test_the_wire_has_the_documented_fields_in_their_order() -> None:
    assert list(WIRE_FIELDS.values()) == [
        "id", "version", "number", "taskIdentifier", "status", "payload", "output", "error",
        "metadata", "tags", "batchId", "parentRunId", "rootRunId", "depth", "attempt",
        "idempotencyKey", "createdAt", "updatedAt", "queuedAt", "startedAt", "finishedAt",
        "delayedUntil", "expiredAt", "ttl", "maxDuration", "heartbeatTimeout", "workflowId",
        "position", "durationMs", "costInCents", "baseCostInCents", "isTest",
    ]  # fmt: skip
    assert set(WIRE_FIELDS.values()) >= ALWAYS_SENT


def test_what_is_the_stores_own_does_not_leave_it() -> None:
    run = a_run(last_xid=123_456_789, executing_since=AT)
    sent = msgspec.json.encode(wire_run(run)).decode()
    assert run.project not in sent
    assert "123456789" not in sent
    assert wire_run(run).keys() == set(WIRE_FIELDS.values())


def test_a_skipped_field_is_left_out_and_no_other() -> None:
    whole = wire_run(a_run())
    assert wire_run(a_run(), frozenset({"payload", "tags"})).keys() == whole.keys() - {
        "payload",
        "tags",
    }


@pytest.mark.parametrize(
    "at,text",
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05.000000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 7, tzinfo=UTC), "2026-01-02T03:04:05.000007Z"),
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            "2026-01-01T21:34:05.000000Z",
        ),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_utc_with_six_digits(at: datetime, text: str) -> None:
    """All of one length, so that they sort as text."""
    assert rfc3339(at) == text
    assert datetime.fromisoformat(text) == at


@pytest.mark.parametrize(
    "at",
    [
        AT.replace(microsecond=0),
        AT.replace(microsecond=7),
        AT.replace(microsecond=120_000),
        AT.replace(microsecond=7).astimezone(timezone(timedelta(hours=5, minutes=30))),
    ],
)
@pytest.mark.parametrize("status", RunStatus)
def test_a_run_is_encoded_fast_as_it_is_encoded_slowly(status: RunStatus, at: datetime) -> None:
    """Answers are encoded one way, streams another: a client compares them as text."""
    run = a_run(status=status, updated_at=at, metadata={"a": [1, 2.5, None]}, tags=("b", "c"))
    assert msgspec.json.encode(encodable(run)) == msgspec.json.encode(wire_run(run))


# ---------------------------------------------------------------------------------------- horizons


@given(st.lists(st.sampled_from(["begin", "commit"]), max_size=40), st.randoms())
def test_a_horizon_has_seen_just_what_was_committed(steps: list[str], random: Any) -> None:
    """Transactions begin in the order of their ids and commit in any."""
    following, opened, committed = 1, list[int](), set[int]()
    for step in steps:
        if step == "begin":
            opened.append(following)
            following += 1
        elif opened:
            committed.add(opened.pop(random.randrange(len(opened))))
    horizon = Horizon(min(opened, default=following), following, tuple(opened))
    assert horizon.is_sound()
    for xid in range(following + 3):
        assert horizon.seen(xid) == (xid in committed or xid == 0), xid


def test_a_run_without_a_version_before_has_a_previous_xid_that_every_horizon_has_seen() -> None:
    assert Horizon(1, 1).seen(0)


@pytest.mark.parametrize(
    "horizon",
    [
        Horizon(-1, 5),
        Horizon(5, 4),
        Horizon(0, 2**63),
        Horizon(3, 6, (2,)),
        Horizon(3, 6, (6,)),
        Horizon(3, 6, (), 2**63),
    ],
)
def test_a_horizon_that_no_database_makes_is_not_sound(horizon: Horizon) -> None:
    assert not horizon.is_sound()


# ----------------------------------------------------------------------------------------- cursors

places = st.integers(0, 2**63 - 1)


@st.composite
def cursors(draw: st.DrawFn) -> Cursor:
    xmin, xmax = sorted((draw(places), draw(places)))
    xip = draw(st.lists(st.integers(xmin, xmax - 1), max_size=3)) if xmin < xmax else []
    witness = draw(st.integers(-(2**63), 2**63 - 1))
    return Cursor(
        draw(st.text(max_size=20)),
        Horizon(xmin, xmax, tuple(xip), witness),
        tuple(draw(st.lists(places, max_size=3))),
        draw(places),
    )


@given(cursors())
def test_a_cursor_comes_back_as_it_was_and_fits_into_a_header_and_a_query(cursor: Cursor) -> None:
    text = cursor.encode()
    assert Cursor.decode(text) == cursor
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)


def packed(value: object) -> str:
    raw = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "AAAA",
        "not a cursor",
        "é",
        "\ud800",
        "1.0",
        packed("epoch"),
        packed(["epoch"]),
        packed(["epoch", [1, 2, [], 0], [], 0, "more"]),
        packed(["epoch", [1, "2", [], 0], [], 0]),
        packed(["epoch", [-5, 2**64 - 1, [], 0], [], 0]),
        packed(["epoch", [1, 5, [9], 0], [], 0]),
        packed(["epoch", [1, 2, [], 0]]),
        packed(["epoch", [1, 2, [], 0], [], 0]) + "==",
        packed(b"\x94\xa1e\x94\x01\x02\x90\x00\xdd\xff\xff\xff\xff\x00"),
        packed(b"\x95\xa1e\x94\x01\x02\x90\x00\x90\x00" + b"\x91" * 50_000 + b"\x00"),
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """Anybody can send one. One error for all of it, and nothing that a statement would trip on."""
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.decode(text)


@given(st.one_of(st.text(), st.binary(max_size=40).map(packed), cursors().map(Cursor.encode)))
@example(packed(b"\x94\xa1e\x94\x01\x02\x90\x00\x90\x00")[:-1] + "B")
def test_a_text_is_a_cursors_only_spelling_or_none(text: str) -> None:
    try:
        cursor = Cursor.decode(text)
    except ValueError:
        return
    assert cursor.encode() == text


# ------------------------------------------------------------------------------------------ groups


def test_a_groups_facets_are_the_state_before_each_change_and_the_one_after_all() -> None:
    run = a_run(status=COMPLETED, version=3, tags=("b",))
    befores = [None, Facet(QUEUED, ("a",)), Facet(EXECUTING, ("a", "b"))]
    assert a_group(run, befores=befores).facets() == [*befores, Facet(COMPLETED, ("b",))]


def test_a_deleted_run_is_nowhere_afterwards() -> None:
    """So a group that ends in a deletion leaves every stream it was in."""
    run = a_run(status=COMPLETED)
    before = Facet(COMPLETED, run.tags)
    gone = Group((a_change(run, kind=ChangeKind.DELETED, before=before),), run)
    assert gone.deleted
    assert gone.facets() == [before, None]


def test_a_seal_is_no_state_of_a_run() -> None:
    seal = a_change(run_id="batch_1", version=1, kind=ChangeKind.SEALED, before=None, changed={})
    assert Group((seal,), None).facets() == [None, None]


@given(st.integers(1, 6), st.integers(0, 3), st.integers(-1, 12))
def test_a_group_without_the_versions_up_to_one_has_just_the_later_ones(
    size: int, skipped: int, version: int
) -> None:
    run = a_run(version=size + skipped)
    group = a_group(run, befores=[Facet(QUEUED, ())] * size)
    rest = group.after(version)
    kept = [change for change in group.changes if change.version > version]
    if not kept:
        assert rest is None
    else:
        assert rest == Group(tuple(kept), run)
        assert (rest.first, rest.last) == (kept[0], kept[-1])


@given(json_objects())
def test_a_group_survives_the_encoding_of_hints(changed: dict[str, Any]) -> None:
    """What JSON values the store takes is bounded by it."""
    change = a_change(a_run(version=4), changed=changed)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(change), type=Change) == change


# -------------------------------------------------------------------------------------- selections


def select(**over: Any) -> Selection:
    return Selection(project="default", **over)


@pytest.mark.parametrize(
    "selection,covered",
    [
        (select(), True),
        (Selection(project="other"), False),
        (select(run_id="run_1"), True),
        (select(run_id="run_2"), False),
        (select(batch_id="batch_1"), True),
        (select(batch_id="batch_2"), False),
        (select(job_run_id="run_1"), True),
        (select(job_run_id="run_0"), True),
        (select(job_run_id="run_9"), False),
        (select(filter=Filter(tasks=frozenset({"send-invoice", "refund"}))), True),
        (select(filter=Filter(tasks=frozenset({"refund"}))), False),
        (select(filter=Filter(tasks=frozenset())), False),
        (select(filter=Filter(is_test=False)), True),
        (select(filter=Filter(is_test=True)), False),
        (select(filter=Filter(created_after=AT - seconds(1))), True),
        (select(filter=Filter(created_after=AT)), False),
    ],
)
def test_a_selection_covers_by_what_never_changes(selection: Selection, covered: bool) -> None:
    run = a_run(id="run_1", batch_id="batch_1", parent_run_id="run_0")
    assert selection.covers(run) is covered


@given(
    st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    st.sampled_from(Match),
    st.none() | st.frozensets(st.sampled_from([QUEUED, EXECUTING])),
    st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    st.sampled_from([QUEUED, EXECUTING]),
)
def test_a_selection_admits_by_status_and_by_all_or_any_of_its_tags(
    tags: tuple[str, ...],
    match: Match,
    statuses: frozenset[RunStatus] | None,
    have: tuple[str, ...],
    status: RunStatus,
) -> None:
    if match is Match.ALL:
        tagged = set(tags) <= set(have)
    else:
        tagged = not tags or bool(set(tags) & set(have))
    selection = select(tags=tags, match=match, filter=Filter(statuses=statuses))
    assert selection.admits(Facet(status, have)) is (
        tagged and (statuses is None or status in statuses)
    )


def test_no_selection_admits_a_run_that_is_not_there() -> None:
    assert not select().admits(None)


def test_a_batch_counts_all_its_runs_and_the_final_ones() -> None:
    batch = Batch(
        id="batch_1",
        project="default",
        created_at=AT,
        sealed_at=None,
        counts={QUEUED: 2, COMPLETED: 3, RunStatus.FAILED: 1},
        last_finished_at=None,
    )
    assert batch.size == 6
    assert batch.final([COMPLETED, RunStatus.FAILED, RunStatus.CANCELED]) == 4


def test_runs_do_not_share_their_default_metadata() -> None:
    one, other = (
        Run(
            id="run_1",
            project="p",
            version=1,
            number=1,
            task_identifier="t",
            status=QUEUED,
            created_at=AT,
            updated_at=AT,
        )
        for _ in range(2)
    )
    assert one.metadata == {}
    assert one.metadata is not other.metadata
