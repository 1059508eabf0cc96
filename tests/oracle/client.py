"""A client that follows the protocol to the letter, and holds the server to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from realtime.auth import Grant
from realtime.hub import Connection, Hub
from store.lifecycle import FINAL
from store.model import Cursor
from tests.doubles import RecordingOutlet
from tests.oracle.ledger import Ledger, State

ALWAYS: Final = frozenset({"id", "version", "status", "taskIdentifier", "updatedAt"})
RESUMABLE: Final = frozenset({1001, 1012, 4401, 4408, 4429})


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class PlainOutlet(RecordingOutlet):
    """One whose socket takes finished frames past it, as long as its client reads."""

    number: int = 0

    def file(self) -> int | None:  # type: ignore[override]
        return self.number if self.writable and self.closed is None else None

    def finish_frame(self, frame: bytes, written: int) -> None:
        # What its transport has is on the way like all that comes after it.
        assert written < len(frame)
        self.lines += _message_of(frame).split(b"\n")


class Sockets:
    """The sockets of such outlets, in place of the system's."""

    def __init__(self) -> None:
        self._outlets: dict[int, PlainOutlet] = {}
        self._writes = 0

    def open(self) -> PlainOutlet:
        """Another one."""
        outlet = PlainOutlet(number=len(self._outlets) + 1_000_000)
        self._outlets[outlet.number] = outlet
        return outlet

    def write(self, number: int, frame: bytes) -> int:
        """Takes the frame, but now and then only a part of it."""
        outlet = self._outlets[number]
        if outlet.closed is not None or outlet.aborted:
            raise Broken("a frame was written to a socket that is closed")
        if not outlet.writable:
            raise BlockingIOError
        self._writes += 1
        if self._writes % 7 == 0:
            return len(frame) // 2
        outlet.lines += _message_of(frame).split(b"\n")
        return len(frame)


def _message_of(frame: bytes) -> bytes:
    """What a server's text frame holds."""
    start = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[start:]


@dataclass
class Shown:
    """Something that was said of a run, to be held against the ledger later."""

    kind: str
    run_id: str
    version: int
    scopes: frozenset[str]
    skip: frozenset[str]
    """The fields that were not to be shown."""
    state: State | None = None
    """The run as the client has it then; None for a leave, or where it has too little."""
    had: int | None = None
    """For an enter, the version that the client had from this very connection."""


@dataclass
class Ended:
    """How a stream stood when it ended."""

    reason: str
    have: dict[str, State]
    scopes: frozenset[str]
    batch: dict[str, Any] | None


@dataclass
class Stream:
    """One subscription as its client sees it, through all of its connections."""

    id: int
    ask: dict[str, Any]
    cursor: str | None = None
    ended: Ended | None = None
    is_live: bool = False
    was_reset: bool = False
    with_cursor: bool = False
    forbidden: bool = False
    is_unwanted: bool = False
    have: dict[str, State] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    """The last version of each run on this connection."""
    gone: dict[str, int] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)
    """What was told last of each run that was fetched, and was newer by then."""
    here: dict[str, int] = field(default_factory=dict)
    """The last version of each run that this connection, and no other, left at the client."""
    batch: dict[str, Any] | None = None
    partial: bool = False
    unheard_of: str | None = None
    """A change that came before `live` of a run that no snapshot had."""
    base: int | None = None
    """How much was committed when `live` came to a stream that was not shown everything."""
    shown: list[Shown] = field(default_factory=list)
    lives: int = 0
    forced: frozenset[str] = frozenset()
    """The fields that the token forces out."""
    heard: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    """The last messages about it, shortened: for whoever looks into a finding."""

    @property
    def skip(self) -> frozenset[str]:
        return self.forced.union(self.ask.get("skip", ()))

    @property
    def is_latest(self) -> bool:
        return self.ask.get("delivery") == "latest"

    @property
    def stops(self) -> bool:
        return bool(self.ask.get("stopOnCompletion", True))

    @property
    def target(self) -> str | None:
        """The one run or job run that it is about."""
        return self.ask.get("runId") or self.ask.get("jobRunId")

    def fits(self, state: State, scopes: frozenset[str]) -> bool:
        """Whether a run in that state belongs to it, and may be seen."""
        ask = self.ask
        if not covered(state, scopes):
            return False
        match ask["type"]:
            case "subscribeToRun":
                return bool(state["id"] == ask["runId"])
            case "subscribeToJobRun":
                return ask["jobRunId"] in (state["id"], state["parentRunId"])
            case "subscribeToBatch" if state["batchId"] != ask["batchId"]:
                return False
            case "subscribeToRunsWithTag":
                has = [tag in state["tags"] for tag in ask["tags"]]
                if not (any(has) if ask["match"] == "any" else all(has)):
                    return False
        return (
            state["status"] in ask.get("statuses", [state["status"]])
            and state["taskIdentifier"] in ask.get("tasks", [state["taskIdentifier"]])
            and state["isTest"] is ask.get("isTest", state["isTest"])
            and (
                "createdAfter" not in ask or _time(state["createdAt"]) > _time(ask["createdAfter"])
            )
        )


def covered(state: State, scopes: frozenset[str]) -> bool:
    """Whether a token with these scopes reads a run in that state."""
    step = state["workflowId"] is not None and f"read:runs:{state['parentRunId']}" in scopes
    return (
        "read:runs" in scopes
        or f"read:runs:{state['id']}" in scopes
        or step
        or f"read:batch:{state['batchId']}" in scopes
        or f"read:tasks:{state['taskIdentifier']}" in scopes
        or any(f"read:tags:{tag}" in scopes for tag in state["tags"])
    )


def _brief(message: dict[str, Any]) -> str:
    """A message in a line: of a run its id, version, status and tags."""
    said = dict(message)
    if "run" in said:
        said["run"] = _brief_run(said["run"])
    if "runs" in said:
        said["runs"] = [_brief_run(run) for run in said["runs"]]
    if "cursor" in said:
        cursor = Cursor.decode(said["cursor"])
        said["cursor"] = f"{cursor.epoch[:4]} {cursor.horizon}"
    return " ".join(str(value) for value in said.values())


def _brief_run(run: State) -> str:
    return f"{run['id']} v{run['version']} {run['status']} {run.get('tags', '')}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Client:
    """One client: reads what its connection sends, checks it, and resumes anywhere."""

    def __init__(
        self,
        project: str,
        scopes: frozenset[str],
        get: Callable[[str], Awaitable[State | None]],
        commits: Callable[[], int],
        outlet: Callable[[], RecordingOutlet] = RecordingOutlet,
    ) -> None:
        self.project = project
        self.scopes = scopes
        self.forced: frozenset[str] = frozenset()
        """The fields that its token forces out."""
        self.streams: list[Stream] = []
        self._new_outlet = outlet
        self.outlet = outlet()
        self.connection: Connection | None = None
        self.hub: Hub | None = None
        self.lags = False
        self.closes: list[int] = []
        self.token_id = "t0"
        self._get = get
        self._commits = commits
        self._next_id = 1
        self._read = 0
        self._tokens = 0
        self._asked: list[tuple[frozenset[str], frozenset[str]]] = []
        """Scopes and forced fields of the tokens that were handed in and not yet answered."""

    # ------------------------------------------------------------------------------- connecting

    def grant(self, scopes: frozenset[str], forced: frozenset[str]) -> Grant:
        """What a token with these scopes grants."""
        self._tokens += 1
        self.token_id = f"t{self._tokens}"
        return Grant(project=self.project, scopes=scopes, skip=forced, token_id=self.token_id)

    async def connect(self, hub: Hub) -> None:
        """Connects, and asks for every stream that has not ended, from its cursor."""
        grants = [self.grant(self.scopes, self.forced)]

        async def authenticate(_token: str | None) -> Grant:
            return grants.pop() if grants else self.grant(*self._asked[-1])

        self.outlet = self._new_outlet()
        self._read = 0
        self._asked = []
        self.hub = hub
        self.connection = hub.connect(self.outlet, authenticate)
        await self.connection.open(None)
        for stream in self.streams:
            if stream.ended is None and not stream.forbidden:
                await self._subscribe(stream)

    async def subscribe(self, ask: dict[str, Any], id: int | None = None) -> Stream:
        """A new stream; with an id of the caller's, which must not have been used."""
        id = self._next_id if id is None else id
        assert id >= self._next_id
        stream = Stream(id, ask)
        self._next_id = id + 1
        self.streams.append(stream)
        if self.connection is not None:
            await self._subscribe(stream)
        return stream

    @property
    def next_id(self) -> int:
        """From here on no id was used."""
        return self._next_id

    async def _subscribe(self, stream: Stream) -> None:
        stream.is_live = False
        stream.was_reset = False
        stream.forced = self.forced
        stream.sent, stream.here = {}, {}
        stream.unheard_of = None
        stream.with_cursor = stream.cursor is not None
        asked = stream.ask | {"id": stream.id}
        if stream.cursor is None:
            # No `reset` will say so, since nothing was asked for that can't be had.
            stream.have, stream.gone, stream.base, stream.partial = {}, {}, None, False
            stream.behind.clear()
        else:
            asked["cursor"] = stream.cursor
        stream.heard.append(f"--- asks {stream.ask}, with a cursor: {stream.with_cursor}")
        await self._send(asked)

    async def unsubscribe(self, stream: Stream) -> None:
        """Says so once: of the second time nobody could tell whether it came too late."""
        if stream.is_unwanted:
            return
        stream.is_unwanted = True
        await self._send({"type": "unsubscribe", "id": stream.id})

    async def ping(self) -> None:
        """Asks for an answer that is for it alone."""
        await self._send({"type": "ping"})

    async def authenticate(self, scopes: frozenset[str], forced: frozenset[str]) -> None:
        """Hands in another token on the live connection."""
        self._asked.append((scopes, forced))
        await self._send({"type": "authenticate", "token": "another"})

    async def _send(self, message: dict[str, Any]) -> None:
        if self.connection is not None and self.outlet.closed is None and not self.outlet.aborted:
            await self.connection.received(msgspec.json.encode(message))

    async def cut(self, leave: int = 0) -> None:
        """The connection is lost, and with it what has not been read."""
        await self.read(leave=leave)
        if self.connection is not None:
            self.connection.lost()
            self.connection = None

    def go_back(self, ledger: Ledger) -> None:
        """Has what each of its cursors covers, and nothing of what came after that.

        What a cursor does not cover may come before it does. Of a history that is taken back
        without a word nobody can tell a client to forget that.
        """
        for stream in self.live_streams:
            stream.have = _covered_by_cursor(stream, self.scopes, ledger)
            stream.gone.clear()
            stream.behind.clear()
            stream.batch = None

    # ---------------------------------------------------------------------------------- reading

    @property
    def live_streams(self) -> list[Stream]:
        return [each for each in self.streams if each.ended is None and not each.forbidden]

    @property
    def unread(self) -> int:
        """How many lines were sent and not yet taken in."""
        return len(self.outlet.lines) - self._read

    async def read(self, *, most: int | None = None, leave: int = 0) -> None:
        """Takes in what was sent: all of it, or at most so many lines, or all but the last."""
        end = max(self._read, len(self.outlet.lines) - leave)
        if most is not None:
            end = min(end, self._read + most)
        for line in self.outlet.lines[self._read : end]:
            self._read += 1
            message = msgspec.json.decode(line)
            try:
                await self._take(message)
            except Broken as error:
                error.add_note(self._heard_of(message))
                raise
        if self.connection is not None and end == len(self.outlet.lines):
            if self.outlet.closed is not None:
                code = self.outlet.closed[0]
                self.closes.append(code)
                if code not in RESUMABLE:
                    raise Broken(f"closed with {self.outlet.closed}")
                self.connection = None
            elif self.outlet.aborted:
                self.connection = None

    async def _take(self, message: dict[str, Any]) -> None:
        self._note(message)
        match message["type"]:
            case "checkpoint" | "heartbeat":
                for stream in self.streams:
                    if stream.is_live and stream.ended is None:
                        stream.cursor = message["cursor"]
            case "authenticated":
                self.scopes, self.forced = self._asked.pop(0)
                for stream in self.live_streams:
                    stream.forced = self.forced
            case "change":
                for id in message["ids"]:
                    await self._change(self._stream(id), message["kind"], message["run"])
            case "error":
                self._refused(message)
            case "snapshot":
                stream = self._stream(message["id"])
                for run in message["runs"]:
                    self._whole(stream, "snapshot", run)
            case "live":
                self._live(self._stream(message["id"]), message)
            case "reset":
                stream = self._stream(message["id"])
                stream.have, stream.gone, stream.sent, stream.here = {}, {}, {}, {}
                stream.behind.clear()
                stream.base, stream.partial, stream.unheard_of = None, False, None
                # With what it had goes the place where that ended, until `live` gives another.
                stream.cursor = None
                stream.was_reset, stream.is_live = True, False
            case "batch":
                self._stream(message["id"]).batch = message["batch"]
            case "end":
                self._end(self._stream(message["id"]), message["reason"])
            case "welcome" | "stale" | "fresh" | "reconnect" | "pong":
                pass
            case _:
                raise Broken(f"an unknown message: {message}")

    def _heard_of(self, message: dict[str, Any]) -> str:
        ids = message.get("ids", [message.get("id")])
        return "\n".join(
            line for stream in self.streams if stream.id in ids for line in stream.heard
        )

    def _note(self, message: dict[str, Any]) -> None:
        if message["type"] == "heartbeat":
            return  # they would push out all that tells something
        ids = message.get("ids", [message.get("id")])
        for stream in self.streams:
            if stream.id in ids or message["type"] == "checkpoint":
                stream.heard.append(_brief(message))

    def _stream(self, id: int) -> Stream:
        stream = next(each for each in self.streams if each.id == id)
        if stream.ended is not None or stream.forbidden:
            raise Broken(f"something came after the end of {stream.ask}")
        return stream

    def _refused(self, message: dict[str, Any]) -> None:
        asked = next(each for each in self.streams if each.id == message["id"])
        if message["code"] == "not_found" and asked.is_unwanted:
            return  # it had ended by itself meanwhile
        stream = self._stream(message["id"])
        if message["code"] == "not_found":
            return  # `end` follows
        if message["code"] == "forbidden" and "read:runs" not in self.scopes:
            stream.forbidden = True
            return
        raise Broken(f"error: {message}, asked for {stream.ask}")

    def _live(self, stream: Stream, message: dict[str, Any]) -> None:
        if stream.is_live:
            raise Broken(f"live came twice: {stream.ask}")
        stream.is_live = True
        stream.lives += 1
        stream.cursor = message["cursor"]
        expected = stream.with_cursor and not stream.was_reset
        if message["resumed"] is not expected:
            raise Broken(f"resumed is {message['resumed']}: {stream.ask}")
        if not message["resumed"]:
            skipped = not stream.ask.get("snapshot", True) and not stream.was_reset
            if message["truncated"] or skipped:
                stream.partial = True
                stream.base = self._commits()
        if stream.unheard_of is not None and not stream.partial:
            raise Broken(f"a change of a run that it has not: {stream.unheard_of}, {stream.ask}")
        stream.unheard_of = None

    def _end(self, stream: Stream, reason: str) -> None:
        if not stream.lives and reason not in ("not_found", "forbidden", "unsubscribed"):
            raise Broken(f"ended with {reason} before live: {stream.ask}")
        if reason in ("token_expired", "token_revoked"):
            stream.is_live = False  # the connection's close follows; it goes on from its cursor
            return
        stream.ended = Ended(reason, dict(stream.have), self.scopes, stream.batch)

    async def _change(self, stream: Stream, kind: str, run: dict[str, Any]) -> None:
        if kind == "enter":
            self._whole(stream, kind, run)
            return
        id, version = run["id"], run["version"]
        self._rises(stream, id, version)
        had = stream.have.get(id)
        if kind == "leave":
            if set(run) != ALWAYS:
                raise Broken(f"a leave tells more: {run}")
            stream.shown.append(Shown(kind, id, version, self.scopes, stream.skip))
            stream.here.pop(id, None)
            stream.gone[id] = max(version, stream.gone.get(id, 0))
            # A run that was fetched may have changed again after it had left.
            if had is not None and version >= stream.behind.get(id, had["version"]):
                del stream.have[id]
                stream.behind.pop(id, None)
            return
        if stream.skip & set(run):
            raise Broken("a skipped field was sent")
        if had is None:
            stream.shown.append(Shown(kind, id, version, self.scopes, stream.skip))
            if version <= stream.gone.get(id, 0):
                return  # a repeat: it has left since
            if not stream.is_live:
                stream.unheard_of = stream.unheard_of or _brief_run(run)  # `live` says whether
            elif not stream.partial:
                raise Broken(
                    f"a change of a run that it has not: {_brief_run(run)} at {stream.ask}"
                )
            found = await self._get(id)
            if found is not None and found["version"] >= version:
                stream.have[id] = {k: v for k, v in found.items() if k not in stream.skip}
                if found["version"] > version:
                    stream.behind[id] = version
            return
        self._told(stream, id, version)
        if version > had["version"]:
            if version > had["version"] + 1 and not stream.is_latest:
                raise Broken(f"a gap from {had['version']} to {version} of {id} at {stream.ask}")
            stream.have[id] = had = had | run
            stream.here[id] = version
        # A repeat says nothing new; but what it says was so.
        state = dict(had) if had["version"] == version else None
        stream.shown.append(Shown(kind, id, version, self.scopes, stream.skip, state))

    def _whole(self, stream: Stream, kind: str, run: dict[str, Any]) -> None:
        id, version = run["id"], run["version"]
        if kind == "enter":
            self._rises(stream, id, version)
            self._told(stream, id, version)
        else:
            stream.sent[id] = max(version, stream.sent.get(id, 0))
        if stream.skip & set(run):
            raise Broken("a skipped field was sent")
        stream.shown.append(
            Shown(kind, id, version, self.scopes, stream.skip, dict(run), stream.here.get(id))
        )  # fmt: skip
        had = stream.have.get(id)
        if had is None or version >= had["version"]:
            stream.have[id] = dict(run)
            stream.here[id] = version

    def _told(self, stream: Stream, id: str, version: int) -> None:
        if id in stream.behind:
            stream.behind[id] = max(version, stream.behind[id])
            if stream.behind[id] >= stream.have[id]["version"]:
                del stream.behind[id]

    def _rises(self, stream: Stream, id: str, version: int) -> None:
        last = stream.sent.get(id)
        if last is not None and version <= last:
            raise Broken(f"version {version} of {id} came after {last} at {stream.ask}")
        stream.sent[id] = version

    # ------------------------------------------------------------------ against what is committed

    def verify(self, ledger: Ledger) -> None:
        """Holds all that was said since the last time against what was committed."""
        for stream in self.streams:
            for shown in stream.shown:
                _verify(stream, shown, ledger)
            stream.shown.clear()
            if stream.ended is not None:
                _verify_end(stream, stream.ended, ledger)
        self.streams = [each for each in self.streams if each.ended is None and not each.forbidden]

    def problem(self, ledger: Ledger, committed: Mapping[str, int]) -> str | None:
        """What is not yet as it must be."""
        if self.connection is None:
            return "not connected"
        for stream in self.live_streams:
            if not stream.is_live:
                return "\n".join([f"not live: {stream.ask}", *stream.heard])
            found = _problem(stream, self.scopes, ledger, committed)
            if found is not None:
                return "\n".join([f"{found}, at {stream.ask}", *stream.heard])
        return None


def _covered_by_cursor(stream: Stream, scopes: frozenset[str], ledger: Ledger) -> dict[str, State]:
    if stream.cursor is None:
        return {}
    horizon = Cursor.decode(stream.cursor).horizon
    have = {}
    for id, xids in ledger.xids.items():
        if stream.partial and id not in stream.have and id not in stream.gone:
            continue  # it was never shown to it
        state = ledger.at(id, sum(map(horizon.seen, xids)))
        if state is not None and stream.fits(state, scopes):
            have[id] = {name: value for name, value in state.items() if name not in stream.skip}
    return have


def _verify(stream: Stream, shown: Shown, ledger: Ledger) -> None:
    id, version = shown.run_id, shown.version
    truth = ledger.at(id, version)
    if shown.kind == "leave":
        if id not in ledger.deleted and (truth is None or stream.fits(truth, shown.scopes)):
            raise Broken(f"version {version} of {id} has not left {stream.ask}: {truth}")
        return
    if truth is None:
        raise Broken(f"version {version} of {id} was never committed")
    if not stream.fits(truth, shown.scopes):
        raise Broken(f"{shown.kind}: {id} at version {version} does not belong to {stream.ask}")
    if shown.state is not None:
        for name, value in truth.items():
            if name in shown.skip or (name == "payload" and id not in ledger.payloads):
                continue
            if name not in shown.state or shown.state[name] != value:
                raise Broken(
                    f"{shown.kind}: {name} of {id} at version {version} is {value!r} and not "
                    f"{shown.state.get(name, 'there')!r}, at {stream.ask}"
                )
    if shown.kind == "enter" and shown.had is not None:
        between = [ledger.at(id, each) for each in range(shown.had, version)]
        if all(state is not None and stream.fits(state, shown.scopes) for state in between):
            raise Broken(f"{id} entered at version {version} and had never left: {stream.ask}")


def _verify_end(stream: Stream, ended: Ended, ledger: Ledger) -> None:
    ask = stream.ask
    target = stream.target
    what = f"ended with {ended.reason}: {ask}"
    match ended.reason:
        case "deleted" if target not in ledger.deleted:
            raise Broken(f"its target is still there, and it {what}")
        case "not_found" if target in ledger.states and target not in ledger.deleted:
            raise Broken(f"its target is there, and it {what}")
        case "forbidden" if "read:runs" in ended.scopes:
            raise Broken(f"everything is allowed, and it {what}")
        case "completed":
            if not stream.stops:
                raise Broken(f"it was to stay, and {what}")
            for id, states in ledger.states.items():
                _verify_final(stream, ended, id, states, ledger, what)
            if "batchId" in ask:
                if not ledger.is_complete(ask["batchId"]):
                    raise Broken(f"the batch is not complete, and it {what}")
                if "read:runs" in ended.scopes and not (ended.batch and ended.batch["completedAt"]):
                    raise Broken(f"it was not told when the batch was complete, and {what}")


def _verify_final(
    stream: Stream, ended: Ended, id: str, states: list[State], ledger: Ledger, what: str
) -> None:
    """The stream was to be shown the run's final version before its end."""
    finals = [state for state in states if state["status"] in FINAL]
    own = id == stream.target
    if own and not finals:
        raise Broken(f"{id} is not final, and it {what}")
    if not finals or id in ledger.deleted or stream.partial:
        return
    # After its end a run's tags may still change, and with them what a token covers.
    if not all(stream.fits(state, ended.scopes) for state in finals):
        return
    had = ended.have.get(id)
    if had is None or had["version"] < finals[0]["version"]:
        had_version = None if had is None else had["version"]
        raise Broken(f"{id} is final by {finals[0]['version']} and not {had_version}, it {what}")


def _problem(
    stream: Stream, scopes: frozenset[str], ledger: Ledger, committed: Mapping[str, int]
) -> str | None:
    ask = stream.ask
    target = stream.target
    runs = ledger.now()
    if target is not None:
        now = runs.get(target)
        if now is None:
            return "its target is gone, and it does not end"
        if stream.stops and now["status"] in FINAL:
            return "it never ends"
    if "batchId" in ask:
        if stream.stops and ledger.is_complete(ask["batchId"]):
            return "it never ends"
        if stream.batch is None or stream.batch["counts"] != ledger.counts(ask["batchId"]):
            if "read:runs" in scopes:
                return f"the batch's progress is {stream.batch}"
        elif (stream.batch["sealedAt"] is not None) != (ask["batchId"] in ledger.sealed):
            return f"the batch's seal is {stream.batch}"
    truth = {id: state for id, state in runs.items() if stream.fits(state, scopes)}
    for id, state in truth.items():
        had = stream.have.get(id)
        if had is None:
            if stream.base is not None and committed.get(id, 0) <= stream.base:
                continue
            return f"{id} is missing, version {state['version']}"
        expected = {name: value for name, value in state.items() if name not in stream.skip}
        if had != expected:
            wrong = [name for name in expected if had.get(name) != expected[name]]
            return f"{id} is at {had['version']} and not {state['version']}, wrong in {wrong}"
    for id in stream.have:
        if id not in truth:
            return f"{id} has left, and the client still has it"
    return None
