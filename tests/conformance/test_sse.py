"""Server-sent events, as docs/protocol.md has them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.conformance.calling import create, patch, problem

Http = httpx2.AsyncClient


@dataclass
class Event:
    """One event of a stream."""

    type: str
    data: dict[str, Any]
    id: str | None


class Stream:
    """The events of one answer."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()
        self.comments = 0

    async def next(self) -> Event:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "data" in fields:
                data = json.loads(fields["data"])
                assert data["type"] == fields["event"]
                return Event(fields["event"], data, fields.get("id"))
        raise EOFError

    async def until(self, type: str) -> Event:
        while True:
            event = await self.next()
            if event.type == type:
                return event


@asynccontextmanager
async def stream(http: Http, path: str, **headers: str) -> AsyncIterator[Stream]:
    async with http.stream("GET", path, headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


async def test_a_runs_stream_ends_and_is_not_begun_again(http: Http) -> None:
    run = await create(http)
    path = f"/v1/realtime/runs/{run['id']}"
    async with stream(http, path) as events:
        assert (await events.next()).data == {"type": "snapshot", "id": 1, "runs": [run]}
        live = await events.next()
        assert live.type == "live"
        assert live.id == live.data["cursor"]
        await patch(http, run, status="EXECUTING")
        await patch(http, run, status="COMPLETED", output=1)
        assert (await events.until("change")).data["run"]["status"] == "EXECUTING"
        assert (await events.until("change")).data["run"]["output"] == 1
        end = await events.until("end")
        assert end.data["reason"] == "completed"
        assert end.id
        with pytest.raises(EOFError):
            await events.next()
    again = await http.get(path, headers={"Last-Event-ID": end.id})
    assert again.status_code == 204


async def test_last_event_id_resumes(http: Http, tag: str) -> None:
    run = await create(http, tags=[tag])
    path = f"/v1/realtime/runs?tag={tag}"
    async with stream(http, path) as events:
        live = await events.until("live")
    await patch(http, run, metadata={"n": 1})
    assert live.id is not None
    async with stream(http, path, **{"Last-Event-ID": live.id}) as events:
        assert (await events.next()).data["run"]["metadata"] == {"n": 1}
        assert (await events.until("live")).data["resumed"] is True


async def test_options_and_filters_are_query_parameters(http: Http, tag: str) -> None:
    other = f"{tag}:b"
    run = await create(http, tags=[tag], payload=1)
    query = f"tag={tag}&tag={other}&match=any&skip=payload&tasks=t&statuses=QUEUED&limit=5"
    async with stream(http, f"/v1/realtime/runs?{query}") as events:
        [shown] = (await events.next()).data["runs"]
        assert shown["id"] == run["id"]
        assert "payload" not in shown


async def test_a_batch_and_all_runs_have_streams(http: Http) -> None:
    made = await http.post("/v1/batches", json={"items": [{"taskIdentifier": "b"}]})
    [run], batch = made.json()["runs"], made.json()["batch"]
    async with stream(http, f"/v1/realtime/batches/{batch['id']}") as events:
        await events.until("live")
        await patch(http, run, status="CANCELED")
        assert (await events.until("end")).data["reason"] == "completed"
    async with stream(http, "/v1/realtime/runs?limit=1") as events:
        await events.until("live")


async def test_refusals_before_the_stream_are_problems(http: Http, target: Any) -> None:
    problem(await http.get("/v1/realtime/runs/run_none"), 404, "not_found")
    problem(await http.get("/v1/realtime/runs?limit=0"), 400, "bad_request")
    problem(await http.get("/v1/realtime/runs?nonsense=1"), 400, "bad_request")
    problem(
        await http.get("/v1/realtime/runs", headers={"Last-Event-ID": "nonsense"}),
        400,
        "bad_request",
    )
    async with httpx2.AsyncClient(base_url=target.url) as nobody:
        problem(await nobody.get("/v1/realtime/runs"), 401, "unauthorized")
