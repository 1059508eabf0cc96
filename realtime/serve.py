"""Runs the application under uvicorn: drains before it stops, and shares a port among workers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from types import FrameType
from typing import Any, Final

import click
import uvicorn

from realtime.app import Runtime, create_app
from realtime.frames import Config
from realtime.limits import Handshakes
from realtime.settings import Settings
from store.errors import StoreError

log = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 65
"""Longer than the 60 s after which common proxies drop an idle connection themselves."""

LATE_S: Final = 0.1
"""So long somebody who came in at the end of a drain may take to become a stream, and to go."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class CannotServe(Exception):
    """The server cannot start; says why in one line."""


def serve(settings: Settings) -> None:
    """Serves until a signal ends it. Raises CannotServe."""
    set_up_logging(settings)
    if settings.workers == 1:
        sockets = bind(settings.host, settings.port)
        run_server(settings, sockets, ready=lambda: announce(settings, sockets))
    else:
        Workers(settings).run()


def set_up_logging(settings: Settings) -> None:
    """One readable line for each entry, on stderr."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(Lines("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[lines], force=True)
    # Never more than this: at debug it writes each WebSocket's headers, and in them its token.
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    if settings.log_level != "debug":
        # What uvicorn tells of its own coming and going is told here in one line.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)


class Lines(logging.Formatter):
    """An entry is a line, and of a traceback each line is one of text: what a peer has sent may
    stand in it, and must be neither an entry of its own nor a command to a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return _plain(super().formatMessage(record).rstrip())

    def formatException(self, ei: Any) -> str:  # noqa: N802
        # Indented, so that no line of it looks like an entry.
        lines = super().formatException(ei).split("\n")
        return "\n".join("  " + _plain(line) for line in lines)


def _plain(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def announce(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Prints the one line that says where it listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = sockets[0].getsockname()[1]
    click.echo(f"realtime: listening on http://{host}:{port}")
    sys.stdout.flush()


# ------------------------------------------------------------------------------------ one process


class Server(uvicorn.Server):
    """uvicorn's server, which sends its connections away before it closes them."""

    def __init__(
        self,
        config: uvicorn.Config,
        runtime: Runtime,
        *,
        ready: Callable[[], None],
        signals: Sequence[signal.Signals],
    ) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._ready = ready
        self._signals = signals

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._runtime.has_failed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # It goes on accepting meanwhile: a balancer takes its time to hear of the end.
        drain_s = self._runtime.settings.drain_s
        deadline = time.monotonic() + drain_s
        # A part of the time is kept for requests that are still being answered then.
        streams_s = drain_s - min(drain_s / 5, 1.0)
        draining = asyncio.create_task(self._runtime.drain(streams_s))
        while not (draining.done() or self.force_exit or time.monotonic() >= deadline):
            await asyncio.wait({draining}, timeout=0.05)
        draining.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await draining
        # Nobody comes in from here on; whoever just did is sent away like the others before it
        # is closed.
        for one in self.servers:
            one.close()
        for listening in sockets or []:
            listening.close()
        late = time.monotonic() + LATE_S
        while self.server_state.connections and not self.force_exit and time.monotonic() < late:
            await asyncio.sleep(LATE_S / 10)
            if self._runtime.hub.connections:
                await self._runtime.hub.drain(LATE_S)
                break
        # Requests that are being answered get what is left of the time.
        left_s = 0.0 if self.force_exit else max(deadline - time.monotonic(), 0.5)
        self.config.timeout_graceful_shutdown = left_s  # type: ignore[assignment]
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # As uvicorn's, but a signal that was obeyed is not raised once more at the end: to be
        # asked to stop is no failure.
        before = {which: signal.signal(which, self.handle_exit) for which in self._signals}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Who asks twice does not want to wait.
        self.force_exit = self.should_exit
        self.should_exit = True


def run_server(
    settings: Settings,
    sockets: Sequence[socket.socket],
    *,
    ready: Callable[[], None],
    serving: Callable[[Server], None] = lambda _server: None,
    signals: Sequence[signal.Signals] = _SIGNALS,
) -> None:
    """Serves in this process, on these sockets, until a signal ends it. Raises CannotServe."""
    app = create_app(settings)
    runtime: Runtime = app.state.runtime
    config = Config(
        app,
        handshakes=Handshakes(settings.unauthenticated, settings.handshake_s),
        loop=settings.loop,
        http="realtime.frames:HttpProtocol",
        ws="realtime.frames:FramesProtocol",
        ws_max_size=settings.message_bytes,
        ws_per_message_deflate=settings.deflate,
        lifespan="off",  # begun below, where what goes wrong can be told in one line
        log_config=None,
        access_log=settings.access_log,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = Server(config, runtime, ready=ready, signals=signals)

    async def main() -> None:
        async with app.router.lifespan_context(app):
            if runtime.authority.open:
                log.warning(
                    "no API key is configured: everybody on this machine may do everything "
                    "(RUNSTREAM_API_KEY or `realtime key create` ends that)"
                )
            elif not runtime.authority.has_key:
                raise CannotServe(
                    f"no API key is configured, so it listens on this machine only and not on "
                    f"{settings.host}: set RUNSTREAM_API_KEY, or make a key with "
                    f"`realtime key create NAME`"
                )
            serving(server)
            calm_gc()
            await server.serve(list(sockets))

        if runtime.has_failed:
            raise CannotServe("a part failed that nothing goes on without; the log says which")

    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(main())
    except (StoreError, OSError) as error:
        raise CannotServe(str(error)) from error
    finally:
        for one in sockets:
            one.close()


def calm_gc() -> None:
    """Spares the collector what is there for good, and has it look less often.

    What a change makes is freed by counting; to look through all connections for cycles each
    time a few thousand objects were made is what fan-out would mostly wait for.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def bind(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Sockets bound to all addresses of the host, on one port. Raises CannotServe."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotServe(f"{host} is no address of this machine: {error.strerror}") from error
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        # Port 0 takes a free one for the first address, and the same for the others.
        taken = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bound(family, (address[0], taken, *address[2:]), shared))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                absent = error  # `localhost` may name ::1 where there is no IPv6
                continue
            for one in sockets:
                one.close()
            raise CannotServe(_why_not(host, port, error)) from error
    if not sockets:
        raise CannotServe(_why_not(host, port, absent or OSError("no address")))
    return sockets


def _bound(family: int, address: tuple[Any, ...], shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        # A socket that only is bound takes nobody's port away: whoever listens has it.
        if not shared:
            one.listen(2048)
    except OSError:
        one.close()
        raise
    return one


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has"
    return f"cannot listen on {host}, port {port}: {error.strerror}"


# ---------------------------------------------------------------------------------- many processes


class Workers:
    """Several server processes on one port: starts them, starts again what dies, ends them all.

    Each has a socket of its own on the port, so that the kernel shares out the connections
    evenly; with one socket for all, whoever is awake first takes most.
    """

    RESTART_S: Final = 1.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = get_context("spawn")
        self._workers: dict[Any, connection.Connection] = {}
        self._stopping = False
        self._killing = False

    def run(self) -> None:
        """Until a signal ends it. Raises CannotServe if the workers cannot start."""
        settings = self._settings
        # Nobody else may have the port; then it is held, also while a worker starts again.
        for one in bind(settings.host, settings.port):
            one.close()
        held = bind(settings.host, settings.port, shared=True)
        before = {which: signal.signal(which, self._asked_to_stop) for which in _SIGNALS}
        try:
            for _ in range(settings.workers):
                self._start()
            if self._await_ready():
                announce(settings, held)
            self._watch()
        finally:
            self._end()
            for which, handler in before.items():
                signal.signal(which, handler)
            for one in held:
                one.close()

    def _asked_to_stop(self, sig: int, frame: FrameType | None) -> None:
        self._killing = self._stopping
        self._stopping = True

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(self._settings, theirs), name="realtime worker"
        )
        # Ctrl-C reaches the whole family, and the parent decides what it means. A worker is born
        # with it held back, or one that is just starting would die of it with a traceback.
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
        theirs.close()
        self._workers[process] = ours

    def _await_ready(self) -> bool:
        """Whether all serve; False if it was asked to stop before. Raises CannotServe."""
        waiting = set(self._workers.values())
        while waiting and not self._stopping:
            for one in connection.wait(list(waiting), timeout=0.1):
                assert isinstance(one, connection.Connection)
                try:
                    said = one.recv()
                except EOFError:
                    said = "a worker ended while it started"
                if said is not None:
                    raise CannotServe(str(said))
                waiting.discard(one)
        return not self._stopping

    def _watch(self) -> None:
        while not self._stopping:
            # `connection.wait` does not wake for a signal: PEP 475 begins it again.
            connection.wait([process.sentinel for process in self._workers], timeout=0.2)
            for process in [one for one in self._workers if one.exitcode is not None]:
                if self._stopping:
                    break
                log.error(
                    "worker %s ended with %s: starting another", process.pid, process.exitcode
                )
                self._workers.pop(process).close()
                time.sleep(self.RESTART_S)
                self._start()

    def _end(self) -> None:
        for process in self._workers:
            if process.exitcode is None:
                process.terminate()
        deadline = time.monotonic() + self._settings.drain_s + 5
        while any(process.exitcode is None for process in self._workers):
            if self._killing or time.monotonic() > deadline:
                for process in self._workers:
                    process.kill()
            time.sleep(0.02)
        for process, pipe in self._workers.items():
            process.join()
            pipe.close()


def _work(settings: Settings, parent: connection.Connection) -> None:
    """One worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up_logging(settings)

    def serving(server: Server) -> None:
        # A parent that was killed takes its workers along: its end of the pipe closes.
        def orphaned() -> None:
            asyncio.get_running_loop().remove_reader(parent.fileno())
            server.should_exit = True

        asyncio.get_running_loop().add_reader(parent.fileno(), orphaned)

    try:
        run_server(
            settings,
            bind(settings.host, settings.port, shared=True),
            ready=lambda: parent.send(None),
            serving=serving,
            signals=(signal.SIGTERM,),
        )
    except CannotServe as error:
        with contextlib.suppress(OSError):
            parent.send(str(error))
        raise SystemExit(1) from None
