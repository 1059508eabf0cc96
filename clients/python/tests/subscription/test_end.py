"""How a subscription ends, whoever ends it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from clients.python.tests.builders import RUN, a_run, a_snapshot, an_enter, live, the_end
from clients.python.tests.scripted import PATIENCE_S, ScriptedServer, Socket, until
from clients.python.tests.subscription.joining import joined
from runstream import (
    BadRequest,
    ClientClosed,
    Forbidden,
    NotFound,
    Runstream,
    StreamEnded,
    Subscription,
    TooManyRequests,
)


async def first(subscription: Subscription[Any], *, enters: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        if enters:
            async with subscription:
                await anext(subscription)
        else:
            await anext(subscription)


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
