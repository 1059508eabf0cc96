"""The page in README.md, word for word, against `make demo`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenPage, StartExample, serve
from tests.node import ROOT
from tests.processes import Process

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Demo(Process):
    """The demo, which stays until it is ended."""

    name = "demo"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "realtime.cli", "demo", "--stay"]

    def environment(self) -> dict[str, str]:
        path = f"{ROOT}:{ROOT / 'clients' / 'python' / 'src'}"
        return {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "TMPDIR": str(self.folder)}

    def answers(self) -> bool:
        return self.url is not None

    @property
    def url(self) -> str | None:
        """What it says that its address is."""
        found = re.search(r"A server on SQLite, (http://\S+:\d+)", self.log())
        return found and found[1]


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo().start()
    yield demo
    demo.close()


async def test_the_page_in_the_readme_shows_the_demo(
    demo: Demo, start_example: StartExample, open_page: OpenPage, tmp_path: Path
) -> None:
    """It asks the usual port, which the demo takes if it is free."""
    [page_text] = re.findall(r"```html\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(page_text.splitlines()) <= 20
    (tmp_path / "index.html").write_text(page_text)
    example = start_example(*serve(tmp_path))
    url = str(demo.url)
    path = "/" if url.endswith(":8080") else f"/?server={url}"
    page = (await open_page(example.url, path, origins=[url, "http://localhost:8080"])).page
    await expect(page.locator("#status")).to_have_text("live")
    await expect(page.locator("li", has_text="COMPLETED").first).to_be_visible()
    await expect(page.locator("li", has_text="EXECUTING").first).to_be_visible()
