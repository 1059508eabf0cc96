"""What the client does about its one connection: comes back, goes on where it was, or says why not."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from clients.python.tests.builders import (
    RUN,
    a_change,
    a_leave,
    a_run,
    a_snapshot,
    an_enter,
    live,
    the_end,
)
from clients.python.tests.conftest import QUICK
from clients.python.tests.scripted import (
    PATIENCE_S,
    Answer,
    ScriptedServer,
    Socket,
    problem,
    until,
)
from runstream import (
    BadRequest,
    ClientClosed,
    Forbidden,
    Live,
    NotFound,
    ProtocolError,
    Refused,
    Runstream,
    State,
    Subscription,
    Unauthorized,
    credentials,
)


async def join(server: ScriptedServer, *runs: dict[str, Any], heartbeat_s: float = 15) -> Socket:
    socket = await server.welcomed(heartbeat_s)
    await socket.receive()
    await socket.send(a_snapshot(*runs), live())
    return socket


async def follow(
    client: Runstream, server: ScriptedServer, heartbeat_s: float = 15
) -> tuple[Subscription[Any], Socket]:
    """A subscription to a run that is live, and the server's end of it."""
    async with asyncio.TaskGroup() as group:
        joining = group.create_task(join(server, a_run(), heartbeat_s=heartbeat_s))
        subscription = client.subscribe_to_run(RUN)
        await subscription.__aenter__()
    assert (await anext(subscription)).version == 1
    return subscription, joining.result()


async def next_version(subscription: Subscription[Any]) -> int:
    async with asyncio.timeout(PATIENCE_S):
        run = await anext(subscription)
    return int(run.version)


@pytest.mark.parametrize("how", ["cut", 1001, 1006, 1012, 4408, 1011, 4429])
async def test_a_lost_connection_is_resumed_from_its_cursor_without_repeats(
    server: ScriptedServer, client: Runstream, how: int | str
) -> None:
    subscription, socket = await follow(client, server)
    await socket.send(a_change(2), {"type": "checkpoint", "cursor": "c2"}, a_change(3))
    assert [await next_version(subscription) for _ in range(2)] == [2, 3]
    if isinstance(how, int) and how != 1006:
        await socket.close(how)
    else:
        socket.cut()
    again = await server.socket()
    await again.expect("subscribeToRun", id=1, runId=RUN, cursor="c2")
    await again.welcome()
    # What was sent after the cursor comes again.
    await again.send(a_change(3), a_change(4), live("c4", resumed=True))
    assert await next_version(subscription) == 4
    assert client.stats.repeats_dropped == 1
    assert (client.stats.reconnects, client.stats.resumes) == (1, 1)
    await again.send(a_change(5, "COMPLETED"), the_end())
    assert [run.version async for run in subscription] == [5]


async def test_a_stream_that_was_not_live_yet_is_asked_for_anew(
    server: ScriptedServer, client: Runstream
) -> None:
    """It has no cursor, so other versions may come; a caller given both would see a gap.

    Taken out: `inbox.keep`; run_1 was told at version 1, then at version 5.
    """

    async def play() -> None:
        socket = await server.welcomed()
        await socket.receive()
        await socket.send(a_snapshot(a_run("run_1"), a_run("run_2"), a_run("run_3")))
        await until(lambda: len(subscription._stream.held) == 3)
        socket.cut()
        socket = await server.welcomed()
        message = await socket.receive()
        assert "cursor" not in message
        await socket.send(a_snapshot(a_run("run_1", 5), a_run("run_2")), live())

    subscription = client.subscribe_to_runs()
    async with asyncio.TaskGroup() as group:
        group.create_task(play())
        told = []
        async for change in subscription.changes():
            run = getattr(change, "run", None)
            told.append((type(change).__name__, run and (run.id, run.version)))
            if isinstance(change, Live):
                break
    assert told == [("Entered", ("run_1", 5)), ("Entered", ("run_2", 1)), ("Live", None)]
    await subscription.aclose()


async def test_a_repeated_leave_and_a_repeated_enter_are_nothing_new(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, socket = await follow(client, server)
    await socket.send(an_enter(a_run("run_2")), a_leave(2, run_id="run_2"), a_change(2))
    assert (await anext(subscription)).id == "run_2"
    assert await next_version(subscription) == 2
    socket.cut()
    socket = await server.welcomed()
    await socket.expect("subscribeToRun", cursor="c1")
    await socket.send(an_enter(a_run("run_2")), a_leave(2, run_id="run_2"), a_change(2))
    await socket.send(live("c2", resumed=True), a_change(3))
    assert await next_version(subscription) == 3
    await subscription.aclose()


async def test_checkpoints_hold_for_live_subscriptions_only(
    server: ScriptedServer, client: Runstream
) -> None:
    first, socket = await follow(client, server)
    second = client.subscribe_to_runs(cursor="c0")
    waiting = asyncio.create_task(anext(second))
    await socket.expect("subscribeToRuns", id=2, cursor="c0")
    await socket.send({"type": "heartbeat", "at": "x", "cursor": "c9"}, an_enter(a_run("r"), [2]))
    await waiting
    socket.cut()
    socket = await server.socket()
    cursors = {(await socket.receive())["cursor"] for _ in range(2)}
    assert cursors == {"c0", "c9"}
    await first.aclose()
    await second.aclose()


async def test_told_to_come_back_it_waits_that_long_and_no_longer(
    server: ScriptedServer, client: Runstream
) -> None:
    """It delivers until then, and the first try is not put off any further."""
    subscription, socket = await follow(client, server)
    told = time.monotonic()
    await socket.send({"type": "reconnect", "afterMs": 300, "reason": "draining"}, a_change(2))
    assert await next_version(subscription) == 2
    assert client.state is State.DRAINING
    await socket.send(a_change(3))
    assert await next_version(subscription) == 3
    await socket.close(1012)
    await server.socket()
    assert time.monotonic() - told >= 0.3
    await subscription.aclose()


async def test_a_server_that_does_not_close_is_left_when_it_said_so(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, socket = await follow(client, server)
    await socket.send({"type": "reconnect", "afterMs": 50, "reason": "draining"})
    again = await server.socket()
    await again.expect("subscribeToRun", cursor="c1")
    await subscription.aclose()


async def test_a_silent_connection_is_asked_and_then_left(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, socket = await follow(client, server, heartbeat_s=0.1)
    await socket.expect("ping")
    await socket.send({"type": "pong"})
    await socket.expect("ping")
    again = await server.socket()
    await again.expect("subscribeToRun", cursor="c1")
    await subscription.aclose()


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


async def test_a_server_that_dies_and_comes_back_is_gone_on_with(
    server: ScriptedServer, client: Runstream
) -> None:
    subscription, _ = await follow(client, server)
    await server.stop()
    await until(lambda: client.state is State.WAITING)
    await server.start()
    socket = await server.welcomed()
    await socket.expect("subscribeToRun", cursor="c1")
    await socket.send(live("c2", resumed=True), a_change(2))
    assert await next_version(subscription) == 2
    await subscription.aclose()


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


async def test_nothing_is_left_running_when_the_client_is_closed(server: ScriptedServer) -> None:
    before = asyncio.all_tasks()
    async with Runstream(server.url, timing=QUICK) as client:
        await follow(client, server)
        server_side = asyncio.all_tasks() - before
    left = {task.get_name() for task in asyncio.all_tasks() - before if not task.done()}
    assert not any("runstream" in name for name in left)
    assert server_side


async def test_an_idle_connection_is_closed_and_nothing_runs_for_it(
    server: ScriptedServer,
) -> None:
    timing = type(QUICK)(**{**QUICK.__dict__, "linger_s": 0.05})
    async with Runstream(server.url, timing=timing) as client:
        subscription, socket = await follow(client, server)
        await subscription.aclose()
        async with asyncio.timeout(PATIENCE_S):
            await socket.closed.wait()
        assert socket.close_code == 1000
        await until(lambda: not any("runstream" in t.get_name() for t in asyncio.all_tasks()))
        # And it opens again for the next.
        subscription, _ = await follow(client, server)
        await subscription.aclose()


async def test_stale_and_fresh_are_seen(server: ScriptedServer, client: Runstream) -> None:
    subscription, socket = await follow(client, server)
    await socket.send({"type": "stale"})
    await until(lambda: client.is_stale)
    await socket.send({"type": "fresh"})
    await until(lambda: not client.is_stale)
    await subscription.aclose()


async def test_the_states_can_be_followed(server: ScriptedServer, client: Runstream) -> None:
    seen: list[State] = []

    async def watch() -> None:
        async for state in client.states():
            seen.append(state)  # noqa: PERF401 - it is looked at meanwhile

    watching = asyncio.create_task(watch())
    await until(lambda: seen)

    def fail(state: State) -> None:
        raise ZeroDivisionError

    client.on_state(fail)  # One that fails is no reason to fail.
    await follow(client, server)
    await client.aclose()
    await watching
    assert seen[0] is State.IDLE
    assert seen[1:4] == [State.DIALING, State.GREETING, State.OPEN]
    assert seen[-1] is State.CLOSED


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


# Tokens


class Tokens:
    """A provider, and what it was asked."""

    def __init__(self, *tokens: str | Exception) -> None:
        self.left = list(tokens)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        token = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if isinstance(token, Exception):
            raise token
        return token


@pytest.mark.parametrize("how", ["close", "end", "handshake"])
async def test_a_refused_token_is_replaced_and_the_stream_goes_on(
    server: ScriptedServer, how: str
) -> None:
    tokens = Tokens("first", "second")
    async with Runstream(server.url, token=tokens, timing=QUICK) as client:
        subscription, socket = await follow(client, server)
        assert socket.token == "first"
        if how == "close":
            await socket.close(4401)
        elif how == "end":
            await socket.send(the_end("token_expired"))
        else:
            server.refuse_next = problem(401, "unauthorized")
            socket.cut()
        again = await server.welcomed()
        assert again.token == "second"
        await again.expect("subscribeToRun", cursor="c1")
        await again.send(live("c2", resumed=True), a_change(2))
        assert await next_version(subscription) == 2
        await subscription.aclose()


async def test_a_fixed_token_that_ends_is_raised(server: ScriptedServer, client: Runstream) -> None:
    subscription, socket = await follow(client, server)
    await socket.send(the_end("token_revoked"))
    with pytest.raises(Unauthorized, match="revoked"):
        await next_version(subscription)


@pytest.mark.parametrize(
    "tokens",
    [Tokens("wrong"), Tokens("a", "b", "c", "d"), Tokens("a", Unauthorized("gone"))],
    ids=["the same", "all wrong", "none"],
)
async def test_a_provider_of_wrong_tokens_is_raised(server: ScriptedServer, tokens: Tokens) -> None:
    server.refuse = problem(401, "unauthorized")
    async with Runstream(server.url, token=tokens, timing=QUICK) as client:
        with pytest.raises(Unauthorized):
            await client.wait_for_run(RUN, timeout=PATIENCE_S)


async def test_a_provider_that_is_away_is_asked_again(server: ScriptedServer) -> None:
    tokens = Tokens(ConnectionRefusedError("not now"), TimeoutError(), "good")
    async with Runstream(server.url, token=tokens, timing=QUICK) as client:
        subscription, socket = await follow(client, server)
        assert socket.token == "good"
        await subscription.aclose()


async def test_a_provider_that_never_answers_is_asked_again(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its subscription would wait in ASKING for ever, and nobody would be told."""
    monkeypatch.setattr(credentials, "PATIENCE_S", 0.02)
    asked = 0

    async def provide() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.Event().wait()
        return "good"

    async with Runstream(server.url, token=provide, timing=QUICK) as client:
        subscription, socket = await follow(client, server)
        assert socket.token == "good"
        await subscription.aclose()


async def test_closing_waits_neither_for_a_token_nor_for_a_run_that_is_read(
    server: ScriptedServer,
) -> None:
    """Each may take as long as a provider or a server likes."""
    asked = asyncio.Event()

    async def provide() -> str:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def respond(_: Any) -> Answer:
        asked.set()
        await answers.wait()
        return Answer(cut=True)

    answers = asyncio.Event()
    client = Runstream(server.url, token=provide, timing=QUICK)
    waiting = asyncio.create_task(client.wait_for_run(RUN))
    await asked.wait()
    async with asyncio.timeout(PATIENCE_S):
        await client.aclose()
    with pytest.raises(ClientClosed):
        await waiting

    asked.clear()
    server.on("GET", f"/v1/runs/{RUN}", respond)
    client = Runstream(server.url, api_key="key-1", timing=QUICK)
    waiting = asyncio.create_task(client.wait_for_run(RUN))
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(live(), a_change(2))
    await asked.wait()
    async with asyncio.timeout(PATIENCE_S):
        await client.aclose()
    with pytest.raises(ClientClosed):
        await waiting
    answers.set()


async def test_a_provider_that_is_broken_is_raised(server: ScriptedServer) -> None:
    async with Runstream(server.url, token=Tokens(KeyError("x")), timing=QUICK) as client:
        with pytest.raises(Unauthorized, match="provider failed: KeyError"):
            await client.wait_for_run(RUN, timeout=PATIENCE_S)


async def test_a_token_is_replaced_in_place_before_it_ends(server: ScriptedServer) -> None:
    tokens = Tokens("first", "second")
    ends = datetime.now(UTC) + timedelta(seconds=0.5)
    async with Runstream(server.url, token=tokens, timing=QUICK) as client:
        waiting = asyncio.create_task(anext(client.subscribe_to_run(RUN)))
        socket = await server.welcomed(expiresAt=ends.isoformat())
        await socket.expect("subscribeToRun")
        await socket.expect("authenticate", token="second")
        later = datetime.now(UTC) + timedelta(hours=1)
        await socket.send({"type": "authenticated", "expiresAt": later.isoformat()})
        await socket.send(a_snapshot(a_run()), live())
        assert (await waiting).version == 1
    assert server.dials == 1


async def test_without_a_key_none_is_shown(server: ScriptedServer) -> None:
    async with Runstream(server.url, timing=QUICK) as client:
        subscription, socket = await follow(client, server)
        assert socket.token is None
        assert socket.headers["Sec-WebSocket-Protocol"] == "runstream.v1"
        await subscription.aclose()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "", "http://"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        Runstream(url)


def test_one_way_to_say_who_you_are() -> None:
    with pytest.raises(ValueError, match="not both"):
        Runstream(api_key="a", token="b")
