"""How far a task of Celery is, whatever order it is told in, and what its run lacks of that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from runstream.commands import UNSET, RunUpdate
from runstream.models import AnyRun, RunStatus

_SENT: Final = re.compile(r"(run_[0-9a-z]+)\.(\d+)", re.ASCII)
MAX_STEPS: Final = 200
"""A run that is so far behind is taken as it is: what counts its attempts is lost then."""


class Rank(IntEnum):
    """What has become of an attempt; each leaves those before it behind."""

    PUBLISHED = 0
    STARTED = 1
    RETRY = 2
    ENDED = 3


@dataclass(frozen=True)
class Report:
    """One thing that a signal of Celery said of a task.

    `attempt` counts from 1; None where the signal does not know it: then it is the present one.
    """

    task_id: str
    task: str
    attempt: int | None
    rank: Rank
    status: RunStatus | None = None
    """The final status that an ENDED attempt has come to."""
    output: Any = UNSET
    error: dict[str, str] | None = None
    payload: Any = None
    about: dict[str, Any] | None = None
    """What the run's metadata says of the task, under `celery`."""
    tags: tuple[str, ...] = ()


def task_id_of(run: AnyRun) -> str:
    """The id of the task that a run is sent as: another one in each of its attempts.

    Celery's workers remember the ids that were revoked, and would not execute one again.
    """
    return f"{run.id}.{run.attempt}"


def sent_as(task_id: str) -> tuple[str, int] | None:
    """The run that was sent as this task, and how many attempts it had had; None if none was."""
    found = _SENT.fullmatch(task_id)
    return None if found is None else (found[1], int(found[2]))


def steps(run: AnyRun, report: Report, version: int) -> Sequence[RunUpdate]:
    """What takes the run, at this version, to where the report says its task is.

    Nothing, if it is there or further: the order in which reports come says nothing, since
    the process that publishes a task, the one that executes it and the one that revokes it
    all report for themselves. What has not been told yet is made up for, so that the run
    has as many attempts as the task.
    """
    if run.status.is_final:
        return ()
    sent = sent_as(report.task_id)
    had = 0 if sent is None else sent[1]
    target = max(run.attempt, 1) if report.attempt is None else had + report.attempt
    rank = report.rank
    if rank is Rank.PUBLISHED:
        if target <= had + 1:
            return ()
        # Published again: the attempt before this one has failed.
        target, rank = target - 1, Rank.RETRY
    if (target, rank) <= _place(run) and rank is not Rank.ENDED:
        return ()
    if rank is Rank.ENDED and report.attempt is not None and target < run.attempt:
        return ()
    path = _path(run, target, rank, report.status or RunStatus.COMPLETED)
    return [
        RunUpdate(
            run.id,
            status,
            output=report.output if status is RunStatus.COMPLETED else UNSET,
            error=_error(run, report, status),
            if_version=version + n,
        )
        for n, status in enumerate(path)
    ]


def _place(run: AnyRun) -> tuple[int, Rank]:
    match run.status:
        case RunStatus.EXECUTING | RunStatus.FROZEN:
            return run.attempt, Rank.STARTED
        case RunStatus.REATTEMPTING:
            return run.attempt, Rank.RETRY
        case _:
            return run.attempt + 1, Rank.PUBLISHED


def _path(run: AnyRun, target: int, rank: Rank, end: RunStatus) -> list[RunStatus]:
    path: list[RunStatus] = []
    status, attempt = run.status, run.attempt
    if target - attempt > MAX_STEPS:
        target = attempt + 1
    while True:
        if rank is Rank.ENDED and end is RunStatus.CANCELED:
            return [*path, end]
        match status:
            case RunStatus.WAITING_FOR_DEPLOY | RunStatus.DELAYED:
                status = RunStatus.QUEUED
            case RunStatus.QUEUED if rank is Rank.ENDED and end is RunStatus.EXPIRED:
                return [*path, end]
            case RunStatus.EXECUTING if attempt < target:
                status = RunStatus.REATTEMPTING
            case RunStatus.EXECUTING if rank is Rank.ENDED:
                # What was begun cannot expire.
                return [*path, RunStatus.CANCELED if end is RunStatus.EXPIRED else end]
            case RunStatus.EXECUTING if rank is Rank.RETRY:
                return [*path, RunStatus.REATTEMPTING]
            case RunStatus.EXECUTING:
                return path
            case RunStatus.REATTEMPTING if rank is Rank.ENDED and end is RunStatus.EXPIRED:
                return [*path, end]
            case RunStatus.FROZEN:
                status = RunStatus.EXECUTING
            case _:  # QUEUED, REATTEMPTING
                status = RunStatus.EXECUTING
                attempt += 1
        path.append(status)


def _error(run: AnyRun, report: Report, status: RunStatus) -> Any:
    if status is RunStatus.COMPLETED:
        # What an earlier attempt has failed with.
        return UNSET if run.error is None else None
    if status.is_final or (status is RunStatus.REATTEMPTING and report.rank is Rank.RETRY):
        return UNSET if report.error is None else report.error
    return UNSET
