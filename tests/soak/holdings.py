"""What a server process holds, to be compared: at its beginning, and once all its clients have gone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import psutil

from tests.processes import Server

POOLS: Final = 24
"""So many sockets to PostgreSQL and Redis a process may have: its pools fill as they are needed, up
to 12 readers and 4 writers, and there are a few for hints."""


@dataclass(frozen=True)
class Holdings:
    """What one process holds."""

    memory_mb: float
    clients: int
    """Sockets that its clients have opened."""
    pools: int
    """Sockets that it has opened itself."""
    files: int
    """All other descriptors, but for those of a SQLite file, which is in a pool too."""
    tasks: int
    streams: int
    owed: int
    """Bytes that its streams are owed."""

    @classmethod
    def of(cls, server: Server) -> Holdings:
        """What it holds now; the call that asks for it is none of its clients."""
        process = psutil.Process(server.pid)
        with _asking(server) as (metrics, own_port):
            sockets = {each.fd: each for each in process.net_connections()}
            files = _files(server.pid)
        clients = pools = 0
        for each in sockets.values():
            asks = getattr(each.raddr, "port", None) == own_port
            if asks or each.status == psutil.CONN_LISTEN:
                continue
            is_clients = each.laddr.port == server.port
            clients, pools = clients + is_clients, pools + (not is_clients)
        _, _, database = server.database.partition("sqlite:///")
        return cls(
            memory_mb=process.memory_info().rss / 1e6,
            clients=clients,
            pools=pools,
            files=sum(
                fd not in sockets and not (database and path.startswith(database))
                for fd, path in files.items()
            ),
            tasks=int(metrics["runstream_tasks"]),
            streams=int(metrics.get("runstream_connections", 0)),
            owed=int(metrics["runstream_mailbox_bytes"]),
        )

    def beyond(self, before: Holdings) -> list[str]:
        """What there is more of than before; memory is not looked at."""
        found = [
            f"{name}: {was} before, {now} now"
            for name in ("clients", "files", "tasks", "streams", "owed")
            if (now := getattr(self, name)) > (was := getattr(before, name))
        ]
        if self.pools > POOLS:
            found.append(f"pools: {self.pools}, at most {POOLS}")
        return found

    def __str__(self) -> str:
        return (
            f"{self.memory_mb:.1f} MB, {self.clients} sockets of clients, {self.pools} of pools,"
            f" {self.files} other files, {self.tasks} tasks, {self.streams} streams"
        )


def at_rest(server: Server, before: Holdings, within_s: float) -> Holdings:
    """What it holds once that is no more than before, or the time is over."""
    deadline = time.monotonic() + within_s
    while (now := Holdings.of(server)).beyond(before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return now


def _files(pid: int) -> dict[int, str]:
    found = {}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(each.name)] = str(each.readlink())
        except FileNotFoundError:
            continue  # closed since
    return found


@contextmanager
def _asking(server: Server) -> Iterator[tuple[Mapping[str, float], int]]:
    """The sums of its metrics over all labels, and by which port they are asked for meanwhile.

    A metric with labels comes with the first of them.
    """
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        port: int = connection.sock.getsockname()[1]
        text = connection.getresponse().read().decode()
        sums: dict[str, float] = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        yield sums, port
    finally:
        connection.close()
