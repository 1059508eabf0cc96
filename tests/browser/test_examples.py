"""The examples, as they stand, against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Api, OpenPage, StartExample, serve
from tests.node import CLIENT, MODULES, ROOT, environment, install, run
from tests.processes import API_KEY, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLES = ROOT / "examples"


async def test_twenty_lines_show_live_runs(
    open_server: Server, api: Api, start_example: StartExample, open_page: OpenPage
) -> None:
    page_file = EXAMPLES / "page" / "index.html"
    assert len(page_file.read_text(encoding="utf-8").splitlines()) <= 20
    example = start_example(*serve(page_file.parent))
    made = await api.a_run()
    watched = await open_page(example.url, f"/?server={open_server.url}", origins=[open_server.url])
    await expect(watched.page.locator("li")).to_have_text(f"send-invoice #{made['number']}: QUEUED")
    await api.update(made, status="EXECUTING", metadata={"progress": 0.5})
    await expect(watched.page.locator("li")).to_contain_text("EXECUTING")
    await expect(watched.page.locator("progress")).to_have_js_property("value", 0.5)


async def test_the_react_app_shows_runs_and_one_of_them(
    open_server: Server,
    api: Api,
    start_example: StartExample,
    open_page: OpenPage,
    tmp_path: Path,
) -> None:
    install()
    (tmp_path / "index.html").write_bytes((EXAMPLES / "react" / "index.html").read_bytes())
    # As its own `npm start` does, with what is installed here already.
    run(
        str(MODULES / ".bin" / "esbuild"),
        str(EXAMPLES / "react" / "app.jsx"),
        "--bundle",
        "--jsx=automatic",
        f"--outdir={tmp_path / 'built'}",
        f"--alias:runstream/react={CLIENT / 'react' / 'index.js'}",
        f"--alias:runstream={CLIENT / 'src' / 'index.js'}",
        f"--alias:react={MODULES / 'react'}",
        f"--alias:react-dom={MODULES / 'react-dom'}",
    )
    example = start_example(*serve(tmp_path))
    made = await api.a_run()
    watched = await open_page(example.url, f"/?server={open_server.url}", origins=[open_server.url])
    page = watched.page
    await expect(page.get_by_role("status")).to_have_text("Live")
    await expect(page.locator("li")).to_contain_text("QUEUED")
    await page.get_by_role("button", name="send-invoice").click()
    await api.update(made, status="EXECUTING", metadata={"progress": 0.5, "stage": "printing"})
    await expect(page.get_by_label("The chosen run")).to_contain_text("printing")
    await api.update(made, status="COMPLETED", output={"total": 99})
    await expect(page.get_by_label("The chosen run")).to_contain_text("99")


async def test_the_fastapi_page_shows_its_user_their_own_runs(
    keyed_server: Server,
    keyed_api: Api,
    start_example: StartExample,
    open_page: OpenPage,
) -> None:
    example = start_example(
        sys.executable,
        EXAMPLES / "fastapi_page" / "app.py",
        RUNSTREAM_URL=keyed_server.url,
        RUNSTREAM_API_KEY=API_KEY,
    )
    await keyed_api.a_run("make-report", tags=["user:8"])
    watched = await open_page(example.url, origins=[keyed_server.url])
    page = watched.page
    await page.get_by_role("button", name="Make a report").click()
    await expect(page.locator("li")).to_have_count(1)
    await expect(page.locator("li")).to_contain_text(re.compile(r"page \d+ of 20"))
    await expect(page.locator("li")).to_contain_text("COMPLETED", timeout=15_000)
    assert API_KEY not in await page.content()


async def test_the_agent_thinks_aloud(open_server: Server, api: Api, open_page: OpenPage) -> None:
    environ = {**environment(), "RUNSTREAM_URL": open_server.url}
    environ["PYTHONPATH"] = str(ROOT / "clients" / "python" / "src")
    page = (await open_page(open_server.url)).page
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "agent.py", "why"],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as agent:
        row = page.locator(".list-rows .row")
        await expect(row).to_contain_text("answer-question")
        await expect(row).to_contain_text("Executing")
        run_id = (await api.get("/v1/runs"))["data"][0]["id"]
        await page.goto(f"{open_server.url}/?run={run_id}")
        await expect(page.locator(".metadata")).to_contain_text("You ask why", timeout=15_000)
        await expect(page.locator("h1")).to_contain_text("Completed", timeout=15_000)
        printed, _ = agent.communicate(timeout=10)
    assert agent.returncode == 0
    assert "the red goes on." in printed
