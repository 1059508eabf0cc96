"""Several workers on one port: what two of them deliver beside one, and how evenly they share.

The readers are told one change after the other, as fast as all of them have it. With two cores,
server and load have to share them, so what is compared is twofold: deliveries a second, and what
they would be if the load cost nothing. The second comes from CPU: with `workers` on as many cores
a delivery takes as long as the busiest of the workers computes for it.

Each worker commits and tells what it is asked to; readers of the others hear of it over Redis.
A version that is missing or comes twice ends the benchmark without a number.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psutil

from bench.http import Caller, Refused
from bench.load import Lost, Watchers, cpu_s, raise_limit, subscribers
from bench.stats import table
from bench.waiting import until
from tests.processes import Server
from tests.servers import Postgres, Valkey

READERS: Final = 2_000
ROUNDS: Final = 5
TIMES: Final = 40
"""Requests in a round."""
BURSTS: Final = (1, 10)
"""Changes in each."""
TAG: Final = "bench"
NOTE: Final = "x" * 108
WORKERS: Final = (1, 2)


@dataclass(frozen=True)
class Round:
    """What one round took, in s, and of that the CPU of each worker."""

    wall_s: float
    cpu_s: list[float]

    @property
    def busiest_s(self) -> float:
        return max(self.cpu_s)


def main(rounds: int = ROUNDS) -> None:
    raise_limit(2 * READERS)
    spreads: dict[int, list[int]] = {}
    found: dict[tuple[int, int], list[Round]] = {}
    with Postgres(fsync=True) as postgres, Valkey() as valkey:
        for workers in WORKERS:
            args = ["--workers", str(workers)]
            with Server(postgres.create_database(), valkey.url, args=args) as server:
                spreads[workers], modes = asyncio.run(measure(server, workers, rounds))
                found |= {(workers, burst): modes[burst] for burst in BURSTS}
    report(spreads, found)


def short() -> None:
    main(2)


async def measure(
    server: Server, workers: int, rounds: int
) -> tuple[list[int], dict[int, list[Round]]]:
    """How many readers each worker has; and for each size of burst its rounds, after one that
    warms up. Raises Lost."""
    found: dict[int, list[Round]] = {burst: [] for burst in BURSTS}
    pids = processes(server, workers)
    async with Caller.open(server.port) as caller:
        run = await caller.call(
            "POST", "/v1/runs", {"taskIdentifier": "bench", "tags": [TAG], "status": "EXECUTING"}
        )
        ask = {"type": "subscribeToRunsWithTag", "id": 1, "tag": TAG}
        async with subscribers(server.port, READERS, [ask]) as readers:
            # The caller is one more.
            await until(lambda: sum(map(connections, pids)) == READERS + 1)
            spread = [connections(pid) for pid in pids]
            version = 1
            for round_ in range(rounds + 1):
                for burst in BURSTS:
                    taken = await told(readers, caller, run["id"], pids, version, burst)
                    version += TIMES * burst
                    if round_:
                        found[burst].append(taken)
    return spread, found


async def told(
    readers: Watchers, caller: Caller, run_id: str, pids: Sequence[int], version: int, burst: int
) -> Round:
    """One round, from the version that is there."""
    before = [cpu_s(pid) for pid in pids]
    began = time.perf_counter()
    readers.say("reset")
    said: dict[str, Any] = {}
    for _ in range(TIMES):
        readers.expect(version + 1, version + burst)
        await change(caller, run_id, version, burst)
        said = await readers.done()
        version += burst
    wall_s = time.perf_counter() - began
    if said["messages"] != READERS * TIMES * burst:
        raise Lost(f"{said['messages']} of {READERS * TIMES * burst} came")
    return Round(wall_s, [cpu_s(pid) - then for pid, then in zip(pids, before, strict=True)])


async def change(caller: Caller, run_id: str, version: int, count: int) -> None:
    commands = [
        {"update": {"runId": run_id, "metadata": {"step": version + i, "note": NOTE}}}
        for i in range(count)
    ]
    said = await caller.call("POST", "/v1/runs/bulk", {"commands": commands})
    if any("error" in result for result in said["results"]):
        raise Refused(str(said))


def processes(server: Server, workers: int) -> list[int]:
    """The ids of those that serve."""
    if workers == 1:
        return [server.pid]
    return [
        child.pid
        for child in psutil.Process(server.pid).children()
        if any("spawn_main" in word for word in child.cmdline())
    ]


def connections(pid: int) -> int:
    """How many clients are connected to it."""
    mine = psutil.Process(pid).net_connections("tcp")
    listening = {each.laddr for each in mine if each.status == psutil.CONN_LISTEN}
    return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr in listening for each in mine)


def report(
    spreads: Mapping[int, Sequence[int]], found: Mapping[tuple[int, int], Sequence[Round]]
) -> None:
    rows: list[list[object]] = []
    rates: dict[tuple[int, int], tuple[float, float]] = {}
    for burst in BURSTS:
        count = READERS * TIMES * burst
        for workers in WORKERS:
            rounds = found[workers, burst]
            wall = count / statistics.median(each.wall_s for each in rounds)
            alone = count / statistics.median(each.busiest_s for each in rounds)
            rates[workers, burst] = wall, alone
            cost = statistics.median(sum(each.cpu_s) for each in rounds) / count * 1e6
            rows.append([burst, workers, wall, cost, alone])
    rounds_ = len(found[WORKERS[0], BURSTS[0]])
    print(f"{READERS:,} readers of one tag; medians of {rounds_} rounds\n")
    head = ["changes a request", "workers", "deliveries/s", "CPU, µs a delivery"]
    print(table([*head, "a CPU-second of the busiest"], rows))
    print()
    for burst in BURSTS:
        (wall, alone), (one_wall, one_alone) = rates[WORKERS[-1], burst], rates[WORKERS[0], burst]
        print(
            f"{burst} a request: two workers with a core each deliver {alone / one_alone:.2f} times"
            f" what one does; beside the load, on these cores, {wall / one_wall:.2f}"
        )
    spread = spreads[WORKERS[-1]]
    fair = (READERS + 1) / len(spread)
    print(
        f"connections of each worker: {', '.join(map(str, spread))};"
        f" up to {max(abs(share - fair) for share in spread):.0f} from an even share, where chance"
        f" alone would have it stray by {math.sqrt(READERS) / 2:.0f}"
    )


if __name__ == "__main__":
    main()
