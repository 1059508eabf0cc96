"""A clock that runs out: where the run goes, and when it stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from store.commands import Timer, apply
from store.lifecycle import WATCHED_IN, due
from store.model import RunStatus
from tests.builders import AT, a_run, seconds
from tests.store.applying import LATER, LIMITS, a_firing

QUEUED, EXECUTING = RunStatus.QUEUED, RunStatus.EXECUTING

CLOCKS: dict[str, Any] = {
    "ttl": 1,
    "max_duration": 3,
    "heartbeat_timeout": 2,
    "lease_s": 2,
    "delayed_until": AT + seconds(5),
}


@pytest.mark.parametrize(
    "timer,to,error",
    [
        (Timer.DELAY, QUEUED, None),
        (
            Timer.TTL,
            RunStatus.EXPIRED,
            {"name": "Expired", "message": "no worker took the run within its ttl of 1 s"},
        ),
        (
            Timer.MAX_DURATION,
            RunStatus.TIMED_OUT,
            {"name": "TimedOut", "message": "the run executed longer than its maxDuration of 3 s"},
        ),
        (
            Timer.HEARTBEAT,
            RunStatus.CRASHED,
            {
                "name": "HeartbeatLost",
                "message": "no heartbeat came within its heartbeatTimeout of 2 s",
            },
        ),
    ],
)
def test_a_clock_that_ran_out_moves_the_run_and_says_what_ran_out(
    timer: Timer, to: RunStatus, error: Any
) -> None:
    run = a_run(status=WATCHED_IN[timer], **CLOCKS)
    after, changed = apply(run, a_firing(run, timer), LATER, LIMITS)
    assert (after.status, after.version, after.error) == (to, run.version + 1, error)
    assert changed["status"] is to


@pytest.mark.parametrize("timer", Timer)
def test_a_clock_is_not_early(timer: Timer) -> None:
    run = a_run(status=WATCHED_IN[timer], **CLOCKS)
    at = due(run, timer)
    assert at is not None
    early = at - timedelta(microseconds=1)
    assert apply(run, a_firing(run, timer), early, LIMITS) == (run, {})
    assert apply(run, a_firing(run, timer), at, LIMITS)[0].version == run.version + 1


@pytest.mark.parametrize("timer", Timer)
@pytest.mark.parametrize("status", RunStatus)
def test_a_clock_fires_once_however_many_servers_watch_it(status: RunStatus, timer: Timer) -> None:
    """Each reads the due time, one gets the lock first: the others find another run."""
    read = a_run(status=WATCHED_IN[timer], **CLOCKS)
    firing = a_firing(read, timer)
    run = a_run(id=read.id, status=status, **CLOCKS)
    after, changed = apply(run, firing, LATER, LIMITS)
    assert (after is not run) == (status is WATCHED_IN[timer]) == bool(changed)
    again, changed = apply(after, firing, LATER + seconds(60), LIMITS)
    assert again is after
    assert changed == {}


@pytest.mark.parametrize(
    "timer,moved",
    [
        (Timer.DELAY, {"delayed_until": AT + seconds(6)}),
        (Timer.DELAY, {"delayed_until": AT + seconds(4)}),
        (Timer.TTL, {"queued_at": AT + seconds(2)}),
        (Timer.MAX_DURATION, {"duration_ms": 1}),
        (Timer.HEARTBEAT, {"executing_since": AT + seconds(4)}),
        (Timer.LEASE, {"executing_since": AT + seconds(4)}),
    ],
)
def test_a_clock_that_has_been_set_anew_does_not_fire(timer: Timer, moved: dict[str, Any]) -> None:
    run = a_run(status=WATCHED_IN[timer], **CLOCKS)
    assert apply(replace(run, **moved), a_firing(run, timer), LATER, LIMITS)[1] == {}


def test_a_lost_heartbeat_may_be_due_later_than_the_run_itself_says() -> None:
    """The last heartbeat stands outside the run; whoever fires has compared with it."""
    run = a_run(status=EXECUTING, **CLOCKS)
    firing = a_firing(run, Timer.HEARTBEAT, due_at=due(run, Timer.HEARTBEAT, AT + seconds(6)))
    assert apply(run, firing, LATER, LIMITS)[0].status is RunStatus.CRASHED
