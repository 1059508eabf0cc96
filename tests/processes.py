"""Real processes under test: started on a free port, watched, killed, and never left behind."""

import atexit
import contextlib
import http.client
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

import psutil

API_KEY: Final = "key-for-tests-0123456789"
START_S: Final = 60.0
STOP_S: Final = 20.0


class ProcessFailed(Exception):
    """A process did not start, or did not end, as it should: with the end of its log."""


class Spawned(Protocol):
    """A process that was started, in a session of its own: what `subprocess.Popen` is."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...


class Process:
    """One process with its port, its folder and its log; subclasses say what runs in it."""

    name = "process"
    graceful: signal.Signals = signal.SIGTERM

    def __init__(self) -> None:
        self.folder = make_folder(self.name)
        self.log_file = self.folder / "log"
        self.log_file.touch()
        self.port = free_port()
        self.frozen = False
        self._process: Spawned | None = None

    # What a subclass says.

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def user(self) -> str | None:
        """Whom to run as; None: as who runs the tests."""
        return None

    def answers(self) -> bool:
        """Whether it is ready to serve; asked again and again until it is."""
        raise NotImplementedError

    # What a test does.

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Starts it and waits until it serves; does nothing to one that is running."""
        if self.running:
            return self
        for attempt in range(5):
            begin = self.log_file.stat().st_size
            self.launch()
            try:
                self.wait_ready()
            except ProcessFailed:
                # The port was free a moment ago. It stays the same over a restart, as its
                # clients know it: whoever has it now is then most likely about to let it go.
                in_use = "in use" in self.log(begin)
                if not in_use or attempt == 4:
                    raise
                time.sleep(0.2)
                continue
            return self
        raise AssertionError("unreachable")

    def launch(self) -> None:
        """Starts it and returns at once; `wait_ready` waits."""
        if self._process is not None:
            self.kill()  # It ended by itself: what it had started may be left.
        self._process = self.spawn()
        self.frozen = False
        _running.append(self)
        _watcher.watch(self._process.pid)

    def spawn(self) -> Spawned:
        user = self.user()
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                list(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=dict(self.environment()),
                user=user,
                group=None if user is None else group_of(user),
                extra_groups=None if user is None else [],
                # Ctrl-C is for the test run, which then ends its processes in order.
                start_new_session=True,
            )

    def wait_ready(self, within_s: float = START_S) -> None:
        deadline = time.monotonic() + within_s
        pause_s = 0.01
        while not self.answers():
            if not self.running:
                self._reaped()
                raise ProcessFailed(f"{self.name} ended while starting:\n{self.log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ProcessFailed(f"{self.name} not ready in {within_s} s:\n{self.log()}")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.1)

    def stop(self, within_s: float = STOP_S) -> int:
        """Asks it to end, and gives its exit code; one that doesn't end in time is a failure."""
        if self._process is None:
            return 0
        self.thaw()
        self.signal(self.graceful)
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessFailed(f"{self.name} not ended in {within_s} s:\n{self.log()}") from None
        self._reaped()
        return code

    def kill(self) -> None:
        """SIGKILL to it and all it has started, and waits until they are gone."""
        if self._process is None:
            return
        # It is stopped first, so that the list of its children cannot grow under us.
        self.signal(signal.SIGSTOP)
        family = self._family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.running:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        while any(map(alive, family)) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._reaped()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """Half dead: connections stand, nothing is answered. Its children are frozen too."""
        self.signal(signal.SIGSTOP)
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        self.frozen = True

    def thaw(self) -> None:
        if not self.frozen:
            return
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self.signal(signal.SIGCONT)
        self.frozen = False

    @contextlib.contextmanager
    def frozen_meanwhile(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def signal(self, which: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(which)

    def ensure(self) -> Self:
        """Serving again, whatever a test before did to it."""
        self.thaw()
        return self.start()

    def log(self, begin: int = 0, most: int = 20_000) -> str:
        """The end of what it has written since that place in the file."""
        with self.log_file.open("rb") as log:
            log.seek(max(begin, self.log_file.stat().st_size - most))
            return log.read().decode(errors="replace")

    def close(self) -> None:
        """Ended for good, its folder removed."""
        try:
            if self.running:
                self.stop()
        finally:
            self.kill()
            _watcher.remove_folder(self.folder)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _family(self) -> list[psutil.Process]:
        if not self.running:
            return []
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _reaped(self) -> None:
        if self._process is not None:
            _watcher.forget(self._process.pid)
            _running.remove(self)
        self._process = None
        self.frozen = False


class Server(Process):
    """`realtime serve` in a process of its own, as a user starts it."""

    name = "realtime serve"

    def __init__(
        self,
        database: str,
        redis: str | None = None,
        *,
        api_key: str | None = API_KEY,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.database = database
        self.redis = redis
        self.api_key = api_key
        self.args = args
        self.env = dict(env or {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        command = [sys.executable, "-m", "realtime.cli", "serve", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--database", self.database]
        if self.redis is not None:
            command += ["--redis", self.redis]
        return [*command, *self.args]

    def environment(self) -> Mapping[str, str]:
        # A RUNSTREAM_ variable of whoever runs the tests must not reach into them.
        mine = {k: v for k, v in os.environ.items() if not k.startswith("RUNSTREAM_")}
        mine["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        mine["PYTHONUNBUFFERED"] = "1"
        if self.api_key is not None:
            mine["RUNSTREAM_API_KEY"] = self.api_key
        return mine | self.env

    def answers(self) -> bool:
        return self.get("/readyz") == 200

    def get(self, path: str, timeout_s: float = 2.0) -> int | None:
        """The HTTP status of a GET without a key, None if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


class Watcher:
    """Ends what is left when the test run itself is killed.

    A helper process reads a pipe whose other end only the test run holds; when that closes, for
    whatever reason, it ends the processes and removes the folders that were not ended before.
    """

    CODE: Final = """
import os, shutil, signal, sys, time
pids, folders = set(), set()
for line in sys.stdin:
    what, _, name = line.rstrip("\\n").partition(" ")
    {"+": lambda: pids.add(int(name)), "-": lambda: pids.discard(int(name)),
     "folder": lambda: folders.add(name), "removed": lambda: folders.discard(name)}[what]()
def tell(which):
    for pid in list(pids):
        try:
            os.kill(pid, which)
        except OSError:
            pids.discard(pid)
# SIGQUIT is PostgreSQL's way to end at once with all its children.
for which in [signal.SIGQUIT, signal.SIGCONT] + [0] * 20 + [signal.SIGKILL]:
    tell(which)
    if pids and which == 0:
        time.sleep(0.1)
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def watch(self, pid: int) -> None:
        self._say(f"+ {pid}")

    def forget(self, pid: int) -> None:
        self._say(f"- {pid}")

    def add_folder(self, folder: Path) -> None:
        self._say(f"folder {folder}")

    def remove_folder(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._say(f"removed {folder}")

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _say(self, line: str) -> None:
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", self.CODE],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


ROOT: Final = Path(__file__).resolve().parent.parent
_watcher: Final = Watcher()
_running: Final[list[Process]] = []
_reserved: Final[dict[int, socket.socket]] = {}


def running() -> Sequence[Process]:
    """All that have been started and not ended, the oldest first."""
    return tuple(_running)


def make_folder(name: str) -> Path:
    """A new short-named folder, removed at the end even if the run is killed."""
    folder = Path(tempfile.mkdtemp(prefix=f"runstream-{name.replace(' ', '-')}-"))
    _watcher.add_folder(folder)
    return folder


def free_port() -> int:
    """A port on loopback that nothing listens on, and that no other test run is given.

    It lies outside the range from which outgoing connections get theirs, else one of those might
    take it while the server that owns it restarts. Holding the UDP port of the same number keeps
    it from other test runs for as long as this one lives.
    """
    low, high = ephemeral_ports()
    candidates = [port for port in range(15_000, 60_000) if not low <= port <= high]
    for _ in range(1_000):
        port = random.choice(candidates)
        hold = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            hold.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            hold.close()
            continue
        _reserved[port] = hold
        return port
    raise ProcessFailed("no free port found")


def ephemeral_ports() -> tuple[int, int]:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:
        return 49_152, 65_535
    low, high = map(int, text.split())
    return (low, high) if low > 16_000 else (32_768, 60_999)


def alive(process: psutil.Process) -> bool:
    """A zombie is not: it waits for whoever adopted it, and holds nothing any more."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


@atexit.register
def _end_all() -> None:
    for process in reversed(running()):
        with contextlib.suppress(Exception):
            process.close()
    for hold in _reserved.values():
        hold.close()
    _watcher.close()
