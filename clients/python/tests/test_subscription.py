"""What a caller of the subscribe methods gets, whatever the stream does."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from clients.python.tests import builders
from clients.python.tests.builders import (
    RUN,
    a_batch,
    a_change,
    a_leave,
    a_run,
    a_snapshot,
    an_enter,
    live,
    the_end,
)
from clients.python.tests.scripted import PATIENCE_S, Answer, ScriptedServer, Socket, until
from runstream import (
    BadRequest,
    BatchProgress,
    Changed,
    ClientClosed,
    DecodeError,
    Entered,
    Forbidden,
    Left,
    Live,
    NotFound,
    Reset,
    RunStatus,
    Runstream,
    StreamEnded,
    Subscription,
    Task,
    TooManyRequests,
)


@dataclass
class Request:
    order_id: int


@dataclass
class Invoice:
    total: float


SEND = Task("send-invoice", payload=Request, output=Invoice)
REFUND: Task[int, str] = Task("refund", payload=int, output=str)


async def versions(subscription: Subscription[Any], count: int) -> list[int]:
    """The versions of the next runs."""
    async with asyncio.timeout(PATIENCE_S):
        return [(await anext(subscription)).version for _ in range(count)]


async def first(subscription: Subscription[Any], *, enters: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        if enters:
            async with subscription:
                await anext(subscription)
        else:
            await anext(subscription)


async def joined(server: ScriptedServer, *runs: dict[str, Any]) -> Socket:
    """The server's end of a subscription that is live, with these runs."""
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(a_snapshot(*runs), live())
    return socket


async def test_a_run_is_told_version_by_version_until_it_is_final(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.socket()
        assert socket.token == "key-1"
        await socket.expect("subscribeToRun", id=1, runId=RUN)
        await socket.welcome()
        await socket.send(a_snapshot(a_run()), live())
        await socket.send(a_change(2, startedAt="2026-03-01T12:00:01.500000Z"))
        await socket.send(
            a_change(3, metadata={"progress": 0.5}), a_change(4, "COMPLETED", output={"total": 99})
        )
        await socket.send(the_end())

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        runs = [run async for run in client.subscribe_to_run(RUN, task=SEND)]
    assert [run.version for run in runs] == [1, 2, 3, 4]
    last = runs[-1]
    assert last.status is RunStatus.COMPLETED
    assert last.output == Invoice(99)
    assert last.metadata == {"progress": 0.5}
    assert last.started_at is not None
    assert last.payload == Request(42)


async def test_a_context_is_entered_only_when_live(
    server: ScriptedServer, client: Runstream
) -> None:
    is_live_sent = False

    async def play() -> None:
        nonlocal is_live_sent
        socket = await server.welcomed()
        await socket.expect("subscribeToRunsWithTag", tags=["user:7"])
        await socket.send(a_snapshot(a_run()))
        is_live_sent = True
        await socket.send(live())
        await socket.expect("unsubscribe", id=1)

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        async with client.subscribe_to_runs_with_tag("user:7") as runs:
            assert is_live_sent
            assert runs.is_live
            assert (await anext(runs)).version == 1
    assert runs.end_reason == "unsubscribed"
    assert [run async for run in runs] == []


async def test_runs_of_several_tasks_have_each_its_types(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(
            joined(
                server,
                a_run("run_1"),
                a_run("run_2", taskIdentifier="refund", payload=7, output="done"),
            )
        )
        subscription = client.subscribe_to_runs_with_tag(
            ["a", "b"], match="any", tasks=(SEND, REFUND)
        )
        first, second = await anext(subscription), await anext(subscription)
        await playing
    assert first.payload == Request(42)
    assert (second.payload, second.output) == (7, "done")
    await subscription.aclose()


async def test_all_that_is_told_can_be_seen_in_order(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        await socket.expect("subscribeToBatch", batchId="batch_1")
        await socket.send(a_snapshot(a_run("run_1"), a_run("run_2")), live())
        await socket.send({"type": "batch", "id": 1, "batch": a_batch(1)})
        await socket.send(a_leave(2, run_id="run_2"), a_leave(5, run_id="run_9"))
        await socket.send({"type": "reset", "id": 1, "reason": "retention"})
        await socket.send(a_snapshot(a_run("run_3")), live("c2"))
        await socket.send(a_change(2, run_id="run_3"))
        await socket.send({"type": "batch", "id": 1, "batch": a_batch(3, complete=True)})
        await socket.send(the_end())

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        subscription = client.subscribe_to_batch("batch_1")
        told: list[Any] = []
        async for change in subscription.changes():
            match change:
                case Entered(run=run) | Changed(run=run) | Left(run=run):
                    told.append((type(change).__name__, run.id, run.version))
                case BatchProgress(batch=batch):
                    told.append(batch.final)
                case Reset(reason=reason):
                    told.append(reason)
                case Live():
                    told.append("live")
    assert told == [
        ("Entered", "run_1", 1),
        ("Entered", "run_2", 1),
        "live",
        1,
        ("Left", "run_2", 2),
        "retention",
        ("Entered", "run_3", 1),
        ("Left", "run_1", 1),
        "live",
        ("Changed", "run_3", 2),
        3,
    ]
    assert subscription.batch is not None
    assert subscription.batch.is_complete
    assert subscription.end_reason == "completed"
    assert client.stats.resets == 1


@pytest.mark.parametrize(
    "messages, error",
    [
        ([{"type": "error", "id": 1, "code": "not_found", "message": "x"}], NotFound),
        ([the_end("not_found")], NotFound),
        ([{"type": "error", "id": 1, "code": "forbidden", "message": "x"}], Forbidden),
        ([{"type": "error", "id": 1, "code": "bad_request", "message": "x"}], BadRequest),
        (
            [{"type": "error", "id": 1, "code": "too_many_requests", "message": "x"}],
            TooManyRequests,
        ),
        ([a_snapshot(), live(), the_end("forbidden")], Forbidden),
        ([a_snapshot(), live(), the_end("a_new_word")], StreamEnded),
    ],
)
@pytest.mark.parametrize("enters", [False, True])
async def test_what_is_refused_is_raised_at_once(
    server: ScriptedServer,
    client: Runstream,
    messages: list[dict[str, Any]],
    error: type[Exception],
    enters: bool,
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        await socket.receive()
        await socket.send(*messages)

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        subscription = client.subscribe_to_run(RUN)
        with pytest.raises(error):
            await first(subscription, enters=enters)


async def test_a_deleted_run_ends_its_stream_and_says_so(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:

        async def play() -> None:
            socket = await joined(server, a_run())
            await socket.send(the_end("deleted"))
            socket = await joined_again(socket)
            await socket.send(the_end("deleted", id=1))

        async def joined_again(socket: Socket) -> Socket:
            await socket.expect("subscribeToRun", id=1)
            await socket.send(live())
            return socket

        group.create_task(play())
        subscription = client.subscribe_to_run(RUN, stop_on_completion=False)
        assert [run.version async for run in subscription] == [1]
        assert subscription.end_reason == "deleted"
        with pytest.raises(StreamEnded, match="deleted"):
            await client.wait_for_run(RUN)


async def test_breaking_out_of_the_loop_unsubscribes(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        async for _ in client.subscribe_to_run(RUN):
            break
        gc.collect()
        await (await playing).expect("unsubscribe", id=1)


async def test_an_id_is_used_again_only_after_its_end(
    server: ScriptedServer, client: Runstream
) -> None:
    """What still comes for the old subscription must not be taken for the new one's."""

    async def enter(subscription: Subscription[Any], id: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(subscription.__aenter__())
            await socket.expect("subscribeToRuns", id=id)
            await socket.send(a_snapshot(id=id), live(id=id))

    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server))
        first = client.subscribe_to_runs()
        await first.__aenter__()
        socket = await playing
    await first.aclose()
    await socket.expect("unsubscribe", id=1)
    second = client.subscribe_to_runs()
    await enter(second, 2)
    await socket.send(an_enter(a_run()), the_end("unsubscribed"), an_enter(a_run("run_2"), [2]))
    assert (await anext(second)).id == "run_2"
    third = client.subscribe_to_runs()
    await enter(third, 1)
    await second.aclose()
    await third.aclose()


async def test_a_payload_that_does_not_fit_is_raised_where_it_comes(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run(), a_run("run_2", payload={"x": 1})))
        subscription = client.subscribe_to_runs(tasks=SEND)
        assert (await anext(subscription)).payload == Request(42)
        with pytest.raises(DecodeError, match="payload of run run_2"):
            await anext(subscription)
        await (await playing).expect("unsubscribe", id=1)


async def test_a_run_of_another_task_than_was_said_is_raised(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(joined(server, a_run()))
        with pytest.raises(DecodeError, match="a run of send-invoice, not of refund"):
            await anext(client.subscribe_to_run(RUN, task=REFUND))


async def test_every_option_reaches_the_server(server: ScriptedServer, client: Runstream) -> None:
    subscription = client.subscribe_to_runs_with_tag(
        ["a", "b"],
        match="any",
        tasks=[SEND, "other"],
        statuses=[RunStatus.QUEUED],
        created_after=datetime(2026, 3, 1, tzinfo=UTC),
        is_test=False,
        limit=7,
        cursor="c0",
        delivery="latest",
        skip=["payload", "batch_id"],
        stop_on_completion=False,
        snapshot=False,
    )
    waiting = asyncio.create_task(anext(subscription))
    socket = await server.welcomed()
    message = await socket.receive()
    assert message == {
        "type": "subscribeToRunsWithTag",
        "id": 1,
        "tags": ["a", "b"],
        "match": "any",
        "tasks": ["send-invoice", "other"],
        "statuses": ["QUEUED"],
        "createdAfter": "2026-03-01T00:00:00.000000Z",
        "isTest": False,
        "limit": 7,
        "cursor": "c0",
        "delivery": "latest",
        "skip": ["payload", "batchId"],
        "stopOnCompletion": False,
        "snapshot": False,
    }
    waiting.cancel()
    with pytest.raises(TypeError, match="unknown option: tga"):
        client.subscribe_to_runs(tga="x")  # type: ignore[call-overload]


async def test_a_change_of_a_run_that_is_not_held_is_read_once(
    server: ScriptedServer, client: Runstream
) -> None:
    """After `snapshot: false`, say; and what comes meanwhile is not lost."""
    asked = asyncio.Event()

    async def respond(_: Any) -> Answer:
        asked.set()
        await go_on.wait()
        return Answer(200, a_run(version=5, status="EXECUTING"))

    go_on = asyncio.Event()
    server.on("GET", f"/v1/runs/{RUN}", respond)

    async def play() -> None:
        socket = await server.welcomed()
        await socket.receive()
        await socket.send(live())
        await socket.send(a_change(4), a_change(5), a_change(6, metadata={"n": 6}))
        await asked.wait()
        await socket.send(a_change(7, "COMPLETED"), the_end())
        go_on.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        runs = [run async for run in client.subscribe_to_run(RUN, snapshot=False)]
    assert [run.version for run in runs] == [5, 6, 7]
    assert runs[0].payload == {"order_id": 42}
    assert runs[-1].metadata == {"n": 6}
    assert len(server.asked) == 1


async def test_a_run_that_is_gone_when_it_is_read_is_forgotten(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        await socket.receive()
        await socket.send(live(), a_change(4, run_id="run_gone"))
        await server.has_been_asked(1, "GET", "/v1/runs/run_gone")
        await socket.send(an_enter(a_run("run_2")))

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        subscription = client.subscribe_to_runs(snapshot=False)
        assert (await anext(subscription)).id == "run_2"
        await subscription.aclose()


async def test_the_cursor_covers_what_was_taken_and_no_more(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        subscription = client.subscribe_to_runs()
        assert subscription.cursor is None
        await anext(subscription)
        socket = await playing
        assert subscription.cursor is None
        await socket.send(a_change(2), {"type": "checkpoint", "cursor": "c2"}, a_change(3))
        assert await versions(subscription, 1) == [2]
        assert subscription.cursor == "c1"
        assert await versions(subscription, 1) == [3]
        assert subscription.cursor == "c2"
        await subscription.aclose()


async def test_a_slow_caller_is_paused_and_goes_on_from_the_log(
    server: ScriptedServer, client: Runstream
) -> None:
    """What waits for it is bounded, it loses nothing, and another subscription notices nothing."""
    slow = client.subscribe_to_run(RUN, buffer=8)
    quick = client.subscribe_to_runs()
    async with asyncio.TaskGroup() as group:
        entering = group.create_task(slow.__aenter__())
        socket = await server.welcomed()
        await socket.expect("subscribeToRun", id=1)
        await socket.send(a_snapshot(a_run()), live())
        await entering
        entering = group.create_task(quick.__aenter__())
        await socket.expect("subscribeToRuns", id=2)
        await socket.send(a_snapshot(id=2), live(id=2))
        await entering

    for version in range(2, 20):
        await socket.send(a_change(version))
    await socket.expect("unsubscribe", id=1)
    await socket.send(the_end("unsubscribed"))
    await socket.send(an_enter(a_run("run_2"), ids=[2]))
    assert (await anext(quick)).id == "run_2"
    assert socket.has_heard_all

    taken = await versions(slow, 8)
    assert taken == list(range(1, 9))
    message = await socket.expect("subscribeToRun", id=1, cursor="c1")
    assert message["runId"] == RUN
    # The log from there on, which begins with what has been told already.
    await socket.send(*(a_change(version) for version in range(2, 20)))
    taken += await versions(slow, 2)
    await socket.expect("unsubscribe", id=1)
    await socket.send(the_end("unsubscribed"))
    while taken[-1] < 19:
        taken += await versions(slow, 1)
        if not socket.has_heard_all:
            message = await socket.receive()
            if message["type"] == "subscribeToRun":
                await socket.send(*(a_change(version) for version in range(2, 20)))
                await socket.send(live(id=message["id"], resumed=True))
            else:
                await socket.send(the_end("unsubscribed", id=message["id"]))
        await asyncio.sleep(0)
    assert taken == list(range(1, 20))
    assert client.stats.pauses >= 2
    await slow.aclose()
    await quick.aclose()


async def test_latest_gives_a_slow_caller_the_newest_state(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        subscription = client.subscribe_to_run(RUN, delivery="latest")
        async with subscription:
            socket = await playing
            await socket.send(*(a_change(version) for version in range(2, 50)))
            await socket.send(a_change(50, metadata={"n": 50}), the_end())
            await until(lambda: subscription.end_reason)
            told = [run.version async for run in subscription]
    assert told == [1, 50]


async def test_one_task_at_a_time_waits_on_a_subscription(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription = client.subscribe_to_run(RUN)
    first = asyncio.create_task(anext(subscription))
    await server.welcomed()
    with pytest.raises(RuntimeError, match="one task at a time"):
        await anext(subscription)
    first.cancel()


async def test_cancelling_a_wait_loses_nothing(server: ScriptedServer, client: Runstream) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        subscription = client.subscribe_to_run(RUN)
        assert await versions(subscription, 1) == [1]
        socket = await playing
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(subscription)
        await socket.send(a_change(2))
        assert await versions(subscription, 1) == [2]
        await subscription.aclose()


async def test_closing_the_client_ends_what_is_open(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(joined(server, a_run()))
        subscription = client.subscribe_to_run(RUN)
        await anext(subscription)
        waiting = group.create_task(_all_of(subscription))
        entering = group.create_task(_enter(client.subscribe_to_runs()))
        finishing = group.create_task(_wait_for(client, "run_2"))
        await until(lambda: client.state == "OPEN")
        await client.aclose()
    assert waiting.result() == []
    assert subscription.end_reason == "closed"
    assert isinstance(entering.result(), ClientClosed)
    assert isinstance(finishing.result(), ClientClosed)
    with pytest.raises(ClientClosed):
        await anext(client.subscribe_to_run(RUN))


async def _all_of(subscription: Subscription[Any]) -> list[int]:
    return [run.version async for run in subscription]


async def _enter(subscription: Subscription[Any]) -> Exception | None:
    try:
        async with subscription:
            return None
    except ClientClosed as error:
        return error


async def _wait_for(client: Runstream, run_id: str) -> Exception | None:
    try:
        await client.wait_for_run(run_id)
    except ClientClosed as error:
        return error
    return None


async def test_waiting_for_a_run_gives_it_when_it_is_final(
    server: ScriptedServer, client: Runstream
) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        waiting = group.create_task(client.wait_for_run(RUN, 60, task=SEND))
        socket = await playing
        await socket.send(a_change(2), a_change(3, "COMPLETED", output={"total": 1}), the_end())
    assert waiting.result().output == Invoice(1)


async def test_waiting_for_a_run_has_an_end(server: ScriptedServer, client: Runstream) -> None:
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(joined(server, a_run()))
        with pytest.raises(TimeoutError):
            await client.wait_for_run(RUN, timeout=0.1)
        playing.cancel()


async def test_a_job_run_and_its_steps_are_followed(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        await socket.expect("subscribeToJobRun", jobRunId="run_job")
        await socket.send(a_snapshot(a_run("run_job"), a_run("run_step", position=0)), live())
        await socket.send(builders.a_change(2, "FAILED", run_id="run_step"))
        await socket.send(builders.a_change(2, "FAILED", run_id="run_job"), the_end())

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        told = [(r.id, r.version) async for r in client.subscribe_to_job_run("run_job")]
    assert told == [("run_job", 1), ("run_step", 1), ("run_step", 2), ("run_job", 2)]
