"""Calls about runs: all that was said is sent, and what comes has the types of its task."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pydantic
import pytest

from clients.python.tests.builders import AT, RUN_PATH, a_run
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, problem
from runstream import Conflict, DecodeError, NewRun, Run, RunStatus, Runstream, RunUpdate, Task


class Request(pydantic.BaseModel):
    order_id: int


SEND: Task[Request, float] = Task("send-invoice", payload=Request, output=float)


async def test_a_new_run_carries_all_that_was_said(
    server: ScriptedServer, client: Runstream
) -> None:
    headers = {"Runstream-Token": "t1"}
    server.on("POST", "/v1/runs", Answer(200, a_run(), headers))
    created = await client.runs.create(
        SEND,
        Request(order_id=42),
        tags=["a", "b"],
        metadata={"n": 1},
        idempotency_key="k",
        delay_until=datetime(2026, 3, 1, tzinfo=UTC),
        delay=timedelta(minutes=1),
        ttl=1,
        max_duration=2,
        heartbeat_timeout=3,
        is_test=True,
        batch_id="batch_1",
        parent_run_id="run_0",
        status=RunStatus.EXECUTING,
    )
    assert (created.is_new, created.token) == (False, "t1")
    assert created.run.payload == Request(order_id=42)
    assert server.asked[0].headers["authorization"] == "Bearer key-1"
    assert server.asked[0].body == {
        "taskIdentifier": "send-invoice",
        "payload": {"order_id": 42},
        "tags": ["a", "b"],
        "metadata": {"n": 1},
        "idempotencyKey": "k",
        "delayUntil": "2026-03-01T00:00:00Z",
        "delay": 60.0,
        "ttl": 1,
        "maxDuration": 2,
        "heartbeatTimeout": 3,
        "isTest": True,
        "batchId": "batch_1",
        "parentRunId": "run_0",
        "status": "EXECUTING",
    }
    await client.trigger("x")
    assert server.asked[-1].body == {"taskIdentifier": "x"}
    with pytest.raises(TypeError, match="tga"):
        # What the types refuse is what is tested: a caller without a type checker is told too.
        await client.trigger("x", tga=["a"])  # type: ignore[call-overload]


async def test_a_run_is_read_with_the_types_of_its_task(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on("GET", RUN_PATH, Answer(200, a_run(output=9.5)))
    run = await client.runs.get("run_1", task=SEND)
    assert (run.payload, run.output) == (Request(order_id=42), 9.5)
    with pytest.raises(DecodeError):
        await client.runs.get("run_1", task=Task("send-invoice", payload=int))


async def test_a_list_comes_in_pages_or_as_a_whole(
    server: ScriptedServer, client: Runstream
) -> None:
    def respond(asked: Asked) -> Answer:
        after = asked.query.get("after", ["0"])[0]
        data = [a_run(f"run_{after}{n}", output=1.5) for n in range(2)]
        return Answer(200, {"data": data, "next": None if after == "2" else str(int(after) + 1)})

    server.on("GET", "/v1/runs", respond)
    listing = client.runs.list(
        tasks=(SEND, Task("refund")),
        statuses=[RunStatus.QUEUED, RunStatus.EXECUTING],
        tags=["a", "b&c"],
        batch_id="batch_1",
        parent_run_id="run_0",
        is_test=False,
        created_after=datetime(2026, 3, 1, tzinfo=UTC),
        created_before=datetime(2026, 3, 2, tzinfo=UTC),
        limit=2,
    )
    page = await listing
    assert [run.id for run in page.data] == ["run_00", "run_01"]
    assert page.next == "1"
    assert page.data[0].payload == Request(order_id=42)
    assert server.asked[0].query == {
        "task": ["send-invoice", "refund"],
        "status": ["QUEUED", "EXECUTING"],
        "tag": ["a", "b&c"],
        "batchId": ["batch_1"],
        "parentRunId": ["run_0"],
        "isTest": ["false"],
        "createdAfter": ["2026-03-01T00:00:00.000000Z"],
        "createdBefore": ["2026-03-02T00:00:00.000000Z"],
        "limit": ["2"],
    }
    assert [run.id async for run in listing] == [f"run_{a}{n}" for a in range(3) for n in range(2)]
    assert len((await client.runs.list(tags="a", after="2")).data) == 2
    assert server.asked[-1].query == {"tag": ["a"], "after": ["2"]}


async def test_an_update_tells_null_from_nothing(server: ScriptedServer, client: Runstream) -> None:
    server.on("PATCH", RUN_PATH, Answer(200, a_run()))
    await client.runs.update("run_1", output=None, if_version=3)
    assert server.asked[-1].body == {"output": None, "ifVersion": 3}
    await client.runs.update(
        "run_1",
        status=RunStatus.FAILED,
        error=ValueError("bad"),
        metadata={"gone": None},
        add_tags=["a"],
        remove_tags=["b"],
        cost_in_cents=1.5,
        base_cost_in_cents=0,
    )
    assert server.asked[-1].body == {
        "status": "FAILED",
        "error": {"name": "ValueError", "message": "bad"},
        "metadata": {"gone": None},
        "addTags": ["a"],
        "removeTags": ["b"],
        "costInCents": 1.5,
        "baseCostInCents": 0,
    }


async def test_bulk_gives_for_each_command_its_run_or_its_error(
    server: ScriptedServer, client: Runstream
) -> None:
    error = problem(409, "conflict", run=a_run(version=2)).body
    server.on(
        "POST", "/v1/runs/bulk", Answer(200, {"results": [{"run": a_run()}, {"error": error}]})
    )
    results = await client.runs.bulk(
        [
            NewRun(SEND, Request(order_id=1)),
            RunUpdate("run_1", status=RunStatus.COMPLETED, output=1),
        ]
    )
    assert isinstance(results[0], Run)
    assert isinstance(results[1], Conflict)
    assert server.asked[0].body == {
        "commands": [
            {"create": {"taskIdentifier": "send-invoice", "payload": {"order_id": 1}}},
            {"update": {"runId": "run_1", "status": "COMPLETED", "output": 1}},
        ]
    }


async def test_claiming_waits_as_long_as_it_was_told(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on_each(
        "POST", "/v1/runs/claim", Answer(200, {"run": a_run(status="EXECUTING")}),
        Answer(200, {"run": None}),
    )  # fmt: skip
    run = await client.runs.claim(SEND, worker="w1", lease_s=30, wait_s=5)
    assert run is not None
    assert run.payload == Request(order_id=42)
    body = {"tasks": ["send-invoice"], "worker": "w1", "leaseS": 30, "waitS": 5}
    assert server.asked[0].body == body
    assert await client.runs.claim(["a", "b"], worker="w1", lease_s=30) is None


async def test_the_history_of_a_run_goes_on_by_version(
    server: ScriptedServer, client: Runstream
) -> None:
    def respond(asked: Asked) -> Answer:
        after = int(asked.query.get("afterVersion", ["0"])[0])
        data = [{"version": after + 1, "at": AT, "changed": {"status": "QUEUED"}}]
        return Answer(200, {"data": data, "next": after + 1 if after < 2 else None})

    server.on("GET", f"{RUN_PATH}/changes", respond)
    assert [entry.version async for entry in client.runs.history("run_1", limit=1)] == [1, 2, 3]
