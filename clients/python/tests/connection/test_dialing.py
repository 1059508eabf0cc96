"""How the client comes to its one connection: what is tried again, and what is raised."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clients.python.tests.builders import RUN, a_change, a_run, a_snapshot, live, the_end
from clients.python.tests.conftest import QUICK
from clients.python.tests.connection.following import follow, join, next_version
from clients.python.tests.scripted import PATIENCE_S, Answer, ScriptedServer, problem, until
from runstream import (
    BadRequest,
    Forbidden,
    NotFound,
    ProtocolError,
    Refused,
    Runstream,
    State,
    Unauthorized,
)


async def test_a_server_that_is_not_there_yet_is_waited_for(server: ScriptedServer) -> None:
    await server.stop()
    states: list[State] = []
    async with Runstream(server.url, timing=QUICK, on_state=states.append) as client:
        subscription = client.subscribe_to_run(RUN)
        waiting = asyncio.create_task(anext(subscription))
        await until(lambda: states.count(State.WAITING) >= 2)
        assert client.last_error is not None
        await server.start()
        await join(server, a_run())
        assert (await waiting).version == 1
        assert client.last_error is None
    assert states[0] is State.DIALING
    assert states[-1] is State.CLOSED


@pytest.mark.parametrize(
    "status, error", [(401, Unauthorized), (403, Forbidden), (404, NotFound), (400, Refused)]
)
async def test_a_refused_handshake_is_raised_at_once(
    server: ScriptedServer, client: Runstream, status: int, error: type[Exception]
) -> None:
    server.refuse = problem(status, "no")
    with pytest.raises(error):
        await client.wait_for_run(RUN, timeout=PATIENCE_S)
    assert server.dials == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_server_in_trouble_is_tried_again(
    server: ScriptedServer, client: Runstream, status: int
) -> None:
    server.refuse = Answer(status, headers={"Retry-After": "0"})
    waiting = asyncio.create_task(client.wait_for_run(RUN))
    await until(lambda: server.dials >= 2)
    server.refuse = None
    socket = await join(server, a_run())
    await socket.send(a_change(2, "COMPLETED"), the_end())
    assert (await waiting).is_success


@pytest.mark.parametrize(
    "code, error", [(4401, Unauthorized), (4403, Forbidden), (4400, BadRequest), (4405, Refused)]
)
async def test_a_close_that_says_not_again_is_raised_out_of_every_iterator(
    server: ScriptedServer, client: Runstream, code: int, error: type[Exception]
) -> None:
    async def play() -> None:
        socket = await server.socket()
        await socket.receive()
        await socket.receive()
        await socket.close(code, "because")

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        waits = [group.create_task(_raised(client.wait_for_run(run_id))) for run_id in ("a", "b")]
    assert [type(wait.result()) for wait in waits] == [error, error]
    assert client.state is State.IDLE
    # Whoever asks anew is not refused because of what was.
    subscription, _ = await follow(client, server)
    await subscription.aclose()


async def _raised(work: Any) -> Exception | None:
    try:
        await work
    except Exception as error:
        return error
    return None


async def test_what_cannot_be_read_is_raised(server: ScriptedServer, client: Runstream) -> None:
    subscription, socket = await follow(client, server)
    await socket.send("<html>")
    with pytest.raises(ProtocolError):
        await next_version(subscription)


async def test_all_subscriptions_share_one_connection(
    server: ScriptedServer, client: Runstream
) -> None:
    async def play() -> None:
        socket = await server.welcomed()
        for _ in range(50):
            message = await socket.receive()
            number = message["id"]
            run = a_run(message["runId"], 3, status="COMPLETED")
            await socket.send(a_snapshot(run, id=number), live(id=number), the_end(id=number))

    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        waits = [group.create_task(client.wait_for_run(f"run_{n}")) for n in range(50)]
    assert [wait.result().id for wait in waits] == [f"run_{n}" for n in range(50)]
    assert server.dials == 1


async def test_a_refused_subscription_is_asked_for_again_if_it_is_only_for_now(
    server: ScriptedServer, client: Runstream
) -> None:
    waiting = asyncio.create_task(anext(client.subscribe_to_run(RUN)))
    socket = await server.welcomed()
    for _ in range(2):
        message = await socket.receive()
        await socket.send({**message, "type": "error", "code": "unavailable", "message": ""} | {})
    message = await socket.receive()
    await socket.send(a_snapshot(a_run(), id=message["id"]), live(id=message["id"]))
    assert (await waiting).version == 1


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "", "http://"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        Runstream(url)
