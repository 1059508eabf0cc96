"""Server-sent events over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime.hub import HubSettings
from realtime.session import SessionSettings
from store.errors import Unavailable
from store.model import RunStatus, SnapshotPage
from tests.doubles import FakeGrant
from tests.realtime.hub.setting import Held
from tests.realtime.serving import Response, Serving, serving, until, with_tokens


@pytest.fixture(params=["realtime.frames:HttpProtocol", "h11"], ids=["ours", "plain ASGI"])
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[Serving]:
    settings = HubSettings(tail_s=0.05, session=SessionSettings(heartbeat_s=0.3))
    async with serving(http=request.param, settings=settings) as serving_:
        yield serving_


async def test_a_run_is_shown_to_its_end_and_then_the_stream_closes(gateway: Serving) -> None:
    gateway.store.create("run_1")
    async with await gateway.get("/v1/realtime/runs/run_1") as response:
        assert response.status == 200
        assert "content-type: text/event-stream" in response.head
        assert (await response.until("snapshot"))["runs"][0]["id"] == "run_1"
        live = await response.until("live")
        assert live["_id"] == live["cursor"]
        gateway.store.update("run_1", status=RunStatus.EXECUTING)
        change = await response.until("change")
        assert (change["_id"], change["ids"]) == (None, [1])
        gateway.store.update("run_1", status=RunStatus.COMPLETED)
        end = await response.until("end")
        assert end["reason"] == "completed"
        await response.ended()
    await until(lambda: not gateway.hub.connections)
    async with await gateway.get("/v1/realtime/runs/run_1", {"Last-Event-ID": end["_id"]}) as again:
        assert again.status == 204


async def test_the_last_event_id_resumes(gateway: Serving) -> None:
    gateway.store.create("run_1", tags=("a", "b"))
    path = "/v1/realtime/runs?tag=a&tag=b&match=all&statuses=QUEUED"
    async with await gateway.get(path) as response:
        cursor = (await response.until("live"))["_id"]
        gateway.store.update("run_1", metadata={"n": 1})
        await response.until("change")
    gateway.store.update("run_1", metadata={"n": 2})
    async with await gateway.get(path, {"Last-Event-ID": cursor}) as response:
        assert (await response.until("change"))["run"]["version"] == 2
        assert (await response.until("change"))["run"]["version"] == 3
        assert (await response.until("live"))["resumed"] is True
    async with await gateway.get(f"{path}&cursor={cursor}") as response:
        assert (await response.until("change"))["run"]["version"] == 2


async def test_every_target_has_its_path(gateway: Serving) -> None:
    store = gateway.store
    store.batches["batch_1"] = None
    store.create("run_1", batch_id="batch_1")
    store.create("run_2", parent_run_id="run_1")
    async with await gateway.get("/v1/realtime/batches/batch_1") as response:
        assert len((await response.until("snapshot"))["runs"]) == 1
        assert (await response.until("batch"))["batch"]["size"] == 1
    async with await gateway.get("/v1/realtime/job-runs/run_1?limit=5") as response:
        assert len((await response.until("snapshot"))["runs"]) == 2
    async with await gateway.get("/v1/realtime/runs?skip=payload&skip=metadata") as response:
        assert "payload" not in (await response.until("snapshot"))["runs"][0]
    async with await gateway.get("/v1/realtime/runs?snapshot=false") as response:
        assert (await response.event())["event"] == "live"


@pytest.mark.parametrize(
    "path, status, code",
    [
        ("runs/run_nothere", 404, "not_found"),
        ("batches/batch_nothere", 404, "not_found"),
        ("runs/run_1?tag=a", 400, "bad_request"),
        ("runs?limit=0", 400, "bad_request"),
        ("runs?limit=many", 400, "bad_request"),
        ("runs?limit=1&limit=2", 400, "bad_request"),
        ("runs?nonsense=1", 400, "bad_request"),
        ("runs?id=7", 400, "bad_request"),
        ("runs?type=ping", 400, "bad_request"),
        ("runs?cursor=nonsense", 400, "bad_request"),
        ("runs?tag=%00", 400, "bad_request"),
        ("runs?createdAfter=yesterday", 400, "bad_request"),
        ("runs?tag=a%FF", 400, "bad_request"),
    ],
)
async def test_what_is_refused_is_a_problem_and_no_stream(
    gateway: Serving, path: str, status: int, code: str
) -> None:
    async with await gateway.get(f"/v1/realtime/{path}") as response:
        assert response.status == status
        assert "content-type: application/problem+json" in response.head
        assert (await response.problem())["code"] == code


async def test_a_token_is_needed_and_must_cover_what_is_asked() -> None:
    grants = with_tokens(good=FakeGrant(tags=frozenset("a")))
    async with serving(authority=grants) as gateway:
        for path, token, status in [
            ("runs?tag=a", None, 401),
            ("runs?tag=a", "wrong", 401),
            ("runs?tag=b", "good", 403),
            ("runs?tag=a", "good", 200),
        ]:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            async with await gateway.get(f"/v1/realtime/{path}", headers) as response:
                assert response.status == status


async def test_checkpoints_carry_an_id_and_silence_is_broken_by_comments(gateway: Serving) -> None:
    """The comment keeps the connection open; the id is what a browser comes back with."""
    gateway.store.create("run_1")
    async with await gateway.get("/v1/realtime/runs") as response:
        await response.until("live")
        assert (await response.event())[""] == "heartbeat"
        # Checkpoints come while changes flow.
        event: dict[str, str] = {}
        while event.get("event") != "checkpoint":
            gateway.store.update("run_1", metadata={"n": 1})
            event = await response.event()
        assert event["id"]
        async with await gateway.get("/v1/realtime/runs", {"Last-Event-ID": event["id"]}) as again:
            assert (await again.until("live"))["resumed"] is True


async def after_two_heartbeats(response: Response, last_id: str = "") -> dict[str, str]:
    """With what a browser comes back whose connection breaks then."""
    beats = 0
    while beats < 2:
        event = await response.event()
        last_id = event.get("id") or last_id
        beats += "" in event
    return {"Last-Event-ID": last_id} if last_id else {}


async def test_a_heartbeat_of_a_stream_that_starts_again_takes_no_cursor_away(
    gateway: Serving,
) -> None:
    """Nothing is live, and there is no cursor that it could carry. A browser that comes back with
    something else is refused, and does not try again.

    Taken out: no id for `NO_CURSOR`; 400.
    """
    gateway.store.create("run_1", tags=("a",))
    path = "/v1/realtime/runs?tag=a"
    async with await gateway.get(path) as response:
        cursor = (await response.until("live"))["_id"]
        snapshot = Held(gateway.store, "snapshot")
        gateway.store.epoch = "e2"
        gateway.hub.suspect(None, "test")
        await response.until("reset")
        headers = await after_two_heartbeats(response, cursor)
    snapshot.let_go()
    async with await gateway.get(path, headers) as again:
        assert again.status == 200
    assert headers == {"Last-Event-ID": cursor}


async def test_a_heartbeat_between_the_pages_of_a_snapshot_has_no_id(gateway: Serving) -> None:
    """A browser that comes back then has seen nothing that could be gone on from.

    Taken out: no id for `NO_CURSOR`; 400.
    """
    gateway.store.create("run_1")
    gateway.store.create("run_2")
    gateway.store.pages_of = 1
    path = "/v1/realtime/runs"
    first = Held(gateway.store, "snapshot")
    asking = asyncio.create_task(gateway.get(path))
    await first.reached.wait()
    second = Held(gateway.store, "snapshot")
    first.let_go()
    async with await asking as response:
        await response.until("snapshot")
        headers = await after_two_heartbeats(response)
    second.let_go()
    async with await gateway.get(path, headers) as again:
        assert again.status == 200


async def test_a_stream_that_is_refused_after_it_has_begun_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has one subscription, which is over. A browser comes back when it ends, and never if it
    stays open for the sake of heartbeats.

    Taken out: the end after an error; a heartbeat came.
    """

    async def away(*_: Any, **__: Any) -> SnapshotPage:
        raise Unavailable("away")

    settings = HubSettings(tail_s=0.05, join_s=0.2, session=SessionSettings(heartbeat_s=0.3))
    async with serving(settings=settings) as gateway:
        gateway.store.create("run_1")
        async with await gateway.get("/v1/realtime/runs/run_1") as response:
            await response.until("live")
            monkeypatch.setattr(gateway.store, "snapshot", away)
            gateway.store.epoch = "e2"
            gateway.hub.suspect(None, "test")
            assert (await response.until("error"))["code"] == "unavailable"
            assert not await response.chunk()
            assert response.over


async def test_a_store_that_is_away_is_said_before_the_stream_begins() -> None:
    async with serving(settings=HubSettings(join_s=0.2, tail_s=0.05)) as gateway:
        gateway.store.away = True
        async with await gateway.get("/v1/realtime/runs") as response:
            assert response.status == 503
            assert "retry-after" in response.head


async def test_a_drain_tells_the_browser_when_to_come_back(gateway: Serving) -> None:
    async with await gateway.get("/v1/realtime/runs") as response:
        await response.until("live")
        draining = asyncio.create_task(gateway.hub.drain(1.0))
        while "retry" not in (event := await response.event()):
            assert event
        assert event["event"] == "reconnect"
        await response.ended()
        await draining


async def test_a_reader_that_goes_away_leaves_nothing_behind(gateway: Serving) -> None:
    for _ in range(3):
        async with await gateway.get("/v1/realtime/runs") as response:
            await response.until("live")
    await until(lambda: not gateway.hub.connections)
