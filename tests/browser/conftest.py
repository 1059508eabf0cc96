"""A browser to look at the page with, and what every page must hold to while it is looked at."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
)
from playwright.async_api import async_playwright as start_playwright

from tests.node import ROOT
from tests.processes import API_KEY, Process, Server

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NEEDED: Final = {
    "browser": ("Chromium", CHROMIUM),
    "start_proxy": ("nginx", shutil.which("nginx")),
    "caddy": ("Caddy", shutil.which("caddy")),
}
"""By the name of the fixture or of the test's parameter."""
HERE: Final = Path(__file__).parent

# On a machine that does much else at the same time a page may take a while.
expect.set_options(timeout=15_000)


def missing() -> dict[str, str]:
    return {
        what: f"no {name} is installed: it was NOT tested with it (apt-get install {name.lower()})"
        for what, (name, found) in NEEDED.items()
        if found is None
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        needs = {*getattr(item, "fixturenames", ()), *item.name.lower().strip("]").split("[")[1:]}
        for what, reason in missing().items():
            if what in needs:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason in missing().values():
        terminalreporter.write_sep("!", reason, red=True, bold=True)


class Chromium:
    """The machine's Chromium, started once; each page of a test is in a window of its own, which
    shares nothing with any other."""

    def __init__(self, start: Callable[[], Awaitable[Browser]]) -> None:
        self._start = start
        self._browser: Browser | None = None

    async def window(self, **options: Any) -> BrowserContext:
        # One that a test has broken is no reason for the next to fail.
        if self._browser is None or not self._browser.is_connected():
            self._browser = await self._start()
        return await self._browser.new_context(**options)

    async def close(self) -> None:
        if self._browser is not None:
            await self._browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Chromium]:
    assert CHROMIUM is not None
    async with start_playwright() as playwright:
        browser = Chromium(
            lambda: playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        )
        yield browser
        await browser.close()


class Watched:
    """A page that may log no error and ask no other origin for anything."""

    def __init__(self, page: Page, origins: tuple[str, ...]) -> None:
        self.page = page
        self.allowed: list[str] = ["/favicon.ico)"]
        """Parts of errors that are meant: a server that is down is one."""
        self._origins = origins
        self._errors: list[str] = []
        self._foreign: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._errors.append(f"{message.text} ({message.location['url']})")

    def _request(self, request: Request) -> None:
        url = request.url.replace("ws", "http", 1) if request.url.startswith("ws") else request.url
        if not url.startswith((*self._origins, "data:", "blob:")):
            self._foreign.append(request.url)

    def check(self) -> None:
        meant = [e for e in self._errors if not any(part in e for part in self.allowed)]
        assert meant == []
        assert self._foreign == []


OpenPage = Callable[..., Awaitable[Watched]]


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Chromium) -> AsyncIterator[OpenPage]:
    """Opens pages, each in a window of its own, and looks at the end what they have logged."""
    opened: list[tuple[Watched, BrowserContext]] = []

    async def open_one(url: str, path: str = "/", **options: Any) -> Watched:
        options.setdefault("viewport", {"width": 1280, "height": 800})
        prepare = options.pop("prepare", None)
        origins = (url, *options.pop("origins", ()))
        context = await browser.window(**options)
        context.set_default_timeout(15_000)
        watched = Watched(await context.new_page(), origins)
        opened.append((watched, context))
        if prepare is not None:
            await prepare(watched.page)
        await watched.page.goto(url + path)
        return watched

    yield open_one
    for watched, context in opened:
        await context.close()
        watched.check()


class Api:
    """The HTTP API, as the jobs of a test use it."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.client = httpx2.AsyncClient(base_url=url, headers=headers, timeout=30)

    async def post(self, path: str, body: Any = None) -> Any:
        answer = await self.client.post(path, json=body if body is not None else {})
        assert answer.is_success, answer.text
        return answer.json()

    async def get(self, path: str) -> Any:
        answer = await self.client.get(path)
        assert answer.is_success, answer.text
        return answer.json()

    async def a_run(self, task: str = "send-invoice", **fields: Any) -> Any:
        return await self.post("/v1/runs", {"taskIdentifier": task, **fields})

    async def update(self, run: Any, **fields: Any) -> Any:
        answer = await self.client.patch(f"/v1/runs/{run['id']}", json=fields)
        assert answer.is_success, answer.text
        return answer.json()

    async def bulk(self, commands: list[Any]) -> Any:
        return (await self.post("/v1/runs/bulk", {"commands": commands}))["results"]


@pytest.fixture
def open_server(start_server: Callable[..., Server], sqlite_url: str) -> Server:
    """A server without keys, which anybody on this machine may use."""
    return start_server(sqlite_url, api_key=None)


@pytest_asyncio.fixture(loop_scope="session")
async def api(open_server: Server) -> AsyncIterator[Api]:
    api = Api(open_server.url, None)
    yield api
    await api.client.aclose()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without keys, for all the tests that look at nothing but what they have made themselves."""
    database = f"sqlite:///{tmp_path_factory.mktemp('browser') / 'runstream.db'}"
    with Server(database, api_key=None) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def shared_api(shared_server: Server) -> AsyncIterator[Api]:
    api = Api(shared_server.url, None)
    yield api
    await api.client.aclose()


@pytest.fixture(scope="session")
def shared_keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    database = f"sqlite:///{tmp_path_factory.mktemp('browser') / 'runstream.db'}"
    with Server(database) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def shared_keyed_api(shared_keyed_server: Server) -> AsyncIterator[Api]:
    api = Api(shared_keyed_server.url, API_KEY)
    yield api
    await api.client.aclose()


@pytest.fixture
def keyed_server(start_server: Callable[..., Server], sqlite_url: str) -> Server:
    return start_server(sqlite_url)


@pytest_asyncio.fixture(loop_scope="session")
async def keyed_api(keyed_server: Server) -> AsyncIterator[Api]:
    api = Api(keyed_server.url, API_KEY)
    yield api
    await api.client.aclose()


class Example(Process):
    """An example that serves a page."""

    name = "example"

    def __init__(self, *command: str | Path, **env: str) -> None:
        super().__init__()
        self._command = command
        self._env = env

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [str(part).replace("PORT", str(self.port)) for part in self._command]

    def environment(self) -> dict[str, str]:
        client = ROOT / "clients" / "python" / "src"
        return {**os.environ, "PYTHONPATH": str(client), "PORT": str(self.port), **self._env}

    def answers(self) -> bool:
        try:
            return httpx2.get(self.url, timeout=1).status_code == 200
        except httpx2.TransportError:
            return False


StartExample = Callable[..., Example]


@pytest.fixture
def start_example() -> Iterator[StartExample]:
    started: list[Example] = []

    def start(*command: str | Path, **env: str) -> Example:
        started.append(Example(*command, **env))
        return started[-1].start()

    yield start
    for example in started:
        example.close()


def serve(folder: Path) -> Sequence[str | Path]:
    return [
        sys.executable,
        "-m",
        "http.server",
        "PORT",
        "--bind",
        "127.0.0.1",
        "--directory",
        folder,
    ]
