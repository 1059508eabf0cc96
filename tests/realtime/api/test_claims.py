"""HTTP calls about claims: a worker takes a run, and keeps it by heartbeats."""

from __future__ import annotations

import asyncio

import pytest

from store.model import WIRE_FIELDS, new_id
from tests.realtime.api.calling import Caller, assert_problem
from tests.realtime.serving import LONG_S, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_worker_claims_a_run_and_keeps_it_by_heartbeats(api: Caller) -> None:
    task = new_id("task")
    ask = {"tasks": [task], "worker": "w1", "leaseS": 30}
    assert (await api.post("/v1/runs/claim", ask)).json() == {"run": None}
    run = await api.run(task, payload={"n": 1}, maxAttempts=3)
    claimed = (await api.post("/v1/runs/claim", ask)).json()["run"]
    assert (claimed["id"], claimed["status"], claimed["attempt"]) == (run["id"], "EXECUTING", 1)
    assert claimed["payload"] == {"n": 1}
    assert list(claimed) == list(WIRE_FIELDS.values())
    beat = f"/v1/runs/{run['id']}/heartbeat"
    assert (await api.post(beat)).json() == {}
    assert (await api.post(beat, {"attempt": 1})).json() == {}
    assert_problem(await api.post(beat, {"attempt": 2}), 409, "conflict")
    late = await api.patch(f"/v1/runs/{run['id']}", {"status": "COMPLETED", "ifAttempt": 2})
    assert_problem(late, 409, "conflict")
    await api.update(run, status="COMPLETED", ifAttempt=1)
    assert_problem(await api.post(beat, {"attempt": 1}), 409, "conflict")


async def test_a_claim_that_waits_is_answered_when_a_run_is_queued(api: Caller) -> None:
    task = new_id("task")
    ask = {"tasks": [task], "worker": "w1", "leaseS": 30, "waitS": 30}
    waiting = asyncio.create_task(api.post("/v1/runs/claim", ask))
    claims = api.runtime.store.claims
    await until(lambda: claims.open)
    run = await api.run(task)
    async with asyncio.timeout(LONG_S):
        assert (await waiting).json()["run"]["id"] == run["id"]


async def test_the_same_idempotency_key_claims_one_run(api: Caller) -> None:
    task = new_id("task")
    for _ in range(2):
        await api.run(task)
    ask = {"tasks": [task], "worker": "w1", "leaseS": 30}
    key = {"Idempotency-Key": new_id("key")}
    first = await api.post("/v1/runs/claim", ask, headers=key)
    again = await api.post("/v1/runs/claim", ask, headers=key)
    assert first.json() == again.json()
    other = await api.post("/v1/runs/claim", ask | {"worker": "w2"}, headers=key)
    assert_problem(other, 422, "unprocessable")


async def test_only_a_key_with_full_rights_claims(api: Caller) -> None:
    reader = await api.a_token("read:runs")
    ask = {"tasks": ["t"], "worker": "w1", "leaseS": 30}
    assert_problem(await reader.post("/v1/runs/claim", ask), 403, "forbidden")
    for path in ("/v1/workflows", "/v1/jobs"):
        assert_problem(await reader.post(path, {"name": "x"}), 403, "forbidden")
