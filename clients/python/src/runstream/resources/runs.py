"""`client.runs`: runs over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypedDict, Unpack, overload

import msgspec

from runstream import values
from runstream.commands import (
    UNSET,
    AnyTasks,
    NewRun,
    Operation,
    RunOptions,
    RunUpdate,
    aware,
    given,
    split_tasks,
)
from runstream.errors import ProtocolError, Refused
from runstream.http import Http, part, problem_of, read
from runstream.models import (
    O1,
    O2,
    O3,
    O4,
    P1,
    P2,
    P3,
    P4,
    AnyRun,
    AnyTask,
    OutputT,
    PayloadT,
    Run,
    RunStatus,
    Task,
)
from runstream.resources.models import HistoryEntry
from runstream.resources.paging import Listing, Page


@dataclass(frozen=True)
class Created(Generic[PayloadT, OutputT]):
    """A run as it was made, or, if its idempotency key was used before, as it stands."""

    run: Run[PayloadT, OutputT]
    is_new: bool
    token: str | None
    """A public access token that reads this run, for a day; for a browser, say."""


class ListOptions(TypedDict, total=False):
    """Which runs are listed; all that are given must hold."""

    statuses: RunStatus | Sequence[RunStatus] | None
    tags: str | Sequence[str] | None
    """All of them."""
    batch_id: str | None
    parent_run_id: str | None
    is_test: bool | None
    created_after: datetime | None
    created_before: datetime | None
    limit: int | None
    """How many a page holds."""
    after: str | None
    """Where the list goes on: a page's `next`."""


class _Claimed(msgspec.Struct):
    run: AnyRun | None = None


class _Results(msgspec.Struct):
    results: list[dict[str, Any]]


class Runs:
    """Calls about runs. Each raises a `Refused` where the server refuses, and see `Http.request`.

    Every command takes `command_key`, by which the server knows a repeat of the same
    command for a day; without one it has a key of its own, so that a lost answer can be
    asked for again.
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    @overload
    async def create(
        self,
        task: Task[P1, O1],
        payload: P1 | None = None,
        *,
        command_key: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Created[P1, O1]: ...
    @overload
    async def create(
        self,
        task: str,
        payload: Any = None,
        *,
        command_key: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Created[Any, Any]: ...
    async def create(
        self,
        task: AnyTask | str,
        payload: Any = None,
        *,
        command_key: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Created[Any, Any]:
        """Makes a run; also gives a token that reads it."""
        new: NewRun[Any, Any] = NewRun(task, payload, **options)
        response = await self._http.request(
            "POST", "/v1/runs", content=values.encode(new.body()), command_key=command_key
        )
        run = typed(read(AnyRun, response), task)
        token = response.headers.get("Runstream-Token")
        return Created(run, response.status_code == 201, token)

    @overload
    async def get(self, run_id: str, *, task: Task[P1, O1]) -> Run[P1, O1]: ...
    @overload
    async def get(self, run_id: str) -> AnyRun: ...
    async def get(self, run_id: str, *, task: AnyTask | None = None) -> AnyRun:
        """The run as it stands."""
        return typed(await self._http.call(AnyRun, "GET", _path(run_id)), task)

    @overload
    def list(
        self, *, tasks: Task[P1, O1] | tuple[Task[P1, O1]], **filters: Unpack[ListOptions]
    ) -> Listing[Run[P1, O1], str]: ...
    @overload
    def list(
        self, *, tasks: tuple[Task[P1, O1], Task[P2, O2]], **filters: Unpack[ListOptions]
    ) -> Listing[Run[P1, O1] | Run[P2, O2], str]: ...
    @overload
    def list(
        self,
        *,
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3]],
        **filters: Unpack[ListOptions],
    ) -> Listing[Run[P1, O1] | Run[P2, O2] | Run[P3, O3], str]: ...
    @overload
    def list(
        self,
        *,
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3], Task[P4, O4]],
        **filters: Unpack[ListOptions],
    ) -> Listing[Run[P1, O1] | Run[P2, O2] | Run[P3, O3] | Run[P4, O4], str]: ...
    @overload
    def list(
        self, *, tasks: AnyTasks | None = None, **filters: Unpack[ListOptions]
    ) -> Listing[AnyRun, str]: ...
    def list(
        self, *, tasks: AnyTasks | None = None, **filters: Unpack[ListOptions]
    ) -> Listing[Any, str]:
        """Runs, newest first: `await` it for a page, `async for` it for all of them."""
        names, types = split_tasks(tasks)
        query = {
            "task": names,
            "status": filters.get("statuses"),
            "tag": filters.get("tags"),
            "batchId": filters.get("batch_id"),
            "parentRunId": filters.get("parent_run_id"),
            "isTest": filters.get("is_test"),
            "createdAfter": aware(filters.get("created_after")),
            "createdBefore": aware(filters.get("created_before")),
            "limit": filters.get("limit"),
        }

        async def fetch(after: str | None) -> Page[AnyRun, str]:
            page = await self._http.call(
                Page[AnyRun, str], "GET", "/v1/runs", query={**query, "after": after}
            )
            return Page([typed(run, types) for run in page.data], page.next)

        return Listing(fetch, filters.get("after"))

    async def update(
        self,
        run_id: str,
        *,
        status: RunStatus | None = None,
        output: Any = UNSET,
        error: Mapping[str, Any] | BaseException | None = UNSET,
        metadata: Mapping[str, Any] | None = None,
        add_tags: Sequence[str] | None = None,
        remove_tags: Sequence[str] | None = None,
        cost_in_cents: float | None = None,
        base_cost_in_cents: float | None = None,
        delay_until: datetime | None = None,
        if_version: int | None = None,
        if_attempt: int | None = None,
        command_key: str | None = None,
    ) -> AnyRun:
        """The run after a change; what is left out stays as it is. `metadata` is a JSON merge patch.

        Raises `Conflict`, with the run as it stands, for a transition that the lifecycle
        refuses, and if the run is not at `if_version` or not in `if_attempt`.
        """
        update = RunUpdate(
            run_id,
            status,
            output,
            error,
            metadata,
            add_tags,
            remove_tags,
            cost_in_cents,
            base_cost_in_cents,
            delay_until,
            if_version,
            if_attempt,
        )
        return await self._http.call(
            AnyRun, "PATCH", _path(run_id), body=update.body(), command_key=command_key
        )

    async def metadata(
        self,
        run_id: str,
        operations: Iterable[Operation],
        *,
        target: Literal["self", "parent", "root"] = "self",
        command_key: str | None = None,
    ) -> AnyRun:
        """The run after these operations on its metadata, or on its parent's or root's."""
        body = {"operations": [*operations], "target": target}
        return await self._http.call(
            AnyRun, "POST", _path(run_id, "metadata"), body=body, command_key=command_key
        )

    async def cancel(self, run_id: str, *, command_key: str | None = None) -> AnyRun:
        """The run, canceled."""
        return await self._http.call(
            AnyRun, "POST", _path(run_id, "cancel"), command_key=command_key
        )

    async def replay(self, run_id: str, *, command_key: str | None = None) -> AnyRun:
        """A new run with the task, the payload and so on of this one."""
        return await self._http.call(
            AnyRun, "POST", _path(run_id, "replay"), command_key=command_key
        )

    async def heartbeat(self, run_id: str, *, attempt: int | None = None) -> None:
        """Shows that the run's worker lives.

        With an `attempt` raises `Conflict` if the run is not executing in that one: somebody
        else has it by now, or nobody any more.
        """
        content = None if attempt is None else values.encode({"attempt": attempt})
        await self._http.request("POST", _path(run_id, "heartbeat"), content=content)

    @overload
    async def claim(
        self,
        tasks: Task[P1, O1] | tuple[Task[P1, O1]],
        *,
        worker: str,
        lease_s: int,
        wait_s: float = 0,
        command_key: str | None = None,
    ) -> Run[P1, O1] | None: ...
    @overload
    async def claim(
        self,
        tasks: tuple[Task[P1, O1], Task[P2, O2]],
        *,
        worker: str,
        lease_s: int,
        wait_s: float = 0,
        command_key: str | None = None,
    ) -> Run[P1, O1] | Run[P2, O2] | None: ...
    @overload
    async def claim(
        self,
        tasks: AnyTasks,
        *,
        worker: str,
        lease_s: int,
        wait_s: float = 0,
        command_key: str | None = None,
    ) -> AnyRun | None: ...
    async def claim(
        self,
        tasks: AnyTasks,
        *,
        worker: str,
        lease_s: int,
        wait_s: float = 0,
        command_key: str | None = None,
    ) -> AnyRun | None:
        """The oldest queued run of these tasks, now EXECUTING, for this worker alone.

        None if there is none within `wait_s`. Whoever gets it keeps it by a heartbeat at
        least every `lease_s`. A `Worker` does all that.
        """
        names, types = split_tasks(tasks)
        body = given(tasks=names, worker=worker, leaseS=lease_s, waitS=wait_s or None)
        claimed = await self._http.call(
            _Claimed,
            "POST",
            "/v1/runs/claim",
            body=body,
            command_key=command_key,
            patience_s=wait_s,
        )
        return None if claimed.run is None else typed(claimed.run, types)

    async def delete(self, run_id: str, *, command_key: str | None = None) -> None:
        """Deletes a final run; `Conflict` if it is not."""
        await self._http.request("DELETE", _path(run_id), command_key=command_key)

    def history(
        self, run_id: str, *, after_version: int | None = None, limit: int | None = None
    ) -> Listing[HistoryEntry, int]:
        """What has become of the run, version by version."""

        async def fetch(after: int | None) -> Page[HistoryEntry, int]:
            query = given(afterVersion=after, limit=limit)
            path = _path(run_id, "changes")
            return await self._http.call(Page[HistoryEntry, int], "GET", path, query=query)

        return Listing(fetch, after_version)

    async def bulk(
        self,
        commands: Iterable[NewRun[Any, Any] | RunUpdate],
        *,
        command_key: str | None = None,
    ) -> Sequence[AnyRun | Refused]:
        """Many commands at once (at most 1,000), each of which stands or falls alone.

        For each, in order, the run as it stood after it, or the error that it met:
        those are returned, not raised.
        """
        body = {
            "commands": [
                {"create": command.body()}
                if isinstance(command, NewRun)
                else {"update": {"runId": command.run_id, **command.body()}}
                for command in commands
            ]
        }
        results = await self._http.call(
            _Results, "POST", "/v1/runs/bulk", body=body, command_key=command_key
        )
        return [_result(result) for result in results.results]


def typed(run: AnyRun, task: AnyTask | str | Sequence[AnyTask] | None) -> AnyRun:
    """The run with payload and output as its task has them; `DecodeError` if they don't fit."""
    if isinstance(task, Task):
        return task.read(run)
    if task is None or isinstance(task, str):
        return run
    for one in task:
        if one.name == run.task_identifier:
            return one.read(run)
    return run


def _path(run_id: str, *more: str) -> str:
    return "/".join(("/v1/runs", part(run_id), *more))


def _result(result: Mapping[str, Any]) -> AnyRun | Refused:
    if "error" in result:
        problem = result["error"]
        return problem_of(problem, int(problem.get("status") or 400))
    try:
        return msgspec.convert(result["run"], AnyRun)
    except (KeyError, msgspec.ValidationError) as error:
        raise ProtocolError(f"a result of a bulk command cannot be read: {error}") from error
