"""Jobs and their runs, made and moved over HTTP."""

from __future__ import annotations

from typing import Any

from tests.realtime.api.calling import Caller


async def made(api: Caller, path: str, body: dict[str, Any], **how: Any) -> dict[str, Any]:
    response = await api.post(path, body, **how)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def a_job(api: Caller, *tasks: str, **workflow: Any) -> dict[str, Any]:
    order = [
        (await made(api, "/v1/workflows", {"name": t, "taskIdentifier": t, **workflow}))["id"]
        for t in tasks
    ]
    return await made(
        api, "/v1/jobs", {"name": "nightly", "config": {"workflowExecutionOrder": order, "x": 1}}
    )


async def a_job_run(api: Caller, *tasks: str, **fields: Any) -> dict[str, Any]:
    job = await a_job(api, *(tasks or ("fetch", "build")))
    return await made(api, "/v1/job-runs", {"jobId": job["id"], **fields})


async def got(api: Caller, path: str, **query: Any) -> dict[str, Any]:
    response = await api.get(path, params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def advance(api: Caller, job_run: dict[str, Any], *statuses: str) -> dict[str, Any]:
    """The job run after its newest step took these statuses."""
    present = await got(api, f"/v1/job-runs/{job_run['id']}")
    for status in statuses:
        await api.update(present["workflowRuns"][-1], status=status)
    return await got(api, f"/v1/job-runs/{job_run['id']}")
