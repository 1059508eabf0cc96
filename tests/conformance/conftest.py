"""The server under test, and the smallest clients that can ask it."""

import asyncio
import json
import os
import secrets
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.processes import API_KEY, Server
from tests.servers import Postgres, Valkey

# Made once: it takes longer than most of the tests.
TLS = ssl.create_default_context()


@dataclass(frozen=True)
class Target:
    """Where the server is, and who we are."""

    url: str
    key: str
    key_elsewhere: str
    """The key of another project."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


SET_UPS = ("sqlite-memory", "sqlite-redis", "postgres-memory", "postgres-redis")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test on every set-up, or just against the server that was given."""
    if "target" in metafunc.fixturenames:
        set_ups = ["given"] if "RUNSTREAM_URL" in os.environ else SET_UPS
        metafunc.parametrize("target", set_ups, indirect=True, scope="session")


@pytest.fixture(scope="session")
def lasting_postgres() -> Iterator[Postgres]:
    """For the databases of the targets, which live for long: other tests stop the common one."""
    with Postgres() as postgres:
        yield postgres


@pytest.fixture(scope="session")
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    if request.param == "given":
        keys = os.environ["RUNSTREAM_API_KEY"], os.environ["RUNSTREAM_API_KEY_ELSEWHERE"]
        yield Target(os.environ["RUNSTREAM_URL"].rstrip("/"), *keys)
        return
    store, broker = request.param.split("-")
    with ExitStack() as started:
        database = f"sqlite:///{tmp_path_factory.mktemp('conformance') / 'runstream.db'}"
        if store == "postgres":
            postgres: Postgres = request.getfixturevalue("lasting_postgres")
            database = postgres.create_database()
        # One of its own: two servers on one Valkey would hear each other's hints.
        redis = None if broker == "memory" else started.enter_context(Valkey()).url
        # A short heartbeat, so that the test of it need not wait for long.
        server = started.enter_context(Server(database, redis, env={"RUNSTREAM_HEARTBEAT_S": "1"}))
        yield Target(server.url, API_KEY, _make_key(server.database, "elsewhere"))


def _make_key(database: str, project: str) -> str:
    command = ["key", "create", "tests", "--project", project, "--database", database]
    made = subprocess.run(
        [sys.executable, "-m", "realtime.cli", *command], capture_output=True, text=True, check=True
    )
    return made.stdout.splitlines()[-1]


@pytest.fixture
async def http(target: Target) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=target.url, headers=target.headers, timeout=30, verify=TLS
    ) as client:
        yield client


@pytest.fixture
def tag() -> str:
    """A tag that no other test has."""
    return f"test:{secrets.token_hex(6)}"


@dataclass
class Socket:
    """A WebSocket whose protocol messages come one by one."""

    connection: ClientConnection
    lines: list[dict[str, Any]] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, **message: Any) -> Self:
        await self.connection.send(json.dumps(message))
        return self

    async def next(self, within_s: float = 20) -> dict[str, Any]:
        """The next protocol message; a close raises ConnectionClosed."""
        if not self.lines:
            async with asyncio.timeout(within_s):
                frame = await self.connection.recv()
            assert isinstance(frame, str), "only text messages are sent"
            self.lines = [json.loads(line) for line in frame.split("\n")]
        message = self.lines.pop(0)
        self.seen.append(message)
        return message

    async def until(self, type: str, **fields: Any) -> dict[str, Any]:
        """The next message of that type with these fields; what comes before is kept in `seen`."""
        while True:
            message = await self.next()
            if message["type"] == type and fields.items() <= message.items():
                return message

    async def change(self, **fields: Any) -> dict[str, Any]:
        return await self.until("change", **fields)

    async def join(self, **message: Any) -> list[dict[str, Any]]:
        """Subscribes; the runs of its snapshot, once `live` has come."""
        await self.send(**message)
        runs: list[dict[str, Any]] = []
        while True:
            got = await self.next()
            if got.get("id") != message["id"]:
                continue
            if got["type"] == "snapshot":
                runs += got["runs"]
            elif got["type"] == "live":
                return runs
            else:
                assert got["type"] == "batch", got

    async def closed(self) -> int:
        """The code with which the server closes, having waited for it."""
        async with asyncio.timeout(20):
            await self.connection.wait_closed()
        code = self.connection.close_code
        assert code is not None
        return code


Dial = Callable[..., Any]


@pytest.fixture
def dial(target: Target) -> Dial:
    """`async with dial() as socket`: authenticated by the header; `dial(key=None)`: by nothing."""

    @asynccontextmanager
    async def dial(key: str | None = target.key, welcome: bool = True) -> AsyncIterator[Socket]:
        url = "ws" + target.url.removeprefix("http") + "/v1/realtime"
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with connect(
            url,
            additional_headers=headers,
            subprotocols=[Subprotocol("runstream.v1")],
            max_size=None,
            ping_interval=None,
        ) as connection:
            socket = Socket(connection)
            if welcome and key is not None:
                assert (await socket.next())["type"] == "welcome"
            yield socket

    return dial
