"""The WebSocket messages as an AsyncAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from realtime import VERSION, protocol
from realtime.api import schema
from realtime.api.bodies import BatchBody
from realtime.protocol import SUBPROTOCOL, CloseCode, EndReason, Kind, ResetReason
from store.model import Run

Id = Annotated[int, Meta(ge=0, le=protocol.ID_MAX)]


class _Said(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class WelcomeLimits(_Said, frozen=True, kw_only=True):
    """What one connection may do."""

    subscriptions: int
    message_bytes: int


class Welcome(_Said, frozen=True, kw_only=True):
    """First, once authenticated."""

    type: Literal["welcome"]
    connection_id: str
    heartbeat_s: float
    server: str
    expires_at: datetime | None
    limits: WelcomeLimits


class Authenticated(_Said, frozen=True, kw_only=True):
    """The token was replaced."""

    type: Literal["authenticated"]
    expires_at: datetime | None


class Snapshot(_Said, frozen=True, kw_only=True):
    """Some of the runs that the subscription matches, as they stand."""

    type: Literal["snapshot"]
    id: Id
    runs: list[Run]


class Live(_Said, frozen=True, kw_only=True):
    """The snapshot or the replay is done; from here changes come as they happen."""

    type: Literal["live"]
    id: Id
    cursor: str
    resumed: bool
    truncated: bool


class ChangeMessage(_Said, frozen=True, kw_only=True):
    """A change of a run. `enter` has the whole run, `change` what changed, `leave` who left."""

    type: Literal["change"]
    ids: list[Id]
    kind: Kind
    run: Run


class BatchMessage(_Said, frozen=True, kw_only=True):
    """How far a batch is."""

    type: Literal["batch"]
    id: Id
    batch: BatchBody


class Checkpoint(_Said, frozen=True, kw_only=True):
    """A cursor for every live subscription of the connection."""

    type: Literal["checkpoint"]
    cursor: str


class Reset(_Said, frozen=True, kw_only=True):
    """The stream starts again: a snapshot and `live` follow and replace what was."""

    type: Literal["reset"]
    id: Id
    reason: ResetReason


class End(_Said, frozen=True, kw_only=True):
    """The subscription is over."""

    type: Literal["end"]
    id: Id
    reason: EndReason


class ErrorMessage(_Said, frozen=True, kw_only=True):
    """A request was refused; the connection stays, unless a close follows."""

    type: Literal["error"]
    code: str
    """One of the words that HTTP's problems have."""
    message: str
    id: Id | UnsetType = UNSET


class Reconnect(_Said, frozen=True, kw_only=True):
    """The server is going away, no later than `afterMs` from now."""

    type: Literal["reconnect"]
    after_ms: int
    reason: str


class Stale(_Said, frozen=True, kw_only=True):
    """The store cannot be read just now."""

    type: Literal["stale"]


class Fresh(_Said, frozen=True, kw_only=True):
    """The store can be read again."""

    type: Literal["fresh"]


class Heartbeat(_Said, frozen=True, kw_only=True):
    """The connection lives; the cursor is as a checkpoint's."""

    type: Literal["heartbeat"]
    at: datetime
    cursor: str


class Pong(_Said, frozen=True, kw_only=True):
    """The answer to a ping, with the same data."""

    type: Literal["pong"]
    data: Any = UNSET


SAID_BY_SERVER: Final[dict[str, type[Any]]] = {
    "welcome": Welcome,
    "authenticated": Authenticated,
    "snapshot": Snapshot,
    "live": Live,
    "change": ChangeMessage,
    "batch": BatchMessage,
    "checkpoint": Checkpoint,
    "reset": Reset,
    "end": End,
    "error": ErrorMessage,
    "reconnect": Reconnect,
    "stale": Stale,
    "fresh": Fresh,
    "heartbeat": Heartbeat,
    "pong": Pong,
}


def document() -> dict[str, Any]:
    """The whole document."""
    said = {**protocol.TYPES, **SAID_BY_SERVER}
    schemas, named = schema.components(list(said.values()))
    payloads = dict(zip(said, schemas, strict=True))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Runstream",
            "version": VERSION,
            "description": "Changes of runs as they happen. One WebSocket message holds one or "
            f"more of these messages, one a line. The subprotocol is `{SUBPROTOCOL}`. "
            "The connection is closed with one of the codes "
            + ", ".join(str(int(code)) for code in CloseCode)
            + ".",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "realtime": {
                "address": "/v1/realtime",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in said},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {
            "receive": _operation("receive", "What a client may say", protocol.TYPES),
            "send": _operation("send", "What the server says", SAID_BY_SERVER),
        },
        "components": {
            "messages": {
                name: {"name": name, "summary": _summary(type_), "payload": payloads[name]}
                for name, type_ in said.items()
            },
            "schemas": named,
        },
    }


def _operation(action: str, summary: str, types: Any) -> dict[str, Any]:
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": "#/channels/realtime"},
        "messages": [{"$ref": f"#/channels/realtime/messages/{name}"} for name in types],
    }


def _summary(type_: type[Any]) -> str:
    return (type_.__doc__ or "").strip().splitlines()[0]
