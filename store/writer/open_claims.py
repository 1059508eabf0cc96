"""The claims that have no answer yet, and which of them go along with the next transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count, islice
from typing import Final, NamedTuple, TypeAlias

from store.commands import ClaimRun, Submission
from store.errors import StoreError, Unavailable
from store.model import Run
from store.once import Key

AT_ONCE: Final = 200
"""How many claims one transaction takes along at most."""

Queue: TypeAlias = tuple[str, str]
"""A project and a task."""


class Tried(NamedTuple):
    """What came of one look for a run."""

    run: Run | None
    again: bool = False
    """There was something, but others held it at that moment."""
    first: bool = True
    """False for what an earlier claim with its idempotency key was told."""


NOTHING: Final = Tried(None)


_orders: Final = count()


class OpenClaim:
    """A claim that has no answer yet; its run is found in a transaction."""

    __slots__ = (
        "future", "key", "lease_s", "looks", "missed", "order", "project", "riding", "tasks",
        "worker",
    )  # fmt: skip

    def __init__(
        self, project: str, tasks: frozenset[str], worker: str, lease_s: int, key: Key | None
    ) -> None:
        self.project = project
        self.tasks = tasks
        self.worker = worker
        self.lease_s = lease_s
        self.key = key
        self.order = next(_orders)
        self.looks = False
        """It wants to be looked for at once; else it waits until something is queued."""
        self.riding = False
        """It is in a transaction that is under way."""
        self.missed = False
        """Its last look may have come too early for what was queued since."""
        self.future: asyncio.Future[Tried] = asyncio.get_running_loop().create_future()

    @property
    def queues(self) -> Iterable[Queue]:
        """Where its runs wait."""
        return ((self.project, task) for task in self.tasks)

    def submission(self, run_id: str) -> Submission:
        """What claims that run for it."""
        command = ClaimRun(
            project=self.project, run_id=run_id, worker=self.worker, lease_s=self.lease_s
        )
        return Submission(
            project=self.project,
            commands=(command,),
            key=None if self.key is None else self.key.key,
            fingerprint="" if self.key is None else self.key.fingerprint,
        )


class OpenClaims:
    """The open claims of one process. Each is in one transaction at a time, or in none.

    One that wants to be looked for is taken along by the next transaction; one that has found
    nothing waits, and is taken along by those that may queue something.
    """

    def __init__(self) -> None:
        self.begin: Callable[[], None] = lambda: None
        """Called when there is something to look for: begins a transaction if it can."""
        self.give_back: Callable[[Run, Key | None], None] = lambda _run, _key: None
        """Called with what was found for nobody, and its claim's key: queues it again."""
        self._all: dict[OpenClaim, None] = {}
        self._looking: dict[OpenClaim, None] = {}
        """Those that no transaction has taken along yet."""
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    @property
    def queues(self) -> set[Queue]:
        """Where it is waited for runs."""
        return {queue for claim in self._all for queue in claim.queues}

    def look(self, claim: OpenClaim) -> asyncio.Future[Tried]:
        """What comes of one look for it: of the next, or of the one that is under way."""
        claim.future = asyncio.get_running_loop().create_future()
        # Who goes along only for what the group queues is not looked for in it.
        claim.missed = claim.riding and not claim.looks
        claim.looks = True
        self._all[claim] = None
        if self._closed:
            claim.future.set_exception(_stopping())
        elif not claim.riding:
            self._looking[claim] = None
            self.begin()
        return claim.future

    def wait(self, claim: OpenClaim) -> asyncio.Future[Tried]:
        """What comes of the next look that there is a reason for."""
        if self._closed or claim.missed:
            return self.look(claim)
        claim.future = asyncio.get_running_loop().create_future()
        claim.looks = False
        return claim.future

    def told(self, claim: OpenClaim) -> Tried | None:
        """What was found for it, if it has been told that already."""
        future = claim.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return None
        return future.result()

    def refuse(self, claim: OpenClaim) -> None:
        """Its claimer has gone: a run that it has been told of already is given back."""
        told = self.told(claim)
        if told is not None:
            self._for_nobody(claim, told)

    def drop(self, claim: OpenClaim) -> None:
        """It waits no more; what is found all the same is found for nobody."""
        self._all.pop(claim, None)
        self._looking.pop(claim, None)
        claim.future.cancel()

    def take(self, *, waiting: bool) -> list[OpenClaim]:
        """Those for the next transaction, the longest waiting first; `waiting` ones too or not."""
        some = list(islice(self._looking, AT_ONCE))
        if waiting:
            some += islice(filter(_waits, self._all), AT_ONCE - len(some))
        some.sort(key=lambda claim: claim.order)
        for claim in some:
            claim.riding = True
            self._looking.pop(claim, None)
        return some

    def back(self, some: Sequence[OpenClaim], tried: Sequence[Tried | StoreError]) -> None:
        """Tells each what came of the look for it; what was found for nobody is given back."""
        for claim, one in zip(some, tried, strict=True):
            claim.riding = False
            if claim.future.done():
                if isinstance(one, Tried):
                    self._for_nobody(claim, one)
            elif isinstance(one, StoreError):
                claim.future.set_exception(one)
            elif one.run is not None or one.again or self._closed:
                claim.future.set_result(one)
            elif claim.missed:
                self._look_again(claim)
            elif claim.looks:
                claim.future.set_result(one)

    def fail(self, some: Sequence[OpenClaim], error: Exception) -> None:
        """Tells those whom it concerns that there was no look, or that nobody knows its outcome."""
        for claim in some:
            claim.riding = False
            # While the database is away, who waits goes on waiting.
            concerned = claim.looks or self._closed or not isinstance(error, Unavailable)
            if concerned and not claim.future.done():
                claim.future.set_exception(error)

    def wake(self, queued: Counter[Queue]) -> None:
        """Has as many look again as there are runs newly queued. Never raises, never waits."""
        left = queued.total()
        for claim in self._all:
            if not left:
                break
            if _waits(claim) and one_of(claim, queued):
                left -= 1
                self._look_again(claim)
        if left:
            # Of those that are just being looked for it is not known whether that came too early.
            for claim in self._all:
                if claim not in self._looking and any(queued[queue] for queue in claim.queues):
                    claim.missed = True
        if self._looking:
            self.begin()

    def close(self) -> None:
        """Sends home who waits, but for those in a transaction, which are told what came of it."""
        self._closed = True
        self._looking.clear()
        for claim in self._all:
            if not claim.riding and not claim.future.done():
                claim.future.set_exception(_stopping())

    def _for_nobody(self, claim: OpenClaim, tried: Tried) -> None:
        # Another who came with the same key may have been told of it, and be executing it.
        if tried.run is not None and tried.first:
            self.give_back(tried.run, claim.key)

    def _look_again(self, claim: OpenClaim) -> None:
        claim.looks = True
        claim.missed = False
        self._looking[claim] = None


def _waits(claim: OpenClaim) -> bool:
    return not (claim.looks or claim.riding or claim.future.done())


def one_of(claim: OpenClaim, queued: Counter[Queue]) -> bool:
    """Whether it may have one of the queued runs; that one is counted off."""
    for queue in claim.queues:
        if queued[queue] > 0:
            queued[queue] -= 1
            return True
    return False


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping")
