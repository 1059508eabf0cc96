"""Stores and brokers to test on, and what a test run says about them."""

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests import processes, servers
from tests.processes import Server
from tests.receiving import Receiver, receiving
from tests.servers import Postgres, Valkey

settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile(
    "ci",
    deadline=None,
    print_blob=True,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    deadline=None,
    print_blob=True,
    max_examples=2_000,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for the whole run, started when a test first asks for it."""
    with Postgres() as server:
        _started["PostgreSQL"] = server.version
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    with Valkey() as server:
        _started["Valkey"] = server.version
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[Postgres]:
    """PostgreSQL, which a test may stop, kill and freeze: it serves again for the next one."""
    yield postgres_server.ensure()
    postgres_server.ensure()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Iterator[Valkey]:
    """Valkey, empty, which a test may stop, kill and freeze."""
    valkey_server.ensure().flush()
    yield valkey_server
    valkey_server.ensure()


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    """Takes webhooks; for modules whose tests have one loop."""
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A new SQLite file's URL."""
    _started["SQLite"] = sqlite3.sqlite_version
    return f"sqlite:///{tmp_path / 'runstream.db'}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A new PostgreSQL database's URL."""
    url = postgres.create_database()
    yield url
    postgres.ensure().drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new, empty database: the test is run on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["memory", "redis"])
def broker_url(request: pytest.FixtureRequest) -> str | None:
    """A broker, None for the one in memory: the test is run on each kind."""
    if request.param == "memory":
        return None
    valkey: Valkey = request.getfixturevalue("valkey")
    return valkey.url


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """Starts `realtime serve`, any number of them: `start_server(database, redis, …)`."""
    started: list[Server] = []

    def start(*args: Any, **kwargs: Any) -> Server:
        server = Server(*args, **kwargs)
        started.append(server)
        return server.start()

    yield start
    for server in reversed(started):
        server.close()


@pytest.fixture
def server(
    database_url: str, broker_url: str | None, start_server: Callable[..., Server]
) -> Server:
    """A `realtime serve` of its own, on each kind of database and broker."""
    return start_server(database_url, broker_url)


_started: dict[str, str] = {}
_logs_before = pytest.StashKey[dict[Path, int]]()


def pytest_report_header() -> str:
    return (
        f"servers out of wheels, started when first needed: "
        f"PostgreSQL {servers.postgres_version()}, Valkey {servers.valkey_version()}"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_logs_before] = {
        process.log_file: process.log_file.stat().st_size for process in processes.running()
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the servers have logged since it began."""
    report = yield
    if report.failed:
        before = item.stash.get(_logs_before, {})
        for process in processes.running():
            text = process.log(before.get(process.log_file, 0))
            if text.strip():
                report.sections.append((f"log of {process.name}, port {process.port}", text))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Under pytest-xdist the workers know what was started, and the summary is printed elsewhere.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["servers"] = _started


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _started.update(getattr(node, "workeroutput", {}).get("servers", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = ", ".join(f"{name} {version}" for name, version in sorted(_started.items()))
    terminalreporter.write_line(f"servers: {ran or 'none was needed'}")
