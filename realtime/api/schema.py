"""JSON schemas of what goes over the wire, made of the types that read and write it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, get_args, get_type_hints

import msgspec

from store.model import WIRE_FIELDS, Run

REF: Final = "#/components/schemas/"


def components(types: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schema of each type, and what they refer to by name."""
    schemas, named = msgspec.json.schema_components([*types, Run], ref_template=REF + "{name}")
    named["Run"] = _run_on_the_wire(named["Run"])
    return list(schemas)[:-1], dict(sorted(named.items()))


def _run_on_the_wire(schema: dict[str, Any]) -> dict[str, Any]:
    """The run with the wire's names, less what never leaves the server."""
    properties: dict[str, Any] = {}
    times = {name for name, type_ in get_type_hints(Run).items() if datetime in _kinds(type_)}
    for name, wire in WIRE_FIELDS.items():
        properties[wire] = {k: v for k, v in schema["properties"][name].items() if k != "default"}
        if name in times:
            kinds = ["string", "null"] if "anyOf" in properties[wire] else "string"
            properties[wire] = {"type": kinds, "format": "date-time"}
    return {
        "title": "Run",
        "type": "object",
        "description": "One execution of a task, as it stands at one version. "
        "What a token's skip names is left out.",
        "properties": properties,
        "required": ["id", "version", "status", "taskIdentifier", "updatedAt"],
    }


def _kinds(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) or (type_,)
