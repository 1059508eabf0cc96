"""`client.workflows`, `client.jobs`, `client.job_runs`: sequences of workflows, and their executions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from runstream.commands import given, name_of, strings
from runstream.http import Http, part
from runstream.models import AnyRun, AnyTask
from runstream.resources.models import Job, JobRun, JobRunStatus, PlannedRun, Timeline, Workflow
from runstream.resources.paging import Listing, Page, listing


class _JobRun(msgspec.Struct, rename="camel"):
    # As it comes; the runs among `workflow_runs` are told from the planned by their id.
    id: str
    job_id: str
    status: JobRunStatus
    created_at: Any
    run: AnyRun
    job_config_json_snapshot: dict[str, Any] = msgspec.field(default_factory=dict)
    started_at: Any = None
    finished_at: Any = None
    workflow_runs: list[dict[str, Any]] = msgspec.field(default_factory=list)

    def made(self) -> JobRun:
        fields = msgspec.structs.asdict(self)
        fields["workflow_runs"] = [_step(step) for step in self.workflow_runs]
        for name in ("created_at", "started_at", "finished_at"):
            fields[name] = _time(fields[name])
        return JobRun(**fields)


class _WorkflowRuns(msgspec.Struct, rename="camel"):
    workflow_runs: list[dict[str, Any]]


class Workflows:
    """Calls about workflows."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        name: str,
        task: AnyTask | str,
        *,
        payload: Any = None,
        ttl: int | None = None,
        max_duration: int | None = None,
        heartbeat_timeout: int | None = None,
        max_attempts: int | None = None,
        command_key: str | None = None,
    ) -> Workflow:
        """Makes a workflow: runs of this task, with this payload if the job run has none.

        The other options are those of its runs; see `RunOptions`.
        """
        body = given(
            name=name,
            taskIdentifier=name_of(task),
            payload=payload,
            ttl=ttl,
            maxDuration=max_duration,
            heartbeatTimeout=heartbeat_timeout,
            maxAttempts=max_attempts,
        )
        return await self._http.call(
            Workflow, "POST", "/v1/workflows", body=body, command_key=command_key
        )

    async def get(self, workflow_id: str) -> Workflow:
        """The workflow as it stands."""
        return await self._http.call(Workflow, "GET", f"/v1/workflows/{part(workflow_id)}")

    def list(self, *, limit: int | None = None, after: str | None = None) -> Listing[Workflow, str]:
        """All workflows."""
        return listing(self._http, Page[Workflow, str], "/v1/workflows", limit=limit, after=after)

    async def replace(
        self,
        workflow_id: str,
        *,
        name: str,
        task: AnyTask | str,
        payload: Any = None,
        ttl: int | None = None,
        max_duration: int | None = None,
        heartbeat_timeout: int | None = None,
        max_attempts: int | None = None,
        command_key: str | None = None,
    ) -> Workflow:
        """The workflow, now with this name, task, payload and options; what is left out is unset."""
        body = given(
            name=name,
            taskIdentifier=name_of(task),
            payload=payload,
            ttl=ttl,
            maxDuration=max_duration,
            heartbeatTimeout=heartbeat_timeout,
            maxAttempts=max_attempts,
        )
        path = f"/v1/workflows/{part(workflow_id)}"
        return await self._http.call(Workflow, "PUT", path, body=body, command_key=command_key)

    async def delete(self, workflow_id: str, *, command_key: str | None = None) -> None:
        """Deletes it; `Conflict` if a job uses it."""
        path = f"/v1/workflows/{part(workflow_id)}"
        await self._http.request("DELETE", path, command_key=command_key)


class Jobs:
    """Calls about jobs."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        name: str,
        workflows: Sequence[str],
        *,
        config: Mapping[str, Any] | None = None,
        command_key: str | None = None,
    ) -> Job:
        """Makes a job of these workflows, by their ids, in order; `config` is what else it holds."""
        body = {"name": name, "config": _config(workflows, config)}
        return await self._http.call(Job, "POST", "/v1/jobs", body=body, command_key=command_key)

    async def get(self, job_id: str) -> Job:
        """The job as it stands."""
        return await self._http.call(Job, "GET", f"/v1/jobs/{part(job_id)}")

    def list(self, *, limit: int | None = None, after: str | None = None) -> Listing[Job, str]:
        """All jobs."""
        return listing(self._http, Page[Job, str], "/v1/jobs", limit=limit, after=after)

    async def replace(
        self,
        job_id: str,
        *,
        name: str,
        workflows: Sequence[str],
        config: Mapping[str, Any] | None = None,
        command_key: str | None = None,
    ) -> Job:
        """The job, now with this name and these workflows. Job runs that exist keep what they began with."""
        body = {"name": name, "config": _config(workflows, config)}
        path = f"/v1/jobs/{part(job_id)}"
        return await self._http.call(Job, "PUT", path, body=body, command_key=command_key)

    async def delete(self, job_id: str, *, command_key: str | None = None) -> None:
        """Deletes it."""
        await self._http.request("DELETE", f"/v1/jobs/{part(job_id)}", command_key=command_key)


class JobRuns:
    """Calls about job runs."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        job_id: str,
        payload: Any = None,
        *,
        tags: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        command_key: str | None = None,
    ) -> JobRun:
        """Begins a job: its first workflow run is queued."""
        body = given(
            jobId=job_id,
            payload=payload,
            tags=strings(tags),
            idempotencyKey=idempotency_key,
            metadata=metadata,
        )
        made = await self._http.call(
            _JobRun, "POST", "/v1/job-runs", body=body, command_key=command_key
        )
        return made.made()

    async def get(self, job_run_id: str) -> JobRun:
        """The job run as it stands."""
        got = await self._http.call(_JobRun, "GET", f"/v1/job-runs/{part(job_run_id)}")
        return got.made()

    def list(
        self,
        *,
        statuses: JobRunStatus | Sequence[JobRunStatus] | None = None,
        job_id: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Listing[JobRun, str]:
        """Job runs, newest first."""
        several = statuses if statuses is None or isinstance(statuses, str) else tuple(statuses)

        async def fetch(place: str | None) -> Page[JobRun, str]:
            query = given(status=several, jobId=job_id, limit=limit, after=place)
            page = await self._http.call(Page[_JobRun, str], "GET", "/v1/job-runs", query=query)
            return Page([one.made() for one in page.data], page.next)

        return Listing(fetch, after)

    async def cancel(self, job_run_id: str, *, command_key: str | None = None) -> JobRun:
        """The job run, canceled together with the step that is under way."""
        path = f"/v1/job-runs/{part(job_run_id)}/cancel"
        canceled = await self._http.call(_JobRun, "POST", path, command_key=command_key)
        return canceled.made()

    async def workflow_runs(self, job_run_id: str) -> Sequence[AnyRun | PlannedRun]:
        """Its steps in the order of their execution, those that have not begun as `PlannedRun`."""
        got = await self._http.call(
            _WorkflowRuns, "GET", "/v1/workflow-runs", query={"jobRunId": job_run_id}
        )
        return [_step(step) for step in got.workflow_runs]

    async def timeline(
        self, job_run_id: str, *, limit: int | None = None, after: str | None = None
    ) -> Timeline:
        """Every change of the job run and its steps, in order, and how each step stands.

        In pages of up to 1,000 changes: give `next` as `after`.
        """
        query = given(limit=limit, after=after)
        path = f"/v1/job-runs/{part(job_run_id)}/timeline"
        return await self._http.call(Timeline, "GET", path, query=query)


def _config(workflows: Sequence[str], config: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**(config or {}), "workflowExecutionOrder": [*workflows]}


def _step(step: Mapping[str, Any]) -> AnyRun | PlannedRun:
    if step.get("id") is None:
        return msgspec.convert(step, PlannedRun)
    return msgspec.convert(step, AnyRun)


def _time(value: Any) -> Any:
    return None if value is None else msgspec.convert(value, datetime)
