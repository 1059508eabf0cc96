"""Webhooks over real connections: told at least once, signed, retried, and never led astray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import RunStore
from store.commands import Command, CreateBatch, CreateRun, NewRun, SealBatch, Submission
from store.errors import Invalid, NotFound
from store.model import RunStatus, new_id
from store.tables.webhooks import deliveries as delivery_rows
from store.tables.webhooks import webhook_cursors
from store.webhooks import AddressPolicy, ChangedEndpoint, Delivery, Endpoint, NewEndpoint, Webhooks
from store.webhooks.values import State
from tests.receiving import (
    Behave,
    Endless,
    Receiver,
    answering,
    hang,
    in_turn,
    nonsense,
    reset,
)  # fmt: skip
from tests.store.asking import create, delete, until
from tests.store.jobs.jobbing import a_job, begin, move, now
from tests.store.opening import opened, url_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXECUTING = RunStatus.EXECUTING
COMPLETED = RunStatus.COMPLETED
LOCAL = AddressPolicy(loopback=True)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _afterwards(shared_store: RunStore) -> AsyncIterator[None]:
    """Leaves no endpoint behind: the store is everybody's."""
    yield
    hooks = Webhooks(shared_store.database, LOCAL)
    for endpoint in (await hooks.list_endpoints("default", 1_000, None))[0]:
        await hooks.delete("default", endpoint.id)


@pytest_asyncio.fixture(loop_scope="module")
async def hooks(shared_store: RunStore) -> AsyncIterator[Webhooks]:
    """The store's webhooks, at work."""
    async with at_work(shared_store) as hooks:
        yield hooks


@asynccontextmanager
async def at_work(store: RunStore, **how: Any) -> AsyncIterator[Webhooks]:
    hooks = Webhooks(store.database, how.pop("policy", LOCAL), look_every_s=0.1, **how)
    store.webhooks = hooks
    working = asyncio.create_task(hooks.run())
    try:
        yield hooks
    finally:
        working.cancel()
        await asyncio.wait([working])


async def an_endpoint(
    hooks: Webhooks, receiver: Receiver, *events: str, path: str = "/", **more: Any
) -> Endpoint:
    return await hooks.create(
        "default", NewEndpoint(url=receiver.url(path), events=events or ("*",), **more)
    )


async def sent(hooks: Webhooks, endpoint: Endpoint) -> Sequence[Delivery]:
    """All deliveries of the endpoint, the oldest first."""
    return (await hooks.list_deliveries("default", endpoint.id, 1_000, None))[0][::-1]


async def is_tried(hooks: Webhooks, endpoint: Endpoint, times: int = 1) -> bool:
    return any(len(one.attempts) >= times for one in await sent(hooks, endpoint))


async def are_over(hooks: Webhooks, endpoint: Endpoint, count: int) -> bool:
    found = await sent(hooks, endpoint)
    return sum(one.state is State.DELIVERED for one in found) >= count


def make_due(connection: Connection, endpoint_id: str) -> None:
    """As if the waits were over."""
    connection.execute(
        sa.update(delivery_rows)
        .where(delivery_rows.c.webhook_id == endpoint_id, delivery_rows.c.next_at.is_not(None))
        .where(delivery_rows.c.claim.is_(None))
        .values(next_at=delivery_rows.c.created_at)
    )


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
        assert outcome.run is not None  # type: ignore[union-attr]
        await move(shared_store, outcome.run, EXECUTING, COMPLETED)  # type: ignore[union-attr]
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


async def test_a_dead_servers_tries_are_taken_over(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    """It has claimed a delivery, and is killed before it has sent it or said so."""
    endpoint = await an_endpoint(hooks, receiver, path="/hang")
    receiver.behaviour["/hang"] = in_turn(hang, answering(200))
    await create(shared_store)
    await until(lambda: _came(receiver, "/hang", 1))

    def die(connection: Connection) -> None:
        connection.execute(
            sa.update(delivery_rows)
            .where(delivery_rows.c.webhook_id == endpoint.id)
            .values(next_at=delivery_rows.c.created_at)
        )

    await shared_store.database.write(die)
    await until(lambda: are_over(hooks, endpoint, 1))
    assert len({message.id for message in receiver.at("/hang")}) == 1


@pytest.mark.parametrize(
    "behave,error",
    [
        (answering(500, "oh no"), "answered 500"),
        (answering(404), "answered 404"),
        (reset, ""),
        (nonsense, ""),
    ],
)
async def test_what_is_not_taken_is_tried_again_under_the_same_id(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver, behave: Behave, error: str
) -> None:
    """Taken out: the next try; it was given up at once. That a connection cut off is an answer
    too; nothing was said of it, and only the end of its claim had it sent again.
    """
    endpoint = await an_endpoint(hooks, receiver, path="/bad")
    receiver.behaviour["/bad"] = in_turn(behave, answering(204))
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    assert delivery.state is State.PENDING
    assert delivery.next_at is not None
    assert delivery.next_at > delivery.attempts[0].at
    assert error in (delivery.attempts[0].error or "")
    assert (await hooks.get("default", endpoint.id)).failing_since is not None
    await shared_store.database.write(make_due, endpoint.id)
    await until(lambda: are_over(hooks, endpoint, 1))
    (delivery,) = await sent(hooks, endpoint)
    assert len(delivery.attempts) == 2
    assert {message.id for message in receiver.at("/bad")} == {delivery.id}
    assert (await hooks.get("default", endpoint.id)).failing_since is None


async def test_what_the_endpoint_says_is_kept_but_only_so_much_of_it(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/long")
    receiver.behaviour["/long"] = answering(500, "x" * 50_000, retry_after="600")
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    (attempt,) = delivery.attempts
    assert attempt.response == "x" * 2_048
    assert attempt.status == 500
    assert delivery.next_at is not None
    assert delivery.next_at - attempt.at > timedelta(seconds=590)


async def test_an_answer_without_end_is_cut_off(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    """Taken out: the bound on what is read of it; all of it was, or what came within a try."""
    endpoint = await an_endpoint(hooks, receiver, path="/endless")
    receiver.behaviour["/endless"] = endless = Endless()
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 1))
    (delivery,) = await sent(hooks, endpoint)
    assert len(delivery.attempts[0].response) == 2_048
    await until(lambda: _is_idle(receiver))
    assert endless.written < 50_000_000  # what the sockets have taken unread


async def test_redirects_are_not_followed(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    """Taken out, by following them: the message came to an address that nobody had looked at."""
    endpoint = await an_endpoint(hooks, receiver, path="/moved")
    receiver.behaviour["/moved"] = answering(302, location=receiver.url("/inside"))
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    assert delivery.attempts[0].status == 302
    assert receiver.at("/inside") == []


async def test_an_endpoint_that_hangs_slows_nobody_else(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """Taken out: how many tries one endpoint has at once; it had all of them."""
    async with at_work(shared_store, attempt_s=20.0) as hooks:
        slow = [await an_endpoint(hooks, receiver, path=f"/slow{i}") for i in range(3)]
        for i in range(3):
            receiver.behaviour[f"/slow{i}"] = hang
        quick = await an_endpoint(hooks, receiver, path="/quick")
        for _ in range(30):
            await create(shared_store)
        await until(lambda: are_over(hooks, quick, 30))
        assert not any([await is_tried(hooks, one) for one in slow])
        assert all(len(receiver.at(f"/slow{i}")) <= 4 for i in range(3))
        for one in slow:
            await hooks.delete("default", one.id)


async def test_one_that_does_not_answer_in_time_has_not_taken_it(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """Taken out: how long a try may take; it never ended."""
    async with at_work(shared_store, attempt_s=0.2) as hooks:
        endpoint = await an_endpoint(hooks, receiver, path="/late")
        receiver.behaviour["/late"] = hang
        await create(shared_store)
        await until(lambda: is_tried(hooks, endpoint))
        (delivery,) = await sent(hooks, endpoint)
        assert "no answer within" in (delivery.attempts[0].error or "")


async def test_an_endpoint_that_fails_for_long_is_paused_and_says_why(
    shared_store: RunStore, receiver: Receiver
) -> None:
    async with at_work(shared_store, paused_after=timedelta(0)) as hooks:
        endpoint = await an_endpoint(hooks, receiver, path="/down")
        receiver.behaviour["/down"] = in_turn(answering(503), answering(200))
        await create(shared_store)
        await until(lambda: is_tried(hooks, endpoint))
        paused = await hooks.get("default", endpoint.id)
        assert paused.paused_at is not None
        assert "answered 503" in (paused.paused_reason or "")
        await create(shared_store)
        await shared_store.database.write(make_due, endpoint.id)
        await until(lambda: _has(hooks, endpoint, 2))
        # Nothing is sent while it is paused; what there was to tell is kept, and listed.
        assert len(receiver.at("/down")) == 1
        await hooks.change("default", endpoint.id, ChangedEndpoint(paused=False))
        await until(lambda: are_over(hooks, endpoint, 2))


async def test_one_that_is_gone_is_told_no_more(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/gone")
    receiver.behaviour["/gone"] = answering(410)
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    assert (delivery.state, delivery.next_at) == (State.FAILED, None)
    assert "Gone" in ((await hooks.get("default", endpoint.id)).paused_reason or "")


async def test_a_delivery_can_be_sent_again_by_hand_also_where_it_is_paused(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/again")
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 1))
    (delivery,) = await sent(hooks, endpoint)
    await hooks.change("default", endpoint.id, ChangedEndpoint(paused=True))
    again = await hooks.retry("default", endpoint.id, delivery.id)
    assert again.state is State.PENDING
    await until(lambda: _tried_twice(hooks, endpoint))
    assert {message.id for message in receiver.at("/again")} == {delivery.id}
    assert (await hooks.get("default", endpoint.id)).paused_reason == "paused by its owner"
    for unknown in (("wh_none", delivery.id), (endpoint.id, "msg_none")):
        with pytest.raises(NotFound):
            await hooks.retry("default", *unknown)


async def test_a_delivery_is_given_up_after_a_day(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/never")
    receiver.behaviour["/never"] = answering(500)
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))

    def a_day_later(connection: Connection) -> None:
        connection.execute(
            sa.update(delivery_rows)
            .where(delivery_rows.c.webhook_id == endpoint.id)
            .values(next_at=delivery_rows.c.created_at, gives_up_at=delivery_rows.c.created_at)
        )

    await shared_store.database.write(a_day_later)
    await until(lambda: _failed(hooks, endpoint))


async def test_secrets_are_rotated_with_an_overlap(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver)
    changed = await hooks.change("default", endpoint.id, ChangedEndpoint(rotate_secret=True))
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 1))
    (message,) = receiver.messages
    old, new = endpoint.secrets[0].secret, changed.secrets[0].secret
    assert old != new
    assert message.is_signed_with(old)
    assert message.is_signed_with(new)
    await hooks.change("default", endpoint.id, ChangedEndpoint(rotate_secret=True, overlap_s=0))
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 2))
    assert not receiver.messages[-1].is_signed_with(new)


async def test_a_name_that_leads_inside_is_not_sent_to(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """Also where the name server changes its answer: it is asked once, and what it has
    answered is both checked and connected to.

    Taken out: the check; the message came.
    """
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.7"] if len(asked) > 1 else ["127.0.0.1", "10.0.0.1", "::1"]

    async with at_work(
        shared_store, policy=AddressPolicy(), resolve=resolve, attempt_s=2.0
    ) as hooks:
        url = f"http://rebind.example:{receiver.port}/"
        endpoint = await hooks.create("default", NewEndpoint(url=url, events=("*",)))
        await create(shared_store)
        await until(lambda: is_tried(hooks, endpoint))
        (delivery,) = await sent(hooks, endpoint)
        assert "must not be sent to" in (delivery.attempts[0].error or "")
        assert asked == ["rebind.example"]
        assert receiver.messages == []
        await hooks.delete("default", endpoint.id)


async def test_a_name_is_connected_to_at_the_address_that_was_checked(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """A name server that answers something else when it is asked again leads nowhere else.

    Taken out, by looking the name up again to connect: the message went to another address.
    """
    answers = [["169.254.169.254", "127.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop() if answers else ["127.0.0.2"]

    async with at_work(shared_store, resolve=resolve) as hooks:
        url = f"http://inside.example:{receiver.port}/named"
        endpoint = await hooks.create("default", NewEndpoint(url=url, events=("*",)))
        await create(shared_store)
        await until(lambda: are_over(hooks, endpoint, 1))
        assert receiver.at("/named")[0].headers["host"] == f"inside.example:{receiver.port}"
        await hooks.delete("default", endpoint.id)


async def test_what_no_endpoint_can_be_is_refused(shared_store: RunStore, hooks: Webhooks) -> None:
    good: dict[str, Any] = {"url": "https://example.com/", "events": ("*",)}
    for wrong, path in (
        ({"url": "http://169.254.169.254/"}, "url"),
        ({"url": "gopher://example.com"}, "url"),
        ({"events": ()}, "events"),
        ({"events": ("run.exploded",)}, "events.0"),
        ({"events": ("run.*", "run.c*")}, "events.1"),
        ({"tags": ()}, "tags"),
        ({"tags": ("a\n",)}, "tags.0"),
        ({"tasks": ("",)}, "tasks.0"),
    ):
        with pytest.raises(Invalid) as refused:
            await hooks.create("default", NewEndpoint(**(good | wrong)))
        assert refused.value.path == path


async def test_endpoints_are_listed_changed_and_deleted_with_their_deliveries(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/listed")
    found, _ = await hooks.list_endpoints("default", 1, None)
    assert [one.id for one in found] == [endpoint.id]
    changed = await hooks.change(
        "default", endpoint.id, ChangedEndpoint(events=("batch.*",), tags=("x",))
    )
    assert (changed.events, changed.tags, changed.url) == (("batch.*",), ("x",), endpoint.url)
    with pytest.raises(NotFound):
        await hooks.get("another", endpoint.id)
    await hooks.delete("default", endpoint.id)
    for call in (hooks.get("default", endpoint.id), hooks.delete("default", endpoint.id)):
        with pytest.raises(NotFound):
            await call


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


async def _came(receiver: Receiver, path: str, count: int) -> bool:
    return len(receiver.at(path)) >= count


async def _has(hooks: Webhooks, endpoint: Endpoint, count: int) -> bool:
    return len(await sent(hooks, endpoint)) >= count


async def _is_idle(receiver: Receiver) -> bool:
    return receiver.at_once == 0


async def _tried_twice(hooks: Webhooks, endpoint: Endpoint) -> bool:
    return await is_tried(hooks, endpoint, 2)


async def _failed(hooks: Webhooks, endpoint: Endpoint) -> bool:
    return (await sent(hooks, endpoint))[0].state is State.FAILED


async def _said(caplog: Any, text: str) -> bool:
    return text in str(caplog.text)
