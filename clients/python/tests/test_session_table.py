"""The tables of states and events in `docs/client-session.md` are what the session does.

Each cell is tried: a session is brought into the state, the event happens, and what follows
is written as the table writes it. A cell that is missing, or says something else, fails.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clients.python.tests import builders
from clients.python.tests.builders import a_run, a_snapshot, live, the_end
from runstream import protocol
from runstream.effects import DialFailed, Effect, Send, State, Tell, Wake
from runstream.errors import RunstreamError, Unauthorized
from runstream.inbox import Inbox, Mark
from runstream.merging import whole
from runstream.models import AnyRun
from runstream.session import Session
from runstream.stats import Stats
from runstream.stream import Stream, StreamState
from runstream.timing import Timing

PAGE = Path(__file__).parents[3] / "docs" / "client-session.md"
NOW = 1000.0
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EXPIRES = "2026-03-01T12:00:10.000000Z"

RESET = {"type": "reset", "id": 1, "reason": "epoch"}

Event = Callable[["Case"], list[Effect]]


class Case:
    """A session in some state, with one stream unless the state has none."""

    def __init__(self, *, has_provider: bool = True, buffer: int = 100) -> None:
        token = None if has_provider else "fixed"
        self.session = Session(
            token=token,
            has_provider=has_provider,
            chance=lambda: 0.5,
            wall_clock=lambda: START,
            timing=Timing(),
        )
        inbox = Inbox(conflating=False, max_changes=buffer, max_bytes=10**6)
        self.stream = Stream(protocol.SubscribeToRuns(id=0), inbox, self.session.stats)

    def says(self, *messages: dict[str, Any]) -> list[Effect]:
        text = "\n".join(map(json.dumps, messages)).encode()
        return self.session.received(text, NOW)

    def bring(self, state: State) -> Case:
        """Brings the connection into a state, by what really happens before it."""
        session = self.session
        if state is State.IDLE:
            return self
        if state is State.CLOSED:
            session.close()
            return self
        session.subscribe(self.stream, NOW)
        if state is State.ASKING:
            return self
        if session.state is State.ASKING:
            session.token_came("first", NOW)
        if state is State.WAITING:
            session.dial_failed(DialFailed("refused"), NOW)
        elif state is not State.DIALING:
            session.opened(NOW)
            if state is not State.GREETING:
                self.says(welcome())
            if state is State.DRAINING:
                self.says({"type": "reconnect", "afterMs": 60_000, "reason": "draining"})
        assert session.state is state
        return self

    def bring_stream(self, state: StreamState) -> Case:
        """Brings the stream into a state, on a connection that is open."""
        self.bring(State.OPEN)
        match state:
            case StreamState.IDLE:
                self.says({"type": "error", "id": 1, "code": "unavailable", "message": ""})
            case StreamState.LIVE:
                self.says(a_snapshot(a_run()), live())
            case StreamState.PAUSED:
                self.says(a_snapshot(a_run()), live())
                # A buffer of two: the snapshot's run and this one fill it.
                self.says(builders.an_enter(a_run("run_2")))
            case StreamState.ENDED:
                self.says(a_snapshot(a_run()), live(), the_end())
        assert self.stream.state is state
        while self.stream.inbox.take() is not None:
            pass
        return self

    def connection_cell(self, effects: list[Effect]) -> str:
        """What has followed, as the table writes it."""
        return self._cell(self.session.state, effects)

    def stream_cell(self, effects: list[Effect]) -> str:
        told = []
        # Before `live` it waits for that, and is dropped with a lost connection.
        self.stream.inbox.release()
        while (entry := self.stream.inbox.take()) is not None:
            told.append("cursor" if isinstance(entry, Mark) else type(entry).__name__)
        return self._cell(self.stream.state, effects, told)

    def _cell(
        self, state: State | StreamState, effects: list[Effect], told: list[str] | None = None
    ) -> str:
        done = list(told or [])
        for effect in effects:
            if isinstance(effect, Send):
                done += [f"send {type(message).__name__}" for message in effect.messages]
            elif not isinstance(effect, Tell | Wake):
                done.append(type(effect).__name__)
        if self.stream.error is not None:
            done.append(f"raise {type(self.stream.error).__name__}")
        elif self.stream.end_reason is not None and (told is not None or state is State.CLOSED):
            done.append(f"end {self.stream.end_reason}")
        return f"{state.value}: {', '.join(done)}" if done else state.value


def welcome(**fields: Any) -> dict[str, Any]:
    return {"type": "welcome", "connectionId": "c", "heartbeatS": 10, "server": "s/1", **fields}


def at(deadline: str) -> Event:
    """That a time has come; where it is not waited for, nothing is due."""

    def happens(case: Case) -> list[Effect]:
        when = operator.attrgetter(deadline)(case.session)
        return case.session.tick(NOW if when is None else when)

    return happens


def token_ends_soon(case: Case) -> list[Effect]:
    if case.session.state in OPEN:
        case.says({"type": "authenticated", "expiresAt": EXPIRES})
    return at("_token.refresh_at")(case)


def asked_early(then: Event) -> Event:
    """That it happens after a token was asked for because the present one ends soon."""

    def happens(case: Case) -> list[Effect]:
        if case.session.state not in OPEN:
            return []
        token_ends_soon(case)
        return then(case)

    return happens


def the_same_token(case: Case) -> list[Effect]:
    if case.session.state is State.ASKING:
        case.session.token_came("first", NOW)
        case.session.opened(NOW)
        case.session.closed(4401, "", NOW)
    return case.session.token_came("first", NOW)


def silent(case: Case) -> list[Effect]:
    return case.session.tick(NOW + 20) if case.session.state in OPEN else []


def still_silent(case: Case) -> list[Effect]:
    silent(case)
    return case.session.tick(NOW + 25) if case.session.state in OPEN else []


def says(*messages: dict[str, Any]) -> Event:
    return lambda case: case.says(*messages)


def closes(code: int | None) -> Event:
    return lambda case: case.session.closed(code, "", NOW)


def another(case: Case) -> list[Effect]:
    inbox = Inbox(conflating=False, max_changes=100, max_bytes=10**6)
    stream = Stream(protocol.SubscribeToRuns(id=0), inbox, Stats())
    case.stream = stream
    return case.session.subscribe(stream, NOW)


def lingers(case: Case) -> list[Effect]:
    if case.session.state not in OPEN:
        return []
    case.session.unsubscribe(case.stream, NOW)
    return at("_idle_at")(case)


OPEN = (State.OPEN, State.DRAINING)

CONNECTION_EVENTS: dict[str, Event] = {
    "a subscription": another,
    "the last one is dropped": lambda c: c.session.unsubscribe(c.stream, NOW),
    "a token": lambda c: c.session.token_came("second", NOW),
    "the token that was refused": the_same_token,
    "no token for now": lambda c: c.session.token_failed(None, NOW),
    "no token for good": lambda c: c.session.token_failed(Unauthorized(), NOW),
    "a token, asked for early": asked_early(lambda c: c.session.token_came("second", NOW)),
    "none for now, asked for early": asked_early(lambda c: c.session.token_failed(None, NOW)),
    "the socket is open": lambda c: c.session.opened(NOW),
    "it can't be opened": lambda c: c.session.dial_failed(DialFailed("refused"), NOW),
    "429 or 503 instead": lambda c: c.session.dial_failed(DialFailed("503", busy=True), NOW),
    "401 instead": lambda c: c.session.dial_failed(DialFailed("401", unauthorized=True), NOW),
    "403, or no such server": lambda c: c.session.dial_failed(
        DialFailed("403", error=RunstreamError("403")), NOW
    ),
    "`welcome`": says(welcome()),
    "`authenticated`": says({"type": "authenticated", "expiresAt": None}),
    "`reconnect`": says({"type": "reconnect", "afterMs": 500, "reason": "draining"}),
    "`heartbeat`, `checkpoint`": says({"type": "checkpoint", "cursor": "c2"}),
    "`stale`, `fresh`, `pong`": says({"type": "stale"}, {"type": "fresh"}, {"type": "pong"}),
    "`error` without an id": says({"type": "error", "code": "bad_request", "message": ""}),
    "`end` `token_expired`, `token_revoked`": says(the_end("token_expired")),
    "an unknown message": says({"type": "news"}),
    "what can't be read": lambda c: c.session.received(b"{", NOW),
    "lost; 1001, 1006, 1012, 4408 …": closes(None),
    "closed with 4429": closes(4429),
    "closed with 4401": closes(4401),
    "closed with 4400, 4402 to 4407": closes(4403),
    "the pause is over": at("_next_try_at"),
    "`afterMs` is over": at("_come_back_at"),
    "no `welcome` for 10 s": at("_greeted_by"),
    "silence for 2 heartbeats": silent,
    "and for half a one more": still_silent,
    "the token ends soon": token_ends_soon,
    "no subscription for 30 s": lingers,
    "the client itself fails": lambda c: c.session.break_off(RunstreamError("fault")),
    "`aclose`": lambda c: c.session.close(),
}


def fetched(case: Case, run: AnyRun | None) -> list[Effect]:
    case.says(builders.a_change(3, run_id="run_9"))
    while case.stream.inbox.take() is not None:
        pass
    return case.session.fetched("run_9", run, NOW)


def retried(case: Case) -> list[Effect]:
    when = case.stream.retry_at
    return case.session.tick(NOW + 1 if when is None else when)


def full(case: Case) -> list[Effect]:
    effects = case.says(*(builders.an_enter(a_run(f"run_{n}")) for n in range(5, 8)))
    case.stream.inbox.clear()
    return effects


STREAM_EVENTS: dict[str, Event] = {
    "`snapshot`": says(a_snapshot(a_run(), a_run("run_2"))),
    "`live`": says(live("c2")),
    "`change` `enter`": says(builders.an_enter(a_run("run_3"))),
    "`change`, newer": says(builders.a_change(2)),
    "`change`, a repeat": says(builders.a_change(1)),
    "`change` of a run that is not held": says(builders.a_change(3, run_id="run_9")),
    "that run": lambda c: fetched(c, whole(a_run("run_9", 3))),
    "that run, too old": lambda c: fetched(c, whole(a_run("run_9", 2))),
    "no such run": lambda c: fetched(c, None),
    "`change` `leave`": says(builders.a_leave(2)),
    "`leave`, older": says(builders.a_leave(0)),
    "`leave` of a run that is not held": says(builders.a_leave(2, run_id="run_9")),
    "`batch`": says({"type": "batch", "id": 1, "batch": builders.a_batch()}),
    "`checkpoint`, `heartbeat`": says({"type": "checkpoint", "cursor": "c2"}),
    "`reset`": says(RESET),
    "`reset`, then `live` without what is held": says(RESET, live("c2")),
    "the same, and `live` is truncated": says(RESET, live("c2", truncated=True)),
    "`end` `completed`, `deleted`": says(the_end()),
    "`end` `not_found`": says(the_end("not_found")),
    "`end` `forbidden`": says(the_end("forbidden")),
    "`end` `unsubscribed`, or a new word": says(the_end("unsubscribed")),
    "`error` `unavailable`": says({"type": "error", "id": 1, "code": "unavailable", "message": ""}),
    "`error` `too_many_requests`": says(
        {"type": "error", "id": 1, "code": "too_many_requests", "message": ""}
    ),
    "another `error`": says({"type": "error", "id": 1, "code": "bad_request", "message": ""}),
    "it is time to ask again": retried,
    "the inbox is full": full,
    "the caller has caught up": lambda c: c.session.drained(c.stream, NOW),
    "the connection is lost": lambda c: [
        effect for effect in c.session.closed(None, "", NOW) if isinstance(effect, Send)
    ],
    "the caller drops it": lambda c: c.session.unsubscribe(c.stream, NOW),
}


def observed_connection(event: str, state: State) -> str:
    case = Case().bring(state)
    return case.connection_cell(CONNECTION_EVENTS[event](case))


def observed_stream(event: str, state: StreamState) -> str:
    case = Case(buffer=2 if state is StreamState.PAUSED or event == "the inbox is full" else 100)
    if event == "the inbox is full" and state is StreamState.LIVE:
        case = Case(buffer=3)
    case.bring_stream(state)
    cell = case.stream_cell(STREAM_EVENTS[event](case))
    # One that was over before tells again how it ended; nothing has followed.
    return "ENDED" if state is StreamState.ENDED and cell == "ENDED: end completed" else cell


def written(first: str) -> dict[tuple[str, str], str]:
    """The table in the page whose first heading is this: what each cell says."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    states = [cell.strip() for cell in lines[start].strip("|").split("|")][1:]
    cells: dict[tuple[str, str], str] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        event, *row = [cell.strip() for cell in line.strip().strip("|").split("|")]
        assert len(row) == len(states), line
        cells |= {(event, state): cell for state, cell in zip(states, row, strict=True)}
    return cells


def test_the_tables_have_every_state_and_every_event() -> None:
    assert written("connection").keys() == {
        (event, state.value) for event in CONNECTION_EVENTS for state in State
    }
    assert written("stream").keys() == {
        (event, state.value) for event in STREAM_EVENTS for state in StreamState
    }
    assert all(written("connection").values())
    assert all(written("stream").values())


@pytest.mark.parametrize("state", State)
def test_the_connection_does_what_the_table_says(state: State) -> None:
    table = written("connection")
    observed = {event: observed_connection(event, state) for event in CONNECTION_EVENTS}
    said = {event: table[event, state.value] for event in CONNECTION_EVENTS}
    assert observed == {event: state.value if cell == "–" else cell for event, cell in said.items()}


@pytest.mark.parametrize("state", StreamState)
def test_a_stream_does_what_the_table_says(state: StreamState) -> None:
    table = written("stream")
    observed = {event: observed_stream(event, state) for event in STREAM_EVENTS}
    said = {event: table[event, state.value] for event in STREAM_EVENTS}
    assert observed == {event: state.value if cell == "–" else cell for event, cell in said.items()}


def test_without_a_provider_a_refused_token_is_told_at_once() -> None:
    for event in (closes(4401), says(the_end("token_expired"))):
        case = Case(has_provider=False).bring(State.OPEN)
        effects = event(case)
        assert case.connection_cell(effects).startswith("IDLE")
        assert isinstance(case.stream.error, Unauthorized)


def render() -> str:
    """Both tables as they would be written."""
    connection = [
        [observed_connection(event, state) for state in State] for event in CONNECTION_EVENTS
    ]
    stream = [[observed_stream(event, state) for state in StreamState] for event in STREAM_EVENTS]
    return "\n\n".join(
        (
            _drawn("connection", list(CONNECTION_EVENTS), [*State], connection),
            _drawn("stream", list(STREAM_EVENTS), [*StreamState], stream),
        )
    )


def _drawn(first: str, events: list[str], states: list[str], cells: list[list[str]]) -> str:
    lines = [f"| {first} | {' | '.join(states)} |", "| --- " * (len(states) + 1) + "|"]
    for event, row in zip(events, cells, strict=True):
        shown = ["–" if cell == state else cell for cell, state in zip(row, states, strict=True)]
        lines.append(f"| {event} | {' | '.join(shown)} |")
    return "\n".join(lines)
