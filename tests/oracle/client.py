"""A client that follows the protocol to the letter, and holds the server to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from realtime.auth import Grant
from realtime.hub import Connection, Hub
from store.model import Cursor
from tests.doubles import RecordingOutlet
from tests.oracle import truth
from tests.oracle.ledger import Ledger, State
from tests.oracle.stream import Broken, Stream, brief_run

RESUMABLE: Final = frozenset({1001, 1012, 4401, 4408, 4429})


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
        await self._send(stream.asked(self.forced))

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
        self._read = len(self.outlet.lines)
        if self.connection is not None:
            self.connection.lost()
            self.connection = None

    def go_back(self, ledger: Ledger) -> None:
        """Has what each of its cursors covers, and nothing of what came after that.

        What a cursor does not cover may come before it does. Of a history that is taken back
        without a word nobody can tell a client to forget that.
        """
        for stream in self.live_streams:
            stream.have = truth.covered_by_cursor(stream, self.scopes, ledger)
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

    async def read_on(self) -> None:
        """Its socket takes all there is again, and so does it."""
        self.lags = False
        self.outlet.writable = True
        if self.connection is not None:
            self.connection.writable()
        await self.read()

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
                    await self._stream(id).change(
                        message["kind"], message["run"], self.scopes, self._get
                    )
            case "error":
                self._refused(message)
            case "snapshot":
                stream = self._stream(message["id"])
                for run in message["runs"]:
                    stream.whole("snapshot", run, self.scopes)
            case "live":
                self._stream(message["id"]).live(message, self._commits())
            case "reset":
                self._stream(message["id"]).reset()
            case "batch":
                self._stream(message["id"]).batch = message["batch"]
            case "end":
                self._stream(message["id"]).end(message["reason"], self.scopes)
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

    # ------------------------------------------------------------------ against what is committed

    def verify(self, ledger: Ledger) -> None:
        """Holds all that was said since the last time against what was committed."""
        for stream in self.streams:
            truth.verify(stream, ledger)
        self.streams = [each for each in self.streams if each.ended is None and not each.forbidden]

    def problem(self, ledger: Ledger, committed: Mapping[str, int]) -> str | None:
        """What is not yet as it must be."""
        if self.connection is None:
            return "not connected"
        for stream in self.live_streams:
            if not stream.is_live:
                return "\n".join([f"not live: {stream.ask}", *stream.heard])
            found = truth.problem(stream, self.scopes, ledger, committed)
            if found is not None:
                return "\n".join([f"{found}, at {stream.ask}", *stream.heard])
        return None


def _brief(message: dict[str, Any]) -> str:
    """A message in a line: of a run its id, version, status and tags."""
    said = dict(message)
    if "run" in said:
        said["run"] = brief_run(said["run"])
    if "runs" in said:
        said["runs"] = [brief_run(run) for run in said["runs"]]
    if "cursor" in said:
        cursor = Cursor.decode(said["cursor"])
        said["cursor"] = f"{cursor.epoch[:4]} {cursor.horizon}"
    return " ".join(str(value) for value in said.values())
