"""The WebSocket endpoint over real sockets, under our protocol class and under uvicorn's own."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from realtime.hub import HubSettings
from realtime.session import SessionSettings
from store.model import RunStatus
from tests.doubles import FakeGrant
from tests.realtime.serving import Reader, Serving, serving, until, with_tokens

OURS = {"ws": "realtime.frames:FramesProtocol", "http": "realtime.frames:HttpProtocol"}
STOCK = {"ws": "websockets-sansio", "http": "h11"}

Serve = Callable[..., AbstractAsyncContextManager[Serving]]


@pytest.fixture(params=[OURS, STOCK], ids=["finished frames", "plain ASGI"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Serves under one protocol class and then under the other."""

    def begin(**how: Any) -> AbstractAsyncContextManager[Serving]:
        return serving(**(request.param | how))

    return begin


@pytest.fixture
async def gateway(serve: Serve) -> AsyncIterator[Serving]:
    async with serve() as serving:
        yield serving


async def test_a_reader_sees_a_run_from_its_snapshot_to_its_end(gateway: Serving) -> None:
    gateway.store.create("run_1")
    async with gateway.reader(subprotocols=["runstream.v1"]) as reader:
        assert reader.socket.subprotocol == "runstream.v1"
        assert (await reader.next())["type"] == "welcome"
        await reader.say({"type": "subscribeToRun", "id": 1, "runId": "run_1"})
        snapshot = await reader.until("snapshot")
        assert snapshot["runs"][0]["payload"] == {"of": "run_1"}
        assert (await reader.until("live"))["resumed"] is False
        gateway.store.update("run_1", status=RunStatus.EXECUTING)
        assert (await reader.until("change"))["run"]["version"] == 2
        gateway.store.update("run_1", status=RunStatus.COMPLETED, output={"ü": 1})
        assert (await reader.until("change"))["run"]["output"] == {"ü": 1}
        assert (await reader.until("end"))["reason"] == "completed"
    await until(lambda: not gateway.hub.connections)


async def test_a_reader_resumes_where_it_was_cut(gateway: Serving) -> None:
    gateway.store.create("run_1", tags=("a",))
    asked = {"type": "subscribeToRunsWithTag", "id": 1, "tag": "a"}
    async with gateway.reader() as reader:
        await reader.say(asked)
        cursor = (await reader.until("live"))["cursor"]
    gateway.store.update("run_1", status=RunStatus.EXECUTING)
    gateway.store.create("run_2", tags=("a",))
    async with gateway.reader() as reader:
        await reader.say(asked | {"cursor": cursor})
        live = await reader.until("live")
        changes = [message for message in reader.seen if message["type"] == "change"]
    assert live["resumed"] is True
    assert {(c["kind"], c["run"]["id"], c["run"]["version"]) for c in changes} == {
        ("change", "run_1", 2),
        ("enter", "run_2", 1),
    }


async def test_what_comes_up_together_goes_out_together(gateway: Serving) -> None:
    """One write a turn of the loop, as one WebSocket message."""
    gateway.store.create("run_1")
    async with gateway.reader() as reader:
        await reader.say({"type": "subscribeToRuns", "id": 1})
        await reader.until("live")
        gateway.store.write(lambda tx: [tx.update("run_1", metadata={"n": n}) for n in range(20)])
        text = await reader.socket.recv()
    assert len(text.split("\n")) == 20  # type: ignore[arg-type]


async def test_subscriptions_of_one_connection_share_a_message(gateway: Serving) -> None:
    gateway.store.create("run_1", tags=("a",))
    async with gateway.reader() as reader:
        await reader.say(
            {"type": "subscribeToRuns", "id": 1},
            {"type": "subscribeToRunsWithTag", "id": 2, "tag": "a"},
            {"type": "subscribeToRuns", "id": 3, "skip": ["metadata"]},
        )
        for _ in range(3):
            await reader.until("live")
        gateway.store.update("run_1", metadata={"n": 1})
        changes = [await reader.until("change") for _ in range(2)]
    assert sorted(change["ids"] for change in changes) == [[1, 2], [3]]


# ------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("header", ["Bearer wrong", "Basic abc", "Bearer"])
async def test_a_wrong_token_in_the_header_closes_after_the_handshake(
    serve: Serve, header: str
) -> None:
    """A browser can't see a 401 of a handshake; it can see a close code."""
    async with (
        serve(authority=with_tokens(good=FakeGrant())) as gateway,
        gateway.reader(additional_headers={"Authorization": header}) as reader,
    ):
        assert await reader.closed() == 4401


async def test_a_token_in_the_header_needs_no_waiting_for_the_welcome(serve: Serve) -> None:
    async with (
        serve(authority=with_tokens(good=FakeGrant())) as gateway,
        gateway.reader(additional_headers={"Authorization": "Bearer good"}) as reader,
    ):
        await reader.say({"type": "ping"})
        assert [(await reader.next())["type"] for _ in range(2)] == ["welcome", "pong"]


async def test_a_token_may_come_as_the_first_message(serve: Serve) -> None:
    grants = with_tokens(good=FakeGrant(), other=FakeGrant(project="other"))
    async with serve(authority=grants) as gateway, gateway.reader() as reader:
        await reader.say({"type": "authenticate", "token": "good"}, {"type": "ping"})
        assert [(await reader.next())["type"] for _ in range(2)] == ["welcome", "pong"]
        await reader.say({"type": "authenticate", "token": "good"})
        assert (await reader.next())["type"] == "authenticated"
        await reader.say({"type": "authenticate", "token": "other"})
        assert await reader.closed() == 4403


async def test_without_a_token_it_is_closed(serve: Serve) -> None:
    settings = HubSettings(session=SessionSettings(authenticate_s=0.1))
    async with (
        serve(authority=with_tokens(), settings=settings) as gateway,
        gateway.reader() as reader,
    ):
        assert await reader.closed() == 4401


async def test_a_run_that_the_token_does_not_cover_looks_like_none(serve: Serve) -> None:
    grants = with_tokens(good=FakeGrant(tags=frozenset("a")))
    async with (
        serve(authority=grants) as gateway,
        gateway.reader(additional_headers={"Authorization": "Bearer good"}) as reader,
    ):
        gateway.store.create("run_1", tags=("b",))
        answers = []
        for run_id in ("run_1", "run_nothere"):
            await reader.say({"type": "subscribeToRun", "id": 1, "runId": run_id})
            answers.append(await reader.until("error"))
    assert answers[0] == answers[1]
    assert answers[0]["code"] == "forbidden"


async def test_a_run_that_loses_the_tag_of_the_token_leaves_and_ends(serve: Serve) -> None:
    grants = with_tokens(good=FakeGrant(tags=frozenset("a")))
    async with (
        serve(authority=grants) as gateway,
        gateway.reader(additional_headers={"Authorization": "Bearer good"}) as reader,
    ):
        gateway.store.create("run_1", tags=("a",))
        await reader.say({"type": "subscribeToRun", "id": 1, "runId": "run_1"})
        await reader.until("live")
        gateway.store.update("run_1", tags=("b",), status=RunStatus.EXECUTING)
        leave = await reader.until("change")
        assert (leave["kind"], leave["run"]["status"]) == ("leave", "QUEUED")
        assert (await reader.until("end"))["reason"] == "forbidden"


async def test_a_revoked_token_ends_its_connections(serve: Serve) -> None:
    async with serve() as gateway, gateway.reader() as reader:
        await reader.say({"type": "subscribeToRuns", "id": 1})
        await reader.until("live")
        gateway.hub.revoked(lambda grant: False)
        assert (await reader.until("end"))["reason"] == "token_revoked"
        assert await reader.closed() == 4401


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "text, code",
    [("nonsense", 4400), ("", 4400), ("[]", 4400), ('{"type":"x"}', 4400), (b"{}", 4400)],
)
async def test_what_is_no_message_closes(gateway: Serving, text: str | bytes, code: int) -> None:
    async with gateway.reader() as reader:
        await reader.socket.send(text)
        assert await reader.closed() == code


async def test_a_message_that_is_too_long_closes(gateway: Serving) -> None:
    async with gateway.reader() as reader:
        await reader.socket.send(json.dumps({"type": "ping", "data": "x" * 70_000}))
        assert await reader.closed() == 1009


async def test_one_clients_mistakes_touch_no_other(gateway: Serving) -> None:
    gateway.store.create("run_1")
    async with gateway.reader() as good:
        await good.say({"type": "subscribeToRuns", "id": 1})
        await good.until("live")
        for text in ("nonsense", '{"type":"subscribeToRun","id":1}'):
            async with gateway.reader() as bad:
                await bad.socket.send(text)
        gateway.store.update("run_1", metadata={"n": 1})
        assert (await good.until("change"))["run"]["version"] == 2


async def test_more_connections_than_there_may_be_are_sent_away(serve: Serve) -> None:
    async with (
        serve(settings=HubSettings(connections=1)) as gateway,
        gateway.reader() as first,
    ):
        await first.until("welcome")
        async with gateway.reader() as second:
            assert await second.closed() == 4429
        await first.say({"type": "ping"})
        await first.until("pong")


# -------------------------------------------------------------------------------- slow readers


class Stalled:
    """A client that subscribes to everything and then reads nothing."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        self.socket.setblocking(False)
        await loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        await loop.sock_sendall(
            self.socket,
            b"GET /v1/realtime HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await loop.sock_recv(self.socket, 1)
        asked = {"type": "subscribeToRuns", "id": 1}
        frame = Frame(Opcode.TEXT, json.dumps(asked).encode())
        await loop.sock_sendall(self.socket, frame.serialize(mask=True))

    def reset(self) -> None:
        """Goes away at once."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


async def test_a_reader_that_reads_nothing_is_dropped_and_no_other_waits(serve: Serve) -> None:
    """It costs itself: what it is owed is bounded, and given back when it is gone."""
    settings = HubSettings(mailbox_bytes=100_000, slow_consumer_s=0.5, tail_s=0.1)
    async with serve(settings=settings) as gateway, gateway.reader() as good:
        gateway.store.create("run_1")
        stalled = Stalled(gateway.port)
        await stalled.connect()
        await good.say({"type": "subscribeToRuns", "id": 1})
        await good.until("live")
        hub = gateway.hub
        await until(lambda: sum(len(p.index) for p in hub.projects.values()) == 2)
        await until(
            lambda: all(
                member.is_live for project in hub.projects.values() for member in project.index
            )
        )
        version = 1
        pad = "x" * 20_000
        while len(hub.connections) > 1:
            gateway.store.update("run_1", metadata={"pad": pad})
            version += 1
            assert (await good.until("change"))["run"]["version"] == version
            assert version < 5_000
        stalled.socket.close()


async def test_a_connection_that_is_reset_leaves_nothing_behind(gateway: Serving) -> None:
    for _ in range(5):
        stalled = Stalled(gateway.port)
        await stalled.connect()
        await asyncio.sleep(0)
        stalled.reset()
    async with gateway.reader() as reader:
        await reader.say({"type": "subscribeToRuns", "id": 1})
        await reader.until("live")
    await until(lambda: not gateway.hub.connections)
    await until(lambda: not any(project.index for project in gateway.hub.projects.values()))


async def test_a_long_snapshot_waits_for_its_reader_and_not_in_memory(serve: Serve) -> None:
    """It bypasses the mailbox's bound, and what goes on meanwhile is not lost."""
    settings = HubSettings(mailbox_bytes=50_000, tail_s=0.1)
    async with serve(settings=settings) as gateway:
        for n in range(300):
            gateway.store.create(f"run_{n:03}", metadata={"pad": "x" * 10_000})
        async with gateway.reader(max_queue=1) as reader:
            await reader.say({"type": "subscribeToRuns", "id": 1})
            await reader.until("snapshot")
            for n in range(100):
                gateway.store.update(f"run_{n:03}", metadata={"n": n})
            await reader.until("live")
            held: dict[str, int] = {}
            for message in reader.seen:
                for run in message.get("runs", ()):
                    held[run["id"]] = run["version"]
                if message["type"] == "change":
                    held[message["run"]["id"]] = message["run"]["version"]
            while any(held[f"run_{n:03}"] < 2 for n in range(100)):
                run = (await reader.until("change"))["run"]
                held[run["id"]] = run["version"]
    assert len(held) == 300


# ------------------------------------------------------------------------------------ the store


async def test_while_the_store_is_away_streams_stay_and_are_told(gateway: Serving) -> None:
    gateway.store.create("run_1")
    async with gateway.reader() as reader:
        await reader.say({"type": "subscribeToRuns", "id": 1})
        await reader.until("live")
        gateway.store.away = True
        gateway.hub.suspect(None, "test")
        await reader.until("stale")
        gateway.store.write(lambda tx: tx.update("run_1", metadata={"n": 1}), publish=False)
        gateway.store.away = False
        assert (await reader.until("change"))["run"]["version"] == 2
        await reader.until("fresh")


async def test_another_epoch_resets_every_stream(gateway: Serving) -> None:
    gateway.store.create("run_1")
    async with gateway.reader() as reader:
        await reader.say({"type": "subscribeToRuns", "id": 1})
        await reader.until("live")
        gateway.store.epoch = "e2"
        gateway.hub.suspect(None, "test")
        assert (await reader.until("reset"))["reason"] == "epoch"
        await reader.until("snapshot")
        assert (await reader.until("live"))["resumed"] is False


async def test_whoever_is_too_far_behind_starts_again(serve: Serve) -> None:
    settings = HubSettings(replay_changes=10, tail_s=0.1, linger_s=0.0)
    async with serve(settings=settings) as gateway:
        gateway.store.create("run_1")
        async with gateway.reader() as reader:
            await reader.say({"type": "subscribeToRuns", "id": 1})
            cursor = (await reader.until("live"))["cursor"]
        await until(lambda: not gateway.hub.projects)
        for n in range(20):
            gateway.store.update("run_1", metadata={"n": n})
        async with gateway.reader() as reader:
            await reader.say({"type": "subscribeToRuns", "id": 1, "cursor": cursor})
            assert (await reader.until("reset"))["reason"] == "too_far_behind"
            assert (await reader.until("snapshot"))["runs"][0]["version"] == 21
            assert (await reader.until("live"))["resumed"] is False


async def test_checkpoints_and_heartbeats_carry_cursors_that_continue(serve: Serve) -> None:
    settings = HubSettings(tail_s=0.02, session=SessionSettings(checkpoint_s=0.05, heartbeat_s=0.2))
    async with serve(settings=settings) as gateway:
        gateway.store.create("run_1")
        async with gateway.reader() as reader:
            await reader.say({"type": "subscribeToRuns", "id": 1})
            await reader.until("live")
            last = 1
            cursors: dict[str, str] = {}
            while cursors.keys() != {"checkpoint", "heartbeat"}:
                # On a slow machine a heartbeat may come first, and then no checkpoint is owed.
                if "checkpoint" not in cursors:
                    last += 1
                    gateway.store.update("run_1", metadata={"n": last})
                    await reader.until("change")
                message = await reader.next()
                if message["type"] in ("checkpoint", "heartbeat"):
                    cursors[message["type"]] = message["cursor"]
        for cursor in cursors.values():
            async with gateway.reader() as reader:
                await reader.say({"type": "subscribeToRuns", "id": 1, "cursor": cursor})
                assert (await reader.until("live"))["resumed"] is True
                # The tail's statement may have begun before a change: then it is repeated, once.
                told = [m["run"]["version"] for m in reader.seen if m["type"] == "change"]
                assert told == [*range(last + 1 - len(told), last + 1)]


# --------------------------------------------------------------------------------------- drains


async def test_a_drain_says_when_to_come_back_and_delivers_until_then(gateway: Serving) -> None:
    gateway.store.create("run_1")
    readers: list[Reader] = []
    async with gateway.reader() as one, gateway.reader() as two:
        readers = [one, two]
        for reader in readers:
            await reader.say({"type": "subscribeToRuns", "id": 1})
            await reader.until("live")
        draining = asyncio.create_task(gateway.hub.drain(2.0))
        for reader in readers:
            assert 0 <= (await reader.until("reconnect"))["afterMs"] <= 2_000
        gateway.store.update("run_1", metadata={"n": 1})
        for reader in readers:
            await reader.until("change")
            assert await reader.closed() == 1012
        await draining
        async with gateway.reader() as late:
            assert (await late.next())["type"] == "reconnect"
            assert await late.closed() == 1012
    assert not gateway.hub.connections
