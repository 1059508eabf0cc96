"""The Python of docs/protocol.md, executed as it stands there."""

from __future__ import annotations

import asyncio
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runstream import Batch, Run, RunStatus, Runstream, Task
from tests.processes import API_KEY, ROOT, Server

PAGE = ROOT / "docs" / "protocol.md"


@dataclass
class InvoiceRequest:
    number: int


class Invoice(msgspec.Struct):
    total: int


@dataclass
class RefundRequest:
    number: int


class Refund(msgspec.Struct):
    number: int


refund = Task("refund", payload=RefundRequest, output=Refund)


def example() -> str:
    """The example as the body of a function, with the address and the key of a server."""
    # The one stream of it that has no end is left by hand.
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [code] = [block for block in blocks if "Runstream(" in block]
    code = code.replace('"http://localhost:8080"', "url").replace('"…"', "key")
    code = code.replace("            ...\n", "            break\n")
    return "async def page():\n" + textwrap.indent(code + "\nreturn done", "    ")


async def work(client: Runstream) -> None:
    """Executes whatever is queued, and says so like the page's reader expects it."""
    async with client.subscribe_to_runs() as runs:
        async for run in runs:
            if run.status is RunStatus.QUEUED and not run.task_identifier.startswith("job_"):
                await client.runs.update(run.id, status=RunStatus.EXECUTING)
                await client.runs.update(run.id, status=RunStatus.COMPLETED, output={"total": 99})


async def test_the_pages_example_runs_as_it_stands(tmp_path: Path) -> None:
    with Server(f"sqlite:///{tmp_path}/runstream.db") as server:
        async with Runstream(server.url, api_key=API_KEY) as client:
            workflow = await client.workflows.create("one", "one")
            job = await client.jobs.create("job", [workflow.id])
            # What the page leaves to its reader: a batch, a job run, and somebody who works.
            working = asyncio.create_task(work(client))
            job_run = await client.job_runs.create(job.id)
            batch: Batch = (await client.batches.create([])).batch
            await client.batches.seal(batch.id)
            names: dict[str, Any] = {
                **globals(),
                "url": server.url,
                "key": API_KEY,
                "batch": batch,
                "job_run_id": job_run.id,
            }
            exec(compile(example(), str(PAGE), "exec"), names)
            async with asyncio.timeout(30):
                done = await names["page"]()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    assert isinstance(done, Run)
    assert done.is_success
