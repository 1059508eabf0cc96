"""Carries payloads and outputs between JSON and the types that a caller gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

Decode = Callable[[Any], Any]


def encode(value: Any) -> bytes:
    """The value as compact JSON: anything msgspec knows, and pydantic models, also deep inside.

    Raises `TypeError` for what neither of them can write.
    """
    return msgspec.json.encode(value, enc_hook=_write_foreign)


def decoder(kind: Any) -> Decode | None:
    """What makes a value of this type out of plain JSON; None if any JSON will do.

    What it returns raises `ValueError` (of which msgspec's and pydantic's errors are kinds).
    """
    if kind is Any or kind is object:
        return None
    if hasattr(kind, "model_validate"):
        return lambda value: _read_foreign(kind, value)
    return lambda value: msgspec.convert(value, kind, str_keys=True, dec_hook=_read_foreign)


def _write_foreign(value: Any) -> Any:
    # Pydantic is not imported: a program that does not use it should not need it.
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _read_foreign(kind: Any, value: Any) -> Any:
    if hasattr(kind, "model_validate_json"):
        # A strict model takes a string for a time from JSON, but not from Python.
        return kind.model_validate_json(msgspec.json.encode(value))
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    raise TypeError(f"a {kind!r} cannot be read from JSON")
