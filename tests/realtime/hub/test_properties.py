"""Random histories and faults: every stream must equal what the store says.

Each of these was taken out of the code, and this seen to fail: the join's horizon, `previousXid`,
what the horizon has seen, the group rule, the end that waits for the tail, the version that is
remembered until its transaction is seen, the place of the older entry in the mailbox.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from realtime.hub import Hub, HubSettings
from realtime.session import SessionSettings
from store.broker import Hint
from store.lifecycle import FINAL
from store.model import Filter, Match, Run, RunStatus, Selection
from tests.doubles import FakeBroker, FakeGrant, FakeStore, FakeTransaction
from tests.realtime.watching import Watch, Watcher, turns

ROUNDS = 400
STEPS = ["QUEUED", "EXECUTING", "EXECUTING", "COMPLETED", "FAILED"]
FILTERS: list[list[str] | None] = [None, None, ["QUEUED"], ["QUEUED", "EXECUTING"]]


class _Errors(logging.Handler):
    """What the hub logs as an error, it has not expected."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(self.format(record))


class Streams(RuleBasedStateMachine):
    """Writers, two hubs and three clients over one store."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.errors: list[str] = []
        self.log = _Errors(self.errors)
        logging.getLogger().addHandler(self.log)
        self.count = 0

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = FakeStore(self.chance)
        self.store.slowness = self.chance.choice([(0, 0, 1, 2), (0, 1, 4, 9)])
        self.store.pages_of = self.chance.choice([1, 2, None])
        self.store.inline_bytes = self.chance.choice([20, 1_000_000])
        self.brokers = [FakeBroker(at_once=False) for _ in range(2)]
        self.store.publish = self.publish
        self.loss = [0.0, 0.0]
        how = HubSettings(
            tail_s=1_000.0,
            session=SessionSettings(checkpoint_s=0.0, heartbeat_s=1_000.0),
            payload_cache_bytes=self.chance.choice([0, 1_000_000]),
            linger_s=self.chance.choice([0.0, 1_000.0]),
        )
        self.hubs = [Hub(self.store, broker, settings=how) for broker in self.brokers]
        self.running = [self.loop.create_task(hub.run()) for hub in self.hubs]
        self.turn(5)
        self.watchers = [Watcher(self.store) for _ in range(3)]
        self.open: list[FakeTransaction] = []
        self.batch_ids: list[str] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def inside(self, do: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Does it on the loop, as everything that the hub is told is."""

        async def done() -> None:
            do(*args, **kwargs)

        self.run(done())

    def turn(self, count: int) -> None:
        self.run(turns(count))
        assert not self.errors, self.errors
        for watcher in getattr(self, "watchers", ()):
            watcher.read()

    def publish(self, hints: Sequence[Hint]) -> None:
        for broker, loss in zip(self.brokers, self.loss, strict=True):
            broker.publish([hint for hint in hints if self.chance.random() >= loss])

    # ------------------------------------------------------------------------------- writers

    @rule(chance=st.randoms(use_true_random=False), count=st.integers(1, 4))
    @precondition(lambda self: len(self.open) < 4)
    def begin(self, chance: random.Random, count: int) -> None:
        transaction = self.store.begin()
        self.open.append(transaction)
        for _ in range(count):
            self.command(transaction, chance)

    @rule(chance=st.randoms(use_true_random=False), count=st.integers(1, 4), dies=st.booleans())
    def write(self, chance: random.Random, count: int, dies: bool) -> None:
        """A short transaction."""
        transaction = self.store.begin()
        for _ in range(count):
            self.command(transaction, chance)
        self.inside(transaction.commit, publish=not dies or count > 1)
        self.turn(count - 1)

    def command(self, transaction: FakeTransaction, chance: random.Random) -> None:
        store = self.store
        lively = [id for id in list(store.runs)[-5:] if transaction.can_lock(id)]
        what = chance.random()
        if what < 0.15 or not lively:
            self.count += 1
            batches = [
                id
                for id in self.batch_ids
                if store.batches[id] is None and transaction.can_lock(id)
            ]
            jobs = [
                id
                for id in list(store.runs)[-8:]
                if id.startswith("job")
                and transaction.can_lock(id)
                and store.runs[id].status not in FINAL
            ]
            id = f"{chance.choice(['run', 'run', 'job'])}{self.count:04}"
            transaction.create(
                id,
                tags=tuple(tag for tag in "ab" if chance.random() < 0.5),
                batch_id=chance.choice(batches) if batches and chance.random() < 0.7 else None,
                parent_run_id=chance.choice(jobs) if jobs and chance.random() < 0.9 else None,
            )
        elif what < 0.2 and len(self.batch_ids) < 3:
            self.batch_ids.append(f"batch{len(self.batch_ids)}")
            transaction.open_batch(self.batch_ids[-1])
        elif what < 0.25:
            for id in self.batch_ids:
                if store.batches[id] is None and transaction.can_lock(id):
                    transaction.seal(id)
                    break
        else:
            self.change(transaction, chance, chance.choice(lively))

    def change(self, transaction: FakeTransaction, chance: random.Random, id: str) -> None:
        run = transaction.state(id)
        if run is None:
            return
        what = chance.random()
        if what < 0.5:
            tag = chance.choice("ab")
            tags = tuple(t for t in run.tags if t != tag) if tag in run.tags else (*run.tags, tag)
            transaction.update(id, tags=tags)
        elif what < 0.7:
            transaction.update(id, metadata={"n": run.version, "pad": "x" * chance.choice([0, 40])})
        elif run.status not in FINAL:
            self.step(transaction, chance, run)
        elif what < 0.75 and run.batch_id is None and run.parent_run_id is None:
            transaction.delete(id)

    def step(self, transaction: FakeTransaction, chance: random.Random, run: Run) -> None:
        """A transition. A job run is over with the last of its children, or later."""
        if run.id.startswith("job"):
            children = [each for each in self.store.runs.values() if each.parent_run_id == run.id]
            if not all(transaction.can_lock(child.id) for child in children):
                return
            for child in children:
                state = transaction.state(child.id)
                if state is not None and state.status not in FINAL:
                    transaction.update(child.id, status=RunStatus.COMPLETED)
        transaction.update(run.id, status=RunStatus(chance.choice(STEPS)))

    @rule(index=st.integers(0, 3), dies=st.booleans(), aborts=st.integers(0, 9))
    @precondition(lambda self: self.open)
    def finish(self, index: int, dies: bool, aborts: int) -> None:
        transaction = self.open.pop(index % len(self.open))
        if aborts == 0:
            transaction.abort()
        else:
            self.inside(transaction.commit, publish=not dies or aborts > 3)
        self.turn(1)

    # -------------------------------------------------------------------------------- the way

    @rule(which=st.integers(0, 1), index=st.integers(0, 99), again=st.booleans())
    def deliver(self, which: int, index: int, again: bool) -> None:
        broker = self.brokers[which]
        if broker.waiting:
            index = index % len(broker.waiting)
            self.inside(broker.deliver, index, keep=again and index % 3 == 0)
            self.turn(1)

    @rule(which=st.integers(0, 1))
    def deliver_all(self, which: int) -> None:
        while self.brokers[which].waiting:
            self.inside(self.brokers[which].deliver, 0)
        self.turn(2)

    @rule(which=st.integers(0, 1), loss=st.sampled_from([0.0, 0.5, 1.0]))
    def lose(self, which: int, loss: float) -> None:
        self.loss[which] = loss

    @rule(which=st.integers(0, 1), count=st.integers(0, 12))
    def tail(self, which: int, count: int) -> None:
        self.inside(self.hubs[which].suspect, None, "test")
        self.turn(count)

    @rule(
        which=st.integers(0, 1),
        before=st.integers(0, 6),
        chance=st.randoms(use_true_random=False),
        hints=st.integers(0, 4),
        after=st.integers(0, 6),
    )
    def tail_and_meanwhile(
        self, which: int, before: int, chance: random.Random, hints: int, after: int
    ) -> None:
        """Something is committed and hinted while a statement of the tail is under way."""
        self.tail(which, before)
        self.write(chance, 1 + hints % 2, False)
        waiting = self.brokers[which].waiting
        while waiting and hints:
            self.inside(self.brokers[which].deliver, chance.randrange(len(waiting)))
            hints -= 1
        self.turn(after)

    @rule(count=st.integers(1, 10))
    def go_on(self, count: int) -> None:
        self.turn(count)

    # -------------------------------------------------------------------------------- clients

    @rule(
        who=st.integers(0, 2),
        kind=st.sampled_from(
            ["tag", "tags", "any", "run", "batch", "job", "job", "all", "granted"]
        ),
        statuses=st.sampled_from(FILTERS),
        latest=st.booleans(),
        stops=st.sampled_from([True, True, False]),
        skip=st.sampled_from([[], [], ["payload", "metadata"]]),
        pick=st.integers(0, 99),
    )
    def subscribe(
        self,
        who: int,
        kind: str,
        statuses: list[str] | None,
        latest: bool,
        stops: bool,
        skip: list[str],
        pick: int,
    ) -> None:
        watcher = self.watchers[who]
        if sum(not watch.ended for watch in watcher.watches) >= 4:
            return
        target: dict[str, Any]
        id = ""
        asked: dict[str, Any] = {}
        runs = [id for id in list(self.store.runs)[-8:] if id.startswith("run")]
        jobs = [run.parent_run_id for run in self.store.runs.values() if run.parent_run_id]
        if kind in ("run", "granted"):
            if kind == "granted":
                runs = [id for id in runs if "a" in self.store.runs[id].tags]
            if not runs or (kind == "granted" and who != 2):
                return
            id = runs[pick % len(runs)]
            asked = {"type": "subscribeToRun", "runId": id}
            target = {"run_id": id}
        elif kind == "job":
            if not jobs:
                return
            id = jobs[pick % len(jobs)]
            asked = {"type": "subscribeToJobRun", "jobRunId": id}
            target = {"job_run_id": id}
        elif kind == "batch":
            if not self.batch_ids:
                return
            id = self.batch_ids[pick % len(self.batch_ids)]
            asked = {"type": "subscribeToBatch", "batchId": id}
            target = {"batch_id": id}
        elif kind == "all":
            asked, target = {"type": "subscribeToRuns"}, {}
        else:
            tags = ["a", "b"] if kind != "tag" else ["ab"[pick % 2]]
            match = Match.ANY if kind == "any" else Match.ALL
            asked = {"type": "subscribeToRunsWithTag", "tags": tags, "match": match}
            target = {"tags": tuple(tags), "match": match}
        if statuses and kind in ("tag", "tags", "any", "all"):
            asked["statuses"] = statuses
            target["filter"] = Filter(statuses=frozenset(map(RunStatus, statuses)))
        selection = Selection(project="default", **target)
        grant = self.grant_of(who)
        if not grant.allows(selection):
            return
        if who == 2 and kind == "run" and "a" not in self.store.runs[id].tags:
            return
        watch = Watch(
            watcher.next_id,
            asked
            | {
                "id": watcher.next_id,
                "delivery": "latest" if latest else "every",
                "skip": skip,
                "stopOnCompletion": stops,
            },
            selection,
            grant=grant,
            latest=latest,
            stops=stops,
        )
        watcher.next_id += 1
        self.run(watcher.add(watch))

    def grant_of(self, who: int) -> FakeGrant:
        return FakeGrant(tags=frozenset("a")) if who == 2 else FakeGrant()

    @rule(who=st.integers(0, 2), which=st.integers(0, 1))
    def connect(self, who: int, which: int) -> None:
        watcher = self.watchers[who]
        if watcher.connection is None:
            self.run(watcher.connect(self.hubs[which], self.grant_of(who)))

    @rule(who=st.integers(0, 2), unread=st.integers(0, 5))
    def cut(self, who: int, unread: int) -> None:
        self.inside(self.watchers[who].cut, unread=unread)

    @rule(who=st.integers(0, 2))
    def stall(self, who: int) -> None:
        self.watchers[who].outlet.writable = False

    @rule(who=st.integers(0, 2))
    def read_on(self, who: int) -> None:
        self.let_read(self.watchers[who])

    def let_read(self, watcher: Watcher) -> None:
        watcher.outlet.writable = True
        if watcher.connection is not None:
            self.inside(watcher.connection.writable)
        watcher.read()

    @rule()
    @precondition(lambda self: not self.open)
    def new_epoch(self) -> None:
        if self.chance.random() < 0.1:
            self.store.epoch = f"e{self.chance.random()}"

    # ------------------------------------------------------------------------------- settling

    @rule()
    def settle(self) -> None:
        while self.open:
            self.inside(self.open.pop().commit)
        for broker in self.brokers:
            while broker.waiting:
                self.inside(broker.deliver, self.chance.randrange(len(broker.waiting)))
                if self.chance.random() < 0.3:
                    self.turn(1)
        problem = None
        for _ in range(ROUNDS):
            for hub in self.hubs:
                self.inside(hub.suspect, None, "test")
            for who, watcher in enumerate(self.watchers):
                if watcher.connection is None:
                    hub = self.chance.choice(self.hubs)
                    self.run(watcher.connect(hub, self.grant_of(who)))
                self.let_read(watcher)
            self.turn(8)
            problem = next(filter(None, (each.problem() for each in self.watchers)), None)
            if problem is None:
                break
        assert problem is None, problem

    def teardown(self) -> None:
        logging.getLogger().removeHandler(self.log)
        if not hasattr(self, "running"):
            self.loop.close()
            return
        try:
            self.settle()
        finally:
            for task in self.running:
                task.cancel()
            self.run(asyncio.wait(self.running))
            left = asyncio.all_tasks(self.loop)
            self.loop.close()
        assert not left, left


def test_every_stream_equals_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is lost, late, doubled, cut or done at the same time."""
    monkeypatch.setattr("realtime.hub.project.batches.INTERVAL_S", 0.0)
    how = settings(stateful_step_count=60, max_examples=settings().max_examples // 2)
    run_state_machine_as_test(Streams, settings=how)
