"""A job that reports itself: what the server is told, and that the job never suffers from it."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.python.tests.builders import RUN_PATH, a_run
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, problem, until
from runstream import Operation, Runstream, Task, current_run, http, reporter
from runstream.merging import whole
from runstream.outbox import Outbox


@dataclass
class Request:
    order_id: int


SEND: Task[Request, dict[str, int]] = Task("send-invoice", payload=Request, output=dict)


class Truth:
    """What the server knows of the run, by what it was told."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.metadata: dict[str, Any] = {}
        self.tags: list[str] = []
        self.fields: dict[str, Any] = {}
        self.created: dict[str, Any] | None = None
        self.keys: set[str] = set()
        server.on("POST", "/v1/runs", self.create)
        server.on("POST", f"{RUN_PATH}/metadata", self.operate)
        server.on("PATCH", RUN_PATH, self.update)
        server.on("POST", f"{RUN_PATH}/heartbeat", Answer(200, {}))

    def create(self, asked: Asked) -> Answer:
        self.keys.add(asked.headers["idempotency-key"])
        self.created = asked.body
        return Answer(201, a_run(status="EXECUTING"))

    def operate(self, asked: Asked) -> Answer:
        apply(self.metadata, [Operation(**op) for op in asked.body["operations"]])
        return Answer(200, a_run(status="EXECUTING"))

    def update(self, asked: Asked) -> Answer:
        self.tags += asked.body.pop("addTags", []) if "addTags" in asked.body else []
        self.fields |= {k: v for k, v in asked.body.items() if k != "addTags"}
        return Answer(200, a_run(status=self.fields.get("status", "EXECUTING")))


def apply(metadata: dict[str, Any], operations: list[Operation]) -> None:
    """The operations of the protocol, as the server does them; paths here are one key or two."""
    for operation in operations:
        *outer, key = operation.path.split(".")
        place = metadata
        for name in outer:
            inner = place.get(name)
            if not isinstance(inner, dict):
                inner = place[name] = {}
            place = inner
        match operation.op:
            case "set":
                place[key] = operation.value
            case "delete":
                place.pop(key, None)
            case "increment":
                old = place.get(key, 0)
                place[key] = (old if isinstance(old, int) else 0) + operation.value
            case "append":
                old = place.get(key)
                place[key] = [*(old if isinstance(old, list) else []), operation.value]
            case "remove":
                old = place.get(key)
                if isinstance(old, list):
                    place[key] = [item for item in old if item != operation.value]


@pytest.fixture
def truth(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Truth:
    monkeypatch.setattr(reporter, "MIN_INTERVAL_S", 0.01)
    monkeypatch.setattr(http, "BASE_DELAY_S", 0.001)
    return Truth(server)


async def test_a_job_is_reported_from_its_entry_to_its_end(client: Runstream, truth: Truth) -> None:
    async with client.report(SEND, Request(7), tags=["user:7"]) as run:
        assert run.id == "run_1"
        assert truth.created == {
            "taskIdentifier": "send-invoice",
            "payload": {"order_id": 7},
            "tags": ["user:7"],
            "status": "EXECUTING",
        }
        run.metadata.set("progress", 0.5)
        run.metadata.increment("done")
        run.metadata.increment("done", 2)
        run.metadata.append("log", "a")
        run.metadata.append("log", "b")
        run.metadata.remove("log", "a")
        run.metadata.set("gone", 1)
        run.metadata.delete("gone")
        run.tags.add("late", "later")
        run.output = {"total": 1}
    assert truth.metadata == {"progress": 0.5, "done": 3, "log": ["b"]}
    assert truth.tags == ["late", "later"]
    assert truth.fields == {"status": "COMPLETED", "output": {"total": 1}}


async def test_a_job_that_fails_is_failed_and_its_error_goes_on(
    client: Runstream, truth: Truth
) -> None:
    with pytest.raises(ValueError, match="no such order"):
        async with client.report(SEND, Request(7)):
            raise ValueError("no such order")
    error = truth.fields["error"]
    assert truth.fields["status"] == "FAILED"
    assert (error["name"], error["message"]) == ("ValueError", "no such order")
    assert "test_report.py" in error["stack"]


async def test_a_job_that_is_cancelled_is_canceled(client: Runstream, truth: Truth) -> None:
    async def job() -> None:
        async with client.report(SEND, Request(7)):
            entered.set()
            await asyncio.Event().wait()

    entered = asyncio.Event()
    task = asyncio.create_task(job())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert truth.fields == {"status": "CANCELED"}


async def test_a_job_runs_when_the_server_is_away_and_is_reported_once_it_is_back(
    server: ScriptedServer, client: Runstream, truth: Truth, caplog: pytest.LogCaptureFixture
) -> None:
    await server.stop()
    with caplog.at_level(logging.WARNING, "runstream"):
        async with client.report(SEND, Request(7), entry_s=0.01) as run:
            assert run.id is None
            for n in range(100):
                run.metadata.set("progress", n / 100)
            await asyncio.sleep(0.05)
            await server.start()
            assert await run.created() == "run_1"
    assert truth.metadata == {"progress": 0.99}
    assert truth.fields == {"status": "COMPLETED"}
    assert len([r for r in caplog.records if "cannot be told" in r.message]) == 1


async def test_a_run_is_made_once_whatever_becomes_of_the_answers(
    server: ScriptedServer, client: Runstream, truth: Truth
) -> None:
    create = truth.create
    answers = iter([Answer(cut=True), problem(503, "unavailable"), None])

    def respond(asked: Asked) -> Answer:
        made = create(asked)
        return next(answers) or made

    server.on("POST", "/v1/runs", respond)
    async with client.report(SEND, Request(7)) as run:
        await run.created()
    assert len(truth.keys) == 1
    assert truth.fields == {"status": "COMPLETED"}


async def test_a_server_that_stays_away_costs_the_job_a_bounded_time_at_its_end(
    server: ScriptedServer, client: Runstream, caplog: pytest.LogCaptureFixture
) -> None:
    await server.stop()
    async with asyncio.timeout(10):
        async with client.report(SEND, Request(7), entry_s=0.01, flush_s=0.05) as run:
            run.metadata.set("a", 1)
    assert "could not be reported" in caplog.text
    await server.start()


@pytest.mark.parametrize("status, code", [(401, "unauthorized"), (422, "unprocessable")])
async def test_a_server_that_refuses_the_run_does_not_trouble_the_job(
    server: ScriptedServer,
    client: Runstream,
    status: int,
    code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.on("POST", "/v1/runs", problem(status, code))
    async with client.report(SEND, Request(7)) as run:
        assert await run.created() is None
        run.metadata.set("a", 1)
    assert "refuses the run" in caplog.text


async def test_what_cannot_be_written_is_left_out(
    client: Runstream, truth: Truth, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.report("job", {"a": object()}) as run:
        run.metadata.set("bad", object())
        run.metadata.set("good", 1)
        run.output = object()
    assert truth.created == {"taskIdentifier": "job", "status": "EXECUTING"}
    assert truth.metadata == {"good": 1}
    assert truth.fields == {"status": "COMPLETED"}
    assert "payload cannot be written" in caplog.text


async def test_a_run_that_somebody_canceled_stays_canceled(
    server: ScriptedServer, client: Runstream, truth: Truth
) -> None:
    canceled = a_run(status="CANCELED")
    server.on("POST", f"{RUN_PATH}/metadata", Answer(200, canceled))
    server.on("PATCH", RUN_PATH, problem(409, "conflict", run=canceled))
    async with client.report(SEND, Request(7)) as run:
        run.metadata.set("a", 1)
        await until(lambda: run.status == "CANCELED")


async def test_heartbeats_are_sent_as_they_were_promised(
    server: ScriptedServer, client: Runstream, truth: Truth
) -> None:
    async with client.report(SEND, Request(7), heartbeat_timeout=1):
        await server.has_been_asked(2, "POST", f"{RUN_PATH}/heartbeat")


async def test_a_run_that_was_claimed_is_reported_on(client: Runstream, truth: Truth) -> None:
    """Its outcome is of the attempt that was claimed: by now the run may be another worker's."""
    async with client.report(whole(a_run(status="EXECUTING", attempt=2))) as run:
        assert run.id == "run_1"
        run.metadata.set("a", 1)
    assert truth.created is None
    assert truth.metadata == {"a": 1}
    assert truth.fields == {"status": "COMPLETED", "ifAttempt": 2}


async def test_an_output_that_the_server_refuses_fails_the_run(
    server: ScriptedServer, client: Runstream, truth: Truth, caplog: pytest.LogCaptureFixture
) -> None:
    """Left EXECUTING it would be a run that never ends, for all who wait for it."""

    def update(asked: Asked) -> Answer:
        if asked.body["status"] == "COMPLETED":
            return problem(413, "payload_too_large", "the output is above 10 MB")
        return truth.update(asked)

    server.on("PATCH", RUN_PATH, update)
    async with client.report(SEND, Request(7)) as run:
        run.output = {"total": 1}
    assert truth.fields["status"] == "FAILED"
    assert truth.fields["error"]["message"] == "the output was refused: the output is above 10 MB"
    assert "refuses the output" in caplog.text


async def test_each_call_of_a_function_is_a_run(client: Runstream, truth: Truth) -> None:
    @client.report(SEND, tags=["x"])
    async def send(request: Request) -> dict[str, int]:
        current_run().metadata.set("order", request.order_id)
        return {"total": 1}

    for order in (7, 8):
        assert await send(Request(order)) == {"total": 1}
        assert truth.created is not None
        assert truth.created["payload"] == {"order_id": order}
        assert truth.metadata == {"order": order}
        assert truth.fields == {"status": "COMPLETED", "output": {"total": 1}}


async def test_a_function_that_is_not_async_works_in_a_thread(
    client: Runstream, truth: Truth
) -> None:
    @client.report("add")
    def add(a: int, b: int = 2) -> int:
        assert threading.current_thread() is not threading.main_thread()
        for n in range(10):
            current_run().metadata.set("n", n)
        return a + b

    assert await add(1) == 3
    assert truth.created is not None
    assert truth.created["payload"] == {"a": 1}
    assert truth.metadata == {"n": 9}
    assert truth.fields == {"status": "COMPLETED", "output": 3}


def test_outside_of_a_report_the_same_calls_go_nowhere() -> None:
    run = current_run()
    run.metadata.set("a", 1)
    run.tags.add("x")
    assert run.id is None


async def test_an_unknown_option_is_the_callers_to_hear(client: Runstream) -> None:
    with pytest.raises(TypeError, match="tga"):
        # What the types refuse is what is tested: a caller without a type checker is told too.
        client.report("x", None, tga=["a"])  # type: ignore[call-overload]


OPERATIONS = st.lists(
    st.builds(
        Operation,
        st.sampled_from(["set", "delete", "append", "remove", "increment"]),
        st.sampled_from(["a", "b", "a.x", "a.y"]),
        st.integers(0, 3),
    ),
    max_size=30,
)


@given(OPERATIONS)
def test_merging_changes_nothing_of_what_comes_of_it(operations: list[Operation]) -> None:
    outbox = Outbox()
    for operation in operations:
        outbox.put(operation)
    plain: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    apply(plain, operations)
    kept, _ = outbox.take()
    apply(merged, kept)
    assert merged == plain
    assert not outbox


def test_the_outbox_has_a_bound() -> None:
    outbox = Outbox(max_operations=10)
    for n in range(50):
        outbox.put(Operation("append", "log", n))
    operations, _ = outbox.take()
    assert [operation.value for operation in operations] == list(range(40, 50))
    assert outbox.dropped == 40
