"""The calls of every resource, each sent as the protocol has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from clients.python.tests.builders import AT, RUN_PATH, a_batch, a_run
from clients.python.tests.scripted import Answer, ScriptedServer
from runstream import NewRun, NotFound, Operation, PlannedRun, Run, Runstream, Task

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
        (lambda c: c.runs.replay("run_1"), "POST", f"{RUN_PATH}/replay", None, a_run()),
        (lambda c: c.runs.heartbeat("run_1"), "POST", f"{RUN_PATH}/heartbeat", None, {}),
        (lambda c: c.runs.delete("run_1"), "DELETE", RUN_PATH, None, None),
        (
            lambda c: c.runs.metadata(
                "run_1", [Operation("set", "a.b", 1), Operation("delete", "c")], target="root"
            ),
            "POST",
            f"{RUN_PATH}/metadata",
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
            f"{RUN_PATH}/artifacts",
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


async def test_ids_are_one_part_of_a_path_whatever_is_in_them(
    server: ScriptedServer, client: Runstream
) -> None:
    with pytest.raises(NotFound):
        await client.runs.get("../batches/x?y=1")
    assert server.asked[0].path == "/v1/runs/../batches/x?y=1"
    assert server.asked[0].query == {}


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


async def test_artifacts_are_bytes(server: ScriptedServer, client: Runstream) -> None:
    server.on("POST", f"{RUN_PATH}/artifacts", Answer(201, ARTIFACT))
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
