"""What writers ask for, decided by a number."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from store.commands import (
    ClaimRun,
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    JobOrder,
    Limits,
    MetadataOp,
    MetadataOperation,
    MetadataTarget,
    MutateMetadata,
    NewRun,
    SealBatch,
    Submission,
    UpdateRun,
)
from store.lifecycle import FINAL, NEXT
from store.model import Run, RunStatus
from tests.oracle.known import Known

TAGS: Final = "abc"
TASKS: Final = ("build", "deploy")
LIMITS: Final = Limits()


class Commands:
    """Commands about what is known, of every kind; some are to be refused."""

    def __init__(self, known: Known, jobs: Mapping[str, str], mark: str) -> None:
        self._known = known
        self._jobs = jobs
        """Each project's job."""
        self._mark = mark
        """Stands in each id, so that no two worlds on one database make the same."""
        self._count = 0

    def submission(self, chance: random.Random) -> Submission:
        """One or a few commands of one project."""
        project = chance.choice(self._known.projects)
        commands = [self._command(chance, project) for _ in range(chance.choice([1, 1, 2, 4]))]
        return Submission(
            project=project, commands=tuple(commands), atomic=chance.random() < 0.2
        )  # fmt: skip

    def _command(self, chance: random.Random, project: str) -> Command:
        runs = self._known.newest(project)
        other = self._known.other(project)
        if other is not None and chance.random() < 0.05:
            return self._trespass(chance, project, other)
        what = chance.random()
        if what < 0.22 or not runs:
            return self._create(chance, project, runs)
        if what < 0.26:
            return CreateRun(
                project=project,
                run_id=self._id("run"),
                new=NewRun(task_identifier=self._jobs[project], tags=self._tags(chance)),
                job=JobOrder(self._jobs[project]),
            )
        batches = self._known.open_batches(project)
        if what < 0.29 and len(batches) < 2:
            id = self._id("batch")
            self._known.batches[id] = (project, False)
            return CreateBatch(project=project, batch_id=id)
        if what < 0.32 and batches:
            return SealBatch(project=project, batch_id=chance.choice(batches))
        run = chance.choice(runs)
        if what < 0.36:
            over = [each for each in runs if each.status in FINAL]
            if over:
                return DeleteRun(project=project, run_id=chance.choice(over).id)
        if what < 0.42:
            return MutateMetadata(
                project=project,
                run_id=run.id,
                operations=(MetadataOperation(op=MetadataOp.INCREMENT, path="count", value=1),),
                target=chance.choice(list(MetadataTarget)),
            )
        if what < 0.45:
            return ClaimRun(project=project, run_id=run.id, worker="w", lease_s=1_000)
        return self.update(chance, run)

    def _trespass(self, chance: random.Random, project: str, other: str) -> Command:
        """Names what is another project's: to be refused."""
        runs, batches = self._known.newest(other), self._known.batches_of(other)
        new = NewRun(task_identifier=TASKS[0], tags=self._tags(chance))
        if batches and chance.random() < 0.3:
            batch = chance.choice(batches)
            if chance.random() < 0.5:
                return SealBatch(project=project, batch_id=batch)
            new = msgspec.structs.replace(new, batch_id=batch)
            return CreateRun(project=project, run_id=self._id("run"), new=new)
        if not runs:
            return CreateRun(project=project, run_id=self._id("run"), new=new)
        run = chance.choice(runs)
        match chance.choice(["create", "update", "delete", "tag"]):
            case "create":
                new = msgspec.structs.replace(new, parent_run_id=run.id)
                return CreateRun(project=project, run_id=self._id("run"), new=new)
            case "delete":
                return DeleteRun(project=project, run_id=run.id)
            case "tag":
                return UpdateRun(project=project, run_id=run.id, add_tags=("a",))
        return msgspec.structs.replace(self.update(chance, run), project=project)

    def _create(self, chance: random.Random, project: str, runs: Sequence[Run]) -> CreateRun:
        batches = self._known.open_batches(project)
        soon = datetime.now(UTC) + timedelta(milliseconds=chance.choice([1, 100_000_000]))
        return CreateRun(
            project=project,
            run_id=self._id("run"),
            new=NewRun(
                task_identifier=chance.choice(TASKS),
                payload={"of": self._count, "pad": "x" * chance.choice([0, 50, 2_000])},
                tags=self._tags(chance),
                metadata={"n": 0},
                delay_until=soon if chance.random() < 0.1 else None,
                is_test=chance.random() < 0.2,
                batch_id=chance.choice(batches) if batches and chance.random() < 0.5 else None,
                parent_run_id=chance.choice(runs).id if runs and chance.random() < 0.2 else None,
                idempotency_key=chance.choice("kl") if chance.random() < 0.05 else None,
            ),
        )

    def update(self, chance: random.Random, run: Run) -> UpdateRun:
        """One of a run as it stands."""
        what = chance.random()
        if what < 0.3:
            tag = chance.choice(TAGS)
            if tag in run.tags:
                return UpdateRun(project=run.project, run_id=run.id, remove_tags=(tag,))
            return UpdateRun(project=run.project, run_id=run.id, add_tags=(tag,))
        if what < 0.55:
            pad = "x" * chance.choice([0, 0, 1_500])
            return UpdateRun(
                project=run.project, run_id=run.id, metadata={"n": run.version, "pad": pad}
            )
        if what < 0.6:
            return UpdateRun(project=run.project, run_id=run.id, cost_in_cents=run.version / 4)
        allowed = sorted(NEXT[run.status] - {RunStatus.DELAYED}) or [RunStatus.COMPLETED]
        likely = [each for each in (RunStatus.EXECUTING, RunStatus.COMPLETED) if each in allowed]
        to = chance.choice(likely if likely and chance.random() < 0.6 else allowed)
        output = {"of": run.version} if to is RunStatus.COMPLETED else msgspec.UNSET
        return UpdateRun(project=run.project, run_id=run.id, status=to, output=output)

    def _tags(self, chance: random.Random) -> tuple[str, ...]:
        return tuple(tag for tag in TAGS if chance.random() < 0.4)

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{self._mark}_{self._count:04}"
