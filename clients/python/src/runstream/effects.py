"""What the session asks of the shell around it, and in which state it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from runstream import protocol
from runstream.errors import RunstreamError
from runstream.stream import Stream


class State(StrEnum):
    """Where the connection stands."""

    IDLE = "IDLE"
    """Not connected, and nothing asks for it."""
    ASKING = "ASKING"
    """Waits for a token."""
    DIALING = "DIALING"
    """Opens a socket."""
    GREETING = "GREETING"
    """The socket is open; the server has not said welcome yet."""
    OPEN = "OPEN"
    """Connected."""
    DRAINING = "DRAINING"
    """Connected, and told by the server to come back soon; changes still come."""
    WAITING = "WAITING"
    """Not connected; the next try is after a pause."""
    CLOSED = "CLOSED"
    """Closed by its owner, for good."""


CONNECTED: Final = frozenset({State.GREETING, State.OPEN, State.DRAINING})
OPENED: Final = frozenset({State.OPEN, State.DRAINING})


class AskToken(msgspec.Struct, frozen=True):
    """Ask the caller's provider for a token, and tell the session."""


class Dial(msgspec.Struct, frozen=True):
    """Open a socket, with this token in its header."""

    token: str | None


class Send(msgspec.Struct, frozen=True):
    """Send these messages, in this order, in WebSocket messages of no more than `max_bytes`."""

    messages: tuple[protocol.ClientMessage, ...]
    max_bytes: int


class Hangup(msgspec.Struct, frozen=True):
    """Close the socket, or stop opening it; nothing more is heard from it."""

    code: int = 1000


class Fetch(msgspec.Struct, frozen=True):
    """GET this run, and tell the session; `again` if what came was too old."""

    run_id: str
    again: bool = False


class Wake(msgspec.Struct, frozen=True):
    """These streams have something for whoever waits, or are over."""

    streams: tuple[Stream, ...]


class Tell(msgspec.Struct, frozen=True):
    """The state is now this."""

    state: State


Effect = AskToken | Dial | Send | Hangup | Fetch | Wake | Tell


@dataclass(frozen=True)
class DialFailed:
    """Why a socket could not be opened: `error` if trying again is no use."""

    reason: str
    error: RunstreamError | None = None
    unauthorized: bool = False
    busy: bool = False
    retry_after_s: float | None = None
