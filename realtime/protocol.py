"""Wire messages: what clients may say, and how everything that the server says is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, ClassVar, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from store.model import (
    ALWAYS_SENT,
    WIRE_FIELDS,
    Batch,
    Change,
    Filter,
    Match,
    Run,
    RunStatus,
    Selection,
    rfc3339,
    wire_value,
)

SUBPROTOCOL: Final = "runstream.v1"
ID_MAX: Final = 2**53
"""The largest integer that every client can hold."""
NESTING_MAX: Final = 64
SNAPSHOT_LIMIT: Final = 1_000
SNAPSHOT_LIMIT_MAX: Final = 10_000
TAG_CHARS_MAX: Final = 128
NAME_CHARS_MAX: Final = 256

SKIPPABLE: Final = frozenset(WIRE_FIELDS.values()) - ALWAYS_SENT


class CloseCode(IntEnum):
    """Why a connection is closed. From 4400 to 4407 says: not again as you are."""

    BYE = 1000
    GOING_AWAY = 1001
    POLICY = 1008
    TOO_LARGE = 1009
    INTERNAL = 1011
    RESTARTING = 1012
    BAD_MESSAGE = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    SLOW_CONSUMER = 4408
    TOO_MANY = 4429


class EndReason(StrEnum):
    """Why a subscription is over."""

    COMPLETED = "completed"
    UNSUBSCRIBED = "unsubscribed"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    DELETED = "deleted"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"

    @property
    def is_final(self) -> bool:
        """Whether it is the stream that is over, and not just the grant."""
        return self not in (EndReason.TOKEN_EXPIRED, EndReason.TOKEN_REVOKED)


class ResetReason(StrEnum):
    """Why a stream starts again from a snapshot."""

    EPOCH = "epoch"
    RETENTION = "retention"
    TOO_FAR_BEHIND = "too_far_behind"
    TOKEN = "token"


class ErrorCode(StrEnum):
    """What was wrong with a request."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNAVAILABLE = "unavailable"


class Delivery(StrEnum):
    """Whether a slow reader is owed every version or just the newest state."""

    EVERY = "every"
    LATEST = "latest"


class Kind(StrEnum):
    """What a change means to a subscription."""

    ENTER = "enter"
    CHANGE = "change"
    LEAVE = "leave"


# ------------------------------------------------------------------------------- client to server

SubscriptionId: TypeAlias = Annotated[int, Meta(ge=0, le=ID_MAX)]
# Neither control characters nor, what the pattern's engine counts among the letters, NUL.
_Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_Names: TypeAlias = Annotated[list[_Id], Meta(min_length=1)]
_Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
_Limit: TypeAlias = Annotated[int, Meta(ge=1, le=SNAPSHOT_LIMIT_MAX)]


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    pass


class Authenticate(_Message, frozen=True, kw_only=True, tag_field="type", tag="authenticate"):
    """The token, at first or instead of the one before."""

    token: Annotated[str, Meta(max_length=16_384)]


class Unsubscribe(_Message, frozen=True, kw_only=True, tag_field="type", tag="unsubscribe"):
    """End a subscription."""

    id: SubscriptionId


class Ping(_Message, frozen=True, kw_only=True, tag_field="type", tag="ping"):
    """Asks for a pong with the same data."""

    data: Any = UNSET


class Subscribe(_Message, frozen=True, kw_only=True):
    """What all subscriptions have in common: the options."""

    id: SubscriptionId
    cursor: Annotated[str, Meta(max_length=32_768)] | None = None
    delivery: Delivery = Delivery.EVERY
    skip: list[str] = []
    stop_on_completion: bool = True
    snapshot: bool = True

    def __post_init__(self) -> None:
        for name in self.skip:
            if name not in SKIPPABLE:
                raise ValueError(f"skip: {_quoted(name)} is no field that can be skipped")

    @property
    def snapshot_limit(self) -> int:
        """How many runs its snapshot may hold."""
        return SNAPSHOT_LIMIT

    def selection(self, project: str) -> Selection:
        """Which runs are asked for."""
        raise NotImplementedError


class _Filtered(Subscribe, frozen=True, kw_only=True):
    limit: _Limit = SNAPSHOT_LIMIT
    tasks: _Names | None = None
    statuses: Annotated[list[RunStatus], Meta(min_length=1)] | None = None
    created_after: _Time | None = None
    is_test: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks or ():
            _check_text("tasks", task)

    @property
    def snapshot_limit(self) -> int:
        return self.limit

    def filter(self) -> Filter:
        return Filter(
            tasks=None if self.tasks is None else frozenset(self.tasks),
            statuses=None if self.statuses is None else frozenset(self.statuses),
            created_after=self.created_after,
            is_test=self.is_test,
        )


class SubscribeToRun(Subscribe, frozen=True, kw_only=True, tag_field="type", tag="subscribeToRun"):
    """One run."""

    run_id: _Id

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_text("runId", self.run_id)

    def selection(self, project: str) -> Selection:
        return Selection(project=project, run_id=self.run_id)


class SubscribeToRunsWithTag(
    _Filtered, frozen=True, kw_only=True, tag_field="type", tag="subscribeToRunsWithTag"
):
    """The runs with one tag, with all of several, or with any of several."""

    tag: str | UnsetType = UNSET
    tags: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET
    match: Match = Match.ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.tag is UNSET) == (self.tags is UNSET):
            raise ValueError("give either tag or tags")
        for tag in self.all_tags():
            if not 1 <= len(tag) <= TAG_CHARS_MAX:
                raise ValueError(f"tags: a tag has 1 to {TAG_CHARS_MAX} characters")
            _check_text("tags", tag)

    def all_tags(self) -> Sequence[str]:
        """The tags, whichever way they were given."""
        return [self.tag] if isinstance(self.tag, str) else self.tags or []

    def selection(self, project: str) -> Selection:
        # Sorted and without repeats, so that one wish is one wish however it is written.
        tags = tuple(sorted(set(self.all_tags())))
        match = Match.ALL if len(tags) == 1 else self.match
        return Selection(project=project, tags=tags, match=match, filter=self.filter())


class SubscribeToBatch(
    _Filtered, frozen=True, kw_only=True, tag_field="type", tag="subscribeToBatch"
):
    """The runs of a batch, and its progress."""

    batch_id: _Id

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_text("batchId", self.batch_id)

    def selection(self, project: str) -> Selection:
        return Selection(project=project, batch_id=self.batch_id, filter=self.filter())


class SubscribeToJobRun(
    Subscribe, frozen=True, kw_only=True, tag_field="type", tag="subscribeToJobRun"
):
    """A job run and its workflow runs."""

    job_run_id: _Id
    limit: _Limit = SNAPSHOT_LIMIT

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_text("jobRunId", self.job_run_id)

    @property
    def snapshot_limit(self) -> int:
        return self.limit

    def selection(self, project: str) -> Selection:
        return Selection(project=project, job_run_id=self.job_run_id)


class SubscribeToRuns(
    _Filtered, frozen=True, kw_only=True, tag_field="type", tag="subscribeToRuns"
):
    """All runs of the project."""

    def selection(self, project: str) -> Selection:
        return Selection(project=project, filter=self.filter())


AnySubscribe: TypeAlias = (
    SubscribeToRun | SubscribeToRunsWithTag | SubscribeToBatch | SubscribeToJobRun | SubscribeToRuns
)
ClientMessage: TypeAlias = Authenticate | AnySubscribe | Unsubscribe | Ping

TYPES: Final[Mapping[str, type[ClientMessage]]] = {
    "authenticate": Authenticate,
    "subscribeToRun": SubscribeToRun,
    "subscribeToRunsWithTag": SubscribeToRunsWithTag,
    "subscribeToBatch": SubscribeToBatch,
    "subscribeToJobRun": SubscribeToJobRun,
    "subscribeToRuns": SubscribeToRuns,
    "unsubscribe": Unsubscribe,
    "ping": Ping,
}


class Refusal(NamedTuple):
    """A message that was not understood: an error, or with `close` the end of the connection."""

    detail: str
    id: int | None = None
    close: CloseCode | None = None


_decoder: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(ClientMessage)


def decode(data: str | bytes) -> list[ClientMessage | Refusal]:
    """The protocol messages in one WebSocket message, one a line; never raises.

    What comes after a refusal that closes is not read.
    """
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError:
            return [_not_a_message("not UTF-8")]
    messages: list[ClientMessage | Refusal] = []
    for line in data.split(b"\n"):
        message = _decode_line(line)
        messages.append(message)
        if isinstance(message, Refusal) and message.close is not None:
            break
    return messages


def _decode_line(line: bytes) -> ClientMessage | Refusal:
    try:
        if line.count(b"[") + line.count(b"{") > NESTING_MAX and _too_deep(line):
            return _refusal(line, f"JSON may nest {NESTING_MAX} deep")
        return _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _refusal(line, str(error))


def _refusal(line: bytes, detail: str) -> Refusal:
    """What to answer to a line that does not fit: that depends on how far it can be read."""
    try:
        # The standard library reads what the strict decoder stops at, such as 1e400.
        value = json.loads(line, parse_constant=_no_constant, parse_int=_bounded_int)
    except (ValueError, RecursionError):
        return _not_a_message("not JSON")
    if not isinstance(value, dict):
        return _not_a_message("not an object")
    type_ = value.get("type")
    if not isinstance(type_, str) or type_ not in TYPES:
        return _not_a_message("no known type")
    id_ = value.get("id")
    known = type(id_) is int and 0 <= id_ <= ID_MAX
    return Refusal(f"{type_}: {detail}", id_ if known else None)


def _not_a_message(detail: str) -> Refusal:
    return Refusal(detail, None, CloseCode.BAD_MESSAGE)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _bounded_int(digits: str) -> int | float:
    # Making an integer of very many digits takes very long, and nobody asks for its value.
    return int(digits) if len(digits) <= 20 else float("inf")


def _too_deep(line: bytes) -> bool:
    """Whether the brackets nest deeper than the limit, those in strings not counted."""
    depth, in_string, escaped = 0, False, False
    for byte in line:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > NESTING_MAX:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def convert(fields: Mapping[str, Any]) -> AnySubscribe:
    """A subscription out of fields that came otherwise than as JSON, with `type` among them.

    Numbers, booleans and times may be text. Raises ValueError where `decode` would refuse.
    """
    try:
        found: AnySubscribe = msgspec.convert(dict(fields), AnySubscribe, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return found


def _check_text(field: str, text: str) -> None:
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in text):
        raise ValueError(f"{field}: control characters are not allowed")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


# ------------------------------------------------------------------------------- server to client

Fields: TypeAlias = dict[str, bytes]
"""Some fields of a run: wire name to the value as JSON. Skipping and merging are then cheap, and
no value is written as JSON more than once."""

_encoder: Final = msgspec.json.Encoder(enc_hook=str)
_NAMES: Final = {name: f'"{name}":'.encode() for name in WIRE_FIELDS.values()}
_PYTHON_NAMES: Final = tuple(WIRE_FIELDS.items())


def encode_value(value: Any) -> bytes:
    """Any JSON value, as one line."""
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, RecursionError, OverflowError):
        # A half of a surrogate pair: the store refuses it, so this is a value from elsewhere.
        return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def whole_run(run: Run, payload: bytes | None = None) -> Fields:
    """Every field of the run; its payload is handed in where the run comes without."""
    fields: Fields = {}
    for name, wire in _PYTHON_NAMES:
        if wire == "payload" and payload is not None:
            fields[wire] = payload
        else:
            fields[wire] = encode_value(wire_value(getattr(run, name)))
    return fields


def brief_run(run: Run, version: int, status: RunStatus, at: datetime) -> Fields:
    """Just the fields that every change carries."""
    return {
        "id": encode_value(run.id),
        "version": b"%d" % version,
        "status": encode_value(status),
        "taskIdentifier": encode_value(run.task_identifier),
        "updatedAt": encode_value(rfc3339(at)),
    }


def changed_run(run: Run, change: Change, status: RunStatus) -> Fields:
    """The fields that one change of the run changed, and those that every change carries."""
    fields = brief_run(run, change.version, status, change.at)
    for name, value in change.changed.items():
        if name not in fields and name in _NAMES:
            fields[name] = encode_value(wire_value(value))
    return fields


def without(fields: Fields, skip: frozenset[str]) -> Fields:
    """The fields less the skipped ones."""
    if not skip or skip.isdisjoint(fields):
        return fields
    return {name: value for name, value in fields.items() if name not in skip}


def size_of(fields: Fields) -> int:
    """About how many bytes the fields take as JSON."""
    return sum(map(len, fields.values())) + sum(map(len, fields)) + 4 * len(fields)


def run_object(fields: Fields) -> bytes:
    """The fields as a JSON object."""
    return b"{" + b",".join([_NAMES[name] + value for name, value in fields.items()]) + b"}"


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
