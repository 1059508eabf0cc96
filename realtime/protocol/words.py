"""The words of the protocol: limits, codes, reasons."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

from store.model import (
    ALWAYS_SENT,
    WIRE_FIELDS,
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
