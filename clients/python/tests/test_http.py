"""HTTP calls: what is sent, what is tried again, and how a refusal is raised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pydantic
import pytest

from clients.python.tests.builders import AT, a_batch, a_run
from clients.python.tests.conftest import QUICK
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, problem
from runstream import (
    BadRequest,
    Conflict,
    ConnectionLost,
    DecodeError,
    FieldError,
    Forbidden,
    NewRun,
    NotFound,
    Operation,
    OutcomeUnknown,
    PayloadTooLarge,
    PlannedRun,
    ProtocolError,
    Refused,
    Run,
    RunStatus,
    Runstream,
    RunUpdate,
    Task,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unprocessable,
    credentials,
    http,
)
from runstream.timing import seconds_to_wait

RUN = "/v1/runs/run_1"


class Request(pydantic.BaseModel):
    order_id: int


SEND: Task[Request, float] = Task("send-invoice", payload=Request, output=float)


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BASE_DELAY_S", 0.001)


# Errors


@pytest.mark.parametrize(
    "answer, error",
    [
        (problem(400, "bad_request"), BadRequest),
        (problem(401, "unauthorized"), Unauthorized),
        (problem(403, "forbidden"), Forbidden),
        (problem(404, "not_found"), NotFound),
        (problem(409, "conflict"), Conflict),
        (problem(413, "payload_too_large"), PayloadTooLarge),
        (problem(422, "unprocessable"), Unprocessable),
        (problem(429, "too_many_requests"), TooManyRequests),
        (problem(503, "unavailable"), Unavailable),
        (problem(418, "teapot"), Refused),
        (Answer(502, b"<html>bad gateway"), Unavailable),
        (Answer(200, b"<html>hello"), ProtocolError),
        (Answer(200, {"id": "run_1"}), ProtocolError),
    ],
)
async def test_each_refusal_is_raised_as_its_kind(
    server: ScriptedServer, client: Runstream, answer: Answer, error: type[Exception]
) -> None:
    server.on("GET", RUN, answer)
    with pytest.raises(error) as caught:
        await client.runs.get("run_1")
    assert type(caught.value) is error


async def test_errors_carry_their_facts(server: ScriptedServer, client: Runstream) -> None:
    server.on("PATCH", RUN, problem(409, "conflict", "no way back", run=a_run(version=7)))
    with pytest.raises(Conflict, match="no way back") as conflict:
        await client.runs.update("run_1", status=RunStatus.QUEUED)
    assert conflict.value.run is not None
    assert conflict.value.run.version == 7

    errors = [{"path": "tags[0]", "message": "too long"}]
    server.on("POST", "/v1/runs", problem(422, "unprocessable", errors=errors))
    with pytest.raises(Unprocessable) as unprocessable:
        await client.trigger("x")
    assert unprocessable.value.errors == (FieldError("tags[0]", "too long"),)

    server.on("GET", RUN, problem(429, "too_many_requests", retry_after=70))
    with pytest.raises(TooManyRequests) as limited:
        await client.runs.get("run_1")
    assert limited.value.retry_after == 70


# What is tried again


async def test_a_read_is_tried_again(server: ScriptedServer, client: Runstream) -> None:
    cut, busy = Answer(cut=True), problem(503, "unavailable")
    server.on_each("GET", RUN, cut, busy, Answer(200, a_run()))
    assert (await client.runs.get("run_1")).version == 1
    assert len(server.asked) == 3
    assert "idempotency-key" not in server.asked[0].headers


async def test_a_command_is_tried_again_under_one_key(
    server: ScriptedServer, client: Runstream
) -> None:
    unknown = problem(503, "outcome_unknown")
    server.on_each("POST", "/v1/runs", Answer(cut=True), unknown, Answer(201, a_run()))
    assert (await client.trigger("x")).version == 1
    keys = {asked.headers["idempotency-key"] for asked in server.asked}
    assert len(server.asked) == 3
    assert len(keys) == 1
    await client.trigger("x")
    assert server.asked[-1].headers["idempotency-key"] not in keys


async def test_a_command_whose_answer_is_lost_says_so_with_its_key(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on("POST", f"{RUN}/cancel", Answer(cut=True))
    with pytest.raises(OutcomeUnknown) as unknown:
        await client.runs.cancel("run_1")
    key = unknown.value.command_key
    assert key is not None
    server.on("POST", f"{RUN}/cancel", Answer(200, a_run(status="CANCELED")))
    assert (await client.runs.cancel("run_1", command_key=key)).is_canceled
    assert {asked.headers["idempotency-key"] for asked in server.asked} == {key}


async def test_one_refused_after_one_lost_is_unknown_too(
    server: ScriptedServer, client: Runstream
) -> None:
    """The first try may have been the one that worked."""
    server.on_each("POST", f"{RUN}/cancel", Answer(cut=True), problem(503, "unavailable"))
    with pytest.raises(OutcomeUnknown):
        await client.runs.cancel("run_1")


async def test_a_server_that_is_not_there_is_a_lost_connection(
    server: ScriptedServer, client: Runstream
) -> None:
    await server.stop()
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        await client.trigger("x")
    await server.start()


@pytest.mark.parametrize("status, code", [(429, "too_many_requests"), (503, "unavailable")])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_server_that_asks_for_patience_gets_it(
    server: ScriptedServer, client: Runstream, method: str, status: int, code: str
) -> None:
    asked_at: list[float] = []

    def respond(_: Asked) -> Answer:
        asked_at.append(time.monotonic())
        busy = problem(status, code, retry_after=0.05)
        return busy if len(asked_at) == 1 else Answer(200, a_run())

    server.on("GET", RUN, respond)
    server.on("POST", f"{RUN}/cancel", respond)
    run = client.runs.get("run_1") if method == "GET" else client.runs.cancel("run_1")
    assert (await run).version == 1
    first, second = asked_at
    assert second - first >= 0.05


async def test_a_read_that_is_never_answered_ends_as_a_lost_connection(
    server: ScriptedServer,
) -> None:
    async def respond(_: Asked) -> Answer:
        await never.wait()
        return Answer(cut=True)

    never = asyncio.Event()
    server.on("GET", RUN, respond)
    async with Runstream(server.url, api_key="key-1", timeout_s=0.05, timing=QUICK) as client:
        with pytest.raises(ConnectionLost):
            await client.runs.get("run_1")
    never.set()


def test_patience_is_told_in_seconds_or_as_a_date() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert seconds_to_wait("7", now) == 7
    assert seconds_to_wait("Sun, 01 Mar 2026 12:00:30 GMT", now) == 30
    assert seconds_to_wait("Sun, 01 Mar 2026 11:00:00 GMT", now) == 0
    assert seconds_to_wait("-1", now) == 0
    for nothing in (None, "", "soon", "nan", "inf"):
        assert seconds_to_wait(nothing, now) is None


async def test_a_server_that_wants_long_patience_is_not_waited_for(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on("GET", RUN, problem(503, "unavailable", retry_after=3600))
    with pytest.raises(Unavailable) as error:
        await client.runs.get("run_1")
    assert error.value.retry_after == 3600
    assert len(server.asked) == 1


async def silent() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def away() -> str:
    raise ConnectionRefusedError("not now")


@pytest.mark.parametrize("provider", [silent, away])
async def test_a_call_for_which_there_is_no_token_ends_with_an_error_of_ours(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, provider: Callable[[], Awaitable[str]]
) -> None:
    """Also for those who wait for the same token: each has waited once, and not in a row."""
    monkeypatch.setattr(credentials, "PATIENCE_S", 0.02)
    async with Runstream(server.url, token=provider, timing=QUICK) as client:
        calls = [client.runs.get("run_1") for _ in range(3)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [ConnectionLost] * 3
    assert server.asked == []


async def test_a_refused_token_is_replaced_once(server: ScriptedServer) -> None:
    tokens = ["old", "new"]

    async def provide() -> str:
        return tokens.pop(0)

    def respond(asked: Asked) -> Answer:
        good = asked.headers["authorization"] == "Bearer new"
        return Answer(200, a_run()) if good else problem(401, "unauthorized")

    server.on("GET", RUN, respond)
    async with Runstream(server.url, token=provide, timing=QUICK) as client:
        assert (await client.runs.get("run_1")).version == 1
        assert (await client.runs.get("run_1")).version == 1
    assert len(server.asked) == 3


# What is sent


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
        await client.trigger("x", tga=["a"])  # type: ignore[call-overload]


async def test_a_run_is_read_with_the_types_of_its_task(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on("GET", RUN, Answer(200, a_run(output=9.5)))
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
    server.on("PATCH", RUN, Answer(200, a_run()))
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


async def test_ids_are_one_part_of_a_path_whatever_is_in_them(
    server: ScriptedServer, client: Runstream
) -> None:
    with pytest.raises(NotFound):
        await client.runs.get("../batches/x?y=1")
    assert server.asked[0].path == "/v1/runs/../batches/x?y=1"
    assert server.asked[0].query == {}


JOB_RUN = {
    "id": "run_j",
    "jobId": "job_1",
    "status": "IN_PROGRESS",
    "jobConfigJsonSnapshot": {"workflowExecutionOrder": ["wf_1", "wf_2"]},
    "createdAt": AT,
    "startedAt": AT,
    "finishedAt": None,
    "run": a_run("run_j"),
    "workflowRuns": [
        a_run("run_w", workflowId="wf_1", position=0),
        {"id": None, "status": None, "workflowId": "wf_2", "position": 1},
    ],
}
WORKFLOW = {"id": "wf_1", "name": "w", "taskIdentifier": "t", "payload": {"a": 1}}
JOB = {"id": "job_1", "name": "j", "config": {"workflowExecutionOrder": ["wf_1"], "x": 1}}
ARTIFACT = {"id": "art_1", "runId": "run_1", "name": "a b", "size": 3, "sha256": "s"}
WEBHOOK = {"id": "wh_1", "url": "http://x", "events": ["run.*"], "secret": "whsec_x"}
TOKEN = {"token": "jwt", "id": "tok_1", "expiresAt": AT}

Call = Callable[[Runstream], Awaitable[Any]]


@pytest.mark.parametrize(
    "call, method, path, body, answer",
    [
        (lambda c: c.runs.replay("run_1"), "POST", f"{RUN}/replay", None, a_run()),
        (lambda c: c.runs.heartbeat("run_1"), "POST", f"{RUN}/heartbeat", None, {}),
        (lambda c: c.runs.delete("run_1"), "DELETE", RUN, None, None),
        (
            lambda c: c.runs.metadata(
                "run_1", [Operation("set", "a.b", 1), Operation("delete", "c")], target="root"
            ),
            "POST",
            f"{RUN}/metadata",
            {
                "operations": [
                    {"op": "set", "path": "a.b", "value": 1},
                    {"op": "delete", "path": "c"},
                ],
                "target": "root",
            },
            a_run(),
        ),
        (
            lambda c: c.batches.create([NewRun("t", 1)], sealed=False),
            "POST",
            "/v1/batches",
            {"items": [{"taskIdentifier": "t", "payload": 1}], "sealed": False},
            {"batch": a_batch(), "runs": [a_run()]},
        ),
        (lambda c: c.batches.create(), "POST", "/v1/batches", {}, {"batch": a_batch(), "runs": []}),
        (lambda c: c.batches.get("b"), "GET", "/v1/batches/b", None, a_batch()),
        (
            lambda c: c.batches.add("b", [NewRun("t")]),
            "POST",
            "/v1/batches/b/items",
            {"items": [{"taskIdentifier": "t"}]},
            {"runs": [a_run()]},
        ),
        (lambda c: c.batches.seal("b"), "POST", "/v1/batches/b/seal", None, a_batch()),
        (
            lambda c: c.workflows.create("w", Task("t"), payload={"a": 1}),
            "POST",
            "/v1/workflows",
            {"name": "w", "taskIdentifier": "t", "payload": {"a": 1}},
            WORKFLOW,
        ),
        (lambda c: c.workflows.get("wf_1"), "GET", "/v1/workflows/wf_1", None, WORKFLOW),
        (
            lambda c: c.workflows.replace("wf_1", name="w", task="t"),
            "PUT",
            "/v1/workflows/wf_1",
            {"name": "w", "taskIdentifier": "t"},
            WORKFLOW,
        ),
        (lambda c: c.workflows.list(), "GET", "/v1/workflows", None, {"data": [WORKFLOW]}),
        (lambda c: c.workflows.delete("wf_1"), "DELETE", "/v1/workflows/wf_1", None, None),
        (
            lambda c: c.jobs.create("j", ["wf_1"], config={"x": 1}),
            "POST",
            "/v1/jobs",
            {"name": "j", "config": {"x": 1, "workflowExecutionOrder": ["wf_1"]}},
            JOB,
        ),
        (lambda c: c.jobs.get("job_1"), "GET", "/v1/jobs/job_1", None, JOB),
        (
            lambda c: c.jobs.replace("job_1", name="j", workflows=[]),
            "PUT",
            "/v1/jobs/job_1",
            {"name": "j", "config": {"workflowExecutionOrder": []}},
            JOB,
        ),
        (lambda c: c.jobs.list(limit=3), "GET", "/v1/jobs", None, {"data": [JOB]}),
        (lambda c: c.jobs.delete("job_1"), "DELETE", "/v1/jobs/job_1", None, None),
        (
            lambda c: c.job_runs.create("job_1", {"a": 1}, tags=["x"], idempotency_key="k"),
            "POST",
            "/v1/job-runs",
            {"jobId": "job_1", "payload": {"a": 1}, "tags": ["x"], "idempotencyKey": "k"},
            JOB_RUN,
        ),
        (lambda c: c.job_runs.get("run_j"), "GET", "/v1/job-runs/run_j", None, JOB_RUN),
        (
            lambda c: c.job_runs.list(statuses=["PENDING"], job_id="job_1"),
            "GET",
            "/v1/job-runs",
            None,
            {"data": [JOB_RUN], "next": None},
        ),
        (
            lambda c: c.job_runs.cancel("run_j"),
            "POST",
            "/v1/job-runs/run_j/cancel",
            None,
            JOB_RUN,
        ),
        (lambda c: c.artifacts.get("art_1"), "GET", "/v1/artifacts/art_1", None, ARTIFACT),
        (
            lambda c: c.artifacts.list("run_1"),
            "GET",
            f"{RUN}/artifacts",
            None,
            {"data": [ARTIFACT]},
        ),
        (
            lambda c: c.webhooks.create("http://x", ["run.*"], tags=["a"]),
            "POST",
            "/v1/webhooks",
            {"url": "http://x", "events": ["run.*"], "tags": ["a"]},
            WEBHOOK,
        ),
        (lambda c: c.webhooks.get("wh_1"), "GET", "/v1/webhooks/wh_1", None, WEBHOOK),
        (lambda c: c.webhooks.list(), "GET", "/v1/webhooks", None, {"data": [WEBHOOK]}),
        (
            lambda c: c.webhooks.update("wh_1", tags=None, events=["a"]),
            "PATCH",
            "/v1/webhooks/wh_1",
            {"events": ["a"], "tags": None},
            WEBHOOK,
        ),
        (lambda c: c.webhooks.delete("wh_1"), "DELETE", "/v1/webhooks/wh_1", None, None),
        (
            lambda c: c.webhooks.deliveries("wh_1"),
            "GET",
            "/v1/webhooks/wh_1/deliveries",
            None,
            {"data": [{"id": "d1", "status": 200}]},
        ),
        (
            lambda c: c.webhooks.retry("wh_1", "d1"),
            "POST",
            "/v1/webhooks/wh_1/deliveries/d1/retry",
            None,
            {"id": "d1"},
        ),
        (
            lambda c: c.tokens.create(
                ["read:runs"], expires_in_s=60, skip=["batch_id", "output"], one_time=True
            ),
            "POST",
            "/v1/tokens",
            {
                "scopes": ["read:runs"],
                "expiresIn": 60,
                "skip": ["batchId", "output"],
                "oneTime": True,
            },
            TOKEN,
        ),
        (lambda c: c.tokens.revoke("tok_1"), "DELETE", "/v1/tokens/tok_1", None, None),
    ],
)
async def test_each_call_is_sent_as_the_protocol_has_it(
    server: ScriptedServer,
    client: Runstream,
    call: Call,
    method: str,
    path: str,
    body: Any,
    answer: Any,
) -> None:
    server.on(method, path, Answer(204 if answer is None else 200, answer))
    await call(client)
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == (method, path, body)


async def test_a_job_run_has_its_run_and_its_steps_also_those_to_come(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on("GET", "/v1/job-runs/run_j", Answer(200, JOB_RUN))
    server.on("GET", "/v1/workflow-runs", Answer(200, {"workflowRuns": JOB_RUN["workflowRuns"]}))
    job_run = await client.job_runs.get("run_j")
    assert job_run.run.id == "run_j"
    assert job_run.created_at.tzinfo is not None
    steps = await client.job_runs.workflow_runs("run_j")
    assert steps == job_run.workflow_runs
    assert isinstance(steps[0], Run)
    assert steps[1] == PlannedRun(workflow_id="wf_2", position=1)
    assert server.asked[-1].query == {"jobRunId": ["run_j"]}


async def test_a_timeline_has_the_changes_of_all_steps_and_the_steps_to_come(
    server: ScriptedServer, client: Runstream
) -> None:
    entry = {"at": AT, "runId": "run_j", "position": None, "version": 1, "sinceStartMs": 0}
    step = {"workflowId": "wf_1", "position": 0, "name": "pack", "taskIdentifier": "t"}
    page = {
        "jobRunId": "run_j",
        "status": "PENDING",
        "steps": [{**step, "runId": None, "status": None}],
        "data": [{**entry, "changed": {"status": "QUEUED"}, "lastedMs": None}],
        "next": "more",
    }
    server.on("GET", "/v1/job-runs/run_j/timeline", Answer(200, page))
    timeline = await client.job_runs.timeline("run_j", limit=1, after="a")
    assert (timeline.steps[0].name, timeline.steps[0].status) == ("pack", None)
    assert timeline.data[0].changed == {"status": "QUEUED"}
    assert timeline.next == "more"
    assert server.asked[0].query == {"limit": ["1"], "after": ["a"]}


async def test_the_history_of_a_run_goes_on_by_version(
    server: ScriptedServer, client: Runstream
) -> None:
    def respond(asked: Asked) -> Answer:
        after = int(asked.query.get("afterVersion", ["0"])[0])
        data = [{"version": after + 1, "at": AT, "changed": {"status": "QUEUED"}}]
        return Answer(200, {"data": data, "next": after + 1 if after < 2 else None})

    server.on("GET", f"{RUN}/changes", respond)
    assert [entry.version async for entry in client.runs.history("run_1", limit=1)] == [1, 2, 3]


async def test_artifacts_are_bytes(server: ScriptedServer, client: Runstream) -> None:
    server.on("POST", f"{RUN}/artifacts", Answer(201, ARTIFACT))
    made = await client.artifacts.create("run_1", "a b", b"\x00\x01", content_type="text/x")
    assert made.name == "a b"
    asked = server.asked[0]
    assert (asked.content, asked.query) == (b"\x00\x01", {"name": ["a b"]})
    assert asked.headers["content-type"] == "text/x"

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    await client.artifacts.create("run_1", "a b", pieces())
    assert server.asked[1].content == b"onetwo"
    server.on("GET", "/v1/artifacts/art_1/content", Answer(206, b"\x01"))
    assert await client.artifacts.content("art_1", first_byte=1) == b"\x01"
    assert server.asked[2].headers["range"] == "bytes=1-"


async def test_a_secret_is_not_shown_where_it_is_printed(client: Runstream) -> None:
    assert "key-1" not in repr(client)
