"""Places in lists, as callers hold them: opaque."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from realtime.api.bodies import Limit
from realtime.api.problems import bad_request
from store.commands import is_id
from store.model import ListKey

T = TypeVar("T")


class PageQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of a list."""

    limit: Limit = 50
    after: Annotated[str, Meta(max_length=1_000)] | None = None
    """The `next` of the page before."""


def place_of(after: str | None, kind: type[T]) -> T | None:
    """The place that a page's `next` was. Raises 400 for what is none."""
    if after is None:
        return None
    try:
        raw = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True)
        place = msgspec.msgpack.decode(raw, type=kind)
        if opaque(place) != after:
            raise ValueError("another spelling")
        if isinstance(place, str) and not is_id(place):
            raise ValueError("a database may not even take it for a text")
    except (ValueError, OverflowError, RecursionError):
        raise bad_request("after: is not the next of a page") from None
    return place


def list_key_of(after: str | None) -> ListKey | None:
    """The same in a list of runs."""
    place = place_of(after, ListKey)
    # One that no run can have is none that was given out, and the databases would stumble at it.
    if place is not None and not (0 < place.number < 2**63 and place.created_at.year >= _FIRST):
        raise bad_request("after: is not the next of a page")
    return place


_FIRST: Final = 1970


def opaque(place: Any) -> str | None:
    """The place as a page's `next`; None is the end of the list."""
    if place is None:
        return None
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).rstrip(b"=").decode()
