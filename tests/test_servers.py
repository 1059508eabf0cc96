"""The real servers that tests rest on: they start, answer, come back, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests import servers
from tests.processes import ROOT, Process, ProcessFailed, free_port
from tests.servers import Postgres, Valkey


def test_postgres_answers_and_says_its_version(postgres: Postgres) -> None:
    (setting,) = postgres.fetch("SELECT current_setting('server_version')")
    assert setting == (postgres.version,)
    assert postgres.version.startswith("18.")


def test_each_database_is_new_and_empty(postgres: Postgres) -> None:
    one, other = postgres.create_database(), postgres.create_database()
    assert one != other
    postgres.execute("CREATE TABLE here (id int)", database=one.rpartition("/")[2])
    tables = "SELECT 1 FROM pg_tables WHERE tablename = 'here'"
    assert postgres.fetch(tables, database=one.rpartition("/")[2])
    assert not postgres.fetch(tables, database=other.rpartition("/")[2])
    postgres.drop_database(one)
    postgres.drop_database(other)


def test_a_template_is_filled_once_and_copied_whole(postgres: Postgres) -> None:
    filled: list[str] = []

    def fill(url: str) -> None:
        filled.append(url)
        postgres.execute("CREATE TABLE here AS SELECT 7 AS id", database=url.rpartition("/")[2])

    for _ in range(2):
        url = postgres.create_database(postgres.create_template("filled", fill))
        assert postgres.fetch("SELECT id FROM here", database=url.rpartition("/")[2]) == [(7,)]
        postgres.drop_database(url)
    assert len(filled) == 1


async def test_postgres_can_be_asked_inside_an_event_loop(postgres: Postgres) -> None:
    """Fixtures and fault helpers are called from async tests."""
    assert postgres.fetch("SELECT 1") == [(1,)]


def test_postgres_keeps_what_was_committed_over_a_kill(postgres: Postgres) -> None:
    """Tests of lost writes mean something only if a commit outlives the process, without fsync too."""
    url = postgres.create_database()
    database = url.rpartition("/")[2]
    postgres.execute("CREATE TABLE kept AS SELECT 1 AS id", database=database)
    port = postgres.port
    postgres.kill()
    assert not postgres.running
    postgres.start()
    assert postgres.port == port
    assert postgres.fetch("SELECT id FROM kept", database=database) == [(1,)]
    postgres.drop_database(url)


def test_a_frozen_postgres_keeps_its_connections_and_answers_nothing(postgres: Postgres) -> None:
    """Its backends are frozen with it: an open connection would be answered otherwise."""

    async def ask_through_an_open_connection() -> None:
        connection = await asyncpg.connect(postgres.url)
        try:
            with postgres.frozen_meanwhile(), pytest.raises(TimeoutError):
                await connection.fetch("SELECT 1", timeout=0.3)
        finally:
            connection.terminate()

    servers.in_a_thread(ask_through_an_open_connection())
    assert postgres.fetch("SELECT 1") == [(1,)]


def test_postgres_syncs_to_disk_only_where_asked(postgres: Postgres) -> None:
    assert postgres.fetch("SHOW fsync") == [("off",)]
    with Postgres(fsync=True) as synced:
        assert synced.fetch("SHOW fsync") == [("on",)]
        assert synced.fetch("SHOW synchronous_commit") == [("on",)]


def test_valkey_answers_flushes_and_takes_settings(valkey: Valkey) -> None:
    valkey.execute("SET", "key", "value")
    valkey.flush()
    assert valkey.execute("GET", "key") is None
    with Valkey(config={"client-output-buffer-limit": "pubsub 1mb 1mb 1"}) as small:
        assert b"pubsub 1048576" in small.execute("CONFIG", "GET", "client-output-buffer-limit")[1]


def test_valkey_comes_back_empty_on_its_port(valkey: Valkey) -> None:
    port = valkey.port
    valkey.execute("SET", "key", "value")
    valkey.kill()
    with pytest.raises(redis.ConnectionError):
        valkey.execute("PING")
    valkey.start()
    assert valkey.port == port
    assert valkey.execute("GET", "key") is None
    assert valkey.restart().execute("PING") is True


def test_a_frozen_valkey_answers_nothing(valkey: Valkey) -> None:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=valkey.port, socket_timeout=0.3, retry=once) as client:
        client.ping()
        with valkey.frozen_meanwhile(), pytest.raises(redis.TimeoutError):
            client.ping()
    assert valkey.execute("PING") is True


def test_what_cannot_start_says_why() -> None:
    broken = Valkey(config={"maxmemory": "much"})
    with pytest.raises(ProcessFailed, match="argument must be a memory value"), broken:
        pass
    assert not broken.running
    assert not broken.folder.exists()


def test_a_closed_server_leaves_no_process_and_no_file() -> None:
    server = Postgres()
    with server:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        assert len(family) > 1
    assert not [process for process in family if process.is_running()]
    assert not server.folder.exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_test_run_that_is_ended_leaves_nothing_behind(how: signal.Signals) -> None:
    """Also by kill -9: what it had started is ended for it."""
    code = """
import sys, time
from tests.servers import Postgres, Valkey
postgres, valkey = Postgres().start(), Valkey().start()
valkey.freeze()
print(postgres.pid, valkey.pid, postgres.folder, valkey.folder, flush=True)
time.sleep(60)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    ) as run:
        assert run.stdout is not None
        words = run.stdout.readline().split()
        started = [psutil.Process(int(pid)) for pid in words[:2]]
        started += started[0].children(recursive=True)
        run.send_signal(how)
    until(lambda: not any(process.is_running() for process in started))
    until(lambda: not any(Path(folder).exists() for folder in words[2:]))


def test_postgres_is_copied_where_its_own_user_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment below a home of mode 700 is closed to that user."""
    assert servers.open_to_all(Path("/bin/sh"))
    program = tmp_path / "closed" / "program"
    program.parent.mkdir(mode=0o700)
    program.touch(mode=0o755)
    assert not servers.open_to_all(program)

    installed = servers.readable_postgres()
    monkeypatch.setattr(servers, "open_to_all", lambda program: False)
    with monkeypatch.context() as root:
        root.setattr(os, "geteuid", lambda: 0)
        copy = servers.readable_postgres.__wrapped__()
    assert copy != installed
    monkeypatch.setattr(servers, "readable_postgres", lambda: copy)
    with Postgres() as postgres:
        assert postgres.command()[0] == str(copy / "bin" / "postgres")
        assert postgres.fetch("SELECT 1") == [(1,)]


def test_ports_are_given_once_and_lie_outside_the_ephemeral_range() -> None:
    """Else an outgoing connection may be given the port of a server that is restarting."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if path.exists():
        low, high = map(int, path.read_text().split())
        assert not [port for port in ports if low <= port <= high] or low <= 16_000


class Stubborn(Process):
    """Ignores the polite request to end."""

    name = "stubborn"

    def command(self) -> list[str]:
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True)"
        return [sys.executable, "-c", f"{code}; time.sleep(60)"]

    def answers(self) -> bool:
        return "up" in self.log()


def test_what_does_not_end_in_time_is_killed_and_reported() -> None:
    process = Stubborn().start()
    pid = process.pid
    with pytest.raises(ProcessFailed, match="not ended"):
        process.stop(within_s=0.2)
    assert not psutil.pid_exists(pid)
    process.close()


def until(condition: object, within_s: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
