"""The server behind nginx and Caddy, configured as `docs/guides/behind-a-proxy.md` says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import httpx2
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Api, OpenPage
from tests.node import ROOT
from tests.processes import Server
from tests.proxies import Caddy, Nginx, Proxy, replaced

pytestmark = pytest.mark.asyncio(loop_scope="session")

GUIDE: Final = ROOT / "docs" / "guides" / "behind-a-proxy.md"


class Plain(Proxy):
    """One without TLS, on a port of loopback."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=1).status_code == 200
        except httpx2.TransportError:
            return False


class PlainNginx(Plain, Nginx):
    def configure(self, site: str) -> None:
        self.write(replaced(site, ("listen 80;", f"listen 127.0.0.1:{self.port};")))


class NginxWithoutWebSockets(PlainNginx):
    def write(self, site: str) -> None:
        super().write(re.sub(r"proxy_set_header (Upgrade|Connection) .*;", "", site))


class PlainCaddy(Plain, Caddy):
    def configure(self, site: str) -> None:
        self.write(replaced(site, (":80 {", f"{self.url} {{")))


@pytest.fixture
def proxies() -> Iterator[ExitStack]:
    """They end after the pages that were opened through them: a page would complain."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("kind", [PlainNginx, PlainCaddy])
async def test_streams_go_through_as_the_guide_says(
    shared_server: Server,
    shared_api: Api,
    proxies: ExitStack,
    open_page: OpenPage,
    kind: type[Plain],
) -> None:
    proxy = proxies.enter_context(kind(GUIDE, shared_server))
    run = await shared_api.a_run(status="EXECUTING")
    page = (await open_page(proxy.url)).page
    await page.locator("details.link summary").click()
    await expect(page.locator(".panel")).to_contain_text("WebSocket")
    await expect(page.locator("details.link summary")).to_contain_text("Live")
    await shared_api.update(run, metadata={"progress": 0.42})
    await expect(page.locator(f"#row-{run['id']}")).to_contain_text("42 %")
    # An event stream is handed on as it comes, and not when a buffer is full.
    async with (
        httpx2.AsyncClient(timeout=10) as client,
        client.stream("GET", f"{proxy.url}/v1/realtime/runs/{run['id']}") as stream,
    ):
        messages = (
            json.loads(line[5:]) async for line in stream.aiter_lines() if line[:5] == "data:"
        )
        assert [(await anext(messages))["type"] for _ in range(2)] == ["snapshot", "live"]
        await shared_api.update(run, metadata={"progress": 0.5})
        assert (await anext(messages))["type"] == "change"


async def test_a_proxy_that_knows_no_websockets_is_got_around(
    shared_server: Server,
    shared_api: Api,
    proxies: ExitStack,
    open_page: OpenPage,
) -> None:
    proxy = proxies.enter_context(NginxWithoutWebSockets(GUIDE, shared_server))
    run = await shared_api.a_run(status="EXECUTING")
    watched = await open_page(proxy.url)
    watched.allowed.append("WebSocket connection to")
    page = watched.page
    await page.locator("details.link summary").click()
    await expect(page.locator(".panel")).to_contain_text("server-sent events")
    await expect(page.locator("details.link summary")).to_contain_text("Live")
    await shared_api.update(run, metadata={"progress": 0.42})
    await expect(page.locator(f"#row-{run['id']}")).to_contain_text("42 %")
