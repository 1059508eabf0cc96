"""The lifecycle: its table, what a step does to a run, and when its clocks run out."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import Invalid, TransitionRefused
from store.lifecycle import (
    CANCELED_STATUSES,
    EXECUTING_STATUSES,
    FAILURES,
    FINAL,
    LEADS_TO,
    NEXT,
    QUEUED_STATUSES,
    SUCCESS,
    WAITING_STATUSES,
    WATCHED_IN,
    Timer,
    advance,
    due,
    is_final,
)
from store.model import RunStatus
from tests.builders import AT, a_run, seconds

# The table as the documentation has it, so that one slip of the hand does not change both.
DOCUMENTED = """
| WAITING_FOR_DEPLOY | QUEUED, CANCELED, EXPIRED, SYSTEM_FAILURE |
| DELAYED | QUEUED, DELAYED, CANCELED, EXPIRED, SYSTEM_FAILURE |
| QUEUED | EXECUTING, DELAYED, WAITING_FOR_DEPLOY, CANCELED, EXPIRED, CRASHED, SYSTEM_FAILURE |
| EXECUTING | REATTEMPTING, FROZEN, COMPLETED, CANCELED, FAILED, CRASHED, INTERRUPTED, SYSTEM_FAILURE, TIMED_OUT |
| REATTEMPTING | EXECUTING, QUEUED, CANCELED, FAILED, CRASHED, INTERRUPTED, SYSTEM_FAILURE, TIMED_OUT, EXPIRED |
| FROZEN | EXECUTING, QUEUED, CANCELED, FAILED, CRASHED, SYSTEM_FAILURE, TIMED_OUT |
| COMPLETED | |
| CANCELED | |
| FAILED | |
| CRASHED | |
| INTERRUPTED | |
| SYSTEM_FAILURE | |
| EXPIRED | |
| TIMED_OUT | |
"""

STEPS = [(before, to) for before, following in NEXT.items() for to in sorted(following)]
REFUSED = [(before, to) for before in RunStatus for to in RunStatus if to not in NEXT[before]]
LATER = AT + seconds(10)


def step(before: RunStatus, to: RunStatus, **over: Any) -> Any:
    until = AT + seconds(90) if to is RunStatus.DELAYED else None
    return advance(a_run(status=before, **over), to, LATER, delayed_until=until)


def test_the_table_is_the_documented_one() -> None:
    rows = [row.split("|")[1:3] for row in DOCUMENTED.strip().splitlines()]
    documented = {
        RunStatus(name.strip()): frozenset(map(RunStatus, re.findall(r"\w+", following)))
        for name, following in rows
    }
    assert documented == NEXT
    assert NEXT.keys() == set(RunStatus)


def test_a_final_status_is_in_exactly_one_of_success_failure_and_canceled() -> None:
    """Every client's helpers rest on it."""
    for status in RunStatus:
        kinds = [status in kind for kind in (SUCCESS, FAILURES, CANCELED_STATUSES)]
        assert sum(kinds) == (1 if is_final(status) else 0), status


def test_every_status_is_queued_executing_waiting_or_final() -> None:
    for status in RunStatus:
        kinds = [QUEUED_STATUSES, EXECUTING_STATUSES, WAITING_STATUSES, FINAL]
        assert sum(status in kind for kind in kinds) == 1, status


@pytest.mark.parametrize("before,to", STEPS)
def test_each_step_of_the_table_is_one_version_and_keeps_the_rest(
    before: RunStatus, to: RunStatus
) -> None:
    run = a_run(status=before)
    after = step(before, to, id=run.id)
    assert (after.status, after.version, after.updated_at) == (to, run.version + 1, LATER)
    for name in ("id", "payload", "output", "metadata", "tags", "created_at", "cost_in_cents"):
        assert getattr(after, name) == getattr(run, name)


@pytest.mark.parametrize("before,to", REFUSED)
def test_no_other_step_is_made(before: RunStatus, to: RunStatus) -> None:
    with pytest.raises(TransitionRefused, match=f"is {before} and cannot become {to}") as refused:
        step(before, to)
    assert refused.value.to is to
    assert refused.value.run is not None
    assert refused.value.run.status is before


@pytest.mark.parametrize("before,to", STEPS)
def test_each_step_sets_the_times_of_the_status_it_leads_to(
    before: RunStatus, to: RunStatus
) -> None:
    run = a_run(status=before)
    after = step(before, to)
    assert after.queued_at == (LATER if to is RunStatus.QUEUED else run.queued_at)
    assert after.finished_at == (LATER if is_final(to) else None)
    assert after.expired_at == (LATER if to is RunStatus.EXPIRED else None)
    assert after.executing_since == (LATER if to is RunStatus.EXECUTING else None)
    assert after.delayed_until == (
        AT + seconds(90) if to is RunStatus.DELAYED else run.delayed_until
    )
    begins = to is RunStatus.EXECUTING and run.started_at is None
    assert after.started_at == (LATER if begins else run.started_at)


def test_delayed_needs_a_time_to_wait_for() -> None:
    """A run without one would wait for ever."""
    with pytest.raises(Invalid, match="delayUntil"):
        advance(a_run(), RunStatus.DELAYED, LATER)


def test_started_at_is_of_the_first_attempt_only() -> None:
    run = a_run(status=RunStatus.REATTEMPTING)
    assert advance(run, RunStatus.EXECUTING, LATER).started_at == run.started_at


@pytest.mark.parametrize(
    "before,attempts",
    [(RunStatus.QUEUED, 1), (RunStatus.REATTEMPTING, 1), (RunStatus.FROZEN, 0)],
)
def test_executing_is_a_new_attempt_unless_the_run_was_frozen(
    before: RunStatus, attempts: int
) -> None:
    """A thawed run goes on where it was."""
    run = a_run(status=before, attempt=3)
    assert advance(run, RunStatus.EXECUTING, LATER).attempt == 3 + attempts


def test_only_executing_counts_as_duration() -> None:
    """Frozen time and the wait between attempts are nobody's work."""
    run = a_run()
    for at, to in (
        (0, RunStatus.EXECUTING),
        (2, RunStatus.FROZEN),
        (50, RunStatus.EXECUTING),
        (53, RunStatus.REATTEMPTING),
        (90, RunStatus.QUEUED),
        (95, RunStatus.EXECUTING),
        (95.0419, RunStatus.COMPLETED),
    ):
        run = advance(run, to, AT + seconds(at))
    assert run.duration_ms == 2_000 + 3_000 + 41
    assert run.executing_since is None


@given(
    st.lists(st.tuples(st.integers(-100_000, 100_000), st.integers(0, 13)), max_size=30),
    st.sampled_from([status for status in RunStatus if not is_final(status)]),
)
def test_whatever_the_clock_does_a_runs_times_and_duration_never_fall(
    moves: list[tuple[int, int]], first: RunStatus
) -> None:
    """Servers' clocks differ and are set back; readers who sort by updatedAt must not see it."""
    run = a_run(status=first)
    for offset_ms, choice in moves:
        following = sorted(NEXT[run.status])
        if not following:
            break
        to = following[choice % len(following)]
        at = AT + timedelta(milliseconds=offset_ms)
        until = at if to is RunStatus.DELAYED else None
        after = advance(run, to, at, delayed_until=until)
        assert after.version == run.version + 1
        assert after.updated_at == max(at, run.updated_at)
        assert after.duration_ms >= run.duration_ms
        for name in ("queued_at", "started_at", "finished_at", "executing_since"):
            moment = getattr(after, name)
            assert moment is None or moment <= after.updated_at
        assert (after.executing_since is not None) == (after.status is RunStatus.EXECUTING)
        assert (after.finished_at is not None) == is_final(after.status)
        run = after


# ------------------------------------------------------------------------------------------ clocks


def test_a_delay_runs_out_at_the_time_it_was_for() -> None:
    run = a_run(status=RunStatus.DELAYED, delayed_until=AT + seconds(5))
    assert due(run, Timer.DELAY) == AT + seconds(5)


def test_a_ttl_counts_from_the_latest_time_that_the_run_was_queued() -> None:
    run = a_run(status=RunStatus.REATTEMPTING, ttl=60)
    again = advance(run, RunStatus.QUEUED, LATER)
    assert due(again, Timer.TTL) == LATER + seconds(60)


def test_max_duration_bounds_all_attempts_together() -> None:
    run = a_run(status=RunStatus.REATTEMPTING, max_duration=100, duration_ms=99_500)
    again = advance(run, RunStatus.EXECUTING, LATER)
    assert due(again, Timer.MAX_DURATION) == LATER + seconds(0.5)


def test_max_duration_that_is_spent_is_due_at_once() -> None:
    run = a_run(status=RunStatus.REATTEMPTING, max_duration=100, duration_ms=100_500)
    at = due(advance(run, RunStatus.EXECUTING, LATER), Timer.MAX_DURATION)
    assert at is not None
    assert at <= LATER


@pytest.mark.parametrize(
    "heard,counts_from",
    [(None, 0), (7, 7), (-7, 0)],
    ids=["none yet", "in this spell", "before this spell"],
)
def test_heartbeats_count_from_the_last_one_in_this_spell(
    heard: int | None, counts_from: int
) -> None:
    """The worker of the attempt before says nothing about this one's."""
    run = advance(a_run(heartbeat_timeout=30), RunStatus.EXECUTING, AT)
    heartbeat_at = None if heard is None else AT + seconds(heard)
    assert due(run, Timer.HEARTBEAT, heartbeat_at) == AT + seconds(counts_from + 30)


@pytest.mark.parametrize("timer", Timer)
@pytest.mark.parametrize("status", RunStatus)
def test_a_clock_ticks_in_one_status_only_and_leads_on_from_it(
    status: RunStatus, timer: Timer
) -> None:
    run = a_run(
        status=status,
        delayed_until=AT,
        queued_at=AT,
        executing_since=AT,
        ttl=1,
        max_duration=1,
        heartbeat_timeout=1,
        lease_s=1,
    )
    ticks = due(run, timer, AT) is not None
    assert ticks == (status is WATCHED_IN[timer])
    assert LEADS_TO[timer] in NEXT[WATCHED_IN[timer]]


@pytest.mark.parametrize("timer", [Timer.TTL, Timer.MAX_DURATION, Timer.HEARTBEAT, Timer.LEASE])
def test_a_clock_that_nobody_asked_for_never_runs_out(timer: Timer) -> None:
    assert due(a_run(status=WATCHED_IN[timer]), timer, AT) is None
