"""How a run's metadata changes: by a JSON merge patch, or by operations on places in it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import isfinite
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET

from store.errors import Conflict
from store.jsonvalue import MAX_INTEGER, MIN_INTEGER, same


class MetadataOp(StrEnum):
    SET = "set"
    DELETE = "delete"
    APPEND = "append"
    REMOVE = "remove"
    INCREMENT = "increment"


class MetadataOperation(msgspec.Struct, frozen=True, kw_only=True):
    """One step at one place of a metadata tree; `path` is keys joined by `.`."""

    op: MetadataOp
    path: str
    value: Any = UNSET


def merge_patch(target: Any, patch: Any) -> Any:
    """The target after a JSON merge patch (RFC 7396).

    Neither is changed; the result shares with the target what the patch does not touch, and is
    the target itself where nothing changes. Recurses as deep as the patch, whose nesting has
    been checked.
    """
    if not isinstance(patch, dict):
        return target if same(target, patch) else patch
    merged = dict(target) if isinstance(target, dict) else {}
    touched = not isinstance(target, dict)
    for key, value in patch.items():
        if value is None:
            if key in merged:
                del merged[key]
                touched = True
            continue
        # A missing key is like null here: what is put in its place is never null.
        old = merged.get(key)
        new = merge_patch(old, value)
        if new is not old:
            merged[key] = new
            touched = True
    return merged if touched else target


def mutate(metadata: dict[str, Any], operations: Sequence[MetadataOperation]) -> dict[str, Any]:
    """The metadata after these operations, one after the other.

    Nothing given is changed; the result shares what is not touched, and is `metadata` itself
    where nothing changes.

    - set puts the value there, whatever was there
    - delete takes the key out
    - append puts the value at the end of a list, which is made if it is missing
    - remove takes every item that is the same JSON value out of a list
    - increment adds to a number, which counts as 0 if it is missing

    What is on the way to the place is made if it is missing, where there is something to put;
    deleting and removing what is missing does nothing. null is a value, not a missing one, and
    a key is never an index into a list.

    Raises Conflict where something else than an object lies on the way, where append and remove
    find no list and increment no number, or where a sum is out of range. The operations have
    been through `check_json` and have a value where they need one.
    """
    for operation in operations:
        keys = operation.path.split(".")
        metadata = cast(dict[str, Any], _at(metadata, keys, 0, operation))
    return metadata


_MISSING: Final = object()


def _at(tree: Any, keys: list[str], depth: int, operation: MetadataOperation) -> Any:
    """The tree after the operation at `keys[depth:]` in it; itself where nothing changes."""
    if depth == len(keys):
        return _perform(operation, tree)
    if tree is _MISSING:
        tree = {}
    elif not isinstance(tree, dict):
        if operation.op is MetadataOp.DELETE:
            return tree
        raise Conflict(f"metadata {'.'.join(keys[:depth])!r} is {_kind(tree)}, not an object")
    key = keys[depth]
    old = tree.get(key, _MISSING)
    if old is _MISSING and operation.op in (MetadataOp.DELETE, MetadataOp.REMOVE):
        return tree
    new = _at(old, keys, depth + 1, operation)
    if new is old:
        return tree
    if new is _MISSING:
        return {name: value for name, value in tree.items() if name != key}
    return {**tree, key: new}


def _perform(operation: MetadataOperation, old: Any) -> Any:
    """What stands at the place after the operation; `_MISSING` is nothing at all."""
    value = operation.value
    match operation.op:
        case MetadataOp.SET:
            return old if old is not _MISSING and same(old, value) else value
        case MetadataOp.DELETE:
            return _MISSING
        case MetadataOp.APPEND:
            if old is _MISSING:
                return [value]
            return [*_list(operation, old), value]
        case MetadataOp.REMOVE:
            items = _list(operation, old)
            # Python's comparison is the wider one and much the faster: most often it decides.
            kept = [item for item in items if not same(item, value)] if value in items else items
            return old if len(kept) == len(items) else kept
        case MetadataOp.INCREMENT:
            return _sum(operation, 0 if old is _MISSING else old, old)


def _list(operation: MetadataOperation, old: Any) -> list[Any]:
    if not isinstance(old, list):
        raise Conflict(f"metadata {operation.path!r} is {_kind(old)}, not a list")
    return old


def _sum(operation: MetadataOperation, base: Any, old: Any) -> Any:
    if isinstance(base, bool) or not isinstance(base, int | float):
        raise Conflict(f"metadata {operation.path!r} is {_kind(base)}, not a number")
    total = base + operation.value
    fits = isfinite(total) if isinstance(total, float) else MIN_INTEGER <= total <= MAX_INTEGER
    if not fits:
        raise Conflict(f"metadata {operation.path!r} would leave the range of numbers")
    return old if old is not _MISSING and same(old, total) else total


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case _:
            return "an object"
