"""The token that a connection shows: where it comes from, and when it is replaced."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from clients.python.tests.builders import RUN, a_change, a_run, a_snapshot, live, the_end
from clients.python.tests.conftest import QUICK
from clients.python.tests.connection.following import follow, next_version
from clients.python.tests.scripted import PATIENCE_S, ScriptedServer, problem
from runstream import Runstream, Unauthorized, credentials


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


def test_one_way_to_say_who_you_are() -> None:
    with pytest.raises(ValueError, match="not both"):
        Runstream(api_key="a", token="b")
