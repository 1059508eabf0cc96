"""Runs as lines of a terminal, and what a watcher remembers of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from clients.python.tests.builders import a_run
from clients.python.tests.test_text import HOSTILE, acts
from runstream.changes import BatchProgress, Changed, Entered, Left, Reset
from runstream.cli import board as boards
from runstream.cli.board import Board, fraction
from runstream.cli.history import History
from runstream.cli.pictures.batch import batch_lines
from runstream.cli.pictures.job_run import job_lines
from runstream.cli.pictures.parts import Frame, Lines, Standing, heading, measured
from runstream.cli.pictures.run import run_lines
from runstream.cli.pictures.table import Widths, table
from runstream.merging import whole
from runstream.models import AnyRun, Batch, RunStatus
from runstream.resources.models import HistoryEntry, Timeline, TimelineEntry, TimelineStep

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = AT + timedelta(seconds=90)


def frame(width: int = 100, height: int = 24) -> Frame:
    return Frame(width, height, NOW)


def text(lines: Lines) -> str:
    return "\n".join(line.plain.rstrip() for line in lines)


def run(run_id: str, status: str = "QUEUED", **fields: Any) -> AnyRun:
    return whole(a_run(run_id, status=status, **fields))


# The board


def test_what_moves_comes_first_then_what_waits_then_the_newest_of_what_is_over() -> None:
    board = Board()
    ended = "2026-03-01T12:00:0%sZ"
    board.show(run("run_1", "COMPLETED", number=1, finishedAt=ended % 9))
    board.show(run("run_2", "FAILED", number=2, finishedAt=ended % 5))
    board.show(run("run_3", number=3))
    board.show(run("run_4", "EXECUTING", number=4))
    board.show(run("run_5", "FROZEN", number=5))
    assert [one.number for one in board.top(10)] == [5, 4, 3, 1, 2]
    assert [one.number for one in board.top(2)] == [5, 4]


def test_each_run_is_counted_once_whatever_becomes_of_it() -> None:
    board = Board()
    board.take(Entered(run("run_1")))
    board.take(Entered(run("run_2")))
    board.take(Changed(run("run_1", "EXECUTING")))
    assert board.counts == {RunStatus.QUEUED: 1, RunStatus.EXECUTING: 1}
    board.take(Left(run("run_2")))
    board.take(Left(run("run_unknown")))
    assert board.counts == {RunStatus.EXECUTING: 1}
    board.take(Reset("epoch"))
    assert not len(board)


def test_a_long_watch_keeps_few_of_the_runs_that_are_over_and_counts_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tag may see millions of runs in a week."""
    monkeypatch.setattr(boards, "MAX_KEPT", 10)
    monkeypatch.setattr(boards, "MAX_COUNTED", 20)
    board = Board()
    for number in range(100):
        board.show(run(f"run_{number}", "COMPLETED", number=number))
    board.show(run("run_live", "EXECUTING"))
    assert len(board.top(1_000)) == 11
    assert board.counts == {RunStatus.EXECUTING: 1, RunStatus.COMPLETED: 100}
    board.drop("run_85")  # is not kept, but known
    board.show(run("run_95", "COMPLETED"))  # once more: its tags, say
    assert board.counts[RunStatus.COMPLETED] == 99


@pytest.mark.parametrize(
    "said, part",
    [
        (0.4, 0.4),
        (40, 0.4),
        (1, 1.0),
        (250, 1.0),
        (-1, 0.0),
        (True, None),
        ("0.4", None),
        (float("nan"), None),
        ({"completed": 3, "total": 4}, 0.75),
        ({"current": 1, "total": 0}, None),
        ({}, None),
        (None, None),
    ],
)
def test_progress_is_read_as_the_dash_page_reads_it(said: Any, part: float | None) -> None:
    assert fraction(said) == part


# The first line


@pytest.mark.parametrize("width", [8, 20, 40, 80, 200])
@pytest.mark.parametrize("word", ["connecting", "live", "stale", "ended"])
def test_whether_it_is_live_stands_in_the_first_line_at_any_width(word: str, width: int) -> None:
    line = heading(Standing(word, "no answer"), "tag " + "x" * 50, "http://x", width)
    assert word[:6] in line.plain
    if width >= 40 and word == "stale":
        assert "no answer" in line.plain


# Tables


def test_only_what_fits_is_drawn_and_the_rest_is_counted() -> None:
    board = Board()
    for number in range(3_000):
        board.show(run(f"run_{number}", number=number))
    lines = table(board, frame(height=10), Widths())
    assert len(lines) == 10
    assert lines[-1].plain == "… and 2,992 more"


def test_a_bar_is_read_without_colours_and_only_what_is_done_looks_done() -> None:
    drawn = "".join(part for part, _ in measured(0.999, 26, ""))
    assert drawn == "━" * 19 + "─" + "  99 %"
    assert "".join(part for part, _ in measured(1.0, 26, "")).startswith("━" * 20)


def test_columns_do_not_jump_when_a_wide_run_goes_out_of_sight() -> None:
    board, widths = Board(), Widths()
    board.show(run("run_1", "EXECUTING", metadata={"progress": 0.5, "message": "packing"}))
    before = table(board, frame(), widths)[0].plain
    board.drop("run_1")
    board.show(run("run_2"))
    assert table(board, frame(), widths)[0].plain == before


def test_a_batch_is_one_bar_of_its_outcomes() -> None:
    counts = {"COMPLETED": 30, "FAILED": 10, "QUEUED": 60}
    batch = Batch(id="b", created_at=AT, sealed_at=AT, size=100, final=40, counts=counts)
    (line,) = batch_lines(batch, frame(120))
    assert line.plain.startswith("━" * 24 + "─" * 36 + "  40 %  40 of 100 final · 1 min 30 s")
    assert [(line.plain[s.start : s.end], s.style) for s in line.spans][:2] == [
        ("━" * 18, "green"),
        ("━" * 6, "red"),
    ]


# One run, one job run


def test_a_run_shows_what_it_says_of_itself() -> None:
    shown = text(
        run_lines(
            run(
                "run_1", "EXECUTING", attempt=2, startedAt="2026-03-01T12:01:00Z", tags=["a", "b"],
                metadata={"progress": 0.5, "message": "packing", "n": {"x": 1}, "output": "one\ntwo\n"},
                error={"name": "Oops", "message": "once"},
            ),
            frame(),
        )
    )  # fmt: skip
    for part in ("EXECUTING", "send-invoice", "attempt 2", "30 s", "50 %  packing", "a, b"):
        assert part in shown
    assert '{"x":1}' in shown
    assert "Oops: once" in shown
    assert shown.endswith("one\ntwo")


STEPS = [
    TimelineStep(workflow_id=f"wf_{n}", position=n, name=name)
    for n, name in enumerate(("extract", "render", "publish"))
]


def test_a_job_run_is_a_tree_of_its_steps_also_those_to_come() -> None:
    steps = [
        run("run_a", "COMPLETED", position=0, durationMs=3_000, startedAt="2026-03-01T12:00:00Z"),
        run("run_b", "FAILED", position=1, attempt=2, metadata={"progress": 0.25},
            error={"name": "RenderError", "message": "no such font", "stack": "in render()"}),
    ]  # fmt: skip
    lines = text(job_lines(run("run_j", "FAILED"), steps, STEPS, "nightly", frame()))
    first, extract, render, error, stack, publish = lines.split("\n")
    assert first.startswith("FAILED  nightly  #1 · 1 of 3 steps")
    assert extract.startswith("├─ ✓ 1 extract")
    assert "100 %" in extract
    assert "3.0 s" in extract
    assert render.startswith("├─ ✗ 2 render")
    assert "25 %" in render
    assert "attempt 2" in render
    assert error.strip("│ ") == "RenderError: no such font"
    assert stack.strip("│ ") == "in render()"
    assert publish.startswith("└─ ○ 3 publish")
    assert "planned" in publish


def test_of_many_steps_those_are_shown_that_matter_now() -> None:
    plan = [TimelineStep(workflow_id=f"wf_{n}", position=n, name=f"step-{n}") for n in range(200)]
    steps = [run(f"run_{n}", "COMPLETED", position=n) for n in range(80)]
    steps.append(run("run_80", "EXECUTING", position=80))
    lines = job_lines(run("run_j", "EXECUTING"), steps, plan, "", frame(height=12))
    assert len(lines) == 12
    shown = text(lines)
    assert "80 of 200 steps" in shown
    assert "… 80 before" in shown
    assert "● 81 step-80" in shown
    assert "… and 111 more" in shown
    over = [run(f"run_{n}", "COMPLETED", position=n) for n in range(200)]
    shown = text(job_lines(run("run_j", "COMPLETED"), over, plan, "", frame(height=12)))
    assert "✓ 200 step-199" in shown
    assert "… 191 before" in shown


# What happened


def entry(at_s: float, position: int | None, version: int, **changed: Any) -> TimelineEntry:
    run_id = "run_j" if position is None else f"run_{position}"
    at = AT + timedelta(seconds=at_s)
    return TimelineEntry(at=at, run_id=run_id, position=position, version=version, changed=changed)


def a_failed_history() -> History:
    history = History("run_j")
    error = {"name": "RenderError", "message": "no such font", "stack": "line 1\nline 2"}
    steps = [
        STEPS[0],
        TimelineStep(workflow_id="wf_1", position=1, name="render", attempt=2),
        STEPS[2],
    ]
    entries = [
        entry(0, None, 1, status="QUEUED"),
        entry(0, 0, 1, status="QUEUED"),
        entry(1, 0, 2, status="EXECUTING", attempt=1),
        entry(2, 0, 3, metadata={"progress": 0.2}),
        entry(3, 0, 4, metadata={"progress": 0.9, "message": "nearly"}),
        entry(4, 0, 5, status="COMPLETED"),
        entry(4, 1, 1, status="QUEUED"),
        entry(5, 1, 2, status="EXECUTING", attempt=1),
        entry(6, 1, 3, status="REATTEMPTING", error={"name": "Oops", "message": "once"}),
        entry(7, 1, 4, status="EXECUTING", attempt=2),
        entry(9.5, 1, 5, status="FAILED", error=error),
        entry(9.5, None, 2, status="FAILED", error={"name": "WorkflowFailed", "message": "render"}),
    ]
    page = Timeline(job_run_id="run_j", status="FAILED", steps=steps, data=entries)
    history.read(page)
    return history


def test_where_and_why_it_failed_is_said_first() -> None:
    (line,) = a_failed_history().why(100)
    assert line.plain == "FAILED in step 2 of 3, render, at attempt 2: RenderError: no such font"


def test_each_change_is_told_in_order_with_how_long_the_one_before_lasted() -> None:
    lines = text(a_failed_history().lines(frame(120))).split("\n")
    told = [" ".join(line.split()) for line in lines]
    told = [" ".join([*line.split()[:2], *line.split()[3:]]) for line in told]
    assert told[0].endswith("s job run QUEUED")
    assert told[1].endswith("s 1 extract QUEUED")
    assert told[2] == "+1.000 s 1 extract EXECUTING after 1.0 s QUEUED"
    assert told[3] == "+2.000 s 1 extract 2 changes: progress 20% → 90%, message nearly"
    assert told[4] == "+4.000 s 1 extract COMPLETED after 3.0 s EXECUTING"
    assert told[7] == "+6.000 s 2 render REATTEMPTING after 1.0 s EXECUTING Oops: once"
    assert told[8] == "+7.000 s 2 render EXECUTING attempt 2 after 1.0 s REATTEMPTING"
    assert told[9] == "+9.500 s 2 render FAILED after 2.5 s EXECUTING RenderError: no such font"
    assert [line.strip() for line in lines[10:12]] == ["line 1", "line 2"]
    assert "WorkflowFailed" in lines[12]


def test_each_change_has_a_line_of_its_own_if_asked_for() -> None:
    history = a_failed_history()
    assert len(history.lines(frame(120), whole=True)) == len(history.lines(frame(120))) + 1


def test_what_is_read_and_what_is_told_is_one_history() -> None:
    """The stream is joined first and the timeline read then: they overlap."""
    history = a_failed_history()
    known = len(history)
    history.note(run("run_0", "COMPLETED", version=5, position=0))
    assert len(history) == known
    history.note(run("run_2", version=1, position=2, updatedAt="2026-03-01T12:00:20Z"))
    history.note(run("run_2", "EXECUTING", version=2, position=2, updatedAt="2026-03-01T12:00:22Z"))
    assert len(history) == known + 2
    last = text(history.lines(frame(120))).split("\n")[-1]
    assert "3 publish" in last
    assert last.endswith("EXECUTING    after 2.0 s QUEUED")


def test_a_run_that_is_no_job_run_has_a_history_too() -> None:
    history = History("run_1")
    changes = [{"status": "QUEUED"}, {"status": "EXECUTING"}, {"status": "TIMED_OUT"}]
    history.read_changes(
        HistoryEntry(version=n, at=AT + timedelta(seconds=n), changed=changed)
        for n, changed in enumerate(changes, 1)
    )
    assert [line.plain for line in history.why(80)] == ["TIMED_OUT"]
    assert history.chart(frame()) == []
    assert "TIMED_OUT    after 1.0 s EXECUTING" in text(history.lines(frame()))


# Whatever it is

STATUSES = st.sampled_from([status.value for status in RunStatus])


@st.composite
def runs(draw: st.DrawFn) -> AnyRun:
    said = HOSTILE.map(lambda text: text.encode(errors="replace").decode())
    values = said | st.floats() | st.dictionaries(said, said | st.integers(), max_size=2)
    return run(
        draw(said),
        draw(STATUSES),
        taskIdentifier=draw(said),
        tags=draw(st.lists(said, max_size=2)),
        metadata=draw(
            st.dictionaries(
                st.sampled_from(["progress", "message", "step", "output"]) | said,
                values,
                max_size=3,
            )
        ),
        error=draw(
            st.none()
            | st.fixed_dictionaries({"name": said, "message": said, "stack": st.none() | said})
        ),
        position=draw(st.none() | st.integers(0, 3)),
        startedAt=draw(st.sampled_from([None, "2026-03-01T12:00:01Z"])),
        attempt=draw(st.integers(0, 3)),
        version=draw(st.integers(1, 3)),
    )


@settings(max_examples=60)
@given(st.lists(runs(), min_size=1, max_size=3), st.integers(1, 200), st.integers(1, 30))
def test_any_runs_can_be_drawn_in_any_size_and_nothing_in_them_acts(
    some: list[AnyRun], width: int, height: int
) -> None:
    board, history = Board(), History(some[0].id)
    for one in some:
        board.show(one)
        history.note(one)
    history.steps = {step.position: step for step in STEPS}
    batch = Batch(
        id="b", created_at=AT, size=3, final=1, counts={one.status.value: 1 for one in some}
    )
    board.take(BatchProgress(batch))
    this = frame(width, height)
    rows = table(board, this, Widths())
    assert len(rows) <= max(1, height)
    drawn = [
        *rows,
        *batch_lines(batch, this),
        *run_lines(some[0], this),
        *job_lines(some[0], some[1:], STEPS, "", this),
        *history.lines(this),
        *history.chart(this),
        *history.why(width),
    ]
    for line in drawn:
        assert not any(map(acts, line.plain)), repr(line.plain)
    if width >= 40:
        for line in drawn:
            assert cell_len(line.plain.rstrip()) <= width, repr(line.plain)
