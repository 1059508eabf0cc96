"""Lists: whichever way they are found, they hold just what fits, in one order."""

from __future__ import annotations

import itertools
import random
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from store import bulk, newest
from store.broker.memory import MemoryBroker
from store.engine import open_database
from store.jobs import rows as job_rows
from store.jobs.runs import JobRunQuery
from store.model import Filter as RunFilter
from store.model import ListKey, Match, Run, RunQuery, RunStatus, Selection, list_key
from store.rows import insert_runs
from store.runs import RunStore
from store.tables import run_tags
from tests.builders import AT, PROJECT, a_run, seconds
from tests.store.test_schema import to_revision

STATUSES = (RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.COMPLETED, RunStatus.FAILED)
TASKS = ("job_a", "job_b", "mail", "sms")
TAGS = ("all", "half", "rare", "colon:ed")


def some_run(chance: random.Random, number: int, at: datetime) -> Run:
    task = chance.choices(TASKS, (4, 2, 10, 1))[0]
    tags = [tag for tag, share in zip(TAGS, (1, 0.5, 0.05, 0.3), strict=True)
            if chance.random() < share]  # fmt: skip
    return a_run(
        number=number,
        task_identifier=task,
        job_id=task if task.startswith("job_") else None,
        status=chance.choices(STATUSES, (1, 2, 10, 3))[0],
        tags=tuple(tags),
        is_test=chance.random() < 0.2,
        created_at=at,
    )


def write(connection: Connection, made: list[Run]) -> None:
    rows = [(PROJECT, tag, run.created_at, run.number) for run in made for tag in run.tags]
    snapshot = job_rows.Snapshot({"workflowExecutionOrder": []}, ())
    with bulk.together(connection) as writes:
        insert_runs(writes, [(run, None) for run in made])
        writes.insert(run_tags, ("project", "tag", "created_at", "number"), rows)
        job_rows.write(writes, {run.id: snapshot for run in made if run.job_id is not None})


def a_filter(chance: random.Random) -> dict[str, Any]:
    some: dict[str, Any] = {}
    if chance.random() < 0.5:
        some["statuses"] = frozenset(chance.sample(STATUSES, chance.randint(1, 4)))
    if chance.random() < 0.4:
        some["tasks"] = frozenset(chance.sample(TASKS, chance.randint(1, 3)))
    if chance.random() < 0.5:
        some["tags"] = tuple(chance.choices((*TAGS, "none"), (4, 4, 2, 2, 1), k=2))
    if chance.random() < 0.3:
        some["is_test"] = chance.random() < 0.5
    if chance.random() < 0.4:
        some["created_after"] = AT + seconds(chance.randrange(30))
    if chance.random() < 0.4:
        some["created_before"] = AT + seconds(chance.randrange(5, 40))
    return some


def fits(run: Run, asked: dict[str, Any]) -> bool:
    have = [tag in run.tags for tag in asked.get("tags", ())]
    return (
        run.status in asked.get("statuses", STATUSES)
        and run.task_identifier in asked.get("tasks", TASKS)
        and (all(have) if asked.get("match") is not Match.ANY else any(have) or not have)
        and asked.get("is_test") in (None, run.is_test)
        and ("created_after" not in asked or run.created_at > asked["created_after"])
        and ("created_before" not in asked or run.created_at < asked["created_before"])
    )


async def read_page(
    store: RunStore, kind: str, asked: dict[str, Any], limit: int, after: ListKey | None
) -> tuple[list[Run], ListKey | None]:
    """Of a list of runs, of one of job runs, or of the snapshot that a stream begins with."""
    if kind == "runs":
        return await store.list_runs(RunQuery(project=PROJECT, limit=limit, after=after, **asked))
    if kind == "job runs":
        query = {name: value for name, value in asked.items() if name != "tasks"}
        (job_id,) = asked["tasks"]
        found, following = await store.job_runs.list(
            JobRunQuery(project=PROJECT, job_id=job_id, limit=limit, after=after, **query)
        )
        return [one.run for one in found], following
    topic = {name: asked[name] for name in ("tags", "match") if name in asked}
    rest = {name: value for name, value in asked.items() if name not in topic}
    selection = Selection(project=PROJECT, filter=RunFilter(**rest), **topic)
    shown = await store.snapshot(selection, after=after, limit=limit)
    return [*shown.runs], shown.next


async def test_every_list_has_just_what_fits_while_runs_are_added(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a plain look at all runs; with bounds so low that each way of finding is gone.

    Many runs share a moment, and numbers are not in the order of time, as with several servers.
    What comes meanwhile is newer than what was shown, and moves no page.
    """
    monkeypatch.setattr(newest, "FEW", 6)
    monkeypatch.setattr(newest, "PARTS", 20)
    monkeypatch.setattr(newest, "REACHES", (1, 2))
    chance = random.Random(11)
    numbers = [*range(1, 151)]
    chance.shuffle(numbers)
    made = [some_run(chance, n, AT + seconds(chance.randrange(40))) for n in numbers]
    await store.database.write(write, made)

    for _ in range(50):
        asked, limit = a_filter(chance), chance.choice([1, 2, 7, 50, 200])
        kind = chance.choice(["runs", "job runs", "snapshot"])
        if kind == "job runs":
            asked.pop("is_test", None)
            asked["tasks"] = frozenset({chance.choice(["job_a", "job_b"])})
        elif kind == "snapshot":
            asked.pop("created_before", None)
            asked["match"] = chance.choice([*Match])

        expected = sorted((run for run in made if fits(run, asked)), key=list_key, reverse=True)
        limit = max(limit, len(expected) // 8)
        found: list[Run] = []
        after: ListKey | None = None
        for turn in itertools.count():
            some, after = await read_page(store, kind, asked, limit, after)
            assert len(some) <= limit
            found += some
            if after is None:
                break
            if turn < 2:
                late = some_run(chance, 1_000 + len(made), AT + seconds(1_000 + len(made)))
                await store.database.write(write, [late])
                made.append(late)
        assert [run.id for run in found] == [run.id for run in expected], (kind, asked, limit)


async def test_lists_by_tag_outlive_the_migration_that_gives_tags_their_times(
    database_url: str,
) -> None:
    chance = random.Random(5)
    made = [some_run(chance, number, AT + seconds(number % 7)) for number in range(1, 41)]

    def write_before(connection: Connection) -> None:
        tags = [(PROJECT, tag, run.number) for run in made for tag in run.tags]
        with bulk.together(connection) as writes:
            insert_runs(writes, [(run, None) for run in made])
            writes.insert(run_tags, ("project", "tag", "number"), tags)

    database = await open_database(database_url)
    await database.write(to_revision, "0004")
    await database.write(write_before)
    await database.close()
    store = await RunStore.open(database_url, broker=MemoryBroker())
    try:
        for tag in TAGS:
            found, _ = await store.list_runs(RunQuery(project=PROJECT, tags=(tag,)))
            expected = sorted((run for run in made if tag in run.tags), key=list_key)
            assert found == expected[::-1]
    finally:
        await store.close()
