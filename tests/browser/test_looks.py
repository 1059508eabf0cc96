"""What a person sees: every view, in the light and in the dark, wide and narrow.

With RUNSTREAM_PICTURES set to a folder the pictures are kept there: those in `docs/images` were
made so.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.browser.conftest import Api, OpenPage
from tests.node import MODULES, install
from tests.processes import Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

AXE: Final = MODULES / "axe-core" / "axe.min.js"
PICTURES: Final = os.environ.get("RUNSTREAM_PICTURES")
SCHEMES: Final[Sequence[Literal["light", "dark"]]] = ("light", "dark")
SIZES: Final = {"wide": (1280, 800), "narrow": (390, 844)}
VIEWS: Final = ("runs", "run", "failed", "batch", "job", "messages")
TASKS: Final = ("send-invoice", "resize-images", "index-search", "nightly-report", "sync-crm")
TAGS: Final = ("user:7", "user:12", "org:acme", "nightly", "eu-west", "priority:high")
SAID: Final = ("packing boxes", "reading pages", "writing chunk 12 of 40", "uploading")


@pytest_asyncio.fixture(loop_scope="session")
async def places(open_server: Server, api: Api) -> dict[str, str]:
    """A server on which something goes on, and where each view of it is."""
    chance = random.Random(7)
    places = {
        "runs": "/",
        "batch": f"/?batch={await a_batch(api)}",
        "job": f"/?job={await a_job_run(api)}",
        "run": f"/?run={await a_long_run(api)}",
        "messages": "/?messages",
    }
    runs = []
    for n in range(60):
        tags = chance.sample(TAGS, chance.randint(0, 3))
        payload = {"orderId": 4200 + n, "note": "naïve ☃"}
        runs.append(await api.a_run(chance.choice(TASKS), payload=payload, tags=tags))
    for n, run in enumerate(runs[:57]):
        await api.update(run, status="EXECUTING")
        if n % 11 == 6:
            error = {"name": "ValueError", "message": f"there is no order {4200 + n}"}
            await api.update(run, status="FAILED", error=error)
            places["failed"] = f"/?run={run['id']}"
        elif n % 17 == 16:
            await api.update(run, status="CANCELED")
        elif n < 30 or n % 3 == 1:
            await api.update(run, status="COMPLETED", output={"total": 99.5})
        else:
            await goes_on(api, run, chance)
    return places


async def goes_on(api: Api, run: Any, chance: random.Random) -> None:
    said = {"progress": round(chance.random(), 2), "message": chance.choice(SAID)}
    await api.update(run, metadata=said)


async def a_long_run(api: Api) -> str:
    run = await api.a_run(
        "transcribe-audio", payload={"file": "talk.mp3", "language": "en"}, tags=["user:7"]
    )
    await api.update(run, status="EXECUTING")
    error = {"name": "TimeoutError", "message": "the model did not answer in 30 s"}
    await api.update(run, status="REATTEMPTING", error=error)
    await api.update(run, status="EXECUTING")
    transcript = (
        "Good morning, and welcome to the second day.\n"
        "Today we look at how to push state to people who wait for it,\n"
        "instead of making them ask again and again."
    )
    metadata = {
        "progress": 0.62,
        "message": "minute 31 of 50",
        "model": "large-v3",
        "words": 8120,
        "chunks": {"progress": {"completed": 3, "total": 5}},
        "transcript": transcript,
    }
    await api.update(run, metadata=metadata)
    for n in range(3):
        child = await api.a_run("transcribe-chunk", parentRunId=run["id"], payload={"chunk": n})
        if n < 2:
            await api.update(child, status="EXECUTING", metadata={"progress": 0.4})
        if n == 0:
            await api.update(child, status="COMPLETED", output="…")
    return str(run["id"])


async def a_batch(api: Api) -> str:
    items = [{"taskIdentifier": "resize-images", "payload": {"n": n}} for n in range(40)]
    made = await api.post("/v1/batches", {"items": items})
    for n, run in enumerate(made["runs"][:30]):
        await api.update(run, status="EXECUTING")
        if n < 22:
            await api.update(run, status="COMPLETED")
        elif n < 25:
            error = {"name": "IOError", "message": "the disk is full"}
            await api.update(run, status="FAILED", error=error)
        else:
            await api.update(run, metadata={"progress": n / 40})
    return str(made["batch"]["id"])


async def a_job_run(api: Api) -> str:
    order = []
    for name in ("extract", "transform", "load"):
        workflow = {"name": name, "taskIdentifier": name}
        order.append((await api.post("/v1/workflows", workflow))["id"])
    job = {"name": "Nightly import", "config": {"workflowExecutionOrder": order}}
    job_id = (await api.post("/v1/jobs", job))["id"]
    made = await api.post("/v1/job-runs", {"jobId": job_id, "tags": ["nightly"]})
    await api.update(made["workflowRuns"][0], status="EXECUTING")
    await api.update(made["workflowRuns"][0], status="COMPLETED")
    second = (await api.get(f"/v1/job-runs/{made['id']}"))["workflowRuns"][1]
    metadata = {"progress": 0.35, "message": "table 7 of 20"}
    await api.update(second, status="EXECUTING", metadata=metadata)
    return str(made["id"])


async def is_there(page: Page, view: str) -> None:
    await expect(page.locator("details.link summary")).to_contain_text("Live", timeout=15_000)
    there = {
        "runs": ".list-rows .row",
        "run": ".children li",
        "failed": ".timeline li",
        "batch": ".list-rows .row",
        "job": ".steps li",
        "messages": ".wire li",
    }
    await expect(page.locator(there[view]).first).to_be_visible()
    if view == "job":
        await expect(page.locator("h1")).to_contain_text("Nightly import")


async def some_time(api: Api, page: Page) -> None:
    """Something goes on for a few seconds, so that the plot has something to show."""
    chance = random.Random(11)
    runs = (await api.get("/v1/runs?status=EXECUTING&limit=12"))["data"]
    for count in (3, 9, 14, 11):
        for _ in range(count):
            await goes_on(api, chance.choice(runs[:9]), chance)
        await page.wait_for_timeout(1_000)


async def picture(page: Page, name: str) -> None:
    if PICTURES:
        await page.screenshot(path=Path(PICTURES) / f"{name}.png")


async def something(api: Api, page: Page) -> None:
    for run in (await api.get("/v1/runs?status=EXECUTING&limit=8"))["data"]:
        await goes_on(api, run, random.Random(5))
        await expect(page.locator(".wire")).to_contain_text(run["id"])


async def test_every_view_can_be_read_by_everybody(
    open_server: Server,
    api: Api,
    places: dict[str, str],
    open_page: OpenPage,
) -> None:
    """axe-core finds nothing serious: names, roles, order, contrast."""
    install()
    found: dict[str, Any] = {}
    for view in VIEWS:
        page = (await open_page(open_server.url, places[view])).page
        await is_there(page, view)
        if view == "runs" and PICTURES:
            await some_time(api, page)
        elif view == "messages":
            await something(api, page)
        await page.evaluate(AXE.read_text(encoding="utf-8"))
        for size, (width, height) in SIZES.items():
            await page.set_viewport_size({"width": width, "height": height})
            for scheme in SCHEMES:
                await page.emulate_media(color_scheme=scheme)
                what = f"{view}-{size}-{scheme}"
                await picture(page, what)
                # What a scheme changes is colours.
                if violations := await serious(page, only_contrast=scheme == "dark"):
                    found[what] = violations
            overflow = "document.documentElement.scrollWidth - innerWidth"
            assert await page.evaluate(overflow) <= 0, f"{view} {size} is wider than its window"
        await page.close()
    assert found == {}


async def serious(page: Page, *, only_contrast: bool) -> Any:
    return await page.evaluate(
        """async (rules) => (await axe.run(rules)).violations
            .filter(({ impact }) => impact === "serious" || impact === "critical")
            .map(({ id, nodes }) => [id, nodes.slice(0, 3).map(
                ({ html, failureSummary }) => `${html} ${failureSummary}`)])""",
        {"runOnly": ["color-contrast"]} if only_contrast else {},
    )


async def test_whoever_signs_in_can_read_it(
    shared_keyed_server: Server, open_page: OpenPage
) -> None:
    install()
    watched = await open_page(shared_keyed_server.url)
    watched.allowed = ["status of 401"]
    page = watched.page
    await expect(page.get_by_label("Key or token")).to_be_visible()
    await picture(page, "sign-in-wide-light")
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = "axe.run().then(({ violations }) => violations.map(({ id }) => id))"
    assert await page.evaluate(violations) == []
