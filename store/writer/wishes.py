"""The claims that wait for a run, and which of them go along with the next transaction."""

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
"""How many wishes one transaction takes along at most."""

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


class Wish:
    """A claim that waits for a run; which, is found in a transaction."""

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
        """Its claim of that run."""
        claim = ClaimRun(
            project=self.project, run_id=run_id, worker=self.worker, lease_s=self.lease_s
        )
        return Submission(
            project=self.project,
            commands=(claim,),
            key=None if self.key is None else self.key.key,
            fingerprint="" if self.key is None else self.key.fingerprint,
        )


class Wishes:
    """The wishes of one process. Each is in one transaction at a time, or in none.

    One that wants to be looked for is taken along by the next transaction; one that has found
    nothing waits, and is taken along by those that may queue something.
    """

    def __init__(self) -> None:
        self.begin: Callable[[], None] = lambda: None
        """Called when there is something to look for: begins a transaction if it can."""
        self.give_back: Callable[[Run, Key | None], None] = lambda _run, _key: None
        """Called with what was found for nobody, and its claim's key: queues it again."""
        self._all: dict[Wish, None] = {}
        self._looking: dict[Wish, None] = {}
        """Those that no transaction has taken along yet."""
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    @property
    def looking(self) -> int:
        """How many want to be looked for at once."""
        return len(self._looking)

    @property
    def queues(self) -> set[Queue]:
        """Where it is waited for runs."""
        return {queue for wish in self._all for queue in wish.queues}

    def look(self, wish: Wish) -> asyncio.Future[Tried]:
        """What comes of one look for it: of the next, or of the one that is under way."""
        wish.future = asyncio.get_running_loop().create_future()
        # Who goes along only for what the group queues is not looked for in it.
        wish.missed = wish.riding and not wish.looks
        wish.looks = True
        self._all[wish] = None
        if self._closed:
            wish.future.set_exception(_stopping())
        elif not wish.riding:
            self._looking[wish] = None
            self.begin()
        return wish.future

    def wait(self, wish: Wish) -> asyncio.Future[Tried]:
        """What comes of the next look that there is a reason for."""
        if self._closed or wish.missed:
            return self.look(wish)
        wish.future = asyncio.get_running_loop().create_future()
        wish.looks = False
        return wish.future

    def told(self, wish: Wish) -> Tried | None:
        """What was found for it, if it has been told that already."""
        future = wish.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return None
        return future.result()

    def refuse(self, wish: Wish) -> None:
        """Its claimer has gone: a run that it has been told of already is given back."""
        told = self.told(wish)
        if told is not None:
            self._for_nobody(wish, told)

    def drop(self, wish: Wish) -> None:
        """It waits no more; what is found all the same is found for nobody."""
        self._all.pop(wish, None)
        self._looking.pop(wish, None)
        wish.future.cancel()

    def take(self, *, waiting: bool) -> list[Wish]:
        """Those for the next transaction, the longest waiting first; `waiting` ones too or not."""
        some = list(islice(self._looking, AT_ONCE))
        if waiting:
            some += islice(filter(_waits, self._all), AT_ONCE - len(some))
        some.sort(key=lambda wish: wish.order)
        for wish in some:
            wish.riding = True
            self._looking.pop(wish, None)
        return some

    def back(self, some: Sequence[Wish], tried: Sequence[Tried | StoreError]) -> None:
        """Tells each what came of the look for it; what was found for nobody is given back."""
        for wish, one in zip(some, tried, strict=True):
            wish.riding = False
            if wish.future.done():
                if isinstance(one, Tried):
                    self._for_nobody(wish, one)
            elif isinstance(one, StoreError):
                wish.future.set_exception(one)
            elif one.run is not None or one.again or self._closed:
                wish.future.set_result(one)
            elif wish.missed:
                self._look_again(wish)
            elif wish.looks:
                wish.future.set_result(one)

    def fail(self, some: Sequence[Wish], error: Exception) -> None:
        """Tells those whom it concerns that there was no look, or that nobody knows its outcome."""
        for wish in some:
            wish.riding = False
            # While the database is away, who waits goes on waiting.
            concerned = wish.looks or self._closed or not isinstance(error, Unavailable)
            if concerned and not wish.future.done():
                wish.future.set_exception(error)

    def wake(self, queued: Counter[Queue]) -> None:
        """Has as many look again as there are runs newly queued. Never raises, never waits."""
        left = queued.total()
        for wish in self._all:
            if not left:
                break
            if _waits(wish) and one_of(wish, queued):
                left -= 1
                self._look_again(wish)
        if left:
            # Of those that are just being looked for it is not known whether that came too early.
            for wish in self._all:
                if wish not in self._looking and any(queued[queue] for queue in wish.queues):
                    wish.missed = True
        if self._looking:
            self.begin()

    def close(self) -> None:
        """Sends home who waits, but for those in a transaction, which are told what came of it."""
        self._closed = True
        self._looking.clear()
        for wish in self._all:
            if not wish.riding and not wish.future.done():
                wish.future.set_exception(_stopping())

    def _for_nobody(self, wish: Wish, tried: Tried) -> None:
        # Another who came with the same key may have been told of it, and be executing it.
        if tried.run is not None and tried.first:
            self.give_back(tried.run, wish.key)

    def _look_again(self, wish: Wish) -> None:
        wish.looks = True
        wish.missed = False
        self._looking[wish] = None


def _waits(wish: Wish) -> bool:
    return not (wish.looks or wish.riding or wish.future.done())


def one_of(wish: Wish, queued: Counter[Queue]) -> bool:
    """Whether it may have one of the queued runs; that one is counted off."""
    for queue in wish.queues:
        if queued[queue] > 0:
            queued[queue] -= 1
            return True
    return False


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping")
