"""JSON schemas of what goes over the wire, made of the types that read and write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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
    for name, wire in WIRE_FIELDS.items():
        properties[wire] = {k: v for k, v in schema["properties"][name].items() if k != "default"}
    return {
        "title": "Run",
        "type": "object",
        "description": "One execution of a task, as it stands at one version. "
        "What a token's skip names is left out.",
        "properties": properties,
        "required": ["id", "version", "status", "taskIdentifier", "updatedAt"],
    }
