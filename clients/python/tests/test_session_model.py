"""Whatever happens in whatever order, a subscriber of `every` is told each version once, in order.

A model of a server with runs, a log and cursors plays against the session: it cuts
connections, repeats what was sent after the last cursor, resets, sends runs away and back, and
lets the caller be slow. What the caller is told must always be what the server's log says.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clients.python.tests.builders import a_run, some_fields
from runstream import protocol
from runstream.changes import Changed, Entered, Left, Reset
from runstream.effects import AskToken, Dial, DialFailed, Effect, Fetch, Hangup, Send, State
from runstream.inbox import Inbox, Mark
from runstream.merging import whole
from runstream.session import Session
from runstream.stream import Stream, StreamState

RUNS = ["run_a", "run_b", "run_c"]
CHANGES = st.tuples(st.sampled_from(RUNS), st.sampled_from([True, True, False]))


class ModelServer:
    """The truth: a log of changes, and what it sends to the one subscription of a connection."""

    def __init__(self) -> None:
        # Each entry: run, version, whether the run matches after it.
        self.log: list[tuple[str, int, bool]] = []
        self.now: dict[str, tuple[int, bool]] = {}
        self.epoch = 0
        self.sub: int | None = None
        self.place = 0
        self.is_live = False

    def change(self, run: str, matches: bool) -> None:
        version = self.now.get(run, (0, False))[0] + 1
        self.now[run] = (version, matches)
        self.log.append((run, version, matches))

    def new_epoch(self) -> None:
        """Another history: what is there stays, at version 1."""
        self.epoch += 1
        self.log = []
        for run, (_, matches) in list(self.now.items()):
            self.now[run] = (1, matches)

    def cursor(self) -> str:
        return f"{self.epoch}:{self.place}"

    def join(self, wish: dict[str, Any]) -> None:
        self.sub, self.is_live = wish["id"], False
        self.wished = wish.get("cursor")
        self.has_snapshot = wish.get("snapshot", True)

    def answer(self) -> list[dict[str, Any]]:
        """Snapshot or replay, and `live`."""
        messages: list[dict[str, Any]] = []
        resumed = False
        if self.wished is not None:
            epoch, place = map(int, self.wished.split(":"))
            if epoch == self.epoch:
                resumed, self.place = True, place
                messages += self.owed()
            else:
                messages.append({"type": "reset", "id": self.sub, "reason": "epoch"})
        if not resumed and (self.has_snapshot or messages):
            messages += self.snapshot()
        elif not resumed:
            self.place = len(self.log)
        self.is_live = True
        fields = {"resumed": resumed, "truncated": False, "cursor": self.cursor()}
        return [*messages, {"type": "live", "id": self.sub, **fields}]

    def snapshot(self) -> list[dict[str, Any]]:
        runs = [state(run, version) for run, (version, matches) in self.now.items() if matches]
        self.place = len(self.log)
        return [{"type": "snapshot", "id": self.sub, "runs": runs}]

    def owed(self) -> list[dict[str, Any]]:
        """The changes that the connection was not sent, each with what it means for the filter."""
        messages = []
        for run, version, matches in self.log[self.place :]:
            before = any(r == run and v == version - 1 and m for r, v, m in self.log)
            if version == 1 or not any(r == run and v == version - 1 for r, v, _ in self.log):
                before = self.was_matching(run, version)
            if matches and before:
                fields = some_fields(run, version, "EXECUTING", metadata={"v": version})
                messages.append(change(self.sub, "change", fields))
            elif matches:
                messages.append(change(self.sub, "enter", state(run, version)))
            elif before:
                fields = some_fields(run, version, "EXECUTING")
                messages.append(change(self.sub, "leave", fields))
        self.place = len(self.log)
        return messages

    def was_matching(self, run: str, version: int) -> bool:
        # The first change of a run in this epoch's log: what stood before is what the
        # epoch began with.
        return version > 1 and self.begun.get(run, False)

    begun: dict[str, bool] = {}  # noqa: RUF012 - set with each epoch


def change(sub: int | None, kind: str, run: dict[str, Any]) -> dict[str, Any]:
    return {"type": "change", "ids": [sub], "kind": kind, "run": run}


def state(run: str, version: int) -> dict[str, Any]:
    return a_run(run, version, status="EXECUTING", metadata={"v": version})


class Play(RuleBasedStateMachine):
    """A session, a server, and a caller who takes what is told at its own pace."""

    @initialize(
        has_snapshot=st.booleans(),
        buffer=st.sampled_from([2, 5, 100]),
        changes=st.lists(CHANGES, max_size=4),
    )
    def begin(self, has_snapshot: bool, buffer: int, changes: list[tuple[str, bool]]) -> None:
        self.time = 0.0
        self.server = ModelServer()
        for run, matches in changes:
            self.server.change(run, matches)
        self.session = Session(
            token="t",
            has_provider=False,
            chance=lambda: 0.5,
            wall_clock=lambda: datetime.now(UTC),
        )
        self.inbox = Inbox(conflating=False, max_changes=buffer, max_bytes=10**9)
        self.stream = Stream(
            protocol.SubscribeToRuns(id=0, snapshot=has_snapshot), self.inbox, self.session.stats
        )
        self.has_snapshot = has_snapshot
        # What the caller has: the newest version of each run, and what it was told.
        self.held: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.fetches: list[str] = []
        self.is_connected = False
        self.perform(self.session.subscribe(self.stream, self.time))
        self.connect()
        self.join()

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(messages):
                    for message in messages:
                        self.sent(message)
                case Hangup():
                    self.is_connected = False
                    self.server.sub = None
                case Fetch(run_id):
                    self.fetches.append(run_id)
                case AskToken():
                    raise AssertionError("there is no provider")
                case Dial(token):
                    assert token == "t"
                case _:
                    pass

    def sent(self, message: protocol.ClientMessage) -> None:
        told = json.loads(protocol.write([message], 10**6)[0])
        match told["type"]:
            case "subscribeToRuns":
                self.server.join(told)
            case "unsubscribe":
                if self.server.sub == told["id"]:
                    self.server.sub = None
                self.say({"type": "end", "id": told["id"], "reason": "unsubscribed"})

    def say(self, *messages: dict[str, Any]) -> None:
        # Once the session has hung up, nothing reaches it; that is the shell's part.
        if self.is_connected and messages:
            text = "\n".join(map(json.dumps, messages)).encode()
            self.perform(self.session.received(text, self.time))

    # What the world does

    def connect(self) -> None:
        """As far as a socket that is open and greeted."""
        for _ in range(10):
            if self.is_connected:
                return
            deadline = self.session.deadline
            if self.session.state is State.DIALING:
                self.is_connected = True
                self.perform(self.session.opened(self.time))
                self.say({"type": "welcome", "heartbeatS": 15})
            elif deadline is not None:
                self.time = max(self.time, deadline)
                self.perform(self.session.tick(self.time))
        raise AssertionError(f"it does not connect: {self.session.state}")

    def join(self, cut_at: int | None = None) -> None:
        """The answer to a subscription, if one waits for it; or its beginning, and a cut."""
        server = self.server
        if server.sub is None or server.is_live:
            return
        place = server.place
        messages = server.answer()
        if cut_at is not None and cut_at < len(messages):
            server.is_live, server.place = False, place
            self.say(*messages[:cut_at])
            self.cut(None)
        else:
            self.say(*messages)

    def cut(self, code: int | None) -> None:
        if self.is_connected:
            self.is_connected = False
            self.server.sub = None
            self.perform(self.session.closed(code, "", self.time))

    def deliver(self) -> None:
        if self.server.sub is not None and self.server.is_live:
            self.say(*self.server.owed())

    @rule(
        changes=st.lists(CHANGES, min_size=1, max_size=6),
        is_delivered=st.booleans(),
        has_checkpoint=st.booleans(),
    )
    def change(
        self, changes: list[tuple[str, bool]], is_delivered: bool, has_checkpoint: bool
    ) -> None:
        for run, matches in changes:
            self.server.change(run, matches)
        if is_delivered:
            self.deliver()
            if has_checkpoint and self.server.is_live and self.server.sub is not None:
                self.say({"type": "checkpoint", "cursor": self.server.cursor()})

    @rule(
        code=st.sampled_from([None, 1006, 1012, 4408]),
        failures=st.integers(0, 2),
        drains=st.booleans(),
    )
    def lose(self, code: int | None, failures: int, drains: bool) -> None:
        if drains and self.is_connected:
            self.say({"type": "reconnect", "afterMs": 100, "reason": "draining"})
            self.deliver()
        self.cut(code)
        for _ in range(failures):
            if self.session.state is State.DIALING:
                self.perform(self.session.dial_failed(DialFailed("no"), self.time))

    @rule(cut_at=st.one_of(st.none(), st.integers(0, 4)))
    def come_back(self, cut_at: int | None) -> None:
        self.connect()
        self.join(cut_at)

    @rule(really=st.sampled_from([False, False, False, True]))
    def another_history(self, really: bool) -> None:
        if not really:
            return
        # It is told at the next join: an epoch is looked at by every one of them.
        self.cut(None)
        self.server.new_epoch()
        self.server.begun = {run: matches for run, (_, matches) in self.server.now.items()}

    @precondition(lambda self: self.fetches)
    @rule(is_late=st.booleans())
    def fetch(self, is_late: bool) -> None:
        run = self.fetches.pop(0)
        version, _ = self.server.now[run]
        # A read may be of a moment ago.
        got = whole(state(run, max(1, version - 1) if is_late else version))
        self.perform(self.session.fetched(run, got, self.time))

    # What the caller does

    @rule(count=st.integers(1, 8))
    def take(self, count: int) -> None:
        for _ in range(count):
            self.take_one()
        if self.stream.state is StreamState.PAUSED and self.inbox.is_low:
            self.perform(self.session.drained(self.stream, self.time))

    def take_one(self) -> None:
        entry = self.inbox.take()
        match entry:
            case Entered(run=run):
                assert run.metadata == {"v": run.version}
                assert run.id not in self.held, "it is there, and enters"
                if self.server.epoch == 0:
                    assert run.version > self.left.get(run.id, 0), "it has left since"
                self.held[run.id] = run.version
            case Changed(run=run):
                assert run.metadata == {"v": run.version}
                held = self.held[run.id]
                # Also after a snapshot that was cut off: nothing of it was given.
                assert run.version == held + 1, f"{held} then {run.version}"
                self.held[run.id] = run.version
            case Left(run=run):
                self.held.pop(run.id, None)
                self.left[run.id] = run.version
            case Reset():
                self.held.clear()
            case Mark() | None:
                pass

    @invariant()
    def nothing_is_lost_by_count(self) -> None:
        if hasattr(self, "session"):
            assert self.session.stats.gaps == 0
            assert not self.stream.is_over

    def teardown(self) -> None:
        """When all has calmed down, the caller has exactly what the server has."""
        if not hasattr(self, "session"):
            return
        for _ in range(200):
            self.settle()
            if self.is_settled():
                break
        assert self.is_settled(), "it never settles"
        truth = {run: version for run, (version, matches) in self.server.now.items() if matches}
        if self.has_snapshot:
            assert self.held == truth
        else:
            assert self.held.items() <= truth.items()

    def settle(self) -> None:
        self.connect()
        if self.stream.state is StreamState.IDLE:
            self.time += 1
            self.perform(self.session.tick(self.time))
        self.join()
        self.deliver()
        while self.fetches:
            self.fetch(is_late=False)
        self.take(50)

    def is_settled(self) -> bool:
        return (
            self.stream.state is StreamState.LIVE
            and not len(self.inbox)
            and not self.fetches
            and self.server.place == len(self.server.log)
        )


TestPlay = Play.TestCase
TestPlay.settings = settings(
    max_examples=200,
    derandomize=True,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
