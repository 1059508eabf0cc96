"""What a report on a task of Celery does to its run, in whatever order reports come."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from clients.python.tests.builders import a_run
from runstream import RunStatus
from runstream.celery.place import Rank, Report, sent_as, steps, task_id_of
from runstream.merging import whole
from runstream.models import AnyRun

NEXT = {
    "QUEUED": {"EXECUTING", "CANCELED", "EXPIRED"},
    "EXECUTING": {"REATTEMPTING", "COMPLETED", "FAILED", "CANCELED"},
    "REATTEMPTING": {"EXECUTING", "CANCELED", "EXPIRED", "FAILED"},
}


def report(attempt: int | None, rank: Rank, status: RunStatus | None = None) -> Report:
    return Report("a-task", "shop.add", attempt, rank, status)


def told(run: AnyRun, *reports: Report) -> tuple[AnyRun, list[str]]:
    """The run as the server has it after these, and the statuses that it went through."""
    path: list[str] = []
    for one in reports:
        for step in steps(run, one, run.version):
            assert step.if_version == run.version
            assert step.status in NEXT[run.status]
            attempt = run.attempt + (step.status is RunStatus.EXECUTING)
            run = msgspec.structs.replace(
                run, status=step.status, version=run.version + 1, attempt=attempt
            )
            path.append(str(step.status))
    return run, path


QUEUED: AnyRun = whole(a_run())
DONE = RunStatus.COMPLETED

TWO_ATTEMPTS = [
    report(1, Rank.PUBLISHED),
    report(1, Rank.STARTED),
    report(1, Rank.RETRY),
    report(2, Rank.PUBLISHED),
    report(2, Rank.STARTED),
    report(2, Rank.ENDED, DONE),
]


@given(st.permutations(TWO_ATTEMPTS), st.lists(st.sampled_from(TWO_ATTEMPTS), max_size=4))
def test_the_order_of_reports_does_not_matter(order: list[Report], again: list[Report]) -> None:
    """Each of three processes reports for itself, and any of them may be late or repeat."""
    run, path = told(QUEUED, *order, *again)
    assert (run.status, run.attempt) == (DONE, 2)
    assert path == ["EXECUTING", "REATTEMPTING", "EXECUTING", "COMPLETED"]


@given(st.permutations(TWO_ATTEMPTS[:-1]))
def test_a_run_is_never_behind_what_was_told_of_it(order: list[Report]) -> None:
    run, _ = told(QUEUED, *order)
    assert (run.status, run.attempt) == (RunStatus.EXECUTING, 2)


def test_a_retry_that_is_published_is_no_new_run_in_the_queue() -> None:
    run, path = told(QUEUED, report(1, Rank.STARTED), report(2, Rank.PUBLISHED))
    assert (run.status, path) == (RunStatus.REATTEMPTING, ["EXECUTING", "REATTEMPTING"])


def test_a_task_that_was_revoked_before_it_began_was_never_begun() -> None:
    for status in (RunStatus.CANCELED, RunStatus.EXPIRED):
        assert told(QUEUED, report(1, Rank.ENDED, status))[1] == [str(status)]


def test_a_task_that_was_begun_cannot_expire() -> None:
    path = told(QUEUED, report(1, Rank.STARTED), report(1, Rank.ENDED, RunStatus.EXPIRED))[1]
    assert path == ["EXECUTING", "CANCELED"]


def test_a_report_that_does_not_know_the_attempt_is_of_the_present_one() -> None:
    """A time limit is said by the worker's main process, which has not executed the task."""
    lost = report(None, Rank.ENDED, RunStatus.FAILED)
    run, path = told(QUEUED, report(2, Rank.STARTED), lost)
    assert (run.attempt, path[-1]) == (2, "FAILED")
    assert told(QUEUED, lost)[1] == ["EXECUTING", "FAILED"]


def test_a_late_end_of_an_earlier_attempt_ends_nothing() -> None:
    run, _ = told(QUEUED, report(2, Rank.STARTED), report(1, Rank.ENDED, RunStatus.FAILED))
    assert run.status is RunStatus.EXECUTING


def test_attempts_count_on_from_those_that_the_run_had_when_it_was_sent() -> None:
    run: AnyRun = whole(a_run("run_1", status="QUEUED", attempt=3))
    task_id = task_id_of(run)
    assert sent_as(task_id) == ("run_1", 3)
    sent: Any = Report(task_id, "shop.add", 1, Rank.STARTED)
    assert told(run, sent)[0].attempt == 4
    for other in ("9a6f7c1e-0000-4000-8000-000000000000", "run_1", "run_1.x", "xrun_1.1"):
        assert sent_as(other) is None


def test_a_run_that_is_far_behind_is_taken_as_it_is() -> None:
    run, path = told(QUEUED, report(100_000, Rank.STARTED))
    assert (run.status, len(path)) == (RunStatus.EXECUTING, 1)
