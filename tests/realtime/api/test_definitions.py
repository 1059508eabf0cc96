"""HTTP calls about workflows and jobs."""

from __future__ import annotations

from typing import Any

import pytest

from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem
from tests.realtime.api.jobbing import a_job, advance, got, made

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_workflows_and_jobs_are_made_listed_replaced_and_deleted(api: Caller) -> None:
    workflow = await made(
        api, "/v1/workflows", {"name": "Fetch", "taskIdentifier": "fetch", "payload": {"a": 1}}
    )
    assert workflow["id"].startswith("wf_")
    assert workflow["payload"] == {"a": 1}
    config = {"workflowExecutionOrder": [workflow["id"]], "retries": 3}
    job = await made(api, "/v1/jobs", {"name": "Nightly", "config": config})
    assert job["id"].startswith("job_")
    assert job["config"] == config
    for path, one in (("/v1/workflows", workflow), ("/v1/jobs", job)):
        assert await got(api, f"{path}/{one['id']}") == one
        assert (await got(api, path, limit=1))["data"][0] == one
    assert_problem(await api.delete(f"/v1/workflows/{workflow['id']}"), 409, "conflict")

    other = await made(api, "/v1/workflows", {"name": "Build", "taskIdentifier": "build"})
    replaced = await api.call(
        "PUT",
        f"/v1/jobs/{job['id']}",
        json={"name": "Weekly", "config": {"workflowExecutionOrder": [other["id"]]}},
    )
    assert replaced.status_code == 200
    assert replaced.json()["name"] == "Weekly"
    assert replaced.json()["createdAt"] == job["createdAt"]
    assert (await api.delete(f"/v1/workflows/{workflow['id']}")).status_code == 204
    replaced = await api.call(
        "PUT", f"/v1/workflows/{other['id']}", json={"name": "B", "taskIdentifier": "b"}
    )
    assert replaced.json()["taskIdentifier"] == "b"
    assert (await api.delete(f"/v1/jobs/{job['id']}")).status_code == 204
    assert_problem(await api.get(f"/v1/jobs/{job['id']}"), 404, "not_found")
    assert_problem(await api.get(f"/v1/workflows/{workflow['id']}"), 404, "not_found")


async def test_lists_of_definitions_have_pages(api: Caller) -> None:
    mine = [(await a_job(api, "t"))["id"] for _ in range(3)]
    seen: list[str] = []
    after = None
    while len(seen) < 3:
        page = await got(api, "/v1/jobs", limit=2, **({} if after is None else {"after": after}))
        seen += [job["id"] for job in page["data"]]
        after = page["next"]
        if after is None:
            break
    assert seen[:3] == mine[::-1]
    assert_problem(await api.get("/v1/jobs", params={"after": "nonsense"}), 400, "bad_request")


@pytest.mark.parametrize(
    "path,body,where",
    [
        ("/v1/workflows", {"name": "x"}, "taskIdentifier"),
        ("/v1/workflows", {"name": "", "taskIdentifier": "t"}, "name"),
        ("/v1/workflows", {"name": "x", "taskIdentifier": "t", "ttl": 0}, "ttl"),
        ("/v1/workflows", {"name": "x\0", "taskIdentifier": "t"}, "name"),
        ("/v1/workflows", {"name": "x", "taskIdentifier": "t", "colour": 1}, "colour"),
        ("/v1/jobs", {"name": "x", "config": {}}, "config.workflowExecutionOrder"),
        (
            "/v1/jobs",
            {"name": "x", "config": {"workflowExecutionOrder": ["wf_nothing"]}},
            "config.workflowExecutionOrder.0",
        ),
        ("/v1/job-runs", {"jobId": "job_nothing"}, "jobId"),
        ("/v1/job-runs", {}, "jobId"),
        ("/v1/runs/claim", {"tasks": [], "worker": "w", "leaseS": 9}, "tasks"),
        ("/v1/runs/claim", {"tasks": ["t"], "worker": "w", "leaseS": 0}, "leaseS"),
        ("/v1/runs/claim", {"tasks": ["t"], "worker": "w", "leaseS": 9, "waitS": 61}, "waitS"),
        ("/v1/runs/claim", {"tasks": ["t"], "worker": "w", "leaseS": "9"}, "leaseS"),
    ],
)
async def test_what_does_not_fit_is_said_with_its_place(
    api: Caller, path: str, body: dict[str, Any], where: str
) -> None:
    problem = assert_problem(await api.post(path, body), 422, "unprocessable")
    assert where in [error["path"] for error in problem["errors"]]


async def test_a_repeated_command_is_answered_with_its_first_answer(api: Caller) -> None:
    key = {"Idempotency-Key": new_id("key")}
    body = {"name": "x", "taskIdentifier": "t"}
    first = await made(api, "/v1/workflows", body, headers=key)
    assert await made(api, "/v1/workflows", body, headers=key) == first
    other = await api.post("/v1/workflows", body | {"name": "y"}, headers=key)
    assert_problem(other, 422, "unprocessable")
    key = {"Idempotency-Key": new_id("key")}
    for _ in range(2):
        gone = await api.delete(f"/v1/workflows/{first['id']}", headers=key)
        assert gone.status_code == 204
    job = await a_job(api, "t")
    key = {"Idempotency-Key": new_id("key")}
    begun = await made(api, "/v1/job-runs", {"jobId": job["id"]}, headers=key)
    await advance(api, begun, "EXECUTING")
    assert await made(api, "/v1/job-runs", {"jobId": job["id"]}, headers=key) == begun
