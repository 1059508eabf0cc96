"""Webhooks over real connections: what is told, at least once, and nothing of it lost."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import RunStore
from store.commands import Command, CreateBatch, CreateRun, Done, NewRun, SealBatch, Submission
from store.model import RunStatus, new_id
from store.tables.webhooks import webhook_cursors
from store.webhooks import Webhooks
from tests.receiving import Receiver
from tests.store.asking import create, delete, until
from tests.store.jobs.jobbing import a_job, begin, move, now
from tests.store.opening import opened, url_of
from tests.store.webhooks.hooking import LOCAL, an_endpoint, are_over, at_work

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("no_endpoint_left")]

EXECUTING = RunStatus.EXECUTING
COMPLETED = RunStatus.COMPLETED


async def test_a_runs_life_is_told_signed_and_in_its_own_states(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    task = new_id("task")
    endpoint = await an_endpoint(hooks, receiver, "run.*", tasks=(task,))
    run = await create(shared_store, task_identifier=task, payload={"n": 1}, tags=("a",))
    await move(shared_store, run, EXECUTING, COMPLETED, output={"ok": True})
    await until(lambda: are_over(hooks, endpoint, 3))
    messages = {message.type: message for message in receiver.messages}
    assert set(messages) == {"run.created", "run.executing", "run.completed"}
    for message in receiver.messages:
        assert message.is_signed_with(endpoint.secrets[0].secret)
        assert message.headers["content-type"] == "application/json"
    data = {type: message.said["data"] for type, message in messages.items()}
    assert [data[f"run.{type}"]["version"] for type in ("created", "executing", "completed")] == [
        1, 2, 3,
    ]  # fmt: skip
    assert [data[f"run.{type}"]["status"] for type in ("created", "executing", "completed")] == [
        "QUEUED", "EXECUTING", "COMPLETED",
    ]  # fmt: skip
    assert {one["id"] for one in data.values()} == {run.id}
    assert all(one["payload"] == {"n": 1} for one in data.values())
    assert (data["run.executing"]["output"], data["run.completed"]["output"]) == (
        None, {"ok": True},
    )  # fmt: skip
    assert len({message.id for message in receiver.messages}) == 3


async def test_job_runs_and_batches_are_told(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, "job_run.*", "batch.completed")
    made = await begin(shared_store, await a_job(shared_store, "fetch", "build"), tags=("nightly",))
    await move(shared_store, made.steps[0], EXECUTING, COMPLETED)
    await move(shared_store, (await now(shared_store, made)).steps[1], EXECUTING, RunStatus.FAILED)
    batch_id = new_id("batch")
    runs = [
        CreateRun(
            project="default",
            run_id=new_id("run"),
            new=NewRun(task_identifier="t", batch_id=batch_id),
        )
        for _ in range(2)
    ]
    batch: tuple[Command, ...] = (
        CreateBatch(project="default", batch_id=batch_id),
        *runs,
        SealBatch(project="default", batch_id=batch_id),
    )
    outcomes = await shared_store.execute(
        Submission(project="default", commands=batch, atomic=True)
    )
    for outcome in outcomes[1:3]:
        assert isinstance(outcome, Done)
        assert outcome.run is not None
        await move(shared_store, outcome.run, EXECUTING, COMPLETED)
    await until(lambda: are_over(hooks, endpoint, 3))
    said = {message.type: message.said["data"] for message in receiver.messages}
    assert set(said) == {"job_run.started", "job_run.failed", "batch.completed"}
    assert said["job_run.started"]["id"] == made.run.id
    assert said["job_run.failed"]["status"] == "FAILED"
    assert said["job_run.failed"]["jobConfigJsonSnapshot"] == made.config
    assert len(said["job_run.failed"]["workflowRuns"]) == 2
    assert said["job_run.failed"]["run"]["status"] == "FAILED"
    assert (said["batch.completed"]["id"], said["batch.completed"]["final"]) == (batch_id, 2)
    assert said["batch.completed"]["completedAt"] is not None


async def test_an_endpoint_is_told_nothing_from_before_its_time(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    old = await create(shared_store)
    endpoint = await an_endpoint(hooks, receiver)
    await move(shared_store, old, EXECUTING)
    await until(lambda: are_over(hooks, endpoint, 1))
    assert [message.type for message in receiver.messages] == ["run.executing"]


async def test_nothing_is_lost_while_nobody_is_at_work(
    shared_store: RunStore, receiver: Receiver
) -> None:
    async with at_work(shared_store) as hooks:
        task = new_id("task")
        endpoint = await an_endpoint(hooks, receiver, tasks=(task,))
    runs = [await create(shared_store, task_identifier=task) for _ in range(30)]
    await move(shared_store, runs[0], EXECUTING, COMPLETED)
    await delete(shared_store, runs[0].id)
    async with at_work(shared_store) as hooks:
        await until(lambda: are_over(hooks, endpoint, 32))
    assert len({message.id for message in receiver.messages}) == 32
    assert {message.said["data"]["id"] for message in receiver.messages} == {
        run.id for run in runs
    }  # fmt: skip


async def test_several_servers_share_the_work(shared_store: RunStore, receiver: Receiver) -> None:
    """Each change is told once by all of them together, as long as none of them dies."""
    async with at_work(shared_store) as hooks, opened(url_of(shared_store)) as other:
        task = new_id("task")
        endpoint = await an_endpoint(hooks, receiver, tasks=(task,))
        async with at_work(other):
            for at in (shared_store, other) * 20:
                await create(at, task_identifier=task)
            await until(lambda: are_over(hooks, endpoint, 40))
    assert len(receiver.messages) == 40
    assert len({message.said["data"]["id"] for message in receiver.messages}) == 40


async def test_a_log_that_is_another_is_gone_on_with_from_its_present(
    shared_store: RunStore, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """After a restore by hand what was not told cannot be told: that is said, and it goes on."""
    async with at_work(shared_store) as hooks:
        endpoint = await an_endpoint(hooks, receiver, path="/epoch")

    def restore(connection: Connection) -> None:
        connection.execute(sa.update(webhook_cursors).values(epoch="another"))

    await shared_store.database.write(restore)
    async with at_work(shared_store) as hooks:
        await until(lambda: _said(caplog, "part of the log is gone"))
        await create(shared_store)
        await until(lambda: are_over(hooks, endpoint, 1))


async def test_a_message_of_a_large_run_leaves_out_what_makes_it_large(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/large")
    await create(shared_store, payload="x" * 2_000_000)
    await until(lambda: are_over(hooks, endpoint, 1))
    data = receiver.at("/large")[0].said["data"]
    assert "payload" not in data
    assert "payload" in data["omitted"]
    assert data["status"] == "QUEUED"


async def test_a_thousand_changes_are_told_page_by_page(
    shared_store: RunStore, receiver: Receiver
) -> None:
    async with at_work(shared_store) as hooks:
        task = new_id("task")
        endpoint = await an_endpoint(hooks, receiver, "run.created", tasks=(task,))
    commands = tuple(
        CreateRun(project="default", run_id=new_id("run"), new=NewRun(task_identifier=task))
        for _ in range(1_200)
    )
    await shared_store.execute(Submission(project="default", commands=commands))
    made = Webhooks(shared_store.database, LOCAL)
    assert await made.plan() == 1_200
    assert await made.plan() == 0
    await made.delete("default", endpoint.id)


async def _said(caplog: Any, text: str) -> bool:
    return text in str(caplog.text)
