"""The `subscribe_to_…` methods: what may be followed, and with which types it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack, overload

from runstream import protocol
from runstream.commands import AnyTasks, split_tasks, time_text
from runstream.connection import Connection
from runstream.errors import ClientClosed, StreamEnded
from runstream.merging import FIELD_NAMES
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
    Run,
    RunStatus,
    Task,
)
from runstream.subscription import Subscription


class StreamOptions(TypedDict, total=False):
    """What may be said of any subscription."""

    cursor: str | None
    """Go on from here: what `Subscription.cursor` said earlier, for the same stream."""
    delivery: protocol.Delivery
    """`every` (the default): each version. `latest`: under pressure only the newest."""
    skip: Sequence[str]
    """Fields never sent; in the runs they then hold None, 0 or nothing."""
    stop_on_completion: bool
    """Whether it ends by itself when the run, the batch or the job run is over; it does."""
    snapshot: bool
    """False: no runs as they stand now, only what comes."""
    buffer: int
    """How many changes may wait for a slow caller here before they wait at the server."""


class RunsOptions(StreamOptions, total=False):
    """What may be said of a subscription to many runs: which of them are meant."""

    statuses: Sequence[RunStatus] | None
    created_after: datetime | None
    is_test: bool | None
    limit: int | None
    """How many runs the snapshot holds, the newest; 1,000 by default, 10,000 at most."""


class Subscribing:
    """Follows runs over one connection. A part of `Runstream`."""

    _connection: Connection
    _closed: bool

    @overload
    def subscribe_to_run(
        self, run_id: str, *, task: Task[P1, O1], **options: Unpack[StreamOptions]
    ) -> Subscription[Run[P1, O1]]: ...
    @overload
    def subscribe_to_run(
        self, run_id: str, *, task: None = None, **options: Unpack[StreamOptions]
    ) -> Subscription[AnyRun]: ...
    def subscribe_to_run(
        self, run_id: str, *, task: AnyTask | None = None, **options: Unpack[StreamOptions]
    ) -> Subscription[Any]:
        """The run as it stands, then each change, until it is final.

        Raises `NotFound` if there is none, `Forbidden` if the token does not cover it, and
        `DecodeError` if payload or output do not fit the task's types.
        """
        wish = protocol.SubscribeToRun(id=0, run_id=run_id, **_stream_fields(options))
        return self._subscription(wish, () if task is None else (task,), options)

    @overload
    def subscribe_to_runs_with_tag(
        self,
        tag: str | Sequence[str],
        *,
        match: protocol.Match = "all",
        tasks: Task[P1, O1] | tuple[Task[P1, O1]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1]]: ...
    @overload
    def subscribe_to_runs_with_tag(
        self,
        tag: str | Sequence[str],
        *,
        match: protocol.Match = "all",
        tasks: tuple[Task[P1, O1], Task[P2, O2]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2]]: ...
    @overload
    def subscribe_to_runs_with_tag(
        self,
        tag: str | Sequence[str],
        *,
        match: protocol.Match = "all",
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2] | Run[P3, O3]]: ...
    @overload
    def subscribe_to_runs_with_tag(
        self,
        tag: str | Sequence[str],
        *,
        match: protocol.Match = "all",
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3], Task[P4, O4]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2] | Run[P3, O3] | Run[P4, O4]]: ...
    @overload
    def subscribe_to_runs_with_tag(
        self,
        tag: str | Sequence[str],
        *,
        match: protocol.Match = "all",
        tasks: AnyTasks | None = None,
        **options: Unpack[RunsOptions],
    ) -> Subscription[AnyRun]: ...
    def subscribe_to_runs_with_tag(
        self,
        tag: str | Sequence[str],
        *,
        match: protocol.Match = "all",
        tasks: AnyTasks | None = None,
        **options: Unpack[RunsOptions],
    ) -> Subscription[Any]:
        """Runs with this tag, or with all (or any) of several. It does not end by itself."""
        names, types = split_tasks(tasks)
        wish = protocol.SubscribeToRunsWithTag(
            id=0,
            tags=[tag] if isinstance(tag, str) else [*tag],
            match=match,
            **_runs_fields(names, options),
        )
        return self._subscription(wish, types, options)

    @overload
    def subscribe_to_batch(
        self,
        batch_id: str,
        *,
        tasks: Task[P1, O1] | tuple[Task[P1, O1]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1]]: ...
    @overload
    def subscribe_to_batch(
        self,
        batch_id: str,
        *,
        tasks: tuple[Task[P1, O1], Task[P2, O2]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2]]: ...
    @overload
    def subscribe_to_batch(
        self,
        batch_id: str,
        *,
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2] | Run[P3, O3]]: ...
    @overload
    def subscribe_to_batch(
        self,
        batch_id: str,
        *,
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3], Task[P4, O4]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2] | Run[P3, O3] | Run[P4, O4]]: ...
    @overload
    def subscribe_to_batch(
        self, batch_id: str, *, tasks: AnyTasks | None = None, **options: Unpack[RunsOptions]
    ) -> Subscription[AnyRun]: ...
    def subscribe_to_batch(
        self, batch_id: str, *, tasks: AnyTasks | None = None, **options: Unpack[RunsOptions]
    ) -> Subscription[Any]:
        """The runs of a batch, until all are final; `Subscription.batch` is how far it is."""
        names, types = split_tasks(tasks)
        wish = protocol.SubscribeToBatch(id=0, batch_id=batch_id, **_runs_fields(names, options))
        return self._subscription(wish, types, options)

    def subscribe_to_job_run(
        self, job_run_id: str, **options: Unpack[StreamOptions]
    ) -> Subscription[AnyRun]:
        """A job run and its workflow runs, until the job run is final.

        Raises `NotFound` if there is none: also for the id of a run that is no job run.
        """
        wish = protocol.SubscribeToJobRun(id=0, job_run_id=job_run_id, **_stream_fields(options))
        return self._subscription(wish, (), options)

    @overload
    def subscribe_to_runs(
        self, *, tasks: Task[P1, O1] | tuple[Task[P1, O1]], **options: Unpack[RunsOptions]
    ) -> Subscription[Run[P1, O1]]: ...
    @overload
    def subscribe_to_runs(
        self, *, tasks: tuple[Task[P1, O1], Task[P2, O2]], **options: Unpack[RunsOptions]
    ) -> Subscription[Run[P1, O1] | Run[P2, O2]]: ...
    @overload
    def subscribe_to_runs(
        self,
        *,
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2] | Run[P3, O3]]: ...
    @overload
    def subscribe_to_runs(
        self,
        *,
        tasks: tuple[Task[P1, O1], Task[P2, O2], Task[P3, O3], Task[P4, O4]],
        **options: Unpack[RunsOptions],
    ) -> Subscription[Run[P1, O1] | Run[P2, O2] | Run[P3, O3] | Run[P4, O4]]: ...
    @overload
    def subscribe_to_runs(
        self, *, tasks: AnyTasks | None = None, **options: Unpack[RunsOptions]
    ) -> Subscription[AnyRun]: ...
    def subscribe_to_runs(
        self, *, tasks: AnyTasks | None = None, **options: Unpack[RunsOptions]
    ) -> Subscription[Any]:
        """All runs of the project, or those that the filters let through."""
        names, types = split_tasks(tasks)
        wish = protocol.SubscribeToRuns(id=0, **_runs_fields(names, options))
        return self._subscription(wish, types, options)

    @overload
    async def wait_for_run(
        self, run_id: str, timeout: float | None = None, *, task: Task[P1, O1]
    ) -> Run[P1, O1]: ...
    @overload
    async def wait_for_run(self, run_id: str, timeout: float | None = None) -> AnyRun: ...
    async def wait_for_run(
        self, run_id: str, timeout: float | None = None, *, task: AnyTask | None = None
    ) -> AnyRun:
        """The run when it is final, whatever its outcome.

        Raises `TimeoutError` if that takes longer than `timeout` seconds, `StreamEnded` if
        the run is deleted first, and what `subscribe_to_run` raises.
        """
        async with asyncio.timeout(timeout):
            subscription = self.subscribe_to_run(run_id, delivery="latest")
            try:
                async for run in subscription:
                    if run.is_final:
                        return run if task is None else task.read(run)
            finally:
                await subscription.aclose()
        if subscription.end_reason == "closed":
            raise ClientClosed("the client was closed before the run was final")
        raise StreamEnded(subscription.end_reason or "unsubscribed")

    def _subscription(
        self, wish: protocol.Wish, tasks: tuple[AnyTask, ...], options: StreamOptions
    ) -> Subscription[Any]:
        return Subscription(
            self._connection,
            wish,
            tasks,
            buffer=options.get("buffer", 10_000),
            check_open=self._check_open,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed")


_STREAM_OPTIONS = {"cursor", "delivery", "stop_on_completion", "snapshot", "skip", "buffer"}
_RUNS_OPTIONS = _STREAM_OPTIONS | {"statuses", "created_after", "is_test", "limit"}


def _stream_fields(options: StreamOptions) -> dict[str, Any]:
    return _fields(options, _STREAM_OPTIONS)


def _runs_fields(names: list[str] | None, options: RunsOptions) -> dict[str, Any]:
    fields = _fields(options, _RUNS_OPTIONS)
    fields["tasks"] = names
    if fields.get("statuses") is not None:
        fields["statuses"] = [RunStatus(status) for status in fields["statuses"]]
    if fields.get("created_after") is not None:
        fields["created_after"] = time_text(fields["created_after"])
    return fields


def _fields(options: StreamOptions, known: set[str]) -> dict[str, Any]:
    unknown = set(options) - known
    if unknown:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    fields = {name: value for name, value in options.items() if name != "buffer"}
    # Named as in Python or as in JSON.
    skip = options.get("skip", ())
    fields["skip"] = tuple(FIELD_NAMES.get(name, name) for name in skip)
    return fields
