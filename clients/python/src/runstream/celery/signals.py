"""Listens to what Celery says of its tasks, and reports it as runs."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec
from celery import Celery, states
from celery import signals as celery_signals

from runstream import values
from runstream.celery.place import Rank, Report, sent_as
from runstream.celery.reports import Reports
from runstream.commands import UNSET, Operation
from runstream.models import RunStatus
from runstream.report import ReportedRun, reported_run
from runstream.reporter import MAX_STACK

log: Final = logging.getLogger("runstream")

TAGS_HEADER: Final = "runstream_tags"
TASK_HEADER: Final = "runstream_task"
"""Which task a run is of, where a task was replaced by another one under its id."""
MAX_BYTES: Final = 1_000_000


def connect(
    app: Celery,
    url: str = "http://127.0.0.1:8080",
    *,
    api_key: str | None = None,
    tasks: Collection[str] | None = None,
    heartbeat_timeout: int | None = None,
    max_waiting: int = 10_000,
    flush_s: float = 5.0,
) -> Reports:
    """Makes each task of the app a run, moved by Celery's own signals; of `tasks`, if given.

    Called where the app is made, so that it is called in each process that publishes tasks
    or executes them. A run is made when its task is published; a run that a `Dispatcher`
    sent is moved itself. `current_run()` in a task is its run: `current_run().metadata.set(…)`.
    `app.send_task(…, headers={"runstream_tags": […]})` gives it tags.

    Neither a publisher nor a worker ever waits for the server, or fails because of it: what
    is to be told waits in memory, `max_waiting` reports at most, and is told from a thread;
    what could not be told is counted by `Reports.dropped`. At the end of a process `flush_s`
    seconds are given to the rest. With a `heartbeat_timeout` (seconds) the server makes a run
    CRASHED whose worker is gone.
    """
    reports = Reports(
        url,
        api_key=api_key,
        max_waiting=max_waiting,
        flush_s=flush_s,
        heartbeat_timeout=heartbeat_timeout,
    )
    listener = _Listener(app, reports, None if tasks is None else frozenset(tasks))
    for name in _HEARD:
        signal = getattr(celery_signals, name)
        heed = _harmless(getattr(listener, name))
        signal.connect(heed, weak=False, dispatch_uid=f"runstream {id(app)} {name}")
    return reports


_HEARD: Final = (
    "before_task_publish",
    "after_task_publish",
    "task_prerun",
    "task_postrun",
    "task_retry",
    "task_failure",
    "task_internal_error",
    "task_revoked",
    "task_unknown",
    "worker_process_shutdown",
    "worker_shutdown",
)


def _harmless(heed: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(heed)
    def heeded(*args: Any, **kwargs: Any) -> None:
        try:
            heed(*args, **kwargs)
        except Exception:
            log.exception("a signal of Celery was not reported")

    return heeded


class TaskRun(ReportedRun[Any, Any]):
    """What `current_run()` gives in a task of Celery."""

    def __init__(self, reports: Reports, task_id: str) -> None:
        super().__init__()
        self._reports = reports
        self._task_id = task_id

    @property
    def id(self) -> str | None:
        """The run's id, if it was sent to Celery as a run; else only the server knows it."""
        sent = sent_as(self._task_id)
        return None if sent is None else sent[0]

    def _put(self, operation: Operation) -> None:
        try:
            values.encode(operation)
        except (TypeError, ValueError) as error:
            log.error("metadata %s is not reported: %s", operation.path, error)
            return
        self._reports.operate(self._task_id, operation)

    def _tag(self, tags: tuple[str, ...]) -> None:
        self._reports.add_tags(self._task_id, tags)


class _Listener:
    """One function for each signal, with the arguments that Celery gives it."""

    def __init__(self, app: Celery, reports: Reports, tasks: frozenset[str] | None) -> None:
        self._app = app
        self._reports = reports
        self._tasks = tasks
        self._replaced: set[str] = set()
        self._executing: dict[str, tuple[str, Any]] = {}
        """The tasks that this process executes: what their runs are of, and what to reset."""

    def before_task_publish(self, headers: Any = None, **_: Any) -> None:
        # Also by itself, when it is retried: then the name is the same.
        if isinstance(headers, dict) and headers.get("id") in self._executing:
            headers[TASK_HEADER] = self._executing[headers["id"]][0]

    def after_task_publish(
        self, sender: Any = None, headers: Any = None, body: Any = None, **_: Any
    ) -> None:
        # Fires again with each retry, and where a task replaces itself: under the same id.
        if not isinstance(headers, dict) or "id" not in headers:
            return  # The first protocol of Celery's messages, which nothing sends any more.
        name = str(headers.get(TASK_HEADER) or sender)
        if not self._is_meant(name):
            return
        task_id = headers["id"]
        if task_id in self._executing:
            self._replaced.add(task_id)
        args, kwargs = body[0], body[1]
        self._reports.put(
            Report(
                task_id,
                name,
                int(headers.get("retries") or 0) + 1,
                Rank.PUBLISHED,
                payload=_payload(args, kwargs),
                about=_about(task_id, headers.get("root_id"), headers.get("parent_id")),
                tags=tuple(headers.get(TAGS_HEADER) or ()),
            )
        )

    def task_prerun(
        self, task_id: str, task: Any, args: Any = (), kwargs: Any = None, **_: Any
    ) -> None:
        if not self._is_ours(task):
            return
        self._reports.begins(task_id, task.name)
        token = reported_run.set(TaskRun(self._reports, task_id))
        self._executing[task_id] = (_name(task, task.request), token)
        self._say(task, task_id, Rank.STARTED, args=args, kwargs=kwargs or {})

    def task_postrun(
        self, task_id: str, task: Any, state: Any = None, retval: Any = None, **more: Any
    ) -> None:
        if not self._is_ours(task):
            return
        self._reports.ends(task_id)
        _, token = self._executing.pop(task_id, ("", None))
        if token is not None:
            try:
                reported_run.reset(token)
            except ValueError:
                pass  # Another thread's.
        is_replaced = task_id in self._replaced
        self._replaced.discard(task_id)
        match state:
            case states.SUCCESS:
                output = _raw(retval)
                self._say(task, task_id, Rank.ENDED, RunStatus.COMPLETED, output=output, **more)
            case states.IGNORED if not is_replaced:
                # It asked that nothing be said of how it ended.
                self._say(task, task_id, Rank.ENDED, RunStatus.CANCELED, **more)
            case states.REJECTED if not getattr(retval, "requeue", False):
                error = _error(retval, None)
                self._say(task, task_id, Rank.ENDED, RunStatus.FAILED, error=error, **more)
            case _:
                # FAILURE and RETRY have signals of their own, that know why. None is said
                # of a task that was terminated: the worker's main process tells of that,
                # or of the process that was lost.
                pass

    def task_retry(self, sender: Any, request: Any, reason: Any = None, **more: Any) -> None:
        if not self._is_ours(sender):
            return
        error = _error(getattr(reason, "exc", None) or reason, more.get("einfo"))
        self._say(sender, request.id, Rank.RETRY, request=request, error=error)

    def task_failure(
        self, sender: Any, task_id: str, exception: Any = None, einfo: Any = None, **more: Any
    ) -> None:
        if self._is_ours(sender):
            error = _error(exception, einfo)
            self._say(sender, task_id, Rank.ENDED, RunStatus.FAILED, error=error, **more)

    task_internal_error = task_failure

    def task_revoked(self, sender: Any, request: Any, expired: bool = False, **_: Any) -> None:
        if self._is_ours(sender):
            status = RunStatus.EXPIRED if expired else RunStatus.CANCELED
            self._say(sender, request.id, Rank.ENDED, status, request=request)

    def task_unknown(
        self, name: Any = None, id: Any = None, exc: Any = None, **_: Any
    ) -> None:  # fmt: skip
        if self._is_meant(name) and id:
            error = {"name": "UnknownTask", "message": f"no worker knows the task {name}"}
            self._reports.put(
                Report(id, str(name), None, Rank.ENDED, RunStatus.FAILED, error=error)
            )

    def worker_process_shutdown(self, **_: Any) -> None:
        self._reports.flush()

    def worker_shutdown(self, **_: Any) -> None:
        self._reports.flush()

    def _say(
        self,
        task: Any,
        task_id: str,
        rank: Rank,
        status: RunStatus | None = None,
        *,
        request: Any = None,
        args: Any = (),
        kwargs: Any = None,
        output: Any = UNSET,
        error: dict[str, str] | None = None,
        **_: Any,
    ) -> None:
        request = task.request if request is None else request
        # In the worker's main process a task has no request but the one that it is given.
        is_known = getattr(request, "id", None) == task_id
        headers = getattr(request, "headers", None) or {}
        self._reports.put(
            Report(
                task_id,
                _name(task, request),
                int(request.retries or 0) + 1 if is_known else None,
                rank,
                status,
                output=output,
                error=error,
                payload=_payload(
                    args or getattr(request, "args", None),
                    kwargs or getattr(request, "kwargs", None),
                ),
                about=_about(
                    task_id,
                    getattr(request, "root_id", None),
                    getattr(request, "parent_id", None),
                ),
                tags=tuple(headers.get(TAGS_HEADER) or ()),
            )
        )

    def _is_ours(self, task: Any) -> bool:
        return getattr(task, "app", None) is self._app and self._is_meant(task.name)

    def _is_meant(self, name: Any) -> bool:
        return self._tasks is None or name in self._tasks


def _name(task: Any, request: Any) -> str:
    headers = getattr(request, "headers", None) or {}
    return str(headers.get(TASK_HEADER) or task.name)


def _payload(args: Any, kwargs: Any) -> Any:
    """The arguments of a task as a run's payload; `Dispatcher` makes arguments of it again."""
    args, kwargs = list(args or ()), dict(kwargs or {})
    if not args:
        return _raw(kwargs) if kwargs else None
    return _raw({"args": args, "kwargs": kwargs})


def _raw(value: Any) -> Any:
    # Written at once: the task may go on to change it. What is too large for a look at it,
    # or no JSON, is left out, and says so.
    if value is None:
        return None
    try:
        text = values.encode(value)
    except (TypeError, ValueError) as error:
        return {"omitted": str(error)}
    if len(text) > MAX_BYTES:
        return {"omitted": f"{len(text)} bytes"}
    return msgspec.Raw(text)


def _about(task_id: str, root_id: Any, parent_id: Any) -> dict[str, Any]:
    about = {"id": task_id, "rootId": root_id, "parentId": parent_id}
    return {name: value for name, value in about.items() if value}


def _error(error: Any, einfo: Any) -> dict[str, str]:
    told = {"name": type(error).__name__, "message": str(error)}
    stack = getattr(einfo, "traceback", None)
    if not stack and isinstance(error, BaseException) and error.__traceback__ is not None:
        stack = "".join(traceback.format_exception(error))
    if stack:
        told["stack"] = str(stack)[-MAX_STACK:]
    return told
