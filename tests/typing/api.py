"""How the public API of the Python client reads, to a type checker.

Never run; `mypy --strict` checks it. Each `assert_type` is a promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type

import msgspec

from runstream import (
    Batch,
    BatchProgress,
    Changed,
    Conflict,
    Created,
    Entered,
    Left,
    Listing,
    Live,
    MadeBatch,
    NewRun,
    Page,
    Refused,
    Reset,
    Run,
    RunStatus,
    Runstream,
    RunUpdate,
    State,
    Subscription,
    Task,
    Work,
    Worker,
    current_run,
    executes,
)


@dataclass
class InvoiceRequest:
    order_id: int


class Invoice(msgspec.Struct):
    total: float


@dataclass
class RefundRequest:
    invoice_id: str


send_invoice = Task("send-invoice", payload=InvoiceRequest, output=Invoice)
refund = Task("refund", payload=RefundRequest, output=list[str])
count = Task("count", payload=str, output=int)
nightly = Task("nightly")
only_output = Task("sum", output=int)

assert_type(send_invoice, Task[InvoiceRequest, Invoice])
assert_type(refund, Task[RefundRequest, list[str]])
assert_type(nightly, Task[Any, Any])
assert_type(only_output, Task[Any, int])


async def triggering(client: Runstream) -> None:
    run = await client.trigger(send_invoice, InvoiceRequest(42), tags=["user:7"])
    assert_type(run, Run[InvoiceRequest, Invoice])
    assert_type(run.payload, InvoiceRequest)
    assert_type(run.output, Invoice | None)
    assert_type(run.status, RunStatus)
    assert_type(run.metadata, dict[str, Any])
    assert_type(run.created_at, datetime)
    assert_type(run.finished_at, datetime | None)
    assert_type(run.is_final, bool)
    assert_type(await client.trigger("by name", {"any": "json"}), Run[Any, Any])
    assert_type(await client.trigger(nightly), Run[Any, Any])
    assert_type(await client.runs.create(refund), Created[RefundRequest, list[str]])

    # A payload of another type, and an option that there is not, are mistakes.
    await client.trigger(send_invoice, RefundRequest("x"))  # type: ignore[misc]
    await client.trigger(send_invoice, tag="x")  # type: ignore[call-overload]


async def one_run(client: Runstream, run_id: str) -> None:
    async for run in client.subscribe_to_run(run_id, task=send_invoice):
        assert_type(run, Run[InvoiceRequest, Invoice])
    async for any_run in client.subscribe_to_run(run_id):
        assert_type(any_run, Run[Any, Any])
    done = await client.wait_for_run(run_id, timeout=60, task=send_invoice)
    assert_type(done, Run[InvoiceRequest, Invoice])
    assert_type(await client.wait_for_run(run_id), Run[Any, Any])


async def many_runs(client: Runstream) -> None:
    both = client.subscribe_to_runs_with_tag("user:7", tasks=(send_invoice, refund))
    assert_type(both, Subscription[Run[InvoiceRequest, Invoice] | Run[RefundRequest, list[str]]])
    async with both as runs:
        async for run in runs:
            assert_type(run, Run[InvoiceRequest, Invoice] | Run[RefundRequest, list[str]])
            if isinstance(run.payload, InvoiceRequest):
                assert_type(run.payload, InvoiceRequest)

    three = client.subscribe_to_runs(tasks=(send_invoice, refund, count))
    assert_type(
        three,
        Subscription[Run[InvoiceRequest, Invoice] | Run[RefundRequest, list[str]] | Run[str, int]],
    )
    single = client.subscribe_to_batch("batch_1", tasks=send_invoice, statuses=[RunStatus.FAILED])
    assert_type(single, Subscription[Run[InvoiceRequest, Invoice]])
    assert_type(single.batch, Batch | None)
    assert_type(single.cursor, str | None)

    # A list forgets which type is whose.
    assert_type(client.subscribe_to_runs(tasks=[send_invoice, refund]), Subscription[Run[Any, Any]])
    several: list[Task[Any, Any]] = [send_invoice, refund]
    assert_type(client.subscribe_to_runs(tasks=several), Subscription[Run[Any, Any]])
    assert_type(client.subscribe_to_runs(tasks=["by-name"]), Subscription[Run[Any, Any]])
    assert_type(client.subscribe_to_runs(), Subscription[Run[Any, Any]])
    tagged = client.subscribe_to_runs_with_tag(["a", "b"], match="any", delivery="latest")
    assert_type(tagged, Subscription[Run[Any, Any]])
    assert_type(client.subscribe_to_job_run("run_1", skip=["payload"]), Subscription[Run[Any, Any]])

    client.subscribe_to_runs(match="any")  # type: ignore[call-overload]
    client.subscribe_to_runs_with_tag("a", delivery="some")  # type: ignore[call-overload]


async def a_dashboard(client: Runstream) -> None:
    subscription = client.subscribe_to_batch("batch_1", tasks=send_invoice)
    async for change in subscription.changes():
        match change:
            case Entered(run=run) | Changed(run=run) | Left(run=run):
                assert_type(run, Run[InvoiceRequest, Invoice])
            case BatchProgress(batch=batch):
                assert_type(batch, Batch)
            case Live(resumed=resumed):
                assert_type(resumed, bool)
            case Reset(reason=reason):
                assert_type(reason, str)
    async for state in client.states():
        assert_type(state, State)


async def over_http(client: Runstream, run_id: str) -> None:
    assert_type(await client.runs.get(run_id, task=send_invoice), Run[InvoiceRequest, Invoice])
    assert_type(await client.runs.get(run_id), Run[Any, Any])
    listing = client.runs.list(tasks=(send_invoice, refund), limit=10)
    assert_type(listing, Listing[Run[InvoiceRequest, Invoice] | Run[RefundRequest, list[str]], str])
    page = await listing
    assert_type(page, Page[Run[InvoiceRequest, Invoice] | Run[RefundRequest, list[str]], str])
    assert_type(page.next, str | None)
    assert_type((await client.runs.history(run_id)).next, int | None)
    async for run in client.runs.list(tags="user:7"):
        assert_type(run, Run[Any, Any])
    claimed = await client.runs.claim((send_invoice, refund), worker="w", lease_s=30)
    assert_type(claimed, Run[InvoiceRequest, Invoice] | Run[RefundRequest, list[str]] | None)
    results = await client.runs.bulk([NewRun(send_invoice, InvoiceRequest(1)), RunUpdate(run_id)])
    assert_type(results, Sequence[Run[Any, Any] | Refused])
    assert_type(await client.batches.create([NewRun("x")]), MadeBatch)
    try:
        await client.runs.cancel(run_id)
    except Conflict as conflict:
        assert_type(conflict.run, Run[Any, Any] | None)


@executes(send_invoice)
async def execute_invoice(request: InvoiceRequest) -> Invoice:
    return Invoice(total=request.order_id)


@executes(count)
def execute_count(text: str) -> int:
    return len(text)


@executes(send_invoice)  # type: ignore[arg-type]
async def execute_wrongly(request: RefundRequest) -> Invoice:
    raise NotImplementedError


async def working(client: Runstream) -> None:
    assert_type(execute_invoice, Work[InvoiceRequest, Invoice])
    assert_type(execute_count, Work[str, int])
    assert_type(Work(refund, lambda request: [request.invoice_id]), Work[RefundRequest, list[str]])
    worker = Worker(client, [execute_invoice, execute_count], concurrency=4)
    assert_type([run.attempt for run in worker.running], list[int])
    await worker.run()
    async with worker:
        ...


async def reporting(client: Runstream) -> None:
    async with client.report(send_invoice, InvoiceRequest(42), tags=["user:7"]) as run:
        run.metadata.set("progress", 0.5)
        run.output = Invoice(99)
        assert_type(run.output, Invoice)
        assert_type(run.id, str | None)

    @client.report(send_invoice)
    async def send(request: InvoiceRequest) -> Invoice:
        current_run().metadata.increment("sent")
        return Invoice(99)

    assert_type(await send(InvoiceRequest(1)), Invoice)

    @client.report("sum")
    def add(a: int, b: int) -> int:
        return a + b

    assert_type(await add(1, 2), int)


async def a_provider() -> str:
    return "token"


Runstream("http://localhost:8080", api_key="…")
Runstream("http://localhost:8080", token="…")
Runstream("http://localhost:8080", token=a_provider)
