"""A session with a test in the place of its server, its clock and its caller."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from runstream import protocol
from runstream.changes import Changed, Entered, Left
from runstream.effects import Effect, Hangup, Send, State, Wake
from runstream.inbox import Inbox, Mark
from runstream.session import Session
from runstream.stream import Stream

GREETED: dict[str, Any] = {"server": "s/1"}
"""What a `welcome` says that says nothing much."""


class World:
    """A session with a server's end that a test plays, without a socket or a clock."""

    def __init__(self) -> None:
        self.session = Session(
            token="t",
            has_provider=False,
            chance=lambda: 0.5,
            wall_clock=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        )
        self.time = 0.0
        self.woken: list[Stream] = []
        self.hung_up = 0
        self._sent: list[dict[str, Any]] = []

    def stream(self, **wish: Any) -> Stream:
        inbox = Inbox(conflating=wish.get("delivery") == "latest", max_changes=100, max_bytes=10**6)
        stream = Stream(protocol.SubscribeToRuns(id=0, **wish), inbox, self.session.stats)
        self.perform(self.session.subscribe(stream, self.time))
        return stream

    def opens(self, **welcome: Any) -> None:
        """As far as a socket that is open and, with fields of a `welcome`, greeted."""
        while self.session.state is State.WAITING:
            self.time = self.session.deadline or self.time
            self.perform(self.session.tick(self.time))
        self.perform(self.session.opened(self.time))
        if welcome:
            self.says({"type": "welcome", "heartbeatS": 15, **welcome})

    def says(self, *messages: dict[str, Any]) -> None:
        text = "\n".join(map(json.dumps, messages)).encode()
        self.perform(self.session.received(text, self.time))

    def closes(self, code: int | None = None) -> None:
        self.perform(self.session.closed(code, "", self.time))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(messages):
                    self._sent += [json.loads(protocol.write([m], 10**6)[0]) for m in messages]
                case Wake(streams):
                    self.woken += streams
                case Hangup():
                    self.hung_up += 1
                case _:
                    pass

    def sent(self) -> list[dict[str, Any]]:
        """What was sent since this was asked last."""
        sent, self._sent = self._sent, []
        return sent


def told(stream: Stream) -> list[str]:
    """What its caller takes now, in short."""
    found = []
    while (entry := stream.inbox.take()) is not None:
        match entry:
            case Entered(run) | Changed(run) | Left(run):
                found.append(f"{type(entry).__name__} {run.id} {run.version}")
            case Mark(cursor=cursor):
                found.append(cursor)
            case _:
                found.append(type(entry).__name__)
    return found
