"""Which JSON values the store takes, and which of them are the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given

from store.errors import Invalid
from store.jsonvalue import MAX_INTEGER, MIN_INTEGER, check_json, is_text, json_size, same
from tests.builders import json_values


def nested(depth: int, innermost: Any = 0) -> Any:
    """The value inside that many arrays and objects, by turns."""
    value = innermost
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


def json_equal(one: Any, other: Any) -> bool:
    """What `same` says, in the simplest words."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(json_equal(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    return bool(one == other)


@given(json_values(30))
def test_what_is_taken_comes_back_as_it_was(value: Any) -> None:
    """From our codec, from any other, and from the 64-bit integers that hints have."""
    check_json(value, "payload", 64)
    text = msgspec.json.encode(value)
    assert json_size(value) == len(text)
    for back in (
        msgspec.json.decode(text),
        json.loads(text),
        msgspec.msgpack.decode(msgspec.msgpack.encode(value)),
    ):
        assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value,path",
    [
        ("a\0b", "payload"),
        ("half a \ud83d pair", "payload"),
        ({"items": [{"name": "ok"}, {"name": "\0"}]}, "payload.items.1.name"),
        ({"items": {"a\0": 1}}, "payload.items.a\0"),
        ({"\udc00": 1}, "payload.\\udc00"),
        ([float("nan")], "payload.0"),
        ([1, float("inf")], "payload.1"),
        (-float("inf"), "payload"),
        (MAX_INTEGER + 1, "payload"),
        (MIN_INTEGER - 1, "payload"),
        ([0, 10**5_000], "payload.1"),
        ({"a": -(10**4_300)}, "payload.a"),
        ({1: 2}, "payload.1"),
        ({None: 2}, "payload.None"),
        ((1, 2), "payload"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, "payload.at"),
        ([Decimal(1)], "payload.0"),
        ([b"bytes"], "payload.0"),
        ({"seen": {1, 2}}, "payload.seen"),
        ({"k" * 1_000: "\0"}, "payload." + "k" * 64),
    ],
)
def test_what_would_not_come_back_is_refused_and_named(value: Any, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_json(value, "payload", 64)
    assert refused.value.path == path
    # The path goes into an answer, so it is itself something that JSON holds.
    msgspec.json.encode(refused.value.path)


@pytest.mark.parametrize("value", [MAX_INTEGER, MIN_INTEGER, 1.7976931348623157e308, 5e-324, ""])
def test_what_is_just_inside_the_bounds_is_taken(value: Any) -> None:
    check_json(value, "payload", 64)


@pytest.mark.parametrize("innermost", [0, "", None])
def test_nesting_is_counted_in_arrays_and_objects(innermost: Any) -> None:
    check_json(nested(64, innermost), "payload", 64)
    with pytest.raises(Invalid, match="nested deeper than 64"):
        check_json(nested(65, innermost), "payload", 64)


@pytest.mark.parametrize("empty", [[], {}])
def test_an_empty_array_is_a_level_like_any_other(empty: Any) -> None:
    check_json(nested(63, empty), "payload", 64)
    with pytest.raises(Invalid, match="nested deeper"):
        check_json(nested(64, empty), "payload", 64)


def test_no_nesting_overflows_the_stack() -> None:
    """The depth is the sender's to choose until it has been looked at."""
    with pytest.raises(Invalid, match="nested deeper") as refused:
        check_json(nested(200_000), "payload", 64)
    assert len(refused.value.path) < 64 * 64


@pytest.mark.parametrize(
    "text,taken",
    [("", True), ("é\n\x7f ", True), ("a\0", False), ("\ud800", False), ("\U0001f600", True)],
)
def test_text_is_whole_characters_without_nul(text: str, taken: bool) -> None:
    assert is_text(text) is taken


@given(json_values(), json_values())
def test_same_is_json_equality(one: Any, other: Any) -> None:
    assert same(one, other) is json_equal(one, other)
    assert same(one, one)


@pytest.mark.parametrize(
    "one,other,equal",
    [
        (1, 1.0, True),
        (0.0, -0.0, True),
        (True, 1, False),
        (0, False, False),
        ([1, [True]], [1.0, [1]], False),
        ({"a": {"b": 0}}, {"a": {"b": False}}, False),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True),
        ([1, 2], [2, 1], False),
        (None, False, False),
        ("1", 1, False),
        (2**53 + 1, float(2**53), False),
        ({}, [], False),
    ],
)
def test_numbers_are_the_same_by_value_and_true_is_no_number(
    one: Any, other: Any, equal: bool
) -> None:
    """Python takes True for 1: a flag that turned into a count would go untold."""
    assert same(one, other) is equal
    assert same(other, one) is equal


@pytest.mark.parametrize("depth", [1, 200])
def test_the_deepest_values_can_be_compared(depth: int) -> None:
    assert same(nested(depth), nested(depth))
    assert not same(nested(depth, 0), nested(depth, False))
