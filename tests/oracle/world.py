"""One history over a real database, moved step by step.

What writers ask for is in `commands`, what clients ask for in `wishes`; what can happen, and how
often, in `actions`; how all comes to rest and is compared in `settling`, `client`, `stream` and
`truth`; and what a seed makes of it in `history`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import random
import sqlite3
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final
from unittest import mock

import msgspec

from realtime.hub import cohorts
from store.broker import Hint
from store.commands import Submission
from store.errors import NotFound
from store.jobs.definitions import NewJob, NewWorkflow
from store.model import wire_run
from tests.oracle.actions import ACTIONS
from tests.oracle.bounds import Bounds
from tests.oracle.client import Client
from tests.oracle.commands import TASKS, Commands
from tests.oracle.gateway import Gateway
from tests.oracle.known import Known
from tests.oracle.ledger import Ledger, State
from tests.oracle.place import Place, again, turn
from tests.oracle.settling import settle
from tests.oracle.slow import Slow, keys
from tests.oracle.sockets import Sockets

ALL: Final = frozenset({"read:runs"})
STUCK_S: Final = 60.0
"""No step takes as long, on whatever machine: a bound for one that never ends."""

Step = tuple[str, int]
"""What happens, and the number that decides whatever that leaves open."""


class _Errors(logging.Handler):
    """What is logged as an error was not expected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


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
        self.known = Known(self.projects)
        self.slow: list[Slow] = []
        self.copy: sqlite3.Connection | None = None
        self.copied: dict[str, Ledger] = {}
        self.bounds = Bounds.drawn(chance)
        self.bounds.apply(self._patches)
        self.gateways = [Gateway(place, i, self.bounds) for i in range(self.bounds.gateways)]
        for broker in place.brokers:
            broker.published = self._note
            broker.dies = False
            broker.is_away = False
            broker.arrived.clear()
            broker.out.clear()
        await turn(3)
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
        self._patches.enter_context(mock.patch.object(cohorts, "_write", sockets.write))
        self.alike = [
            Client(self.projects[0], ALL, self._get, self._commits, sockets.open) for _ in range(3)
        ]
        """Clients that ask for the same, and are told together."""
        jobs = {name: await self._define_job(name) for name in self.projects}
        mark = f"{place.worlds:04}_{self.seed % 100_000:05}"
        self.commands = Commands(self.known, jobs, mark)

    @property
    def everybody(self) -> list[Client]:
        """All clients that ask for anything."""
        return self.clients + [each for each in self.alike if each.live_streams or each.connection]

    def gateway_of(self, client: Client) -> Gateway | None:
        """The one that the client is connected to."""
        if client.connection is None:
            return None
        return next(each for each in self.gateways if each.hub is client.hub)

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
        self.place.thaw()
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
        await turn(chance.choice([1, 2, 6]))
        self.check_log()
        for client in self.everybody:
            if not client.lags:
                await client.read()

    def settle(self, number: int = 0) -> None:
        """Lets everything come to rest, and compares every stream with what the database says."""
        self.history.append(("settle", number))
        self._run(asyncio.wait_for(settle(self, random.Random(number)), 6 * STUCK_S))

    def check_log(self) -> None:
        """Raises AssertionError if an error was logged."""
        assert not self.errors.found, "\n".join(self.errors.found)

    # ---------------------------------------------------------------------------- what is known

    def _note(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            project, id = hint.change.project, hint.change.run_id
            if project not in self.ledgers:
                continue  # of a world before this one, whose timers run out now
            self.known.note(hint)
            if hint.run is not None and hint.run.has_payload and id not in self.known.deleted:
                self.ledgers[project].payloads[id] = hint.run.payload

    def _commits(self) -> int:
        return self.known.commits

    async def _get(self, run_id: str) -> State | None:
        run = self.known.runs.get(run_id)
        if run is None:
            return None
        try:
            found = await again(lambda: self.place.stores[0].get_run(run.project, run_id))
        except NotFound:
            return None
        state: State = msgspec.json.decode(msgspec.json.encode(wire_run(found)))
        return state

    async def refresh(self) -> None:
        """Reads what was committed."""
        for ledger in self.ledgers.values():
            await again(partial(ledger.refresh, self.place.stores[0].database))

    async def begin_again(self) -> None:
        """Knows nothing but what the database says now, which is what the copy had."""
        self.ledgers = copy.deepcopy(self.copied)
        await self.refresh()
        self.known.begin_again(self.ledgers.values())

    # ------------------------------------------------------------------------ slow transactions

    def held(self) -> set[str | None]:
        """What nobody else may touch without waiting for a slow transaction."""
        held: set[str | None] = set()
        for slow in self.slow:
            if slow.holds_locks:
                held |= keys(slow.submission, self.known)
        return held

    def is_free(self, submission: Submission) -> bool:
        """Whether nothing that it locks is held."""
        return self.held().isdisjoint(keys(submission, self.known))

    async def go_on(self, slow: Slow, *, dies: bool = False) -> bool:
        """A slow transaction goes on to where it stops next; whether it is over."""
        over = await slow.step()
        if over:
            self.slow.remove(slow)
            if slow.committed is not None:
                broker = self.place.brokers[0]
                broker.dies = dies
                broker.publish(slow.committed.hints)
                broker.dies = False
                await self.place.arrive()
        return over

    # ---------------------------------------------------------------------------------- reading

    async def land(self, chance: random.Random) -> None:
        """All reads that wait are made."""
        for gateway in self.gateways:
            await gateway.land(chance)
        await turn(4)
