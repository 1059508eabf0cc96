"""Public access tokens over HTTP."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from realtime.auth import key_hash, new_key
from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_token_says_when_it_ends(api: Caller) -> None:
    """15 minutes, if nobody says otherwise."""
    for asked, meant in (({}, 900), ({"expiresIn": 60}, 60)):
        response = await api.post("/v1/tokens", {"scopes": ["read:runs"], **asked})
        assert response.status_code == 201
        made = response.json()
        assert made.keys() == {"token", "id", "expiresAt"}
        left = datetime.fromisoformat(made["expiresAt"]) - datetime.now(UTC)
        assert meant - 10 < left.total_seconds() <= meant


@pytest.mark.parametrize(
    "body, path",
    [
        ({}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["read:runs", "write:runs"]}, "scopes.1"),
        ({"scopes": ["read:tags:a\0"]}, "scopes.0"),
        ({"scopes": ["read:runs"] * 101}, "scopes"),
        ({"scopes": ["read:tags:" + str(n) * 90 for n in range(100)]}, "scopes"),
        ({"scopes": "read:runs"}, "scopes"),
        ({"scopes": ["read:runs"], "expiresIn": 0}, "expiresIn"),
        ({"scopes": ["read:runs"], "expiresIn": 31 * 24 * 3600}, "expiresIn"),
        ({"scopes": ["read:runs"], "expiresIn": "1h"}, "expiresIn"),
        ({"scopes": ["read:runs"], "skip": ["id"]}, "skip.0"),
        ({"scopes": ["read:runs"], "skip": ["task_identifier"]}, "skip.0"),
        ({"scopes": ["read:runs"], "oneTime": True}, "oneTime"),
        ({"scopes": ["read:runs"], "admin": True}, "admin"),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(api: Caller, body: Any, path: str) -> None:
    """Each mistake is named."""
    problem = assert_problem(await api.post("/v1/tokens", body), 422, "unprocessable")
    assert problem["errors"][0]["path"] == path


async def test_a_revoked_token_reads_nothing_any_more(api: Caller) -> None:
    """Taking it back twice is no error; what is no token's id is not found."""
    made = (await api.post("/v1/tokens", {"scopes": ["read:runs"]})).json()
    reader = api.with_token(made["token"])
    assert (await reader.get("/v1/runs")).status_code == 200
    for _ in range(2):
        response = await api.delete(f"/v1/tokens/{made['id']}")
        assert (response.status_code, response.content) == (204, b"")
    assert_problem(await reader.get("/v1/runs"), 401, "unauthorized")
    assert_problem(await api.delete("/v1/tokens/x"), 404, "not_found")


async def test_a_trigger_token_makes_one_run_of_its_task_and_no_more(api: Caller) -> None:
    """Repeated with the same idempotency key it returns the first run."""
    task = new_id("task")
    trigger = await api.a_token(f"trigger:tasks:{task}")
    assert_problem(await trigger.post("/v1/runs", {"taskIdentifier": "x"}), 403, "forbidden")
    body = {"taskIdentifier": task, "idempotencyKey": "k"}
    first = await trigger.post("/v1/runs", body)
    assert first.status_code == 201
    again = await trigger.post("/v1/runs", body)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    refused = await trigger.post("/v1/runs", {"taskIdentifier": task})
    assert_problem(refused, 401, "unauthorized")
    assert "www-authenticate" in refused.headers
    assert len((await api.get("/v1/runs", params={"task": task})).json()["data"]) == 1


async def test_a_one_time_token_is_used_once_also_by_many_at_once(api: Caller) -> None:
    """Truly once: the use is noted in the transaction that makes the run."""
    task = new_id("task")
    trigger = await api.a_token(f"trigger:tasks:{task}")
    answers = await asyncio.gather(
        *(trigger.post("/v1/runs", {"taskIdentifier": task}) for _ in range(20))
    )
    assert sorted(response.status_code for response in answers) == [201] + [401] * 19
    assert len((await api.get("/v1/runs", params={"task": task})).json()["data"]) == 1


async def test_a_reusable_trigger_token_makes_many(api: Caller) -> None:
    """Where that is asked for."""
    trigger = await api.a_token("trigger:tasks:again", oneTime=False)
    for _ in range(2):
        assert (await trigger.post("/v1/runs", {"taskIdentifier": "again"})).status_code == 201


async def test_what_a_token_skips_its_new_run_skips_too(api: Caller) -> None:
    """In the answer, and for the token that comes with it."""
    trigger = await api.a_token("trigger:tasks:t", skip=["payload"])
    response = await trigger.post("/v1/runs", {"taskIdentifier": "t", "payload": "secret"})
    assert "payload" not in response.json()
    reader = api.with_token(response.headers["runstream-token"])
    assert "payload" not in (await reader.get(f"/v1/runs/{response.json()['id']}")).json()


async def test_a_trigger_token_puts_its_run_nowhere(api: Caller) -> None:
    """Neither among the runs of a batch that others watch nor below another run."""
    batch = (await api.post("/v1/batches", {})).json()["batch"]
    parent = await api.run()
    for place in ({"batchId": batch["id"]}, {"parentRunId": parent["id"]}):
        trigger = await api.a_token("trigger:tasks:t")
        response = await trigger.post("/v1/runs", {"taskIdentifier": "t", **place})
        assert_problem(response, 403, "forbidden")


async def test_projects_see_nothing_of_each_other(api: Caller) -> None:
    """Ids, tags, batches and idempotency keys of one are nothing in the other."""
    key = new_key()
    await api.runtime.access.create_key("shop", "k", key_hash(key), read_only=False)
    shop = api.with_token(key)
    tag = new_id("tag")
    ours = await api.run("same", tags=[tag], idempotencyKey=tag)
    batch = (await api.post("/v1/batches", {})).json()["batch"]
    assert_problem(await shop.get(f"/v1/runs/{ours['id']}"), 404, "not_found")
    assert_problem(await shop.get(f"/v1/runs/{ours['id']}/changes"), 404, "not_found")
    changed = await shop.patch(f"/v1/runs/{ours['id']}", {"status": "EXECUTING"})
    assert_problem(changed, 404, "not_found")
    assert_problem(await shop.post(f"/v1/runs/{ours['id']}/replay"), 404, "not_found")
    assert_problem(await shop.post(f"/v1/runs/{ours['id']}/heartbeat"), 404, "not_found")
    assert_problem(await shop.get(f"/v1/batches/{batch['id']}"), 404, "not_found")
    assert_problem(await shop.post(f"/v1/batches/{batch['id']}/seal"), 404, "not_found")
    into = {"taskIdentifier": "same", "batchId": batch["id"]}
    assert_problem(await shop.post("/v1/runs", into), 422, "unprocessable")
    below = {"taskIdentifier": "same", "parentRunId": ours["id"]}
    assert_problem(await shop.post("/v1/runs", below), 422, "unprocessable")
    theirs = await shop.run("same", tags=[tag], idempotencyKey=tag)
    assert theirs["id"] != ours["id"]
    listed = (await shop.get("/v1/runs", params={"tag": tag})).json()["data"]
    assert [run["id"] for run in listed] == [theirs["id"]]
    reader = await api.a_token(f"read:tags:{tag}")
    assert_problem(await reader.get(f"/v1/runs/{theirs['id']}"), 404, "not_found")


async def test_a_key_revoked_elsewhere_is_refused_within_a_second_or_so(api: Caller) -> None:
    """Another process did it; this one had the key in its memory."""
    key = new_key()
    stored = await api.runtime.access.create_key("shop", "k", key_hash(key), read_only=False)
    caller = api.with_token(key)
    assert (await caller.get("/v1/runs")).status_code == 200
    await api.runtime.access.revoke_key(stored.id)
    async with asyncio.timeout(5):
        while (await caller.get("/v1/runs")).status_code != 401:
            await asyncio.sleep(0.02)
