"""The codec: what of a hint goes out, and how many in a message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.broker import Hint
from store.broker.redis.codec import encode, pack, unpack
from store.model import RunStatus
from tests.builders import a_change, a_run, json_objects
from tests.store.broker.doubles import a_hint, as_sent


@given(json_objects(), st.sampled_from(RunStatus), st.lists(st.text(max_size=8), max_size=3))
def test_a_hint_comes_out_as_it_went_in(
    value: dict[str, Any], status: RunStatus, tags: list[str]
) -> None:
    run = a_run(status=status, metadata=value, output=value, tags=tuple(tags))
    hint = Hint(a_change(run, changed={"metadata": value, "output": value}), run)
    encoded = encode(hint, 1_000_000)
    assert encoded is not None
    ((body, count),) = pack([encoded], 1_000_000)
    assert count == 1
    assert [as_sent(hint) for hint in unpack(body)] == [as_sent(hint)]


@pytest.mark.parametrize("output", [2**64, -(2**63) - 1, "\ud800", {"a": ["\udfff"]}])
def test_what_messagepack_cannot_say_goes_out_as_ids(output: object) -> None:
    """It is JSON all the same, and in the log; only the hint cannot carry it."""
    run = a_run(output=output)
    encoded = encode(Hint(a_change(run), run), 16_384)
    assert encoded is not None
    ((body, _),) = pack([encoded], 65_536)
    (hint,) = unpack(body)
    assert (hint.whole, hint.run, hint.change.run_id) == (False, None, run.id)


@pytest.mark.parametrize("version, whole", [(1, False), (2, True)])
def test_a_large_payload_stays_behind_before_all_else_does(version: int, whole: bool) -> None:
    """It never changes, so whoever needs it can read it at any time, without a fetch of what
    has changed; but at version 1 it is what has changed."""
    run = a_run(version=version, payload="x" * 20_000)
    encoded = encode(Hint(a_change(run, changed={"metadata": {"a": 1}}), run), 16_384)
    assert encoded is not None
    ((body, _),) = pack([encoded], 65_536)
    (hint,) = unpack(body)
    assert hint.whole is whole
    if whole:
        assert hint.run is not None
        assert (hint.run.payload, hint.run.has_payload) == (None, False)
        assert hint.change.changed == {"metadata": {"a": 1}}


def test_what_not_even_ids_can_say_is_given_up() -> None:
    assert encode(Hint(a_change(run_id="\ud800"), None), 16_384) is None
    assert encode(Hint(a_change(run_id="x" * 20_000), None), 16_384) is None


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1_000))
def test_packing_keeps_all_in_order_within_the_limit(sizes: list[int], limit: int) -> None:
    hints = [a_hint(id=f"run_{i}", output="x" * size) for i, size in enumerate(sizes)]
    encoded = [one for hint in hints if (one := encode(hint, 16_384)) is not None]
    packed = list(pack(encoded, limit))
    out = [unpack(body) for body, _ in packed]
    assert [hint.change.run_id for some in out for hint in some] == [
        hint.change.run_id for hint in hints
    ]
    assert [len(some) for some in out] == [count for _, count in packed]
    assert all(count == 1 or len(body) <= limit + 5 for body, count in packed)
