"""How long is waited before the next redial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.broker.redis import Tuning
from store.broker.redis.backoff import Backoff


def test_the_first_redial_is_at_once_and_the_waits_grow_to_a_bound() -> None:
    backoff = Backoff(Tuning(redial_s=0.1, redial_most_s=1.0), chance=lambda: 1.0)
    waits = [backoff.next_s() for _ in range(7)]
    assert waits == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert all(backoff.next_s() == 1.0 for _ in range(100))


def test_only_a_connection_that_stood_for_a_while_begins_anew() -> None:
    """One that is let in and cut off again, as for a tiny buffer, would be dialled in a
    tight loop."""
    backoff = Backoff(Tuning(steady_s=5.0))
    assert backoff.next_s(stood_s=0.1) == 0.0
    assert backoff.next_s(stood_s=4.9) > 0.0
    assert backoff.next_s(stood_s=5.0) == 0.0


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 40))
def test_waits_are_jittered_but_never_near_nothing(chance: float, failures: int) -> None:
    tuning = Tuning()
    backoff = Backoff(tuning, chance=lambda: chance)
    waits = [backoff.next_s() for _ in range(failures)][1:]
    assert all(tuning.redial_s / 2 <= wait <= tuning.redial_most_s for wait in waits)
