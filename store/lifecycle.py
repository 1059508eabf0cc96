"""Which status may follow which, what each step does to a run, and when its clocks run out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from msgspec.structs import replace

from store.errors import Invalid, TransitionRefused
from store.model import Run, RunStatus

WAITING_FOR_DEPLOY: Final = RunStatus.WAITING_FOR_DEPLOY
DELAYED: Final = RunStatus.DELAYED
QUEUED: Final = RunStatus.QUEUED
EXECUTING: Final = RunStatus.EXECUTING
REATTEMPTING: Final = RunStatus.REATTEMPTING
FROZEN: Final = RunStatus.FROZEN
COMPLETED: Final = RunStatus.COMPLETED
CANCELED: Final = RunStatus.CANCELED
FAILED: Final = RunStatus.FAILED
CRASHED: Final = RunStatus.CRASHED
INTERRUPTED: Final = RunStatus.INTERRUPTED
SYSTEM_FAILURE: Final = RunStatus.SYSTEM_FAILURE
EXPIRED: Final = RunStatus.EXPIRED
TIMED_OUT: Final = RunStatus.TIMED_OUT

# fmt: off
NEXT: Final[Mapping[RunStatus, frozenset[RunStatus]]] = {
    WAITING_FOR_DEPLOY: frozenset({QUEUED, CANCELED, EXPIRED, SYSTEM_FAILURE}),
    DELAYED: frozenset({QUEUED, DELAYED, CANCELED, EXPIRED, SYSTEM_FAILURE}),
    QUEUED: frozenset({
        EXECUTING, DELAYED, WAITING_FOR_DEPLOY, CANCELED, EXPIRED, CRASHED, SYSTEM_FAILURE,
    }),
    EXECUTING: frozenset({
        REATTEMPTING, FROZEN, COMPLETED, CANCELED, FAILED, CRASHED, INTERRUPTED, SYSTEM_FAILURE,
        TIMED_OUT,
    }),
    REATTEMPTING: frozenset({
        EXECUTING, QUEUED, CANCELED, FAILED, CRASHED, INTERRUPTED, SYSTEM_FAILURE, TIMED_OUT,
        EXPIRED,
    }),
    FROZEN: frozenset({
        EXECUTING, QUEUED, CANCELED, FAILED, CRASHED, SYSTEM_FAILURE, TIMED_OUT,
    }),
    COMPLETED: frozenset(),
    CANCELED: frozenset(),
    FAILED: frozenset(),
    CRASHED: frozenset(),
    INTERRUPTED: frozenset(),
    SYSTEM_FAILURE: frozenset(),
    EXPIRED: frozenset(),
    TIMED_OUT: frozenset(),
}
# fmt: on
"""The lifecycle. An empty row is a final status."""

FINAL: Final = frozenset(status for status, following in NEXT.items() if not following)
"""The statuses that no other follows."""

SUCCESS: Final = frozenset({COMPLETED})
CANCELED_STATUSES: Final = frozenset({CANCELED})
FAILURES: Final = FINAL - SUCCESS - CANCELED_STATUSES
"""With the two above: each final status is in exactly one of the three, and no other is in any."""

QUEUED_STATUSES: Final = frozenset({WAITING_FOR_DEPLOY, DELAYED, QUEUED})
"""Not begun yet."""
EXECUTING_STATUSES: Final = frozenset({EXECUTING})
"""A worker is on it."""
WAITING_STATUSES: Final = frozenset({REATTEMPTING, FROZEN})
"""Begun, and waiting to go on."""


def is_final(status: RunStatus) -> bool:
    """Whether the run is over."""
    return status in FINAL


# ------------------------------------------------------------------------------------- transitions


def revised(run: Run, at: datetime, **fields: Any) -> Run:
    """The run one version on, with these fields.

    Its `updated_at` never goes back, whatever the clocks of several servers say: a reader who
    sorts by it must find the versions in their order.
    """
    return replace(run, version=run.version + 1, updated_at=max(at, run.updated_at), **fields)


def advance(run: Run, to: RunStatus, at: datetime, *, delayed_until: datetime | None = None) -> Run:
    """The run after the transition, one version on, with the times and counts that it entails.

    `delayed_until` comes with DELAYED, and only with that. All times that the step sets are
    the new `updated_at`, which is `at` unless the clock has stepped back.

    Raises TransitionRefused where the lifecycle has no such step, Invalid for DELAYED without a
    time.
    """
    if to not in NEXT[run.status]:
        raise TransitionRefused(run, to)
    moment = max(at, run.updated_at)
    fields: dict[str, Any] = {"status": to}

    if run.status == EXECUTING and run.executing_since is not None:
        spell = (moment - run.executing_since) // timedelta(milliseconds=1)
        fields["duration_ms"] = run.duration_ms + spell
        fields["executing_since"] = None
    if run.status == EXECUTING and run.lease_s is not None:
        # A lease is of one spell: whoever has the run next is somebody else.
        fields["worker"] = None
        fields["lease_s"] = None

    if to == DELAYED:
        if delayed_until is None:
            raise Invalid("delayUntil", "a DELAYED run needs the time it waits for")
        fields["delayed_until"] = delayed_until
    elif to == QUEUED:
        fields["queued_at"] = moment
    elif to == EXECUTING:
        fields["executing_since"] = moment
        fields["started_at"] = run.started_at or moment
        # A thawed run goes on where it was; every other way in is a new attempt.
        if run.status != FROZEN:
            fields["attempt"] = run.attempt + 1
    elif to in FINAL:
        fields["finished_at"] = moment
        if to == EXPIRED:
            fields["expired_at"] = moment

    return revised(run, moment, **fields)


# ------------------------------------------------------------------------------------------ clocks


class Timer(StrEnum):
    """The clocks that the server itself watches for a run."""

    DELAY = "delay"
    TTL = "ttl"
    MAX_DURATION = "max_duration"
    HEARTBEAT = "heartbeat"
    LEASE = "lease"


LEADS_TO: Final[Mapping[Timer, RunStatus]] = {
    Timer.DELAY: QUEUED,
    Timer.TTL: EXPIRED,
    Timer.MAX_DURATION: TIMED_OUT,
    Timer.HEARTBEAT: CRASHED,
    Timer.LEASE: REATTEMPTING,
}
"""What becomes of a run when a clock of it has run out; without attempts left, a lost lease
leads to CRASHED."""

WATCHED_IN: Final[Mapping[Timer, RunStatus]] = {
    Timer.DELAY: DELAYED,
    Timer.TTL: QUEUED,
    Timer.MAX_DURATION: EXECUTING,
    Timer.HEARTBEAT: EXECUTING,
    Timer.LEASE: EXECUTING,
}
"""The only status in which each clock ticks.

`ttl` bounds the wait for a worker and so ticks in QUEUED alone, from the latest `queued_at`: a
run that waits for a deploy, for its time or for its next attempt waits for something else.
"""


def due(run: Run, timer: Timer, heartbeat_at: datetime | None = None) -> datetime | None:
    """When that clock of the run runs out; None if it does not tick just now.

    `heartbeat_at` is when the worker was last heard, which the run itself does not hold; what
    came before the present spell of executing does not count. `max_duration` bounds the time
    spent executing in all attempts together, so what was spent already is taken off: it may
    have run out before the present spell began.
    """
    if run.status != WATCHED_IN[timer]:
        return None
    match timer:
        case Timer.DELAY:
            return run.delayed_until
        case Timer.TTL:
            if run.queued_at is None or run.ttl is None:
                return None
            return run.queued_at + timedelta(seconds=run.ttl)
        case Timer.MAX_DURATION:
            if run.executing_since is None or run.max_duration is None:
                return None
            left = timedelta(seconds=run.max_duration) - timedelta(milliseconds=run.duration_ms)
            return run.executing_since + left
        case Timer.HEARTBEAT:
            if run.executing_since is None or run.heartbeat_timeout is None:
                return None
            heard = max(run.executing_since, heartbeat_at or run.executing_since)
            return heard + timedelta(seconds=run.heartbeat_timeout)
        case Timer.LEASE:
            if run.executing_since is None or run.lease_s is None:
                return None
            heard = max(run.executing_since, heartbeat_at or run.executing_since)
            return heard + timedelta(seconds=run.lease_s)


def beats(run: Run) -> Timer | None:
    """The clock that the worker's heartbeats wind, if there is one.

    A lease stands in the place of the promised heartbeats: who claims a run says how often they
    will be heard, and cannot know what was promised by others.
    """
    if run.lease_s is not None:
        return Timer.LEASE
    return None if run.heartbeat_timeout is None else Timer.HEARTBEAT
