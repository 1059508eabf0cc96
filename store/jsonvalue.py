"""What counts as a JSON value here, how large it is, and when two are the same."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, TypeAlias

import msgspec

from store.errors import Invalid

MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**64 - 1
"""The integers that every part of the way carries unchanged: JSON, the databases' text, and the
64 bits that a hint has for one. Larger ones are refused, never rounded: send them as a string."""

_PATH_CHARS: Final = 64
"""How much of each key an error's path shows, so that a long key makes no long answer."""

_Place: TypeAlias = "tuple[_Place, Any] | None"


def check_json(value: Any, path: str, nesting: int) -> None:
    """Refuses what would not come back from JSON and from both databases as it went in.

    That is: a key that is no string; NUL or half a surrogate pair in a string or key; NaN and
    the infinities; integers outside `MIN_INTEGER`…`MAX_INTEGER`; more than `nesting` arrays and
    objects around one another; and any type that JSON has not (a tuple would come back as a
    list).

    Raises Invalid with the path of the first such place, keys and indices joined by dots.
    """
    # Without recursion: the depth is the sender's to choose until it has been checked.
    # The value is looked at as the one entry of an object, so that it needs no case of its own.
    waiting: list[tuple[dict[Any, Any] | list[Any], _Place, int]] = [({path: value}, None, 0)]
    while waiting:
        container, place, depth = waiting.pop()
        keyed = type(container) is dict
        for key, item in container.items() if type(container) is dict else enumerate(container):
            if keyed and not (type(key) is str and is_text(key)):
                raise Invalid(
                    _path(place, key), "a key must be a string of whole characters, without NUL"
                )
            kind = type(item)
            if kind is str:
                if not is_text(item):
                    raise Invalid(
                        _path(place, key), "text must be whole characters, and hold no NUL"
                    )
            elif kind is dict or kind is list:
                if depth >= nesting:
                    raise Invalid(_path(place, key), f"nested deeper than {nesting}")
                if item:
                    waiting.append((item, (place, key), depth + 1))
            elif kind is int:
                if not MIN_INTEGER <= item <= MAX_INTEGER:
                    raise Invalid(
                        _path(place, key),
                        "an integer must lie in -2^63…2^64-1; send a larger one as a string",
                    )
            elif kind is float:
                if not isfinite(item):
                    raise Invalid(_path(place, key), "a number must be finite")
            elif item is not None and kind is not bool:
                raise Invalid(_path(place, key), f"{kind.__name__} is not a JSON type")


def is_text(text: str) -> bool:
    """Whether both databases and JSON hold the string: no NUL, no half of a surrogate pair."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_size(value: Any) -> int:
    """The value's bytes as compact UTF-8 JSON; for values that `check_json` let through."""
    return len(msgspec.json.encode(value))


def same(one: Any, other: Any) -> bool:
    """Whether two values are one JSON value.

    Numbers are compared by value (1 is 1.0), objects without order, and true is not 1.
    """
    # Python's own comparison is fast and wrong in one direction only: it takes True for 1.
    if one is other:
        return True
    if one != other:
        return False
    pairs = [(one, other)]
    while pairs:
        left, right = pairs.pop()
        if isinstance(left, dict):
            pairs.extend((value, right[key]) for key, value in left.items())
        elif isinstance(left, list):
            pairs.extend(zip(left, right, strict=True))
        elif isinstance(left, bool) is not isinstance(right, bool):
            return False
    return True


def _path(place: _Place, key: Any) -> str:
    keys = [key]
    while place is not None:
        place, key = place
        keys.append(key)
    # "backslashreplace": the path goes into an answer, which half a character would break.
    return ".".join(
        str(part)[:_PATH_CHARS].encode(errors="backslashreplace").decode()
        for part in reversed(keys)
    )
