"""Makes runs out of what comes: whole ones, and those that a change is merged into."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec

from runstream.errors import DecodeError
from runstream.models import AnyRun, Run, RunError, RunStatus
from runstream.values import Decode

# What a stream sends of a run is patched into what is held, field by field. The
# names and the readers come from the struct itself, so that they cannot drift.
_STATUS: Final[Mapping[Any, RunStatus]] = {status.value: status for status in RunStatus}


def _time(value: Any) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _error(value: Any) -> RunError | None:
    return None if value is None else msgspec.convert(value, RunError)


def _reader(name: str) -> Decode | None:
    if name in {"delayed_until", "expired_at"} or name.endswith("_at"):
        return _time
    return {"status": _STATUS.__getitem__, "error": _error}.get(name)


_FIELDS: Final = {
    field.encode_name: (field.name, _reader(field.name)) for field in msgspec.structs.fields(Run)
}
# Apart, since most fields of most changes are taken as they came.
_PLAIN: Final = {wire: name for wire, (name, read) in _FIELDS.items() if read is None}
_READ: Final = {wire: (name, read) for wire, (name, read) in _FIELDS.items() if read is not None}

FIELD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {name: wire for wire, (name, _) in _FIELDS.items()}
)
"""The name in JSON of each field of a run."""


def merged(run: AnyRun, fields: Mapping[str, Any]) -> AnyRun:
    """The run with these fields, which have their names and values in JSON, in the place of its own.

    Raises `DecodeError` for a value that the field cannot hold; unknown fields are left out.
    """
    patch: dict[str, Any] = {}
    for wire, value in fields.items():
        plain = _PLAIN.get(wire)
        if plain is not None:
            patch[plain] = value
            continue
        known = _READ.get(wire)
        if known is None:
            continue
        name, read = known
        try:
            patch[name] = read(value)
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError(run.id, wire, f"{value!r}") from error
    return msgspec.structs.replace(run, **patch)


def whole(fields: Mapping[str, Any]) -> AnyRun:
    """The run of which these are all the fields, with their names and values in JSON."""
    try:
        return msgspec.convert(fields, AnyRun)
    except msgspec.ValidationError as error:
        raise DecodeError(str(fields.get("id")), "run", str(error)) from error


DEFAULTS: Final[Mapping[str, Any]] = {
    info.name: (
        info.default_factory()
        if info.default_factory is not msgspec.NODEFAULT
        else (None if info.default is msgspec.NODEFAULT else info.default)
    )
    for info in msgspec.structs.fields(AnyRun)
}
"""What each field of a run holds when nothing is said of it."""
