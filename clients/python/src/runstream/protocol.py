"""The messages on the wire, as a client writes and reads them: what it does not know it ignores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from runstream.errors import ProtocolError
from runstream.models import AnyRun, Batch

SUBPROTOCOL: Final = "runstream.v1"
PATH: Final = "/v1/realtime"

Delivery = Literal["every", "latest"]
Match = Literal["all", "any"]


# From the server


class Welcome(msgspec.Struct, tag="welcome", tag_field="type", rename="camel"):
    connection_id: str = ""
    # Spelled out: "heartbeatS" is what the rule makes of it, but S stands for a unit.
    heartbeat_s: float = msgspec.field(default=15, name="heartbeatS")
    server: str = ""
    expires_at: datetime | None = None
    limits: dict[str, Any] = msgspec.field(default_factory=dict)


class Authenticated(msgspec.Struct, tag="authenticated", tag_field="type", rename="camel"):
    expires_at: datetime | None = None


class Snapshot(msgspec.Struct, tag="snapshot", tag_field="type"):
    id: int
    runs: list[AnyRun]


class Live(msgspec.Struct, tag="live", tag_field="type"):
    id: int
    cursor: str
    resumed: bool = False
    truncated: bool = False


class Change(msgspec.Struct, tag="change", tag_field="type"):
    ids: list[int]
    kind: Literal["enter", "change", "leave"]
    # As it came: which fields are there is what a change says.
    run: dict[str, Any]


class BatchMessage(msgspec.Struct, tag="batch", tag_field="type"):
    id: int
    batch: Batch


class Checkpoint(msgspec.Struct, tag="checkpoint", tag_field="type"):
    cursor: str


class Reset(msgspec.Struct, tag="reset", tag_field="type"):
    id: int
    reason: str = ""


class End(msgspec.Struct, tag="end", tag_field="type"):
    id: int
    reason: str


class Error(msgspec.Struct, tag="error", tag_field="type"):
    code: str
    message: str = ""
    id: int | None = None


class Reconnect(msgspec.Struct, tag="reconnect", tag_field="type", rename="camel"):
    after_ms: float = 0
    reason: str = ""


class Stale(msgspec.Struct, tag="stale", tag_field="type"):
    pass


class Fresh(msgspec.Struct, tag="fresh", tag_field="type"):
    pass


class Heartbeat(msgspec.Struct, tag="heartbeat", tag_field="type"):
    at: str | None = None
    cursor: str | None = None


class Pong(msgspec.Struct, tag="pong", tag_field="type"):
    data: Any = None


ServerMessage = (
    Welcome
    | Authenticated
    | Snapshot
    | Live
    | Change
    | BatchMessage
    | Checkpoint
    | Reset
    | End
    | Error
    | Reconnect
    | Stale
    | Fresh
    | Heartbeat
    | Pong
)

_decoder: Final = msgspec.json.Decoder(ServerMessage)
_TYPES: Final = frozenset(str(kind.__struct_config__.tag) for kind in ServerMessage.__args__)


class _OfType(msgspec.Struct):
    type: str


_type_decoder: Final = msgspec.json.Decoder(_OfType)


def read(text: bytes) -> list[ServerMessage]:
    """The messages in one WebSocket message, less those of a type that is not known here.

    Raises `ProtocolError` if one of them makes no sense.
    """
    try:
        return _decoder.decode_lines(text)
    except msgspec.DecodeError:
        # Perhaps only a type that is new to us; then the others must still be heard.
        return list(_one_by_one(text.split(b"\n")))


def _one_by_one(lines: Iterable[bytes]) -> Iterable[ServerMessage]:
    for line in lines:
        if not line.strip():
            continue
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as error:
            try:
                known = _type_decoder.decode(line).type in _TYPES
            except msgspec.DecodeError:
                known = True
            if known:
                raise ProtocolError(f"the server sent what cannot be read: {error}") from error


# From the client


class Authenticate(msgspec.Struct, tag="authenticate", tag_field="type"):
    token: str


class _Wish(
    msgspec.Struct,
    tag_field="type",
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
):
    # No default: left out as one, the first subscription would have no id.
    id: int
    cursor: str | None = None
    delivery: Delivery = "every"
    skip: Sequence[str] = ()
    stop_on_completion: bool = True
    snapshot: bool = True


class SubscribeToRun(_Wish, frozen=True, kw_only=True, tag="subscribeToRun"):
    run_id: str


class SubscribeToJobRun(_Wish, frozen=True, kw_only=True, tag="subscribeToJobRun"):
    job_run_id: str


class _Filtered(_Wish, frozen=True, kw_only=True):
    tasks: Sequence[str] | None = None
    statuses: Sequence[str] | None = None
    created_after: str | None = None
    is_test: bool | None = None
    limit: int | None = None


class SubscribeToRuns(_Filtered, frozen=True, kw_only=True, tag="subscribeToRuns"):
    pass


class SubscribeToRunsWithTag(_Filtered, frozen=True, kw_only=True, tag="subscribeToRunsWithTag"):
    tags: Sequence[str]
    match: Match = "all"


class SubscribeToBatch(_Filtered, frozen=True, kw_only=True, tag="subscribeToBatch"):
    batch_id: str


Wish = (
    SubscribeToRun | SubscribeToRunsWithTag | SubscribeToBatch | SubscribeToJobRun | SubscribeToRuns
)
"""What a subscription asks for. Its id and cursor are set each time it is sent."""


class Unsubscribe(msgspec.Struct, tag="unsubscribe", tag_field="type"):
    id: int


class Ping(msgspec.Struct, tag="ping", tag_field="type", omit_defaults=True):
    data: Any = None


ClientMessage = Authenticate | Wish | Unsubscribe | Ping

_encoder: Final = msgspec.json.Encoder()


def length(message: ClientMessage) -> int:
    """How many bytes it has on the wire."""
    return len(_encoder.encode(message))


def write(messages: Iterable[ClientMessage], max_bytes: int) -> list[bytes]:
    """The messages as few WebSocket messages, none above `max_bytes` unless one alone is."""
    texts: list[bytes] = []
    for line in map(_encoder.encode, messages):
        if texts and len(texts[-1]) + 1 + len(line) <= max_bytes:
            texts[-1] += b"\n" + line
        else:
            texts.append(line)
    return texts
