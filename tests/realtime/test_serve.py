"""`realtime serve` as a process: how it starts, shares its port, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, text
from sqlalchemy.util import await_only

from realtime.app import _hub_settings
from realtime.cli import main
from realtime.hub.flights import Flights
from realtime.hub.tasks import Tasks
from realtime.serve import CannotServe, Workers, bind
from realtime.settings import Settings
from store.engine import open_database
from tests.processes import Server, free_port


@pytest.fixture
def start(start_server: Callable[..., Server], sqlite_url: str) -> Callable[..., Server]:
    """Starts a server on one SQLite file."""
    return lambda *args, **how: start_server(sqlite_url, None, args=args, **how)


def until(condition: Callable[[], Any], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def serve(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A server that is not expected to stay."""
    return subprocess.run(
        [sys.executable, "-m", "realtime.cli", "serve", *args],
        cwd=cwd, capture_output=True, text=True, timeout=30, check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
    )  # fmt: skip


def ended_at_once(server: Server, how: signal.Signals) -> None:
    """It ends without an error, and waits for nobody where nobody is connected."""
    began = time.monotonic()
    server.signal(how)
    until(lambda: not server.running)
    assert time.monotonic() - began < 5
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_it_says_its_address_when_it_is_ready_and_ends_when_it_is_asked_to(
    start: Callable[..., Server],
) -> None:
    """Scripts wait for the line, which is the only one."""
    server = start()
    assert f"realtime: listening on {server.url}\n" in server.log()
    ended_at_once(server, signal.SIGTERM)
    assert len(server.log().splitlines()) == 1, server.log()


def test_a_port_in_use_is_said_in_one_line(start: Callable[..., Server], tmp_path: Path) -> None:
    """The most common reason of all, also for several workers."""
    server = start()
    second = serve("--port", str(server.port), cwd=tmp_path)
    assert second.returncode == 1
    assert second.stderr == f"realtime: port {server.port} on 127.0.0.1 is in use\n"
    assert second.stdout == ""
    with pytest.raises(CannotServe, match="in use"):
        Workers(Settings(workers=2, port=server.port)).run()


@pytest.mark.parametrize(
    "args, said",
    [
        (["--host", "0.0.0.0", "--port", "0"], "RUNSTREAM_API_KEY"),
        (["--host", "192.0.2.1", "--port", "0"], "192.0.2.1"),
        (["--host", "no.such.host.invalid", "--port", "0"], "no.such.host.invalid"),
        (["--database", "sqlite:////nowhere/x.db", "--port", "0"], "database"),
        (["--database", "postgresql://u:secret@127.0.0.1:1/x", "--port", "0"], "database"),
    ],
)
def test_why_it_cannot_start_is_said_in_one_line(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exit code 1, and neither a traceback nor a password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("realtime.serve.set_up_logging", lambda _: None)
    ended = CliRunner().invoke(main, ["serve", *args], env={"RUNSTREAM_API_KEY": ""})
    assert ended.exit_code == 1, ended.output
    assert ended.stderr.startswith("realtime: ")
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert said in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.stdout == ""


def test_with_a_key_it_listens_wherever_it_is_told(
    start_server: Callable[..., Server], sqlite_url: str
) -> None:
    """One of the database is as good as one of the environment."""
    made = CliRunner().invoke(main, ["key", "create", "k", "--database", sqlite_url])
    assert made.exit_code == 0
    server = start_server(sqlite_url, None, api_key=None, args=["--host", "0.0.0.0"])
    assert server.get("/v1/runs") == 401


def test_without_a_key_it_warns_once(start: Callable[..., Server]) -> None:
    """Everybody on this machine may do everything: that must be no surprise."""
    server = start(api_key=None)
    assert server.get("/v1/runs") == 200
    warnings = [line for line in server.log().splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "no API key" in warnings[0]
    ended_at_once(server, signal.SIGINT)


def test_localhost_is_every_address_of_that_name() -> None:
    """Browsers try ::1 first."""
    port = free_port()
    sockets = bind("localhost", port)
    try:
        assert {one.getsockname()[1] for one in sockets} == {port}
        assert len({one.family for one in sockets}) == len(sockets)
        with pytest.raises(CannotServe, match="in use"):
            bind("127.0.0.1", port)
    finally:
        for one in sockets:
            one.close()


# ----------------------------------------------------------------------------------------- workers


@pytest.fixture
def workers(start: Callable[..., Server]) -> Iterator[Server]:
    server = start("--workers", "2")
    yield server
    server.close()


def children(server: Server) -> list[psutil.Process]:
    """The processes that serve; not what watches over their resources."""
    found = []
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.Error):  # it may be gone by now
            if any("spawn_main" in part for part in child.cmdline()):
                found.append(child)
    return found


def test_workers_share_the_port_and_one_that_dies_is_replaced_until_ctrl_c_ends_all(
    workers: Server,
) -> None:
    """The others serve meanwhile."""
    before = {child.pid for child in children(workers)}
    assert len(before) == 2
    # One of them answers before all do; the line is printed when all do.
    until(lambda: workers.log().count("realtime: listening on ") == 1)
    victim = children(workers)[0]
    victim.kill()
    until(lambda: len({child.pid for child in children(workers)} - before) == 1)
    until(lambda: workers.get("/readyz") == 200)
    # Ctrl-C, which a terminal sends to every process of the group, ends them all in order.
    serving = children(workers)
    for process in [psutil.Process(workers.pid), *serving]:
        process.send_signal(signal.SIGINT)
    until(lambda: not workers.running)
    assert workers.stop() == 0
    assert not any(process.is_running() for process in serving)
    assert "Traceback" not in workers.log()


def test_workers_end_with_their_parent_however_it_ends(workers: Server) -> None:
    """Killed, it can tell them nothing; they must not hold the port for ever."""
    serving = children(workers)
    psutil.Process(workers.pid).kill()
    gone, left = psutil.wait_procs(serving, timeout=15)
    assert not left
    assert len(gone) == 2
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", workers.port))


def test_workers_that_cannot_start_end_the_parent_with_the_reason() -> None:
    """Instead of starting them again for ever."""
    settings = Settings(workers=2, port=free_port(), database="sqlite:////nowhere/x.db")
    with pytest.raises(CannotServe, match="database"):
        Workers(settings).run()


def test_without_redis_the_tail_looks_twice_a_second() -> None:
    """What other processes do comes by it alone then, and is to take about a second at most."""
    assert _hub_settings(Settings()).tail_s == 0.5
    assert _hub_settings(Settings(redis="redis://127.0.0.1")).tail_s == 1.0


@pytest.mark.parametrize("readers", [6, 12, 40])
async def test_a_storm_of_joins_leaves_connections_to_the_others(
    postgres_url: str, readers: int
) -> None:
    """Taken out: the bound by the pool's size; webhooks and calls ran into the pool's timeout.

    Reads of the hub that are stuck do not keep another one waiting.
    """
    settings = Settings(database=postgres_url, postgres_readers=readers)
    database = await open_database(settings.database, postgres_readers=readers)
    tasks = Tasks()
    flights = Flights(tasks, _hub_settings(settings).cold_reads)
    freed = asyncio.Event()
    stuck = 0

    def read_slowly(_connection: Connection) -> None:
        nonlocal stuck
        stuck += 1
        await_only(freed.wait())

    def read(connection: Connection) -> object:
        return connection.scalar(text("SELECT 1"))

    try:
        for n in range(readers * 2):
            tasks.start(flights.get(n, lambda: database.read(read_slowly)), f"read {n}")
        async with asyncio.timeout(60):
            while stuck < min(readers, _hub_settings(settings).cold_reads):
                await asyncio.sleep(0.01)
        assert await asyncio.gather(*(database.read(read) for _ in range(4))) == [1, 1, 1, 1]
        freed.set()
    finally:
        await tasks.close()
        await database.close()
