"""Payloads at hand: as many as the memory that they are given."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from realtime.hub.payloads import Payloads
from store.model import new_id


async def _read(_project: str, run_ids: Sequence[str]) -> dict[str, Any]:
    return {id: {"of": id} for id in run_ids if not id.startswith("gone")}


@pytest.mark.parametrize("payload", [{"n": 1}, {"text": "x" * 2_000}])
def test_what_it_takes_is_what_it_was_given(payload: Any) -> None:
    """However small the payloads are: most of what a small one takes is its place.

    Taken out: `_OVERHEAD`; a million places were kept for 16 MB of small payloads.
    """
    payloads = Payloads(_read, 1_000_000)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            payloads.put(new_id("run"), payload)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 500_000 < payloads.size <= 1_000_000
    assert 400_000 < taken < 1_500_000


def test_what_was_asked_for_last_stays() -> None:
    payloads = Payloads(_read, 1_000)
    for name in "abcdef":
        payloads.put(name, 1)
        assert payloads.get("a") == b"1"
    assert payloads.get("b") is None


async def test_what_is_dropped_is_read_again() -> None:
    payloads = Payloads(_read)
    assert payloads.put("a", 1) == b"1"
    payloads.drop("a")
    payloads.drop("a")
    assert (payloads.get("a"), payloads.size) == (None, 0)
    found = await payloads.load("p", ["a", "gone"])
    assert found == {"a": b'{"of":"a"}', "gone": None}
    assert payloads.get("a") == b'{"of":"a"}'
