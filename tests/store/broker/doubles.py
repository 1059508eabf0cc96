"""Who listens to a broker in a test, who counts for it, and how a test waits for either."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from store.broker import Broker, BrokerState, Hint
from store.broker.redis import Tuning
from store.model import Change, RunStatus
from tests import faults
from tests.builders import a_change, a_run

HURRIED: Final = Tuning(
    beat_s=0.1,
    connect_s=1.0,
    send_s=0.5,
    redial_s=0.01,
    redial_most_s=0.1,
    steady_s=0.3,
    topology_s=1.0,
)
"""As fast as a busy machine lets it be told from a fault."""


class Recorder:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[list[Hint]] = []
        self.suspicions: list[tuple[str | None, str]] = []

    def hinted(self, hints: Sequence[Hint]) -> None:
        self.calls.append(list(hints))

    def suspect(self, project: str | None, reason: str) -> None:
        self.suspicions.append((project, reason))

    @property
    def hints(self) -> list[Hint]:
        return [hint for call in self.calls for hint in call]

    @property
    def changes(self) -> list[Change]:
        return [hint.change for hint in self.hints]

    @property
    def runs(self) -> list[str]:
        """The ids of the runs that were hinted at, in order."""
        return [change.run_id for change in self.changes]

    def heard(self, *hints: Hint) -> bool:
        """Whether all of these have come."""
        came = set(self.runs)
        return all(hint.change.run_id in came for hint in hints)

    def suspected(self, reason: str, project: str | None = None) -> int:
        """How often that was told."""
        return self.suspicions.count((project, reason))

    def was_suspected(self, reason: str, times: int, project: str | None = None) -> bool:
        """Whether that was told so often, or more."""
        return self.suspected(reason, project) >= times

    def has_hints(self, count: int) -> bool:
        return len(self.hints) >= count

    def forget(self) -> None:
        self.calls.clear()
        self.suspicions.clear()


class Counts:
    """Metrics that a test can look at."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()
        self.ok: bool | None = None

    def published(self, hints: int) -> None:
        self.of["published"] += hints

    def dropped(self, hints: int, reason: str) -> None:
        self.of[f"dropped {reason}"] += hints

    def received(self, hints: int) -> None:
        self.of["received"] += hints

    def suspected(self, reason: str) -> None:
        self.of[f"suspected {reason}"] += 1

    def reconnected(self, side: str) -> None:
        self.of[f"reconnected {side}"] += 1

    def canary_missed(self) -> None:
        self.of["canary missed"] += 1

    def state(self, ok: bool) -> None:
        self.ok = ok


def a_hint(project: str = "default", **over: Any) -> Hint:
    """Of a run that has begun; each has a run of its own."""
    run = a_run(
        project=project, status=RunStatus.EXECUTING, payload=None, has_payload=False, **over
    )
    return Hint(a_change(run), run)


def as_sent(hint: Hint) -> Any:
    """What of a hint a codec must keep: all but the difference of a tuple and a list."""
    return msgspec.json.decode(msgspec.json.encode(hint))


async def eventually(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Waits until it holds; the time is a bound for a broken test, no expectation."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


async def carries(here: Broker, there: Recorder, project: str = "default") -> None:
    """What one publishes reaches the other again; tried until it does."""
    async with asyncio.timeout(30):
        while True:
            here.publish([hint := a_hint(project)])
            with contextlib.suppress(TimeoutError):
                await eventually(partial(there.heard, hint), within_s=0.5)
                return


def is_ok(*brokers: Broker) -> Callable[[], bool]:
    return lambda: all(broker.state is BrokerState.OK for broker in brokers)


def is_degraded(*brokers: Broker) -> Callable[[], bool]:
    return lambda: all(broker.state is BrokerState.DEGRADED for broker in brokers)


@contextlib.asynccontextmanager
async def running(broker: Broker, *projects: str, wait: bool = True) -> AsyncIterator[Recorder]:
    """Started, following the projects, and closed; OK at the beginning unless it need not be."""
    recorder = Recorder()
    for project in projects:
        broker.follow(project)
    await broker.start(recorder)
    try:
        if wait:
            await eventually(is_ok(broker))
        yield recorder
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def led_through(url: str) -> AsyncIterator[faults.Proxy]:
    """A proxy that is closed once the connections through it have ended by themselves."""
    async with faults.Proxy(url) as proxy:
        yield proxy
        await eventually(lambda: not proxy._tasks)


@contextlib.asynccontextmanager
async def no_task_left() -> AsyncIterator[None]:
    """What was begun meanwhile must have ended, but for what a proxy has still to tidy up."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not [task for task in left if file_of(task) != faults.__file__]


def file_of(task: asyncio.Task[Any]) -> str | None:
    code = getattr(task.get_coro(), "cr_code", None)
    return None if code is None else code.co_filename
