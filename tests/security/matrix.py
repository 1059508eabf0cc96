"""Who may do what: the table that the tests try out and that docs/security.md shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Who(StrEnum):
    """Somebody who comes with a key, a token, or nothing."""

    NOBODY = "no token"
    KEY = "API key"
    READER = "read-only key"
    ALL = "`read:runs`"
    RUN = "`read:runs:<run>`"
    JOB_RUN = "`read:runs:<job run>`"
    TAG = "`read:tags:<tag>`"
    BATCH = "`read:batch:<batch>`"
    TASK = "`read:tasks:<task>`"
    TRIGGER = "`trigger:tasks:<task>`"
    STRANGER = "another project's key"


SCOPES: Final = {
    Who.ALL: "read:runs",
    Who.RUN: "read:runs:{run}",
    Who.JOB_RUN: "read:runs:{job_run}",
    Who.TAG: "read:tags:{tag}",
    Who.BATCH: "read:batch:{batch}",
    Who.TASK: "read:tasks:{task}",
    Who.TRIGGER: "trigger:tasks:{task}",
}
"""What their tokens hold; the rest have keys, or nothing."""

YES: Final = "yes"
OWN: Final = "own"
"""It is done in the caller's own project: nothing of this one is seen or touched."""

WRITERS: Final = (Who.KEY,)
KEYS: Final = (Who.KEY, Who.READER)
READERS: Final = (*KEYS, Who.ALL)
EVERYBODY: Final = tuple(Who)

RUN: Final = (*READERS, Who.RUN, Who.TAG, Who.BATCH, Who.TASK)
"""Who may read the run: it has the tag and the task, and is in the batch."""
JOB_RUN: Final = (*READERS, Who.JOB_RUN)


@dataclass(frozen=True)
class Ask:
    """One thing that can be asked for, and what each of them gets."""

    said: str
    allowed: Sequence[Who]
    method: str = ""
    """Of HTTP; empty for a stream."""
    path: str = ""
    """With names in braces, for what the world is made of; of a stream the one of its events."""
    subscribe: dict[str, Any] = field(default_factory=dict)
    """The WebSocket message of a stream."""
    body: Any = None
    refused: int = 403
    stranger: str = "404"
    missing: Sequence[Who] = ()
    """Who may know that it is not there."""

    def answer(self, who: Who) -> str:
        """`yes`, `own`, or the status of the refusal."""
        if who in self.allowed:
            return YES
        if who is Who.NOBODY:
            return "401"
        if who is Who.STRANGER:
            return self.stranger
        if who in self.missing:
            return "404"
        return str(self.refused)


def _stream(
    said: str,
    path: str,
    allowed: Sequence[Who],
    type: str,
    *,
    stranger: str = "404",
    missing: Sequence[Who] = (),
    **fields: Any,
) -> Ask:
    return Ask(
        said,
        allowed,
        path="/v1/realtime" + path,
        subscribe={"type": type, **fields},
        stranger=stranger,
        missing=missing,
    )


_TAGGED: Final = "subscribeToRunsWithTag"
_TAG, _OTHER_TAG, _TASK = "{tag}", "{other_tag}", "{task}"

STREAMS: Final[Sequence[Ask]] = (
    _stream("the run", "/runs/{run}", RUN, "subscribeToRun", runId="{run}"),
    _stream("another run", "/runs/{other}", READERS, "subscribeToRun", runId="{other}"),
    _stream("the job run, as a run", "/runs/{job_run}", JOB_RUN, "subscribeToRun",
            runId="{job_run}"),
    _stream("its workflow run", "/runs/{step}", JOB_RUN, "subscribeToRun", runId="{step}"),
    _stream("a run that does not exist", "/runs/{no_run}", (), "subscribeToRun", runId="{no_run}",
            missing=READERS),
    _stream("the tag", "/runs?tag={tag}", (*READERS, Who.TAG), _TAGGED, tag=_TAG, stranger=OWN),
    _stream("another tag", "/runs?tag={other_tag}", READERS, _TAGGED, tag=_OTHER_TAG, stranger=OWN),
    _stream("all of both tags", "/runs?tag={tag}&tag={other_tag}", (*READERS, Who.TAG), _TAGGED,
            tags=[_TAG, _OTHER_TAG], stranger=OWN),
    _stream("any of both tags", "/runs?tag={tag}&tag={other_tag}&match=any", READERS, _TAGGED,
            tags=[_TAG, _OTHER_TAG], match="any", stranger=OWN),
    _stream("another tag, of the task", "/runs?tag={other_tag}&task={task}", (*READERS, Who.TASK),
            _TAGGED, tag=_OTHER_TAG, tasks=[_TASK], stranger=OWN),
    _stream("the batch", "/batches/{batch}", (*READERS, Who.BATCH), "subscribeToBatch",
            batchId="{batch}"),
    _stream("another batch", "/batches/{other_batch}", READERS, "subscribeToBatch",
            batchId="{other_batch}"),
    _stream("the job run", "/job-runs/{job_run}", JOB_RUN, "subscribeToJobRun",
            jobRunId="{job_run}"),
    _stream("all runs", "/runs", READERS, "subscribeToRuns", stranger=OWN),
    _stream("all runs of the task", "/runs?task={task}", (*READERS, Who.TASK), "subscribeToRuns",
            tasks=[_TASK], stranger=OWN),
    _stream("all runs of two tasks", "/runs?task={task}&task=other", READERS, "subscribeToRuns",
            tasks=[_TASK, "other"], stranger=OWN),
)  # fmt: skip
"""Asked for over WebSocket and as server-sent events; both must answer alike."""


def _get(said: str, path: str, allowed: Sequence[Who], **how: Any) -> Ask:
    return Ask(said, allowed, "GET", path, **how)


def _command(method: str, path: str, said: str, body: Any = None, **how: Any) -> Ask:
    how.setdefault("allowed", WRITERS)
    return Ask(said, method=method, path=path, body=body, **how)


_HIDDEN: Final = {"refused": 404}
"""What a token may not read looks as if it were not there."""
_WORKFLOW: Final = {"name": "w", "taskIdentifier": "step"}

CALLS: Final[Sequence[Ask]] = (
    _get("the run", "/v1/runs/{run}", RUN, **_HIDDEN),
    _get("another run", "/v1/runs/{other}", READERS, **_HIDDEN),
    _get("its workflow run", "/v1/runs/{step}", JOB_RUN, **_HIDDEN),
    _get("a run that does not exist", "/v1/runs/{no_run}", (), **_HIDDEN),
    _get("the run's history", "/v1/runs/{run}/changes", RUN, **_HIDDEN),
    _get("another run's history", "/v1/runs/{other}/changes", READERS, **_HIDDEN),
    _get("all runs", "/v1/runs", READERS, stranger=OWN),
    _get("runs with the tag", "/v1/runs?tag={tag}", (*READERS, Who.TAG), stranger=OWN),
    _get("runs with another tag", "/v1/runs?tag={other_tag}", READERS, stranger=OWN),
    _get("runs of the task", "/v1/runs?task={task}", (*READERS, Who.TASK), stranger=OWN),
    _get("runs in the batch", "/v1/runs?batchId={batch}", (*READERS, Who.BATCH), stranger=OWN),
    _get("runs below the job run", "/v1/runs?parentRunId={job_run}", JOB_RUN, stranger=OWN),
    _command("POST", "/v1/runs", "make a run of the task", {"taskIdentifier": _TASK},
             allowed=(Who.KEY, Who.TRIGGER), stranger=OWN),
    _command("POST", "/v1/runs", "make a run of another task", {"taskIdentifier": "other"},
             stranger=OWN),
    _command("POST", "/v1/runs", "make a run in the batch",
             {"taskIdentifier": _TASK, "batchId": "{open_batch}"}, stranger="422"),
    _command("POST", "/v1/runs", "make a run below the run",
             {"taskIdentifier": _TASK, "parentRunId": "{run}"}, stranger="422"),
    _command("POST", "/v1/runs/bulk", "many commands at once",
             {"commands": [{"create": {"taskIdentifier": _TASK}}]}, stranger=OWN),
    _command("POST", "/v1/runs/claim", "claim a run",
             {"tasks": ["nobody-does-this"], "worker": "w", "leaseS": 30}, stranger=OWN),
    _command("PATCH", "/v1/runs/{run}", "change the run", {"metadata": {"n": 1}}),
    _command("POST", "/v1/runs/{run}/metadata", "change its metadata",
             {"operations": [{"op": "set", "path": "n", "value": 2}]}),
    _command("POST", "/v1/runs/{run}/heartbeat", "say that its worker lives", {}),
    _command("POST", "/v1/runs/{run}/replay", "replay it"),
    _command("POST", "/v1/runs/{spare}/cancel", "cancel a run"),
    _command("DELETE", "/v1/runs/{spare}", "delete a run"),
    _get("the batch", "/v1/batches/{batch}", (*READERS, Who.BATCH), **_HIDDEN),
    _get("another batch", "/v1/batches/{other_batch}", READERS, **_HIDDEN),
    _command("POST", "/v1/batches", "make a batch", {}, stranger=OWN),
    _command("POST", "/v1/batches/{open_batch}/items", "add to a batch",
             {"items": [{"taskIdentifier": _TASK}]}),
    _command("POST", "/v1/batches/{open_batch}/seal", "seal a batch"),
    _get("workflows", "/v1/workflows", KEYS, stranger=OWN),
    _get("a workflow", "/v1/workflows/{workflow}", KEYS),
    _command("POST", "/v1/workflows", "make a workflow", _WORKFLOW, stranger=OWN),
    _command("PUT", "/v1/workflows/{workflow}", "replace a workflow", _WORKFLOW),
    _command("DELETE", "/v1/workflows/{spare_workflow}", "delete a workflow"),
    _get("jobs", "/v1/jobs", KEYS, stranger=OWN),
    _get("a job", "/v1/jobs/{job}", KEYS),
    _command("POST", "/v1/jobs", "make a job",
             {"name": "j", "config": {"workflowExecutionOrder": ["{workflow}"]}}, stranger="422"),
    _command("PUT", "/v1/jobs/{job}", "replace a job",
             {"name": "j", "config": {"workflowExecutionOrder": ["{workflow}"]}}, stranger="422"),
    _command("DELETE", "/v1/jobs/{spare_job}", "delete a job"),
    _get("job runs", "/v1/job-runs", READERS, stranger=OWN),
    _get("the job run", "/v1/job-runs/{job_run}", JOB_RUN, **_HIDDEN),
    _get("its timeline", "/v1/job-runs/{job_run}/timeline", JOB_RUN, **_HIDDEN),
    _get("its workflow runs", "/v1/workflow-runs?jobRunId={job_run}", JOB_RUN, **_HIDDEN),
    _command("POST", "/v1/job-runs", "begin a job", {"jobId": "{job}"}, stranger="422"),
    _command("POST", "/v1/job-runs/{job_run}/replay", "replay a job run", {}),
    _command("POST", "/v1/job-runs/{spare_job_run}/cancel", "cancel a job run"),
    _command("DELETE", "/v1/job-runs/{spare_job_run}", "delete a job run"),
    _get("the run's artifacts", "/v1/runs/{run}/artifacts", RUN, **_HIDDEN),
    _get("another run's artifacts", "/v1/runs/{other}/artifacts", READERS, **_HIDDEN),
    _get("its artifact", "/v1/artifacts/{artifact}", RUN, **_HIDDEN),
    _get("its artifact's bytes", "/v1/artifacts/{artifact}/content", RUN, **_HIDDEN),
    _command("POST", "/v1/runs/{run}/artifacts?name=x.txt", "keep an artifact", "bytes"),
    _command("DELETE", "/v1/artifacts/{spare_artifact}", "delete an artifact"),
    _get("webhooks", "/v1/webhooks", KEYS, stranger=OWN),
    _get("a webhook", "/v1/webhooks/{webhook}", KEYS),
    _get("its deliveries", "/v1/webhooks/{webhook}/deliveries", KEYS),
    _get("a delivery", "/v1/webhooks/{webhook}/deliveries/{delivery}", KEYS),
    _command("POST", "/v1/webhooks/{webhook}/deliveries/{delivery}/retry", "send it again"),
    _command("POST", "/v1/webhooks", "make a webhook",
             {"url": "http://127.0.0.1:9/x", "events": ["batch.completed"]}, stranger=OWN),
    _command("PATCH", "/v1/webhooks/{webhook}", "change a webhook", {"paused": True}),
    _command("DELETE", "/v1/webhooks/{spare_webhook}", "delete a webhook"),
    _command("POST", "/v1/tokens", "make a token", {"scopes": ["read:runs"]}, stranger=OWN),
    # A token need not be known to be revoked, and is revoked in the caller's project alone.
    _command("DELETE", "/v1/tokens/{spare_token}", "revoke a token", stranger=OWN),
    _get("whether it lives", "/healthz", EVERYBODY),
    _get("whether it serves", "/readyz", EVERYBODY),
    _get("metrics", "/metrics", EVERYBODY),
    _get("the document of this API", "/openapi.json", EVERYBODY),
    _get("the document of the messages", "/asyncapi.json", EVERYBODY),
    _get("the page", "/", EVERYBODY),
)  # fmt: skip
"""Over HTTP."""

_MARKS: Final = {YES: "✓", OWN: "own"}


def table() -> str:
    """Both, as Markdown."""
    columns = list(Who)
    lines = ["| ask for | " + " | ".join(columns) + " |", "| --- |" + " :-: |" * len(columns)]
    for ask in (*STREAMS, *CALLS):
        if ask.method:
            asked = f"{ask.said}: `{ask.method} {_shown(ask.path)}`"
        else:
            asked = f"{ask.said}: `{ask.subscribe['type']}`, `{_shown(ask.path)}`"
        cells = [ask.answer(who) for who in columns]
        lines.append(f"| {asked} | " + " | ".join(_MARKS.get(cell, cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(path: str) -> str:
    return path.replace("{", "<").replace("}", ">").replace("_", " ")
