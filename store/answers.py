"""The first outcomes of a submission, kept under the caller's `Idempotency-Key`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from store.commands import Done
from store.errors import (
    Conflict,
    Invalid,
    NotFound,
    StoreError,
    TokenUsed,
    TooLarge,
    TransitionRefused,
    VersionConflict,
)
from store.model import Run, RunStatus


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error that can be written down and raised again with the same facts."""

    kind: str
    detail: str = ""
    what: str = ""
    run: Run | None = None
    status: RunStatus | None = None
    number: int = 0
    limit: int = 0


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    done: Done | None = None
    refusal: _Refusal | None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(list[_Outcome])


def encode(outcomes: Sequence[Done | StoreError]) -> str:
    """The outcomes as text."""
    return _encoder.encode(
        [
            _Outcome(done=outcome)
            if isinstance(outcome, Done)
            else _Outcome(refusal=_down(outcome))
            for outcome in outcomes
        ]
    ).decode()


def decode(text: str) -> list[Done | StoreError]:
    """The outcomes as they were."""
    return [_up(outcome) for outcome in _decoder.decode(text)]


def _down(error: StoreError) -> _Refusal:
    match error:
        case TransitionRefused(run=run, to=to):
            return _Refusal(kind="transition", run=run, status=to)
        case VersionConflict(run=run, expected=expected):
            return _Refusal(kind="version", run=run, number=expected)
        case Conflict(run=run):
            return _Refusal(kind="conflict", detail=str(error), run=run)
        case NotFound(what=what, id=id):
            return _Refusal(kind="not_found", what=what, detail=id)
        case Invalid(path=path, detail=detail):
            return _Refusal(kind="invalid", what=path, detail=detail)
        case TooLarge(path=path, size=size, limit=limit):
            return _Refusal(kind="too_large", what=path, number=size, limit=limit)
        case TokenUsed():
            return _Refusal(kind="token_used", detail=str(error))
        case _:
            raise error  # the rest are the moment's troubles, and must not be kept


def _up(outcome: _Outcome) -> Done | StoreError:
    if outcome.done is not None:
        return outcome.done
    refusal: Any = outcome.refusal
    match refusal.kind:
        case "transition":
            return TransitionRefused(refusal.run, refusal.status)
        case "version":
            return VersionConflict(refusal.run, refusal.number)
        case "conflict":
            return Conflict(refusal.detail, refusal.run)
        case "not_found":
            return NotFound(refusal.what, refusal.detail)
        case "invalid":
            return Invalid(refusal.what, refusal.detail)
        case "too_large":
            return TooLarge(refusal.what, refusal.number, refusal.limit)
        case _:
            return TokenUsed(refusal.detail)
