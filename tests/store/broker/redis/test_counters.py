"""Counters: what tells a hole from what comes late, twice, or for the first time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.broker.redis.counters import Counters, Heard, Numbers


@given(st.data())
def test_a_loss_before_a_message_is_a_hole_and_nothing_else_is(data: st.DataObject) -> None:
    """Against a plain account of what was sent and what arrived, with several publishers and
    channels; arrivals of one publisher keep their order, as on its one connection."""
    channels = [b"a", b"b"]
    publishers = [b"p" * 8, b"q" * 8, b"r" * 8]
    numbers = {publisher: Numbers() for publisher in publishers}
    counters = Counters()
    lost: dict[tuple[bytes, bytes], bool] = {}
    known: set[tuple[bytes, bytes]] = set()
    for _ in range(data.draw(st.integers(0, 40))):
        channel = data.draw(st.sampled_from(channels))
        publisher = data.draw(st.sampled_from(publishers))
        number = numbers[publisher].next(channel)
        what = data.draw(st.sampled_from(["arrives", "is lost", "comes twice"]))
        key = channel, publisher
        if what == "is lost":
            lost[key] = True
            continue
        expected = Heard.HOLE if lost.get(key) else Heard.NEXT
        if key not in known:
            expected = Heard.UNKNOWN
        assert counters.hear(channel, publisher, number) is expected
        known.add(key)
        lost[key] = False
        if what == "comes twice":
            assert counters.hear(channel, publisher, number) is Heard.OLD


def test_late_messages_are_old_and_do_not_turn_the_count_back() -> None:
    counters = Counters()
    heard = [counters.hear(b"c", b"p", number) for number in (5, 8, 6, 7, 9, 3, 10)]
    assert heard == [
        Heard.UNKNOWN,
        Heard.HOLE,
        Heard.OLD,
        Heard.OLD,
        Heard.NEXT,
        Heard.OLD,
        Heard.NEXT,
    ]


def test_a_forgotten_channel_is_unknown_again() -> None:
    counters = Counters()
    assert counters.hear(b"c", b"p", 1) is Heard.UNKNOWN
    counters.forget(b"c")
    counters.forget(b"c")
    assert counters.hear(b"c", b"p", 2) is Heard.UNKNOWN


def test_publishers_that_came_and_went_do_not_fill_the_memory() -> None:
    counters = Counters(publishers=3)
    for number in range(10):
        assert counters.hear(b"c", b"p%d" % number, 1) is Heard.UNKNOWN
    assert counters.hear(b"c", b"p9", 2) is Heard.NEXT
    assert counters.hear(b"c", b"p0", 2) is Heard.UNKNOWN
