"""What follows in a job run, decided without a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import Conflict
from store.jobs.following import (
    BeginStep,
    JobRunStatus,
    MoveJobRun,
    check_asked,
    first,
    follow,
    living,
    status_of,
    statuses_of,
    step_payload,
)
from store.lifecycle import FINAL, NEXT, advance, is_final
from store.model import PlannedStep, Run, RunStatus
from tests.builders import AT, a_run, seconds

QUEUED = RunStatus.QUEUED
EXECUTING = RunStatus.EXECUTING
COMPLETED = RunStatus.COMPLETED
FAILED = RunStatus.FAILED
CANCELED = RunStatus.CANCELED


def a_job_run(status: RunStatus = EXECUTING) -> Run:
    return a_run(status=status, job_id="job_1", task_identifier="job_1")


def a_step(status: RunStatus, position: int = 0, **over: object) -> Run:
    return a_run(status=status, position=position, workflow_id="wf_1", **over)


def test_a_job_run_begins_with_its_first_step() -> None:
    assert first() == BeginStep(0)
    moves = follow(a_job_run(QUEUED), 2, QUEUED, a_step(EXECUTING))
    assert moves == (MoveJobRun(EXECUTING),)


def test_the_next_step_follows_from_the_one_before_it() -> None:
    assert follow(a_job_run(), 2, EXECUTING, a_step(COMPLETED)) == (BeginStep(1),)


def test_a_job_run_completes_with_its_last_step() -> None:
    assert follow(a_job_run(), 2, EXECUTING, a_step(COMPLETED, 1)) == (MoveJobRun(COMPLETED),)


@pytest.mark.parametrize("status", sorted(FINAL - {COMPLETED}))
def test_whatever_ends_a_step_but_success_fails_the_job_run_and_says_why(status: RunStatus) -> None:
    """Why it failed, and where, should be one request."""
    step = a_step(status, 1, error={"name": "Boom", "message": "out of disk"})
    (move,) = follow(a_job_run(), 3, EXECUTING, step)
    assert isinstance(move, MoveJobRun)
    assert move.to == FAILED
    assert move.error is not None
    assert step.id in move.error["message"]
    assert "out of disk" in move.error["message"]
    assert status in move.error["message"]


def test_a_first_step_that_never_began_fails_the_job_run_by_way_of_executing() -> None:
    """The lifecycle, which clients know, has no step from QUEUED to FAILED."""
    moves = follow(a_job_run(QUEUED), 2, QUEUED, a_step(RunStatus.EXPIRED))
    assert [move.to for move in moves if isinstance(move, MoveJobRun)] == [EXECUTING, FAILED]


@pytest.mark.parametrize("status", sorted(FINAL))
def test_nothing_follows_in_a_job_run_that_is_over(status: RunStatus) -> None:
    assert follow(a_job_run(status), 2, EXECUTING, a_step(COMPLETED)) == ()


def test_nothing_follows_from_a_change_that_is_no_transition() -> None:
    assert follow(a_job_run(QUEUED), 2, EXECUTING, a_step(EXECUTING)) == ()


def test_only_cancel_may_be_asked_of_a_job_run() -> None:
    run = a_job_run()
    for status in (None, EXECUTING, CANCELED):
        check_asked(run, status)
    for status in set(RunStatus) - {EXECUTING, CANCELED}:
        with pytest.raises(Conflict) as refused:
            check_asked(run, status)
        assert refused.value.run is run


def test_the_job_runs_payload_goes_before_the_workflows() -> None:
    plan = (PlannedStep(workflow_id="wf_1", name="a", task_identifier="a", payload={"of": "wf"}),)
    assert step_payload(a_run(payload={"of": "job"}), plan, 0) == {"of": "job"}
    assert step_payload(a_run(payload=None), plan, 0) == {"of": "wf"}


def test_each_status_looks_like_one_of_four() -> None:
    assert {status_of(status) for status in RunStatus} == set(JobRunStatus)
    shown = [statuses_of([one]) for one in JobRunStatus]
    assert frozenset().union(*shown) == frozenset(RunStatus)
    assert sum(map(len, shown)) == len(RunStatus)
    assert status_of(CANCELED) is JobRunStatus.FAILED


# --------------------------------------------------------------------------------- random job runs


@dataclass
class Played:
    """A job run in memory, moved by the same decisions as one in the store."""

    total: int
    job_run: Run = field(default_factory=lambda: a_job_run(QUEUED))
    steps: list[Run] = field(default_factory=list)
    tick: int = 0

    def __post_init__(self) -> None:
        self.begin(first().position)

    def begin(self, position: int) -> None:
        assert position == len(self.steps), "a position is begun once, in order"
        assert all(step.status == COMPLETED for step in self.steps), "after the one before it"
        self.steps.append(a_step(QUEUED, position, parent_run_id=self.job_run.id))

    def take(self, position: int, to: RunStatus) -> None:
        """A worker, a timer or a caller moves a step."""
        self.tick += 1
        at = AT + seconds(self.tick)
        before = self.steps[position]
        step = advance(before, to, at, delayed_until=at + timedelta(hours=1))
        self.steps[position] = step
        for move in follow(self.job_run, self.total, before.status, step):
            if isinstance(move, BeginStep):
                self.begin(move.position)
            else:
                self.job_run = advance(self.job_run, move.to, at)

    def cancel(self) -> None:
        if is_final(self.job_run.status):
            return
        self.tick += 1
        at = AT + seconds(self.tick)
        for step in living(self.steps):
            self.steps[step.position or 0] = advance(step, CANCELED, at)
        self.job_run = advance(self.job_run, CANCELED, at)

    def check(self) -> None:
        ended = [step for step in self.steps if is_final(step.status)]
        bad = [step for step in ended if step.status != COMPLETED]
        assert len(living(self.steps)) <= 1
        match status_of(self.job_run.status):
            case JobRunStatus.PENDING:
                assert not ended
                assert all(step.started_at is None for step in self.steps)
            case JobRunStatus.IN_PROGRESS:
                assert not bad
                assert len(living(self.steps)) == 1
            case JobRunStatus.COMPLETED:
                assert len(self.steps) == self.total == len(ended)
                assert not bad
            case JobRunStatus.FAILED:
                assert not living(self.steps)
                assert [step.position for step in bad] == [len(self.steps) - 1]
        if is_final(self.job_run.status):
            assert self.job_run.finished_at is not None
            assert all(self.job_run.finished_at >= (s.finished_at or AT) for s in self.steps)


@given(st.integers(1, 5), st.data())
def test_a_job_runs_status_always_agrees_with_its_steps(total: int, data: st.DataObject) -> None:
    """Whatever workers, timers and callers do, and in whatever order."""
    played = Played(total)
    played.check()
    for _ in range(data.draw(st.integers(1, 40), label="steps")):
        position = len(played.steps) - 1
        following = sorted(NEXT[played.steps[position].status])
        if not following or data.draw(st.integers(0, 30), label="cancel") == 0:
            played.cancel()
        else:
            # Success is likelier than it would be by lot, or no job run would come far.
            weighted = following + [s for s in following if s in (EXECUTING, COMPLETED, QUEUED)] * 5
            played.take(position, data.draw(st.sampled_from(weighted), label="to"))
        played.check()
