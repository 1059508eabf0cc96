"""The server behind nginx and Caddy, configured as `docs/guides/behind-a-proxy.md` says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import httpx2
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Api, OpenPage
from tests.node import ROOT
from tests.processes import Process, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

GUIDE: Final = ROOT / "docs" / "guides" / "behind-a-proxy.md"


def written(language: str) -> str:
    """The guide's configuration in this language."""
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


class Between(Process):
    """A proxy before a server."""

    name = "proxy"

    def __init__(self, upstream: Server) -> None:
        super().__init__()
        self._upstream = upstream

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of_this_test(self, configuration: str) -> str:
        return configuration.replace("127.0.0.1:8080", f"127.0.0.1:{self._upstream.port}")

    def answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=1).status_code == 200
        except httpx2.TransportError:
            return False


class Nginx(Between):
    name = "nginx"

    def __init__(self, upstream: Server, *, knows_websockets: bool = True) -> None:
        super().__init__(upstream)
        site = self.of_this_test(written("nginx"))
        site = site.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        if not knows_websockets:
            site = re.sub(r"proxy_set_header (Upgrade|Connection) .*;", "", site)
        paths = "\n".join(
            f"{kind}_temp_path {self.folder / kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder / 'pid'}; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log off;\n{paths}\n{site} }}\n",
            encoding="utf-8",
        )

    def command(self) -> Sequence[str]:
        program = shutil.which("nginx")
        assert program is not None
        return [program, "-e", "stderr", "-p", str(self.folder), "-c", "nginx.conf"]


class Caddy(Between):
    name = "caddy"

    def __init__(self, upstream: Server) -> None:
        super().__init__(upstream)
        site = self.of_this_test(written("caddyfile"))
        site = site.replace(":80 {", f"http://127.0.0.1:{self.port} {{")
        (self.folder / "Caddyfile").write_text(
            f"{{\n\tadmin off\n\tgrace_period 1s\n}}\n{site}", encoding="utf-8"
        )

    def command(self) -> Sequence[str]:
        program = shutil.which("caddy")
        assert program is not None
        return [program, "run", "--adapter", "caddyfile", "--config", "Caddyfile"]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "HOME": str(self.folder)}


@pytest.fixture
def start_proxy() -> Iterator[Callable[[Between], Between]]:
    started: list[Between] = []

    def start(proxy: Between) -> Between:
        started.append(proxy)
        proxy.start()
        return proxy

    yield start
    for proxy in started:
        proxy.close()


@pytest.mark.parametrize("kind", [Nginx, Caddy])
async def test_streams_go_through_as_the_guide_says(
    shared_server: Server,
    shared_api: Api,
    start_proxy: Callable[[Between], Between],
    open_page: OpenPage,
    kind: type[Between],
) -> None:
    proxy = start_proxy(kind(shared_server))
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
    start_proxy: Callable[[Between], Between],
    open_page: OpenPage,
) -> None:
    proxy = start_proxy(Nginx(shared_server, knows_websockets=False))
    run = await shared_api.a_run(status="EXECUTING")
    watched = await open_page(proxy.url)
    watched.allowed.append("WebSocket connection to")
    page = watched.page
    await page.locator("details.link summary").click()
    await expect(page.locator(".panel")).to_contain_text("server-sent events")
    await expect(page.locator("details.link summary")).to_contain_text("Live")
    await shared_api.update(run, metadata={"progress": 0.42})
    await expect(page.locator(f"#row-{run['id']}")).to_contain_text("42 %")
