"""The fields of a run as JSON, each written once."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from store.model import (
    WIRE_FIELDS,
    Change,
    Run,
    RunStatus,
    rfc3339,
    wire_value,
)

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
