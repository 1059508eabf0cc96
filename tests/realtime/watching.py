"""A client that holds the server to its promises."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from realtime.hub import Connection, Hub
from store.lifecycle import FINAL
from store.model import Facet, Run, RunStatus, Selection, wire_run
from tests.doubles import FakeGrant, FakeStore, RecordingOutlet


class Broken(AssertionError):
    """A promise of the protocol was broken."""


@dataclass
class Watch:
    """One subscription as its client sees it, through all of its connections."""

    id: int
    ask: dict[str, Any]
    selection: Selection
    grant: FakeGrant = field(default_factory=FakeGrant)
    latest: bool = False
    stops: bool = True
    cursor: str | None = None
    ended: str | None = None
    is_live: bool = False
    was_reset: bool = False
    asked_with_cursor: bool = False
    have: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    batch: dict[str, Any] | None = None

    @property
    def skipped(self) -> frozenset[str]:
        return frozenset(self.ask.get("skip", ())) | self.grant.skip

    def matches(self, run: Run) -> bool:
        """Whether the run, as it stands in the store, belongs to the stream."""
        facet = Facet(run.status, run.tags)
        return self.selection.covers(run) and self.fits(run, facet)

    def fits(self, run: Run, facet: Facet) -> bool:
        return self.selection.admits(facet) and self.grant.covers(run, facet)


class Watcher:
    """One client: reads what its connection sends, checks it, and resumes anywhere."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store
        self.watches: list[Watch] = []
        self.outlet = RecordingOutlet()
        self.connection: Connection | None = None
        self.read_lines = 0
        self.next_id = 1
        self.closes: list[int] = []

    # Connecting.

    async def connect(self, hub: Hub, grant: FakeGrant) -> None:
        """Connects, and asks for every stream that has not ended, from its cursor."""

        async def authenticate(token: str | None) -> FakeGrant:
            return grant

        self.outlet = RecordingOutlet()
        self.read_lines = 0
        self.connection = hub.connect(self.outlet, authenticate)
        await self.connection.open(None)
        self.watches = [watch for watch in self.watches if not watch.ended]
        for watch in self.watches:
            await self.ask(watch)

    async def add(self, watch: Watch) -> None:
        self.watches.append(watch)
        if self.connection is not None:
            await self.ask(watch)

    async def ask(self, watch: Watch) -> None:
        assert self.connection is not None
        watch.is_live = False
        watch.was_reset = False
        watch.sent = {}
        watch.asked_with_cursor = watch.cursor is not None
        asked = dict(watch.ask)
        if watch.cursor is None:
            # No `reset` will say so, since nothing was asked for that can't be had.
            watch.have = {}
            watch.gone = {}
        else:
            asked["cursor"] = watch.cursor
        await self.connection.received(msgspec.json.encode(asked))

    def cut(self, *, unread: int = 0) -> None:
        """The connection is lost, and with it what has not been read."""
        self.read(leave=unread)
        if self.connection is not None:
            self.connection.lost()
            self.connection = None

    # Reading.

    def read(self, leave: int = 0) -> None:
        """Takes in what was sent."""
        end = max(self.read_lines, len(self.outlet.lines) - leave)
        for line in self.outlet.lines[self.read_lines : end]:
            self.take(msgspec.json.decode(line))
        self.read_lines = end
        if self.outlet.closed is not None and self.connection is not None and not leave:
            self.closes.append(self.outlet.closed[0])
            self.connection = None

    def take(self, message: dict[str, Any]) -> None:
        type_ = message["type"]
        if type_ in ("checkpoint", "heartbeat"):
            for watch in self.watches:
                if watch.is_live and not watch.ended:
                    watch.cursor = message["cursor"]
        elif type_ == "change":
            for id in message["ids"]:
                self.change(self.watch(id), message["kind"], message["run"])
        elif type_ == "error":
            self.refused(message)
        elif "id" in message:
            self.tell(self.watch(message["id"]), message)

    def refused(self, message: dict[str, Any]) -> None:
        watch = self.watch(message["id"])
        target = watch.selection.run_id or watch.selection.job_run_id
        run = self.store.runs.get(target or "")
        if message["code"] == "not_found" and target is not None and run is None:
            return  # `end` follows
        if message["code"] == "forbidden" and watch.grant.tags is not None and target is not None:
            watch.ended = "forbidden"
            return
        raise Broken(f"error: {message}")

    def watch(self, id: int) -> Watch:
        for watch in self.watches:
            if watch.id == id:
                if watch.ended:
                    raise Broken(f"something came after the end of {watch}")
                return watch
        raise Broken(f"there is no subscription {id}")

    def tell(self, watch: Watch, message: dict[str, Any]) -> None:
        match message["type"]:
            case "snapshot":
                for run in message["runs"]:
                    self.show(watch, "snapshot", run)
            case "live":
                watch.is_live = True
                watch.cursor = message["cursor"]
                expected = watch.asked_with_cursor and not watch.was_reset
                if message["resumed"] is not expected:
                    raise Broken(f"resumed is {message['resumed']}")
            case "reset":
                watch.have, watch.gone, watch.sent = {}, {}, {}
                watch.was_reset = True
                watch.is_live = False
            case "batch":
                watch.batch = message["batch"]
            case "end":
                self.end(watch, message["reason"])

    def end(self, watch: Watch, reason: str) -> None:
        watch.ended = reason
        if not watch.is_live and reason not in ("not_found", "forbidden"):
            raise Broken(f"ended with {reason} before live")
        if reason == "completed" and watch.selection.batch_id is not None:
            if not self.store.is_complete(watch.selection.batch_id):
                raise Broken("a batch's stream ended before the batch was complete")
            if watch.batch is None or watch.batch["completedAt"] is None:
                raise Broken("a batch's stream ended without saying when it was complete")
            self.compare(watch)
        elif reason == "completed" and watch.selection.run_id is not None:
            final = watch.have.get(watch.selection.run_id)
            if final is None or RunStatus(final["status"]) not in FINAL:
                raise Broken(f"completed came instead of the final change: {final}")
        elif reason == "completed":
            job = watch.have.get(watch.selection.job_run_id or "")
            if job is None or RunStatus(job["status"]) not in FINAL:
                raise Broken(f"a job run's stream ended before its final change: {job}")
            self.compare(watch)

    def change(self, watch: Watch, kind: str, run: dict[str, Any]) -> None:
        id, version = run["id"], run["version"]
        if kind == "enter":
            self.show(watch, kind, run)
            return
        self.rises(watch, id, version)
        had = watch.have.get(id)
        if kind == "leave":
            if set(run) != {"id", "version", "status", "taskIdentifier", "updatedAt"}:
                raise Broken(f"a leave tells more: {run}")
            watch.gone[id] = version
            if had is not None and version >= had["version"]:
                del watch.have[id]
            return
        if watch.skipped & set(run):
            raise Broken("a skipped field was sent")
        self.may_see(watch, id, version, kind)
        if had is None:
            if watch.gone.get(id, 0) < version:
                raise Broken(f"a change of a run that the client does not have: {run}")
            return
        if version <= had["version"]:
            return
        if version > had["version"] + 1 and not watch.latest:
            raise Broken(f"a gap from {had['version']} to {version} of {id}")
        had.update(run)

    def show(self, watch: Watch, kind: str, run: dict[str, Any]) -> None:
        """A whole run."""
        id, version = run["id"], run["version"]
        if kind == "enter":
            self.rises(watch, id, version)
        else:
            watch.sent[id] = max(version, watch.sent.get(id, 0))
        self.may_see(watch, id, version, kind)
        had = watch.have.get(id)
        if had is None or version >= had["version"]:
            watch.have[id] = dict(run)

    def rises(self, watch: Watch, id: str, version: int) -> None:
        last = watch.sent.get(id)
        if last is not None and version <= last:
            raise Broken(f"version {version} of {id} came after {last} on one connection")
        watch.sent[id] = version

    def may_see(self, watch: Watch, id: str, version: int, kind: str) -> None:
        run = self.store.states[id, version]
        if not watch.fits(run, Facet(run.status, run.tags)):
            raise Broken(f"{kind}: version {version} of {id} was shown and does not match")

    # Comparing with the truth, when all is quiet.

    def problem(self) -> str | None:
        """What is not yet as it must be."""
        if self.connection is None:
            return "not connected"
        for watch in self.watches:
            if watch.ended:
                continue
            if not watch.is_live:
                return f"not live: {watch.ask}"
            selection = watch.selection
            if watch.stops and self.is_over(watch):
                return f"never ends: {watch.ask}"
            if selection.batch_id is not None and (
                watch.batch is None or watch.batch["final"] != self.finals(selection.batch_id)
            ):
                return f"the batch's progress is not up to date: {watch.batch}"
            try:
                self.compare(watch)
            except Broken as error:
                return str(error)
        return None

    def finals(self, batch_id: str) -> int:
        return sum(
            run.status in FINAL for run in self.store.runs.values() if run.batch_id == batch_id
        )

    def is_over(self, watch: Watch) -> bool:
        selection = watch.selection
        if selection.batch_id is not None:
            return self.store.is_complete(selection.batch_id)
        target = selection.run_id or selection.job_run_id
        if target is None:
            return False
        run = self.store.runs.get(target)
        return run is None or run.status in FINAL

    def compare(self, watch: Watch) -> None:
        """The client has what the store has, no more and no less."""
        truth = {id: run for id, run in self.store.runs.items() if watch.matches(run)}
        for id, run in truth.items():
            had = watch.have.get(id)
            if had is None:
                raise Broken(f"{id} is missing at {watch.ask}")
            if watch.ended and run.status in FINAL and RunStatus(had["status"]) in FINAL:
                continue  # tags and metadata may still change after that
            expected = msgspec.json.decode(msgspec.json.encode(wire_run(run, watch.skipped)))
            if had != expected:
                raise Broken(f"{id} is wrong at {watch.ask}: {had} and not {expected}")
        for id in watch.have:
            if id not in truth:
                raise Broken(f"{id} has left, and the client still has it: {watch.ask}")


async def turns(count: int) -> None:
    """Lets the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)
