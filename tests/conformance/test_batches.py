"""Batches, over HTTP and on streams, as docs/protocol.md has them."""

from typing import Any

import httpx2

from tests.conformance.calling import create, patch
from tests.conformance.conftest import Dial

Http = httpx2.AsyncClient


async def make_batch(http: Http, count: int, **fields: Any) -> tuple[str, list[dict[str, Any]]]:
    items = [{"taskIdentifier": "b"}] * count
    answer = await http.post("/v1/batches", json={"items": items, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()["batch"]["id"], answer.json()["runs"]


async def get_batch(http: Http, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = (await http.get(f"/v1/batches/{batch_id}")).json()
    return batch


async def test_a_batch_completes_with_the_later_of_its_last_run_and_its_seal(http: Http) -> None:
    sealed_last, [run] = await make_batch(http, 1, sealed=False)
    await patch(http, run, status="CANCELED")
    assert (await get_batch(http, sealed_last))["completedAt"] is None
    batch = (await http.post(f"/v1/batches/{sealed_last}/seal")).json()
    assert batch["completedAt"] == batch["sealedAt"]
    finished_last, runs = await make_batch(http, 2)
    first = await patch(http, runs[1], status="CANCELED")
    last = await patch(http, runs[0], status="CANCELED")
    batch = await get_batch(http, finished_last)
    assert batch["completedAt"] == last["finishedAt"] > first["finishedAt"] > batch["sealedAt"]


async def test_a_complete_batch_stays_complete_when_its_runs_are_deleted(
    dial: Dial, http: Http
) -> None:
    batch_id, runs = await make_batch(http, 2)
    for run in runs:
        await patch(http, run, status="CANCELED")
    complete = await get_batch(http, batch_id)
    assert (await http.delete(f"/v1/runs/{runs[1]['id']}")).status_code == 204
    assert (await get_batch(http, batch_id))["completedAt"] == complete["completedAt"]
    assert (await http.delete(f"/v1/runs/{runs[0]['id']}")).status_code == 204
    assert (await get_batch(http, batch_id))["completedAt"] == complete["completedAt"]
    async with dial() as socket:
        assert await socket.join(type="subscribeToBatch", id=1, batchId=batch_id) == []
        told = (await socket.until("batch"))["batch"]
        assert told["completedAt"] == complete["completedAt"]
        assert (await socket.until("end"))["reason"] == "completed"


async def test_a_batch_that_was_over_is_shown_then_live_then_told_then_ended(
    dial: Dial, http: Http
) -> None:
    batch_id, [run] = await make_batch(http, 1)
    await patch(http, run, status="CANCELED")
    async with dial() as socket:
        await socket.send(type="subscribeToBatch", id=1, batchId=batch_id)
        await socket.until("end")
        types = [m["type"] for m in socket.seen if m["type"] not in ("welcome", "heartbeat")]
        assert types == ["snapshot", "live", "batch", "end"]


async def test_a_batchs_stream_that_is_not_to_stop_stays(dial: Dial, http: Http) -> None:
    batch_id, [run] = await make_batch(http, 1)
    async with dial() as socket:
        await socket.join(type="subscribeToBatch", id=1, batchId=batch_id, stopOnCompletion=False)
        await patch(http, run, status="CANCELED")
        while (await socket.until("batch"))["batch"]["completedAt"] is None:
            pass
        await patch(http, run, addTags=["late"])
        late = await socket.change(kind="change")
        while late["run"].get("tags") != ["late"]:
            late = await socket.change(kind="change")
        await http.delete(f"/v1/runs/{run['id']}")
        assert (await socket.change())["kind"] == "leave"
        assert not [m for m in socket.seen if m["type"] == "end"]


async def test_a_filter_bounds_what_a_batchs_stream_shows_and_not_its_counts(
    dial: Dial, http: Http
) -> None:
    batch_id, runs = await make_batch(http, 2)
    async with dial() as socket:
        wish = {"type": "subscribeToBatch", "batchId": batch_id, "statuses": ["EXECUTING"]}
        assert await socket.join(id=1, **wish) == []
        await patch(http, runs[0], status="EXECUTING")
        assert (await socket.change())["kind"] == "enter"
        for run in runs:
            await patch(http, run, status="CANCELED")
        end = await socket.until("end")
        assert end["reason"] == "completed"
        assert [m["batch"] for m in socket.seen if m["type"] == "batch"][-1]["final"] == 2


async def test_a_batch_that_is_not_there(dial: Dial) -> None:
    async with dial() as socket:
        await socket.send(type="subscribeToBatch", id=1, batchId="batch_none")
        assert (await socket.until("error", id=1))["code"] == "not_found"
        assert (await socket.until("end", id=1))["reason"] == "not_found"


async def test_a_batch_is_made_whole_or_not_at_all(http: Http, tag: str) -> None:
    items = [{"taskIdentifier": "b", "tags": [tag]}, {"taskIdentifier": "b", "ttl": -1}]
    answer = await http.post("/v1/batches", json={"items": items})
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == ["items.1.ttl"]
    assert (await http.get("/v1/runs", params={"tag": tag})).json()["data"] == []
    assert (await http.post("/v1/batches", json={"items": items[:1] * 1001})).status_code == 422


async def test_a_run_finds_no_batch_that_is_not_there(http: Http) -> None:
    answer = await http.post("/v1/runs", json={"taskIdentifier": "t", "batchId": "batch_none"})
    assert answer.status_code in (404, 422)
    open_batch = (await http.post("/v1/batches", json={"sealed": False})).json()["batch"]
    run = await create(http, batchId=open_batch["id"])
    assert run["batchId"] == open_batch["id"]
