"""What the server says, message by message."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Final

from msgspec import UNSET

from realtime.protocol.fields import encode_value
from realtime.protocol.words import EndReason, ErrorCode, Kind, ResetReason
from store.model import (
    Batch,
    RunStatus,
    rfc3339,
    wire_value,
)


class _Out:
    """How each message of the server begins: `type` first, so that a line tells its type."""

    CHANGE: ClassVar = {
        kind: f'],"kind":"{kind}","run":'.encode() for kind in Kind
    }  # fmt: skip


def change(ids: Iterable[int], kind: Kind, run: bytes) -> bytes:
    """A run entered, changed or left, for these subscriptions; `run` is a JSON object."""
    listed = b",".join([b"%d" % id for id in ids])
    return b'{"type":"change","ids":[' + listed + _Out.CHANGE[kind] + run + b"}"


def snapshot(id: int, runs: Iterable[bytes]) -> bytes:
    """Some of the runs that the subscription has at present, each a JSON object."""
    return b'{"type":"snapshot","id":%d,"runs":[' % id + b",".join(runs) + b"]}"


def live(id: int, cursor: str, *, resumed: bool, truncated: bool) -> bytes:
    """History is done; from here changes come as they happen."""
    return _line("live", id=id, cursor=cursor, resumed=resumed, truncated=truncated)


def batch(id: int, batch: bytes) -> bytes:
    """How far a batch is; `batch` is a JSON object."""
    return b'{"type":"batch","id":%d,"batch":' % id + batch + b"}"


def batch_object(batch: Batch, final: Iterable[RunStatus]) -> bytes:
    """A batch as JSON."""
    finals = batch.final(final)
    complete = batch.sealed_at is not None and finals == batch.size
    times = [at for at in (batch.sealed_at, batch.last_finished_at) if at is not None]
    return encode_value(
        {
            "id": batch.id,
            "createdAt": rfc3339(batch.created_at),
            "sealedAt": wire_value(batch.sealed_at),
            "size": batch.size,
            "final": finals,
            "counts": {status: count for status, count in batch.counts.items() if count},
            "completedAt": rfc3339(max(times)) if complete else None,
        }
    )


def checkpoint(cursor: str) -> bytes:
    """A cursor for every subscription of the connection that is live."""
    return _line("checkpoint", cursor=cursor)


def reset(id: int, reason: ResetReason) -> bytes:
    """Forget what you have; a snapshot follows."""
    return _line("reset", id=id, reason=reason)


def end(id: int, reason: EndReason) -> bytes:
    """The subscription is over."""
    return _line("end", id=id, reason=reason)


def error(id: int | None, code: ErrorCode, message: str) -> bytes:
    """A request was refused."""
    if id is None:
        return _line("error", code=code, message=message)
    return _line("error", id=id, code=code, message=message)


def welcome(
    *,
    connection_id: str,
    heartbeat_s: float,
    server: str,
    expires_at: datetime | None,
    subscriptions: int,
    message_bytes: int,
) -> bytes:
    """The connection is authenticated."""
    return _line(
        "welcome",
        connectionId=connection_id,
        heartbeatS=int(heartbeat_s) if heartbeat_s == int(heartbeat_s) else heartbeat_s,
        server=server,
        expiresAt=wire_value(expires_at),
        limits={"subscriptions": subscriptions, "messageBytes": message_bytes},
    )


def authenticated(expires_at: datetime | None) -> bytes:
    """The token was replaced."""
    return _line("authenticated", expiresAt=wire_value(expires_at))


def reconnect(after_ms: int, reason: str) -> bytes:
    """The server is going away."""
    return _line("reconnect", afterMs=after_ms, reason=reason)


def heartbeat(at: datetime, cursor: str) -> bytes:
    """The connection lives; the cursor is a checkpoint."""
    return _line("heartbeat", at=rfc3339(at), cursor=cursor)


def pong(data: Any) -> bytes:
    """Answers a ping."""
    return _line("pong") if data is UNSET else _line("pong", data=data)


STALE: Final = b'{"type":"stale"}'
"""The store can't be read just now."""
FRESH: Final = b'{"type":"fresh"}'
"""It can again."""


def type_of(line: bytes) -> str:
    """The type of a message of the server."""
    start = len(b'{"type":"')
    return line[start : line.index(b'"', start)].decode()


def _line(type_: str, **fields: Any) -> bytes:
    return encode_value({"type": type_, **fields})
