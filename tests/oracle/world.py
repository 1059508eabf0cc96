"""Writers, gateways and clients over one real database, moved step by step."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar
from unittest import mock

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from realtime import ring, subscription
from realtime.hub import Hub, HubSettings, cohorts, joining, progress, project
from realtime.session import SessionSettings
from store import Retention, RunStore, open_broker
from store.broker import Broker, BrokerState, Hint
from store.broker.redis import RedisBroker
from store.commands import (
    ClaimRun,
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    JobOrder,
    Limits,
    MetadataOp,
    MetadataOperation,
    MetadataTarget,
    MutateMetadata,
    NewRun,
    SealBatch,
    Submission,
    UpdateRun,
)
from store.engine import Database, Sqlite, open_database
from store.errors import NotFound, OutcomeUnknown, Unavailable
from store.housekeeping import Housekeeping
from store.jobs.definitions import NewJob, NewWorkflow
from store.lifecycle import FINAL, NEXT
from store.model import Run, RunStatus, wire_run
from store.schema import new_epoch
from store.writer.group import Committed, run_group
from tests.faults import client_kill, terminate_backends
from tests.oracle.client import Client, Sockets, Stream
from tests.oracle.gates import GatedStore, TamperingBroker
from tests.oracle.ledger import Ledger, State
from tests.servers import Postgres, Valkey
from tests.store.broker_doubles import HURRIED

T = TypeVar("T")

ALL: Final = frozenset({"read:runs"})
TAGS: Final = "abc"
TASKS: Final = ("build", "deploy")
LIMITS: Final = Limits()
ROUNDS: Final = 400
STUCK_S: Final = 20.0
"""No step takes as long: a bound for one that never ends."""
LONG: Final = 10_000.0
"""Seconds that never pass: the test decides when it is time."""


class RolledBack(Exception):
    """A transaction was."""


class _Errors(logging.Handler):
    """What is logged as an error was not expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


# ------------------------------------------------------------------------------------- the place


@dataclass(frozen=True)
class SetUp:
    """What there is: a database, and perhaps Redis."""

    name: str
    database: str
    redis: str | None = None
    postgres: Postgres | None = None
    """The servers of both, for faults; without them there are none of theirs."""
    valkey: Valkey | None = None


class Place:
    """Two server processes' stores on one database; it serves many worlds, one after another."""

    def __init__(self, set_up: SetUp) -> None:
        self.set_up = set_up
        self.loop = asyncio.new_event_loop()
        self.worlds = 0
        self.stores: list[RunStore] = []
        self.brokers: list[TamperingBroker] = []
        self._inner: list[Broker] = []
        self.aside: Database
        """For transactions that are slow."""

    def __enter__(self) -> Place:
        self.run(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        self.run(self._close())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def _open(self) -> None:
        set_up = self.set_up
        for _ in range(2):
            inner = (
                open_broker(None)
                if set_up.redis is None
                else RedisBroker(
                    set_up.redis,
                    namespace="oracle",
                    tuning=replace(HURRIED, inline_bytes=1_500),
                )
            )
            broker = TamperingBroker(inner)
            self._inner.append(inner)
            self.brokers.append(broker)
            self.stores.append(await RunStore.open(set_up.database, broker=broker))
        self.aside = await open_database(set_up.database)

    async def _close(self) -> None:
        for store in self.stores:
            await store.close()
        for broker in self._inner:
            await broker.close()
        await self.aside.close()

    @property
    def is_postgres(self) -> bool:
        return self.aside.dialect == "postgresql"


# ------------------------------------------------------------------------------- slow transactions


class Slow:
    """A transaction that takes its time: stops once it has its id, and again before its commit."""

    def __init__(self, database: Database, submission: Submission, *, early: bool) -> None:
        self.submission = submission
        self.early = early
        self.is_waiting = asyncio.Event()
        self.holds_locks = False
        self.rolls_back = False
        self.is_cut_off = False
        """Its connection was taken away; it has come to nothing."""
        self.committed: Committed | None = None
        self._go = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(database))

    async def _run(self, database: Database) -> None:
        try:
            self.committed = await database.write(self._work)
        except RolledBack:
            pass
        except (Unavailable, OutcomeUnknown):
            if not self.is_cut_off:
                raise

    def _work(self, connection: Connection) -> Committed:
        if self.is_cut_off:
            raise RolledBack  # this is its second try
        connection.execute(sa.text("SELECT pg_current_xact_id()"))
        if self.early:
            await_only(self._stop())
        committed = run_group(connection, [self.submission], LIMITS)
        self.holds_locks = True
        await_only(self._stop())
        if self.rolls_back:
            raise RolledBack
        return committed

    async def _stop(self) -> None:
        self.is_waiting.set()
        await self._go.wait()
        self._go.clear()

    async def step(self) -> bool:
        """On to where it stops next; whether it is over."""
        if not self.task.done():
            self.is_waiting.clear()
            self._go.set()
            stops = asyncio.ensure_future(self.is_waiting.wait())
            await asyncio.wait([self.task, stops], return_when=asyncio.FIRST_COMPLETED)
            stops.cancel()
            await asyncio.sleep(0)
        if self.task.done():
            await self.task
        return self.task.done()


# -------------------------------------------------------------------------------------- the world


class Gateway:
    """One server process: a hub over its own store and broker."""

    def __init__(self, place: Place, index: int, settings: HubSettings, pages_of: int | None):
        self.store = place.stores[index]
        self.broker = place.brokers[index]
        self._settings = settings
        self._pages_of = pages_of
        self.begin()

    def begin(self) -> None:
        self.gated = GatedStore(self.store, self._pages_of)
        self.hub = Hub(self.gated, self.broker, settings=self._settings)
        self.task = asyncio.get_running_loop().create_task(self.hub.run())

    async def kill(self) -> None:
        """Its process dies; what it held in memory is gone."""
        self.broker.forget()
        self.task.cancel()
        await asyncio.wait([self.task])
        for flight in self.gated.flights:
            flight.begin.set()
            flight.end.set()


Step = tuple[str, int]
"""What happens, and the number that decides whatever that leaves open."""

Action = Callable[["World", random.Random], Coroutine[Any, Any, None]]
ACTIONS: dict[str, tuple[int, Action]] = {}
"""All that can happen, each with how often."""


def action(weight: int) -> Callable[[Action], Action]:
    def known(do: Action) -> Action:
        ACTIONS[do.__name__] = (weight, do)
        return do

    return known


class World:
    """One history: `do(name, number)` moves it on, `settle` compares all streams with the truth."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.seed = seed
        self.history: list[Step] = []
        self.errors = _Errors()
        self._patches = contextlib.ExitStack()
        place.run(self._begin(random.Random(seed)))

    # ------------------------------------------------------------------------- begin and end

    async def _begin(self, chance: random.Random) -> None:
        place = self.place
        place.worlds += 1
        logging.getLogger().addHandler(self.errors)
        # One project for each world, so that one database serves many; two in some worlds.
        names = [f"p{place.worlds}x{self.seed}{letter}" for letter in "ab"]
        self.projects = names[: chance.choice([1, 2, 2])]
        self.ledgers = {name: Ledger(name) for name in self.projects}
        self.known: dict[str, Run] = {}
        self.deleted: set[str] = set()
        self.batches: dict[str, tuple[str, bool]] = {}
        self.slow: list[Slow] = []
        self.count = 0
        self.copy: sqlite3.Connection | None = None
        self.copied: dict[str, Ledger] = {}
        self.commits = 0
        self.committed: dict[str, int] = {}
        """For each run, how many changes had been committed with its last."""
        patch = self._patches.enter_context
        patch(mock.patch.object(progress, "INTERVAL_S", 0.0))
        patch(mock.patch.object(joining, "AT_ONCE", chance.choice([1, 50])))
        patch(mock.patch.object(subscription, "BUFFER_CHANGES", chance.choice([3, 10_000])))
        patch(mock.patch.object(ring, "RUN_CHANGES", chance.choice([4, 1_000])))
        small = partial(ring.Ring, max_changes=chance.choice([0, 6, 20_000]))
        patch(mock.patch.object(project, "Ring", small))
        settings = HubSettings(
            session=SessionSettings(
                checkpoint_s=0.0, heartbeat_s=chance.choice([0.05, LONG]), authenticate_s=LONG
            ),
            mailbox_bytes=chance.choice([4_000, 1_000_000, 1_000_000]),
            slow_consumer_s=LONG,
            replay_changes=chance.choice([25, 100_000, 100_000]),
            payload_cache_bytes=chance.choice([0, 1_000_000]),
            linger_s=chance.choice([0.0, LONG]),
            tail_s=LONG,
            tail_degraded_s=LONG,
            look_s=0.0,
        )
        pages_of = chance.choice([1, 2, None, None])
        gateways = chance.choice([1, 2, 2])
        self.gateways = [Gateway(place, i, settings, pages_of) for i in range(gateways)]
        self.small_limits = chance.random() < 0.3
        for broker in place.brokers:
            broker.published = self._note
            broker.dies = False
            broker.is_away = False
            broker.arrived.clear()
            broker.out.clear()
        await self._turn(3)
        tag = frozenset({"read:tags:a", "read:batch:none"})
        task = frozenset({f"read:tasks:{TASKS[0]}"})
        self.clients = [
            Client(self.projects[0], ALL, self._get, self._commits),
            Client(self.projects[0], ALL, self._get, self._commits),
            Client(self.projects[-1], ALL, self._get, self._commits),
            Client(self.projects[0], tag, self._get, self._commits),
            Client(self.projects[-1], task, self._get, self._commits),
        ]
        sockets = Sockets()
        patch(mock.patch.object(cohorts, "_write", sockets.write))
        self.alike = [
            Client(self.projects[0], ALL, self._get, self._commits, sockets.open) for _ in range(3)
        ]
        """Clients that ask for the same, and are told together."""
        self.jobs = {name: await self._define_job(name) for name in self.projects}

    @property
    def everybody(self) -> list[Client]:
        """All clients that ask for anything."""
        return self.clients + [each for each in self.alike if each.live_streams or each.connection]

    async def _define_job(self, project: str) -> str:
        # Of the same names in each project.
        definitions = self.place.stores[0].definitions
        steps = [
            await definitions.create_workflow(
                project, NewWorkflow(name=f"step {i}", task_identifier=TASKS[i])
            )
            for i in range(2)
        ]
        order = {"workflowExecutionOrder": [step.id for step in steps]}
        job = await definitions.create_job(project, NewJob(name="job", config=order))
        return job.id

    def close(self) -> None:
        """Ends it, and looks whether anything is left behind."""
        try:
            self.place.run(self._end())
        finally:
            self._patches.close()
            logging.getLogger().removeHandler(self.errors)

    async def _end(self) -> None:
        self.thaw()
        for slow in sorted(self.slow, key=lambda each: not each.holds_locks):
            slow.rolls_back = True
            with contextlib.suppress(Exception):
                while not await slow.step():
                    pass
        for gateway in self.gateways:
            await gateway.kill()
        if self.copy is not None:
            self.copy.close()
        for broker in self.place.brokers:
            broker.away(False)
            broker.published = lambda hints: None

    def do(self, name: str, number: int) -> None:
        """One step; the number decides whatever the name leaves open."""
        self.history.append((name, number))
        self._run(self._do(name, number))

    def kept(self) -> str:
        """The history so far, as it is kept in `seeds/`."""
        name = self.place.set_up.name
        said = {"setUp": name, "seed": self.seed, "step": len(self.history)}
        return json.dumps(said | {"history": self.history})

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self.place.run(work)
        except Exception as error:
            error.add_note(self.kept())
            raise

    async def _do(self, name: str, number: int) -> None:
        chance = random.Random(number)
        async with asyncio.timeout(STUCK_S):
            await ACTIONS[name][1](self, chance)
        await self._turn(chance.choice([1, 2, 6]))
        self._check_log()
        for client in self.everybody:
            if not client.lags:
                await client.read()

    def _check_log(self) -> None:
        assert not self.errors.found, "\n".join(self.errors.found)

    async def _turn(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    # ---------------------------------------------------------------------------- what is known

    def _note(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            id = hint.change.run_id
            if hint.change.project not in self.ledgers:
                continue  # of a world before this one, whose timers run out now
            self.commits += 1
            self.committed[id] = self.commits
            if hint.run is None:
                self.batches[id] = (hint.change.project, True)
            elif hint.change.kind == "deleted":
                self.deleted.add(id)
                self.known.pop(id, None)
            elif id not in self.deleted:
                if hint.run.has_payload:
                    self.ledgers[hint.run.project].payloads[id] = hint.run.payload
                old = self.known.get(id)
                if old is None or old.version < hint.run.version:
                    self.known[id] = hint.run

    def _commits(self) -> int:
        return self.commits

    async def _get(self, run_id: str) -> State | None:
        run = self.known.get(run_id)
        if run is None:
            return None
        try:
            found = await again(lambda: self.place.stores[0].get_run(run.project, run_id))
        except NotFound:
            return None
        state: State = msgspec.json.decode(msgspec.json.encode(wire_run(found)))
        return state

    def thaw(self) -> None:
        """Redis, if it was stopped, goes on."""
        valkey = self.place.set_up.valkey
        if valkey is not None:
            valkey.thaw()

    def _held(self) -> set[str | None]:
        """What nobody else may touch without waiting for a slow transaction."""
        held: set[str | None] = set()
        for slow in self.slow:
            if slow.holds_locks:
                held |= self._keys(slow.submission)
        return held

    def _keys(self, submission: Submission) -> set[str | None]:
        keys: set[str | None] = set()
        for command in submission.commands:
            if isinstance(command, CreateBatch | SealBatch):
                keys.add(command.batch_id)
                continue
            keys.add(command.run_id)
            run = self.known.get(command.run_id)
            if run is not None:
                keys |= {run.parent_run_id, run.batch_id, run.root_run_id}
                if run.job_id is not None:
                    keys |= {id for id, each in self.known.items() if each.parent_run_id == run.id}
            if isinstance(command, CreateRun):
                keys |= {command.new.batch_id, command.new.parent_run_id}
                keys.add(f"{command.project} {command.new.task_identifier} {_key_of(command)}")
        return keys - {None}

    def _other(self, project: str) -> str | None:
        return next((name for name in self.projects if name != project), None)

    def _batches(self, project: str) -> list[str]:
        return [id for id, (of, _) in self.batches.items() if of == project]

    def _runs(self, project: str) -> list[Run]:
        return [run for run in list(self.known.values())[-10:] if run.project == project]

    # -------------------------------------------------------------------------------- settling

    def settle(self, number: int = 0) -> None:
        """Lets everything come to rest, and compares every stream with what the database says."""
        self.history.append(("settle", number))
        self._run(asyncio.wait_for(self._settle(random.Random(number)), 6 * STUCK_S))

    async def _settle(self, chance: random.Random) -> None:
        self.thaw()
        while self.slow:
            # Those first that others would wait for.
            slow = min(self.slow, key=lambda each: not each.holds_locks)
            await self._finish(slow, rolls_back=chance.random() < 0.3)
        heals = chance.random() < 0.7
        for gateway in self.gateways:
            broker = gateway.broker
            if heals:
                broker.away(False)
                while broker.waiting:
                    broker.deliver(chance.randrange(len(broker.waiting)))
                    if chance.random() < 0.3:
                        await self._turn(1)
            else:
                broker.waiting.clear()  # the tail finds them all
        await self.refresh()
        problem: str | None = None
        for round in range(ROUNDS):
            for gateway in self.gateways:
                gateway.hub.suspect(None, "test")
            for client in self.everybody:
                await self._let_read(client)
                if client.connection is None:
                    await client.connect(chance.choice(self.gateways).hub)
            await self._turn(3)
            await self._land(chance)
            self._check_log()
            for client in self.everybody:
                await client.read()
            problem = next(filter(None, map(self._problem, self.everybody)), None)
            if problem is None and round:
                break
            if round > 40:
                await asyncio.sleep(0.01)
        assert problem is None, problem
        for client in self.everybody:
            client.verify(self.ledgers[client.project])

    def _problem(self, client: Client) -> str | None:
        return client.problem(self.ledgers[client.project], self.committed)

    async def _land(self, chance: random.Random) -> None:
        """All reads that wait are made."""
        for gateway in self.gateways:
            for flight in list(gateway.gated.flights):
                flight.begin.set()
                await flight.done.wait()
                flight.end.set()
                if chance.random() < 0.5:
                    await self._turn(1)
        await self._turn(4)

    async def _let_read(self, client: Client) -> None:
        client.lags = False
        client.outlet.writable = True
        if client.connection is not None:
            client.connection.writable()
        await client.read()

    async def begin_again(self) -> None:
        """Knows nothing but what the database says now."""
        self.ledgers = copy.deepcopy(self.copied)
        await self.refresh()
        self.known, self.deleted, self.batches, self.committed = {}, set(), {}, {}
        for ledger in self.ledgers.values():
            self.known |= ledger.rows
            self.deleted |= ledger.deleted.keys()
            for id in ledger.batch_ids:
                self.batches[id] = (ledger.project, id in ledger.sealed)

    async def refresh(self) -> None:
        """Reads what was committed."""
        for ledger in self.ledgers.values():
            await again(partial(ledger.refresh, self.place.stores[0].database))

    # --------------------------------------------------------------------------------- commands

    def _submission(self, chance: random.Random) -> Submission:
        project = chance.choice(self.projects)
        commands = [self._command(chance, project) for _ in range(chance.choice([1, 1, 2, 4]))]
        return Submission(
            project=project, commands=tuple(commands), atomic=chance.random() < 0.2
        )  # fmt: skip

    def _command(self, chance: random.Random, project: str) -> Command:
        runs = self._runs(project)
        other = self._other(project)
        if other is not None and chance.random() < 0.05:
            return self._trespass(chance, project, other)
        what = chance.random()
        if what < 0.22 or not runs:
            return self._create(chance, project, runs)
        if what < 0.26:
            return CreateRun(
                project=project,
                run_id=self._id("run"),
                new=NewRun(task_identifier=self.jobs[project], tags=self._tags(chance)),
                job=JobOrder(self.jobs[project]),
            )
        batches = [id for id, (of, sealed) in self.batches.items() if of == project and not sealed]
        if what < 0.29 and len(batches) < 2:
            id = self._id("batch")
            self.batches[id] = (project, False)
            return CreateBatch(project=project, batch_id=id)
        if what < 0.32 and batches:
            return SealBatch(project=project, batch_id=chance.choice(batches))
        run = chance.choice(runs)
        if what < 0.36:
            over = [each for each in runs if each.status in FINAL]
            if over:
                return DeleteRun(project=project, run_id=chance.choice(over).id)
        if what < 0.42:
            return MutateMetadata(
                project=project,
                run_id=run.id,
                operations=(MetadataOperation(op=MetadataOp.INCREMENT, path="count", value=1),),
                target=chance.choice(list(MetadataTarget)),
            )
        if what < 0.45:
            return ClaimRun(project=project, run_id=run.id, worker="w", lease_s=1_000)
        return self._update(chance, run)

    def _trespass(self, chance: random.Random, project: str, other: str) -> Command:
        """Names what is another project's: to be refused."""
        runs, batches = self._runs(other), self._batches(other)
        new = NewRun(task_identifier=TASKS[0], tags=self._tags(chance))
        if batches and chance.random() < 0.3:
            batch = chance.choice(batches)
            if chance.random() < 0.5:
                return SealBatch(project=project, batch_id=batch)
            new = msgspec.structs.replace(new, batch_id=batch)
            return CreateRun(project=project, run_id=self._id("run"), new=new)
        if not runs:
            return CreateRun(project=project, run_id=self._id("run"), new=new)
        run = chance.choice(runs)
        match chance.choice(["create", "update", "delete", "tag"]):
            case "create":
                new = msgspec.structs.replace(new, parent_run_id=run.id)
                return CreateRun(project=project, run_id=self._id("run"), new=new)
            case "delete":
                return DeleteRun(project=project, run_id=run.id)
            case "tag":
                return UpdateRun(project=project, run_id=run.id, add_tags=("a",))
        return msgspec.structs.replace(self._update(chance, run), project=project)

    def _create(self, chance: random.Random, project: str, runs: Sequence[Run]) -> CreateRun:
        batches = [id for id, (of, sealed) in self.batches.items() if of == project and not sealed]
        soon = datetime.now(UTC) + timedelta(milliseconds=chance.choice([1, 100_000_000]))
        return CreateRun(
            project=project,
            run_id=self._id("run"),
            new=NewRun(
                task_identifier=chance.choice(TASKS),
                payload={"of": self.count, "pad": "x" * chance.choice([0, 50, 2_000])},
                tags=self._tags(chance),
                metadata={"n": 0},
                delay_until=soon if chance.random() < 0.1 else None,
                is_test=chance.random() < 0.2,
                batch_id=chance.choice(batches) if batches and chance.random() < 0.5 else None,
                parent_run_id=chance.choice(runs).id if runs and chance.random() < 0.2 else None,
                idempotency_key=chance.choice("kl") if chance.random() < 0.05 else None,
            ),
        )

    def _update(self, chance: random.Random, run: Run) -> UpdateRun:
        what = chance.random()
        if what < 0.3:
            tag = chance.choice(TAGS)
            if tag in run.tags:
                return UpdateRun(project=run.project, run_id=run.id, remove_tags=(tag,))
            return UpdateRun(project=run.project, run_id=run.id, add_tags=(tag,))
        if what < 0.55:
            pad = "x" * chance.choice([0, 0, 1_500])
            return UpdateRun(
                project=run.project, run_id=run.id, metadata={"n": run.version, "pad": pad}
            )
        if what < 0.6:
            return UpdateRun(project=run.project, run_id=run.id, cost_in_cents=run.version / 4)
        allowed = sorted(NEXT[run.status] - {RunStatus.DELAYED}) or [RunStatus.COMPLETED]
        likely = [each for each in (RunStatus.EXECUTING, RunStatus.COMPLETED) if each in allowed]
        to = chance.choice(likely if likely and chance.random() < 0.6 else allowed)
        output = {"of": run.version} if to is RunStatus.COMPLETED else msgspec.UNSET
        return UpdateRun(project=run.project, run_id=run.id, status=to, output=output)

    def _tags(self, chance: random.Random) -> tuple[str, ...]:
        return tuple(tag for tag in TAGS if chance.random() < 0.4)

    def _id(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}_{self.place.worlds:04}_{self.seed % 100_000:05}_{self.count:04}"

    async def commit(self, gateway: int, *submissions: Submission, dies: bool = False) -> None:
        """Through a gateway's writer, and until its hints have come as far as they will."""
        store, broker = self.place.stores[gateway], self.place.brokers[gateway]
        broker.dies = dies
        try:
            await asyncio.gather(
                *(store.execute(each) for each in submissions), return_exceptions=True
            )
        finally:
            broker.dies = False
        await self.arrive()

    async def arrive(self) -> None:
        """Waits, for a moment, until what was published has arrived wherever it is followed."""
        hints: list[Hint] = []
        for broker in self.place.brokers:
            hints += broker.out
            broker.out.clear()
        await self._turn(2)
        if self.place.set_up.redis is None:
            return
        wanted = {(hint.change.run_id, hint.change.version): hint.change.project for hint in hints}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.25):
                while not all(
                    broker.state is not BrokerState.OK
                    or all(
                        key in broker.arrived
                        for key, project in wanted.items()
                        if project in broker.followed
                    )
                    for broker in self.place.brokers
                ):
                    await asyncio.sleep(0.0005)

    async def _finish(self, slow: Slow, *, rolls_back: bool) -> None:
        slow.rolls_back = rolls_back
        while not await self._step(slow):
            pass

    async def _step(self, slow: Slow, *, dies: bool = False) -> bool:
        over = await slow.step()
        if over:
            self.slow.remove(slow)
            if slow.committed is not None:
                broker = self.place.brokers[0]
                broker.dies = dies
                broker.publish(slow.committed.hints)
                broker.dies = False
                await self.arrive()
        return over


def _key_of(command: CreateRun) -> str:
    return command.new.idempotency_key or command.run_id


async def again(work: Callable[[], Awaitable[T]]) -> T:
    """Done once more if the database had cut its connection off."""
    for _ in range(5):
        with contextlib.suppress(Unavailable):
            return await work()
    return await work()


# ------------------------------------------------------------------------------------ the writers


@action(14)
async def write(world: World, chance: random.Random) -> None:
    """Some commands are committed, in one transaction or several."""
    submissions = [world._submission(chance) for _ in range(chance.choice([1, 1, 1, 3]))]
    held = world._held()
    fit = [each for each in submissions if held.isdisjoint(world._keys(each))]
    gateway = chance.randrange(2)
    await world.commit(gateway, *fit, dies=chance.random() < 0.1)


@action(2)
async def roll_back(world: World, chance: random.Random) -> None:
    """A transaction comes to nothing at its very end."""
    submission = world._submission(chance)
    if not world._held().isdisjoint(world._keys(submission)):
        return

    def work(connection: Connection) -> None:
        run_group(connection, [submission], LIMITS)
        raise RolledBack

    with contextlib.suppress(RolledBack):
        await again(lambda: world.place.aside.write(work))


@action(4)
async def begin_slowly(world: World, chance: random.Random) -> None:
    """A transaction takes its id, and no more for now."""
    if not world.place.is_postgres or len(world.slow) >= 3:
        return
    submission = world._submission(chance)
    early = chance.random() < 0.6
    if not early and not world._held().isdisjoint(world._keys(submission)):
        return
    slow = Slow(world.place.aside, submission, early=early)
    world.slow.append(slow)
    await slow.is_waiting.wait()


@action(6)
async def go_on_slowly(world: World, chance: random.Random) -> None:
    """It locks its rows, commits or is rolled back."""
    if not world.slow:
        return
    slow = chance.choice(world.slow)
    if not slow.holds_locks:
        if not world._held().isdisjoint(world._keys(slow.submission)):
            return
    else:
        slow.rolls_back = chance.random() < 0.2
    await world._step(slow, dies=chance.random() < 0.4)


@action(1)
async def fire_timers(world: World, chance: random.Random) -> None:
    """What is due becomes QUEUED."""
    if not world._held():
        await again(world.place.stores[0].timers.fire)
        await world.arrive()


# ---------------------------------------------------------------------------------------- the way


def _gateway(world: World, chance: random.Random) -> Gateway:
    return chance.choice(world.gateways)


@action(10)
async def deliver(world: World, chance: random.Random) -> None:
    """Some hints arrive: late, doubled, out of order, with their ids only, or not at all."""
    broker = _gateway(world, chance).broker
    for _ in range(chance.choice([1, 1, 2, 5])):
        if not broker.waiting:
            return
        index = 0 if chance.random() < 0.6 else chance.randrange(len(broker.waiting))
        if chance.random() < 0.1:
            del broker.waiting[index]
            continue
        broker.deliver(index, keep=chance.random() < 0.1, slim=chance.random() < 0.1)
        if chance.random() < 0.5:
            await world._turn(1)


@action(2)
async def lose(world: World, chance: random.Random) -> None:
    """All that is on the way to one gateway is lost."""
    _gateway(world, chance).broker.waiting.clear()


@action(1)
async def break_broker(world: World, chance: random.Random) -> None:
    """The broker goes away, or comes back."""
    broker = _gateway(world, chance).broker
    broker.away(not broker.is_away)


@action(8)
async def wake_tail(world: World, chance: random.Random) -> None:
    """It is time for the tail to read."""
    _gateway(world, chance).hub.suspect(chance.choice([None, *world.projects]), "test")


@action(16)
async def begin_read(world: World, chance: random.Random) -> None:
    """A read that waits is made; its result is had later."""
    waiting = [each for each in _gateway(world, chance).gated.flights if not each.begin.is_set()]
    if waiting:
        flight = chance.choice(waiting)
        flight.begin.set()
        await flight.done.wait()


@action(16)
async def end_read(world: World, chance: random.Random) -> None:
    """The result of a read is had."""
    done = [each for each in _gateway(world, chance).gated.flights if each.done.is_set()]
    if done:
        chance.choice(done).end.set()


@action(6)
async def land(world: World, chance: random.Random) -> None:
    """All reads that wait are made."""
    await world._land(chance)


@action(1)
async def fail_read(world: World, chance: random.Random) -> None:
    """The database is away for one read."""
    if chance.random() < 0.5:
        return
    waiting = [each for each in _gateway(world, chance).gated.flights if not each.begin.is_set()]
    if waiting:
        flight = chance.choice(waiting)
        flight.fails = True
        flight.begin.set()


# ------------------------------------------------------------------------------------ the gateways


@action(1)
async def kill_gateway(world: World, chance: random.Random) -> None:
    """A gateway dies, and another begins in its place."""
    if chance.random() < 0.5:
        return
    gateway = _gateway(world, chance)
    for client in world.everybody:
        if client.hub is gateway.hub:
            await client.cut(leave=chance.choice([0, 0, 3]))
    await gateway.kill()
    gateway.begin()


@action(1)
async def drain_gateway(world: World, chance: random.Random) -> None:
    """A gateway sends its clients away and ends, and another begins in its place."""
    if chance.random() < 0.5:
        return
    gateway = _gateway(world, chance)
    await gateway.hub.drain(0.06)
    for client in world.everybody:
        if client.hub is gateway.hub:
            await client.cut()
    await gateway.kill()
    gateway.begin()


@action(1)
async def cut_off(world: World, chance: random.Random) -> None:
    """Database or Redis cut off whoever is connected, or Redis starts anew, or stops for a while."""
    postgres, valkey = world.place.set_up.postgres, world.place.set_up.valkey
    if chance.random() < 0.5:
        return
    if valkey is not None and (postgres is None or chance.random() < 0.5):
        match chance.choice(["clients", "restart", "freeze", "thaw", "thaw"]):
            case "clients":
                world.thaw()
                client_kill(valkey)
            case "restart":
                world.thaw()
                valkey.restart()
            case "freeze":
                valkey.freeze()
            case _:
                world.thaw()
    elif postgres is not None:
        for slow in world.slow:
            slow.is_cut_off = True
        terminate_backends(postgres, world.place.set_up.database)


@action(1)
async def change_epoch(world: World, chance: random.Random) -> None:
    """Somebody has restored a backup and said so."""
    if chance.random() < 0.3:
        await again(lambda: new_epoch(world.place.aside))


@action(1)
async def cut_log(world: World, chance: random.Random) -> None:
    """Retention takes all of the log, under whoever holds a cursor."""
    if world.slow or chance.random() < 0.5:
        return
    await world.refresh()
    store = world.place.stores[0]
    keep = Retention(changes=timedelta(days=-1 if world.place.is_postgres else 0))
    housekeeping = Housekeeping(store.database, store.execute, keep, detach_after_s=0.0)
    await again(housekeeping.keep)
    await again(housekeeping.prepare)


@action(1)
async def back_up(world: World, chance: random.Random) -> None:
    """Somebody copies the database, to restore it some day."""
    database = world.place.aside
    if isinstance(database, Sqlite) and chance.random() < 0.5:
        if world.copy is not None:
            world.copy.close()
        world.copy = sqlite3.connect(":memory:")
        with contextlib.closing(sqlite3.connect(database.path)) as file:
            file.backup(world.copy)
        await world.refresh()
        world.copied = copy.deepcopy(world.ledgers)


@action(1)
async def restore(world: World, chance: random.Random) -> None:
    """All servers stop, the copy takes the database's place, and they start: another history."""
    database = world.place.aside
    if not isinstance(database, Sqlite) or world.copy is None:
        return
    await world.refresh()
    for client in world.everybody:
        await client.cut()
        client.verify(world.ledgers[client.project])
    for gateway in world.gateways:
        await gateway.kill()
    with contextlib.closing(sqlite3.connect(database.path)) as file:
        world.copy.backup(file)
    if chance.random() < 0.4:
        await new_epoch(database)
    else:
        # Without a word about it: whoever has kept what they had with its cursor is told, but
        # what came after the cursor was nobody's to take back.
        for client in world.everybody:
            client.go_back(world.ledgers[client.project])
            # Of what the copy does not know there is nothing to be told, not even that.
            known = world.copied[client.project]
            client.streams = [
                each
                for each in client.streams
                if (each.target is None or each.target in known.states)
                and each.ask.get("batchId") in {None, *known.batch_ids}
            ]
    await world.begin_again()
    for gateway in world.gateways:
        gateway.begin()


# ------------------------------------------------------------------------------------- the clients


def _client(world: World, chance: random.Random, *, connected: bool | None = None) -> Client:
    """Any of them; one of those that are connected, or are not, if there is one."""
    some = [each for each in world.clients if (each.connection is not None) is connected]
    return chance.choice(some or world.clients)


@action(5)
async def connect(world: World, chance: random.Random) -> None:
    """A client connects to any gateway, and goes on from its cursors."""
    client = _client(world, chance, connected=False)
    if client.connection is None:
        await client.connect(_gateway(world, chance).hub)


@action(3)
async def cut(world: World, chance: random.Random) -> None:
    """A connection is lost, with what was on the way."""
    client = _client(world, chance, connected=True)
    leave = chance.choice([0, 1, 5])
    if chance.random() < 0.6 and client.connection is not None:
        # Some of what it was owed all the while comes through, and no more.
        client.outlet.writable = True
        client.connection.writable()
        leave = chance.randint(0, client.unread)
    await client.cut(leave=leave)


@action(2)
async def connect_amid(world: World, chance: random.Random) -> None:
    """A client goes on from its cursors, or asks for more, while hints arrive turn by turn."""
    gateway = _gateway(world, chance)
    client = _client(world, chance, connected=False)
    if client.connection is None:
        await client.connect(gateway.hub)
    else:
        await subscribe(world, chance)
    for _ in range(chance.randint(1, 6)):
        if gateway.broker.waiting:
            gateway.broker.deliver(0)
        await world._turn(1)


@action(2)
async def lose_while_owed(world: World, chance: random.Random) -> None:
    """A client reads nothing for a while, and is lost in the midst of what it is owed."""
    client = _client(world, chance, connected=True)
    if client.connection is None or client.hub is None:
        return
    client.lags, client.outlet.writable = True, False
    gateway = next(each for each in world.gateways if each.hub is client.hub)
    for _ in range(chance.randint(2, 4)):
        await write(world, chance)
        while gateway.broker.waiting:
            gateway.broker.deliver(0)
        if chance.random() < 0.7:
            gateway.hub.suspect(None, "test")
            await world._turn(3)
            await world._land(chance)
    client.outlet.writable = True
    client.connection.writable()
    await client.cut(leave=chance.randint(0, client.unread))
    client.lags = False


@action(3)
async def stall(world: World, chance: random.Random) -> None:
    """A client reads nothing any more: its socket's buffers are full."""
    client = _client(world, chance, connected=True)
    client.lags = True
    client.outlet.writable = chance.random() < 0.3


@action(5)
async def read_on(world: World, chance: random.Random) -> None:
    """It reads again: all there is, or some lines of it."""
    client = _client(world, chance)
    if chance.random() < 0.7:
        await world._let_read(client)
    else:
        await client.read(most=chance.randint(1, 4))


@action(10)
async def subscribe(world: World, chance: random.Random) -> None:
    """A new stream, of any kind."""
    client = _client(world, chance)
    if len(client.live_streams) >= 4:
        return
    ask = _ask(world, client, chance)
    if ask is not None:
        await client.subscribe(ask)


def _ask(world: World, client: Client, chance: random.Random) -> dict[str, Any] | None:
    # Decided in any case, so that one choice does not move all those after it.
    options: dict[str, Any] = {
        "delivery": chance.choice(["every", "latest"]),
        "skip": chance.choice([[], [], ["payload", "metadata"]]),
        "stopOnCompletion": chance.random() < 0.7,
        "snapshot": chance.random() < 0.9,
    }
    filters: dict[str, Any] = {}
    if chance.random() < 0.4:
        filters["statuses"] = chance.choice(
            [["QUEUED"], ["QUEUED", "EXECUTING"], sorted(FINAL), ["EXECUTING", "COMPLETED"]]
        )
    if chance.random() < 0.1:
        filters["tasks"] = [chance.choice(TASKS)]
    if chance.random() < 0.1:
        filters["isTest"] = chance.random() < 0.3
    if chance.random() < 0.05:
        filters["createdAfter"] = datetime.now(UTC).isoformat()
    if world.small_limits:
        filters["limit"] = chance.choice([1, 3])
    project = client.project
    other = world._other(project)
    if other is not None and chance.random() < 0.08:
        project = other  # of which it must learn nothing
    runs = world._runs(project)
    tags, match = [chance.choice(TAGS)], "all"
    kinds = ["tag", "tags", "run", "run", "batch", "job", "all"]
    if "read:runs" not in client.scopes:
        kinds = ["run"]
        _, of, name = chance.choice(sorted(client.scopes)).split(":")
        match of:
            case "tags":
                tags, kinds = [name], ["tag", "run"]
            case "tasks":
                filters["tasks"] = [name]
                kinds = ["tag", "all", "run"]
            case "batch":
                kinds = ["batch", "run"]
            case "runs":
                kinds = ["run", "job"]
    match chance.choice(kinds):
        case "tags":
            tags = sorted(chance.sample(TAGS, 2))
            match = chance.choice(["all", "any"])
            return _tagged(tags, match) | options | filters
        case "tag":
            return _tagged(tags, match) | options | filters
        case "run" if runs:
            return {"type": "subscribeToRun", "runId": chance.choice(runs).id, **options}
        case "batch":
            batches = world._batches(project)
            if batches:
                id = chance.choice(batches)
                return {"type": "subscribeToBatch", "batchId": id, **options, **filters}
        case "job":
            jobs = [run for run in world.known.values() if run.job_id and run.project == project]
            if jobs:
                id = chance.choice(jobs).id
                return {"type": "subscribeToJobRun", "jobRunId": id, **options}
        case "all":
            return {"type": "subscribeToRuns", **options, **filters}
    return None


def _tagged(tags: list[str], match: str) -> dict[str, Any]:
    return {"type": "subscribeToRunsWithTag", "tags": tags, "match": match}


@action(5)
async def subscribe_alike(world: World, chance: random.Random) -> None:
    """Clients ask for the same, by the same id and for nothing else: they are told together."""
    gateway = _gateway(world, chance)
    ask = _ask(world, world.alike[0], chance)
    there: list[Stream] = [stream for client in world.alike for stream in client.live_streams]
    id = max(client.next_id for client in world.alike)
    if there and chance.random() < 0.8:
        ask, id = there[0].ask, there[0].id
    if not there and chance.random() < 0.6:
        ask = {"type": "subscribeToRuns", "skip": chance.choice([[], ["payload"]])}
    if ask is None:
        return
    ask = ask | {"delivery": "every"}
    for client in world.alike:
        if client.connection is None:
            await client.connect(gateway.hub)
        if not client.live_streams and client.next_id <= id:
            await client.subscribe(ask, id)
    if chance.random() < 0.6:
        # Nobody is told together with others until a statement of the tail has passed.
        for _ in range(3):
            gateway.hub.suspect(world.projects[0], "test")
            await world._turn(3)
            await world._land(chance)


@action(5)
async def trouble_alike(world: World, chance: random.Random) -> None:
    """One of those that are told together goes its own way."""
    client = chance.choice(world.alike)
    streams = client.live_streams
    if client.connection is None:
        if streams:
            await client.connect(_gateway(world, chance).hub)
        return
    what = [
        "cut",
        "stall",
        "stall",
        "read",
        "read",
        "read",
        "leave",
        "more",
        "less",
        "less",
        "ping",
    ]
    match chance.choice(what):
        case "cut":
            await client.cut(leave=chance.randint(0, client.unread))
        case "stall":
            client.lags = True
            client.outlet.writable = chance.random() < 0.3
        case "read":
            await world._let_read(client)
        case "leave" if streams:
            await client.unsubscribe(chance.choice(streams))
        case "less" if len(streams) > 1:
            await client.unsubscribe(streams[-1])
        case "more" if len(streams) == 1:
            ask = _ask(world, client, chance)
            if ask is not None:
                await client.subscribe(ask)
        case "ping":
            await client.ping()


@action(1)
async def unsubscribe(world: World, chance: random.Random) -> None:
    """A client has seen enough of one stream."""
    client = _client(world, chance)
    streams = client.live_streams
    if streams and client.connection is not None:
        await client.unsubscribe(chance.choice(streams))


@action(1)
async def regrant(world: World, chance: random.Random) -> None:
    """A client hands in another token on its connection."""
    client = chance.choice(world.clients[3:])
    runs, batches = world._runs(client.project), world._batches(client.project)
    scope = f"read:tags:{chance.choice('ab')}"
    match chance.choice(["tags", "tags", "tasks", "runs", "batch"]):
        case "tasks":
            scope = f"read:tasks:{chance.choice(TASKS)}"
        case "runs" if runs:
            scope = f"read:runs:{chance.choice(runs).id}"
        case "batch" if batches:
            scope = f"read:batch:{chance.choice(batches)}"
    scopes = frozenset({scope}) | (client.scopes if chance.random() < 0.3 else frozenset())
    forced = client.forced
    if chance.random() < 0.3:
        forced = chance.choice([frozenset[str](), frozenset({"metadata"}), frozenset({"payload"})])
    if client.connection is not None:
        await client.authenticate(scopes, forced)
    else:
        client.scopes, client.forced = scopes, forced


@action(1)
async def revoke(world: World, chance: random.Random) -> None:
    """A token is revoked under its streams."""
    client = _client(world, chance)
    if client.connection is None or client.hub is None or chance.random() < 0.5:
        return
    grant = client.connection.session.grant
    client.hub.revoked(lambda each: each is not grant)


# --------------------------------------------------------------------------------------- playing


OFTEN: Final = 8.0
"""How many times as often as else something happens of which there is to be more."""


def plan(seed: int, steps: int, often: Collection[str] = ()) -> Iterator[Step]:
    """What the seed makes happen, settling now and then; more of some things, if that is asked."""
    chance = random.Random(seed)
    names = list(ACTIONS)
    weights = [float(ACTIONS[name][0]) for name in names]
    # Each history leaves some things out and has more of others.
    weights = [weight * chance.choice([0.0, 0.5, 1.0, 1.0, 2.0]) for weight in weights]
    for name in ("write", "subscribe", "connect", "begin_read", "end_read"):
        weights[names.index(name)] = float(ACTIONS[name][0])
    for name in often:
        weights[names.index(name)] = ACTIONS[name][0] * OFTEN
    for step in range(steps):
        if step % 100 == 99:
            yield "settle", chance.randrange(2**16)
        else:
            yield chance.choices(names, weights)[0], chance.randrange(2**16)
    yield "settle", 0


def play(place: Place, seed: int, history: Iterator[Step]) -> World:
    """Plays a history from its beginning; raises what was found, with `history` so far noted."""
    world = World(place, seed)
    try:
        for name, number in history:
            if name == "settle":
                world.settle(number)
            else:
                world.do(name, number)
    except BaseException as error:
        error.add_note(f"{place.set_up.name}, seed {seed}, step {len(world.history)}")
        raise
    finally:
        world.close()
    return world


def kept_in(error: BaseException) -> str:
    """The history that led to a finding, as it is kept in `seeds/`."""
    return next(note for note in error.__notes__ if note.startswith('{"setUp"'))


__all__ = ["ACTIONS", "Place", "SetUp", "Step", "World", "kept_in", "plan", "play"]
