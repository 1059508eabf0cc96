"""Batches over HTTP."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

ITEM = {"taskIdentifier": "step"}


async def test_a_batch_with_items_is_sealed_and_comes_with_its_runs_in_order(api: Caller) -> None:
    """One request, one transaction; the token reads the batch and its runs."""
    items = [ITEM | {"payload": n} for n in range(3)]
    response = await api.post("/v1/batches", {"items": items})
    assert response.status_code == 201
    batch, runs = response.json()["batch"], response.json()["runs"]
    assert [run["payload"] for run in runs] == [0, 1, 2]
    assert {run["batchId"] for run in runs} == {batch["id"]}
    assert batch["sealedAt"] is not None
    assert (batch["size"], batch["final"], batch["counts"]) == (3, 0, {"QUEUED": 3})
    assert batch["completedAt"] is None
    assert (await api.get(f"/v1/batches/{batch['id']}")).json() == batch
    claims = jwt.decode(response.headers["runstream-token"], options={"verify_signature": False})
    assert claims["scopes"] == [f"read:batch:{batch['id']}"]
    reader = api.with_token(response.headers["runstream-token"])
    assert (await reader.get(f"/v1/batches/{batch['id']}")).json() == batch
    assert (await reader.get(f"/v1/runs/{runs[0]['id']}")).json() == runs[0]
    listed = await reader.get("/v1/runs", params={"batchId": batch["id"]})
    assert len(listed.json()["data"]) == 3


@pytest.mark.parametrize(
    "body, sealed", [({}, False), ({"items": []}, False), ({"items": [ITEM]}, True),
                     ({"sealed": True}, True), ({"items": [ITEM], "sealed": False}, False)],
)  # fmt: skip
async def test_a_batch_is_sealed_by_default_if_it_has_items(
    api: Caller, body: Any, sealed: bool
) -> None:
    """An empty one is open: somebody is about to fill it."""
    response = await api.post("/v1/batches", body)
    assert (response.json()["batch"]["sealedAt"] is not None) is sealed
    assert len(response.json()["runs"]) == len(body.get("items", []))


async def test_an_open_batch_takes_more_until_it_is_sealed(api: Caller) -> None:
    """By both ways in; sealing twice is no error."""
    batch = (await api.post("/v1/batches", {})).json()["batch"]
    path = f"/v1/batches/{batch['id']}"
    response = await api.post(f"{path}/items", {"items": [ITEM, ITEM | {"batchId": batch["id"]}]})
    assert response.status_code == 200
    assert {run["batchId"] for run in response.json()["runs"]} == {batch["id"]}
    await api.run(batchId=batch["id"])
    assert (await api.post(f"{path}/items", {"items": []})).json() == {"runs": []}
    sealed = await api.post(f"{path}/seal")
    assert (sealed.status_code, sealed.json()["size"]) == (200, 3)
    assert (await api.post(f"{path}/seal")).json() == sealed.json()
    assert_problem(await api.post(f"{path}/items", {"items": [ITEM]}), 409, "conflict")
    refused = await api.post("/v1/runs", ITEM | {"batchId": batch["id"]})
    assert_problem(refused, 409, "conflict")


async def test_a_batch_is_complete_when_it_is_sealed_and_all_its_runs_are_final(
    api: Caller,
) -> None:
    """And stays so when they are deleted."""
    made = (await api.post("/v1/batches", {"items": [ITEM, ITEM]})).json()
    path = f"/v1/batches/{made['batch']['id']}"
    await api.post(f"/v1/runs/{made['runs'][0]['id']}/cancel")
    batch = (await api.get(path)).json()
    assert (batch["final"], batch["counts"]) == (1, {"QUEUED": 1, "CANCELED": 1})
    assert batch["completedAt"] is None
    last = (await api.post(f"/v1/runs/{made['runs'][1]['id']}/cancel")).json()
    batch = (await api.get(path)).json()
    assert (batch["final"], batch["completedAt"]) == (2, last["finishedAt"])
    for run in made["runs"]:
        assert (await api.delete(f"/v1/runs/{run['id']}")).status_code == 204
    assert (await api.get(path)).json() == batch


async def test_a_batch_that_is_sealed_empty_is_complete(api: Caller) -> None:
    """There is nothing to wait for."""
    batch = (await api.post("/v1/batches", {"sealed": True})).json()["batch"]
    assert batch["completedAt"] == batch["sealedAt"]


@pytest.mark.parametrize(
    "items, path",
    [
        ([ITEM, {}], "items.1.taskIdentifier"),
        ([ITEM, ITEM | {"tags": ["\n"]}], "items.1.tags.0"),
        ([ITEM, ITEM | {"payload": {"a": "\0"}}], "items.1.payload.a"),
        ([ITEM, ITEM | {"delay": 1, "delayUntil": "2999-01-01T00:00:00Z"}], "items.1.delay"),
        ([ITEM, ITEM | {"batchId": "batch_other"}], "items.1.batchId"),
        ([ITEM, 7], "items.1"),
        ({}, "items"),
        ([ITEM] * 1_001, "items"),
    ],
)
async def test_one_item_that_does_not_fit_refuses_all_and_is_named(
    api: Caller, items: Any, path: str
) -> None:
    """Half a batch would be nobody's."""
    task = new_id("task")
    named = [
        item | {"taskIdentifier": task} if isinstance(item, dict) and item else item
        for item in items
    ] if isinstance(items, list) else items  # fmt: skip
    problem = assert_problem(await api.post("/v1/batches", {"items": named}), 422, "unprocessable")
    assert problem["errors"][0]["path"] == path
    assert (await api.get("/v1/runs", params={"task": task})).json()["data"] == []


async def test_an_item_over_a_limit_is_too_large(api: Caller) -> None:
    """As it would be alone."""
    big = ITEM | {"metadata": {"m": "x" * 256_000}}
    problem = assert_problem(
        await api.post("/v1/batches", {"items": [ITEM, big]}), 413, "payload_too_large"
    )
    assert "items.1.metadata" in problem["detail"]


async def test_a_thousand_items_are_taken(api: Caller) -> None:
    """The bound is part of the promise."""
    response = await api.post("/v1/batches", {"items": [ITEM] * 1_000})
    assert response.json()["batch"]["size"] == 1_000


async def test_a_batch_repeated_with_its_key_is_one_batch(api: Caller) -> None:
    """All of its runs come again."""
    key = {"Idempotency-Key": new_id("key")}
    first = await api.post("/v1/batches", {"items": [ITEM, ITEM]}, headers=key)
    again = await api.post("/v1/batches", {"items": [ITEM, ITEM]}, headers=key)
    assert again.json() == first.json()
    assert again.status_code == 201


@pytest.mark.parametrize("id", ["x", "batch_" + "0" * 26, "run_" + "0" * 26, "%00"])
async def test_a_batch_that_is_not_there_is_not_found(api: Caller, id: str) -> None:
    """For every call about it."""
    assert_problem(await api.get(f"/v1/batches/{id}"), 404, "not_found")
    assert_problem(await api.post(f"/v1/batches/{id}/seal"), 404, "not_found")
    for items in ([], [ITEM]):
        response = await api.post(f"/v1/batches/{id}/items", {"items": items})
        assert_problem(response, 404, "not_found")


async def test_another_token_does_not_find_the_batch(api: Caller) -> None:
    """Not even whether there is one."""
    batch = (await api.post("/v1/batches", {})).json()["batch"]
    for scope in ("read:batch:batch_x", "read:runs:" + batch["id"], "read:tasks:step"):
        reader = await api.a_token(scope)
        assert_problem(await reader.get(f"/v1/batches/{batch['id']}"), 404, "not_found")
    for scope in (f"read:batch:{batch['id']}", "read:runs"):
        reader = await api.a_token(scope)
        assert (await reader.get(f"/v1/batches/{batch['id']}")).json() == batch
