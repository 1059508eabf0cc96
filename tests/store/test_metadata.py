"""How metadata changes: JSON merge patches, and operations on places in it."""

from __future__ import annotations

from copy import deepcopy
from math import isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import Conflict
from store.jsonvalue import MAX_INTEGER, MIN_INTEGER, same
from store.metadata import MetadataOp, MetadataOperation, merge_patch, mutate
from tests.builders import json_objects, json_values

SET, DELETE, APPEND, REMOVE, INCREMENT = MetadataOp


def no_nulls(value: Any) -> bool:
    """Whether no object in the value, outside of arrays, has a null: those a patch can make."""
    if not isinstance(value, dict):
        return value is not None
    return all(no_nulls(item) for item in value.values())


def unchanged(before: Any, kept: Any) -> bool:
    """Whether the value is still, to the last type and key, what it was."""
    return repr(before) == repr(kept)


# ------------------------------------------------------------------------------------ merge patches


@pytest.mark.parametrize(
    "target,patch,expected",
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_does_what_rfc_7396_says(target: Any, patch: Any, expected: Any) -> None:
    """The cases of its appendix."""
    assert merge_patch(target, patch) == expected


@pytest.mark.parametrize(
    "target,patch,expected",
    [
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": 0}, {"a": {}}, {"a": {}}),
        ({"a": None}, {"a": None}, {}),
        ({"a": None}, {"a": {"b": None}}, {"a": {}}),
        ({"a": [None, {"b": None}]}, {"a": [None, {"c": None}]}, {"a": [None, {"c": None}]}),
        ({"a.b": 1}, {"a": {"b": 2}}, {"a.b": 1, "a": {"b": 2}}),
        ({"": 1}, {"": None}, {}),
    ],
)
def test_a_merge_patch_at_its_corners(target: Any, patch: Any, expected: Any) -> None:
    merged = merge_patch(target, patch)
    assert repr(merged) == repr(expected)


def naive_patch(target: Any, patch: Any) -> Any:
    """The procedure in section 2 of RFC 7396, word for word."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        for name, value in patch.items():
            if value is None:
                if name in target:
                    del target[name]
            else:
                target[name] = naive_patch(target.get(name), value)
        return target
    return patch


@given(json_values(), json_values())
def test_a_merge_patch_is_the_rfcs_procedure_and_changes_nothing_given(
    target: Any, patch: Any
) -> None:
    kept, patch_kept = deepcopy(target), deepcopy(patch)
    merged = merge_patch(target, patch)
    assert same(merged, naive_patch(deepcopy(target), deepcopy(patch)))
    assert unchanged(kept, target)
    assert unchanged(patch_kept, patch)


@given(json_objects(), json_objects())
def test_a_patch_that_is_sent_twice_changes_nothing_the_second_time(
    target: dict[str, Any], patch: dict[str, Any]
) -> None:
    """A retry makes no version."""
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) is once


@given(json_objects())
def test_an_empty_patch_and_a_patch_by_itself_change_nothing(target: dict[str, Any]) -> None:
    assert merge_patch(target, {}) is target
    if no_nulls(target):
        assert merge_patch(target, deepcopy(target)) is target


@given(json_objects().filter(no_nulls), json_objects().filter(no_nulls))
def test_a_patch_of_what_differs_leads_from_any_object_to_any_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    patch = {key: None for key in before if key not in after} | after
    merged = merge_patch(before, patch)
    assert merged.keys() == after.keys()
    # Objects merge, so only the other values are sure to be just the new ones.
    assert all(same(merged[k], v) for k, v in after.items() if not isinstance(v, dict))


def test_what_a_patch_does_not_touch_is_shared() -> None:
    """A large part that stays is neither copied nor compared again."""
    big = {"rows": list(range(100))}
    merged = merge_patch({"big": big, "progress": {"done": 1}}, {"progress": {"done": 2}})
    assert merged["big"] is big


# --------------------------------------------------------------------------------------- operations


def op(op: MetadataOp, path: str, **value: Any) -> MetadataOperation:
    return MetadataOperation(op=op, path=path, **value)


@pytest.mark.parametrize(
    "before,operation,after",
    [
        ({}, op(SET, "a", value=1), {"a": 1}),
        ({}, op(SET, "a.b.c", value=[]), {"a": {"b": {"c": []}}}),
        ({"a": [1]}, op(SET, "a", value=None), {"a": None}),
        ({"a": {"b": 1, "c": 2}}, op(SET, "a.b", value=3), {"a": {"b": 3, "c": 2}}),
        ({"a": 1}, op(SET, "a", value=True), {"a": True}),
        ({"a": {"b": 1, "c": 2}}, op(DELETE, "a.b"), {"a": {"c": 2}}),
        ({"a": {"b": 1}}, op(DELETE, "a.b"), {"a": {}}),
        ({"a": None}, op(DELETE, "a"), {}),
        ({}, op(APPEND, "log.lines", value="x"), {"log": {"lines": ["x"]}}),
        ({"a": [1]}, op(APPEND, "a", value=[2]), {"a": [1, [2]]}),
        ({"a": []}, op(APPEND, "a", value=None), {"a": [None]}),
        ({"a": [1, 2, 1.0, True, 1]}, op(REMOVE, "a", value=1), {"a": [2, True]}),
        ({"a": [{"x": 1}, {"x": 2}]}, op(REMOVE, "a", value={"x": 1}), {"a": [{"x": 2}]}),
        ({"a": [1]}, op(REMOVE, "a", value=1), {"a": []}),
        ({}, op(INCREMENT, "n", value=2), {"n": 2}),
        ({}, op(INCREMENT, "a.n", value=0), {"a": {"n": 0}}),
        ({"n": 1}, op(INCREMENT, "n", value=-3), {"n": -2}),
        ({"n": 1}, op(INCREMENT, "n", value=0.5), {"n": 1.5}),
        ({"n": MAX_INTEGER - 1}, op(INCREMENT, "n", value=1), {"n": MAX_INTEGER}),
    ],
)
def test_an_operation_changes_its_place_and_makes_what_is_missing(
    before: dict[str, Any], operation: MetadataOperation, after: dict[str, Any]
) -> None:
    kept = deepcopy(before)
    assert repr(mutate(before, [operation])) == repr(after)
    assert unchanged(kept, before)


@pytest.mark.parametrize(
    "before,operation",
    [
        ({"a": 1}, op(SET, "a", value=1.0)),
        ({"a": {"b": [1]}}, op(SET, "a.b", value=[1])),
        ({}, op(DELETE, "a")),
        ({"a": {}}, op(DELETE, "a.b.c")),
        ({"a": 1}, op(DELETE, "a.b")),
        ({"a": [{"b": 1}]}, op(DELETE, "a.0.b")),
        ({}, op(REMOVE, "a", value=1)),
        ({"a": {}}, op(REMOVE, "a.b.c", value=1)),
        ({"a": [True, "1"]}, op(REMOVE, "a", value=1)),
        ({"n": 5}, op(INCREMENT, "n", value=0)),
        ({"n": 2**60}, op(INCREMENT, "n", value=0)),
    ],
)
def test_an_operation_that_finds_its_work_done_changes_nothing(
    before: dict[str, Any], operation: MetadataOperation
) -> None:
    assert mutate(before, [operation]) is before


@pytest.mark.parametrize(
    "before,operation,says",
    [
        ({"a": 1}, op(SET, "a.b", value=1), "'a' is a number, not an object"),
        ({"a": None}, op(SET, "a.b", value=1), "'a' is null, not an object"),
        ({"a": [[]]}, op(APPEND, "a.0", value=1), "'a' is a list, not an object"),
        ({"a": {"b": "x"}}, op(INCREMENT, "a.b.c", value=1), "'a.b' is a string, not an object"),
        ({"a": 1}, op(REMOVE, "a.b", value=1), "'a' is a number, not an object"),
        ({"a": {}}, op(APPEND, "a", value=1), "'a' is an object, not a list"),
        ({"a": None}, op(APPEND, "a", value=1), "'a' is null, not a list"),
        ({"a": "list"}, op(REMOVE, "a", value="l"), "'a' is a string, not a list"),
        ({"n": "1"}, op(INCREMENT, "n", value=1), "'n' is a string, not a number"),
        ({"n": True}, op(INCREMENT, "n", value=1), "'n' is a boolean, not a number"),
        ({"n": None}, op(INCREMENT, "n", value=1), "'n' is null, not a number"),
        ({"n": 1.7e308}, op(INCREMENT, "n", value=1.7e308), "leave the range"),
        ({"n": MAX_INTEGER}, op(INCREMENT, "n", value=1), "leave the range"),
        ({"n": MIN_INTEGER}, op(INCREMENT, "n", value=-1), "leave the range"),
    ],
)
def test_an_operation_that_finds_something_else_is_refused(
    before: dict[str, Any], operation: MetadataOperation, says: str
) -> None:
    """What is there belongs to the job: overwriting it would lose it without a word."""
    kept = deepcopy(before)
    with pytest.raises(Conflict, match=says):
        mutate(before, [op(SET, "other", value=1), operation])
    assert unchanged(kept, before)


def naive_mutate(metadata: dict[str, Any], operations: list[MetadataOperation]) -> Any:
    """The same in place, in the simplest words; None where it is refused."""
    for operation in operations:
        *way, last = operation.path.split(".")
        makes = operation.op in (SET, APPEND, INCREMENT)
        here: Any = metadata
        for key in way:
            if not isinstance(here, dict):
                break
            if makes:
                here = here.setdefault(key, {})
            elif key in here:
                here = here[key]
            else:
                here = {}
        if not isinstance(here, dict):
            if operation.op is DELETE:
                continue
            return None
        value = deepcopy(operation.value)
        match operation.op:
            case MetadataOp.SET:
                here[last] = value
            case MetadataOp.DELETE:
                here.pop(last, None)
            case MetadataOp.APPEND | MetadataOp.REMOVE:
                if last not in here and operation.op is REMOVE:
                    continue
                items = here.setdefault(last, [])
                if not isinstance(items, list):
                    return None
                if operation.op is APPEND:
                    items.append(value)
                else:
                    items[:] = [item for item in items if not same(item, value)]
            case MetadataOp.INCREMENT:
                base = here.get(last, 0)
                if type(base) not in (int, float):
                    return None
                here[last] = base + value
                if type(here[last]) is float and not isfinite(here[last]):
                    return None
                if type(here[last]) is int and not MIN_INTEGER <= here[last] <= MAX_INTEGER:
                    return None
    return metadata


paths = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(".".join)
numbers = st.integers(-3, 3) | st.floats(-1e308, 1e308)


@st.composite
def operations(draw: st.DrawFn) -> MetadataOperation:
    kind = draw(st.sampled_from(MetadataOp))
    path = draw(paths)
    if kind is DELETE:
        return op(kind, path)
    return op(kind, path, value=draw(numbers if kind is INCREMENT else json_values(4)))


@given(json_objects(), st.lists(operations(), max_size=6))
def test_operations_do_what_the_naive_model_does_or_nothing(
    metadata: dict[str, Any], steps: list[MetadataOperation]
) -> None:
    kept = deepcopy(metadata)
    expected = naive_mutate(deepcopy(metadata), steps)
    try:
        result = mutate(metadata, steps)
    except Conflict:
        assert expected is None
    else:
        assert expected is not None
        assert same(result, expected)
    assert unchanged(kept, metadata)
