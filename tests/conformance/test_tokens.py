"""What a token shows, and what its end or its successor means to streams."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tests.conformance.calling import create, patch, problem
from tests.conformance.conftest import Dial
from tests.conformance.test_sse import stream

Http = httpx2.AsyncClient


async def make_token(http: Http, *scopes: str, **fields: Any) -> str:
    answer = await http.post("/v1/tokens", json={"scopes": list(scopes), **fields})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


async def test_another_projects_token_closes_with_4403(dial: Dial, target: Any) -> None:
    async with dial() as socket:
        await socket.send(type="authenticate", token=target.key_elsewhere)
        assert await socket.closed() == 4403


async def test_a_wrong_token_in_place_of_a_good_one_closes_with_4401(dial: Dial) -> None:
    async with dial() as socket:
        await socket.send(type="authenticate", token="wrong-key-0123456789")
        assert await socket.closed() == 4401


async def test_projects_see_nothing_of_each_other(dial: Dial, http: Http, target: Any) -> None:
    run = await create(http)
    async with dial(key=target.key_elsewhere) as socket:
        await socket.send(type="subscribeToRun", id=1, runId=run["id"])
        assert (await socket.until("error", id=1))["code"] == "not_found"
    headers = {"Authorization": f"Bearer {target.key_elsewhere}"}
    async with httpx2.AsyncClient(base_url=target.url, headers=headers) as elsewhere:
        problem(await elsewhere.get(f"/v1/runs/{run['id']}"), 404, "not_found")
        problem(await elsewhere.post(f"/v1/runs/{run['id']}/cancel"), 404, "not_found")


async def test_a_token_that_forces_other_fields_out_resets_every_stream(
    dial: Dial, http: Http, tag: str
) -> None:
    run = await create(http, tags=[tag], payload=1)
    open_ = await make_token(http, f"read:tags:{tag}")
    veiled = await make_token(http, f"read:tags:{tag}", skip=["payload"])
    async with dial(key=open_) as socket:
        [shown] = await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag)
        assert shown["payload"] == 1
        await socket.join(type="subscribeToRun", id=2, runId=run["id"])
        cursor = socket.seen[-1]["cursor"]
        await socket.send(type="authenticate", token=veiled)
        assert (await socket.until("authenticated"))["expiresAt"]
        seen = len(socket.seen)
        resets = {(await socket.until("reset"))["id"] for _ in range(2)}
        assert resets == {1, 2}
        for _ in range(2):
            live = await socket.until("live")
            assert live["resumed"] is False
        after = socket.seen[seen:]
        assert {m["reason"] for m in after if m["type"] == "reset"} == {"token"}
        runs = [each for m in after if m["type"] == "snapshot" for each in m["runs"]]
        assert [each["id"] for each in runs] == [run["id"]] * 2
        assert not any("payload" in each for each in runs)
    async with dial(key=veiled) as socket:
        await socket.send(type="subscribeToRun", id=1, runId=run["id"], cursor=cursor)
        assert (await socket.until("reset"))["reason"] == "token"
        assert (await socket.until("live"))["resumed"] is False


async def test_what_the_next_token_does_not_cover_ends_and_the_rest_goes_on(
    dial: Dial, http: Http, tag: str
) -> None:
    other = f"{tag}:other"
    run, hidden = await create(http, tags=[tag]), await create(http, tags=[other])
    wide = await make_token(http, f"read:tags:{tag}", f"read:tags:{other}")
    narrow = await make_token(http, f"read:tags:{tag}")
    async with dial(key=wide) as socket:
        await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag)
        await socket.join(type="subscribeToRunsWithTag", id=2, tag=other)
        await socket.join(type="subscribeToRun", id=3, runId=hidden["id"])
        await socket.send(type="authenticate", token=narrow)
        ends = {}
        for _ in range(2):
            end = await socket.until("end")
            ends[end["id"]] = end["reason"]
        assert ends == {2: "forbidden", 3: "forbidden"}
        await patch(http, hidden, metadata={"n": 1})
        await patch(http, run, metadata={"n": 1})
        change = await socket.change()
        assert (change["ids"], change["run"]["id"]) == ([1], run["id"])


async def test_what_a_token_forces_out_is_left_out_of_events_too(http: Http, target: Any) -> None:
    run = await create(http, payload={"secret": 1})
    token = await make_token(http, f"read:runs:{run['id']}", skip=["payload", "metadata"])
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=target.url, headers=headers) as reader:
        async with stream(reader, f"/v1/realtime/runs/{run['id']}") as events:
            [shown] = (await events.next()).data["runs"]
            assert not {"payload", "metadata"} & shown.keys()
            await events.until("live")
            await patch(http, run, metadata={"n": 1})
            change = await events.until("change")
            assert "metadata" not in change.data["run"]
        page = (await reader.get(f"/v1/runs/{run['id']}/changes")).json()
        assert not any("metadata" in each["changed"] for each in page["data"])
        problem(await reader.get("/v1/realtime/runs"), 403, "forbidden")


async def test_a_token_that_expires_ends_its_streams(dial: Dial, http: Http, tag: str) -> None:
    token = await make_token(http, f"read:tags:{tag}", expiresIn=1)
    async with dial(key=token, welcome=False) as socket:
        assert (await socket.until("welcome"))["expiresAt"]
        await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag)
        assert (await socket.until("end"))["reason"] == "token_expired"
        assert await socket.closed() == 4401


@pytest.mark.parametrize(
    "message",
    [
        {"type": "subscribeToRuns", "id": 1},
        {"type": "ping"},
        {"type": "unsubscribe", "id": 1},
        {"type": "authenticate"},
    ],
)
async def test_nothing_is_told_before_a_token_came(dial: Dial, message: dict[str, Any]) -> None:
    async with dial(key=None) as socket:
        await socket.send(**message)
        error = await socket.next()
        assert (error["type"], error["code"]) == ("error", "unauthorized")
        assert await socket.closed() == 4401


async def test_what_follows_the_token_in_its_frame_is_read_with_it(
    dial: Dial, http: Http, target: Any
) -> None:
    run = await create(http)
    lines: list[dict[str, Any]] = [
        {"type": "authenticate", "token": target.key},
        {"type": "subscribeToRun", "id": 1, "runId": run["id"]},
        {"type": "ping", "data": 7},
    ]
    async with dial(key=None) as socket:
        await socket.connection.send("\n".join(map(json.dumps, lines)))
        assert (await socket.next())["type"] == "welcome"
        types: set[str] = set()
        while types != {"snapshot", "live", "pong"}:
            types.add((await socket.next())["type"])


async def test_a_stream_asked_for_before_the_welcome_is_served(dial: Dial, http: Http) -> None:
    run = await create(http)
    async with dial(welcome=False) as socket:
        await socket.send(type="subscribeToRun", id=1, runId=run["id"])
        assert (await socket.next())["type"] == "welcome"
        await socket.until("live", id=1)


async def test_a_one_time_token_makes_one_run(http: Http, target: Any, tag: str) -> None:
    headers = {"Authorization": f"Bearer {await make_token(http, 'trigger:tasks:t')}"}
    async with httpx2.AsyncClient(base_url=target.url, headers=headers) as page:
        problem(await page.post("/v1/runs", json={"taskIdentifier": "u"}), 403, "forbidden")
        body = {"taskIdentifier": "t", "idempotencyKey": tag}
        first, again = await asyncio.gather(*[page.post("/v1/runs", json=body) for _ in range(2)])
        assert sorted((first.status_code, again.status_code)) == [200, 201]
        assert first.json() == again.json()
        problem(await page.post("/v1/runs", json={"taskIdentifier": "t"}), 401, "unauthorized")


async def test_what_may_not_be_asked_of_a_token(http: Http) -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"scopes": []},
        {"scopes": ["write:runs"]},
        {"scopes": ["read:runs"], "expiresIn": 0},
        {"scopes": ["read:runs"], "expiresIn": 30 * 86_400 + 1},
        {"scopes": ["read:runs"], "skip": ["status"]},
        {"scopes": ["read:runs"], "nonsense": 1},
    ]
    for body in bodies:
        problem(await http.post("/v1/tokens", json=body), 422, "unprocessable")
    answer = await http.post("/v1/tokens", json={"scopes": ["read:runs"], "expiresIn": 30 * 86_400})
    assert answer.status_code == 201
