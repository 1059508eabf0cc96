"""The parts of a broker that do no I/O: addresses, the codec, counters, waits, the inbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.broker import BrokerState, Hint, Suspicion, open_broker
from store.broker.inbox import TURN_BYTES, TURN_SHARE, Inbox, Reading
from store.broker.memory import MemoryBroker
from store.broker.metrics import NO_METRICS
from store.broker.redis import ClusterBroker, RedisBroker, Tuning
from store.broker.redis.address import Address, parse_url
from store.broker.redis.backoff import Backoff
from store.broker.redis.codec import encode, pack, unpack
from store.broker.redis.counters import Counters, Heard, Numbers
from store.model import RunStatus
from tests.builders import a_change, a_run, json_objects
from tests.store.broker.doubles import Recorder, a_hint, as_sent, eventually, no_task_left


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    async with no_task_left():
        yield


class TestOpening:
    @pytest.mark.parametrize(
        "url, kind",
        [
            (None, MemoryBroker),
            ("memory://", MemoryBroker),
            ("redis://localhost", RedisBroker),
            ("rediss://u:p@localhost:7000/3?ssl_cert_reqs=none", RedisBroker),
            ("redis+cluster://localhost:7000", ClusterBroker),
            ("rediss+cluster://:p@localhost:7000", ClusterBroker),
        ],
    )
    def test_the_url_says_which_broker(self, url: str | None, kind: type) -> None:
        broker = open_broker(url)
        assert type(broker) is kind
        assert broker.state is (BrokerState.OK if kind is MemoryBroker else BrokerState.DEGRADED)

    @pytest.mark.parametrize(
        "url",
        [
            "http://localhost",
            "localhost:6379",
            "",
            "redis://localhost/zero",
            "redis://localhost/1/2",
            "redis://localhost:99999",
            "redis://localhost?socket_timeout=5",
            "redis://localhost?ssl_cert_reqs=none",
            "rediss://localhost?ssl_cert_reqs=maybe",
            "rediss://:hunter2@localhost?ssl_check_hostname=1",
            "redis+cluster://localhost/1",
        ],
    )
    def test_a_url_that_makes_no_sense_is_refused_at_once(self, url: str) -> None:
        with pytest.raises(ValueError, match=r".+") as refused:
            open_broker(url)
        assert "hunter2" not in str(refused.value)

    def test_an_address_does_not_show_its_password(self) -> None:
        address = parse_url("rediss://us%40er:hunter2%2F@h.example:7000/3?ssl_check_hostname=false")
        assert (address.username, address.password) == ("us@er", "hunter2/")
        assert (address.host, address.port, address.db) == ("h.example", 7000, 3)
        assert address.tls is not None
        assert address.tls.verify
        assert not address.tls.check_hostname
        assert "hunter2" not in f"{address} {address!r}"
        assert parse_url("redis://localhost") == Address()

    def test_a_message_must_have_room_for_a_hint(self) -> None:
        with pytest.raises(ValueError, match="room"):
            Tuning(inline_bytes=10, message_bytes=9)


class TestCodec:
    @given(json_objects(), st.sampled_from(RunStatus), st.lists(st.text(max_size=8), max_size=3))
    def test_a_hint_comes_out_as_it_went_in(
        self, value: dict[str, Any], status: RunStatus, tags: list[str]
    ) -> None:
        run = a_run(status=status, metadata=value, output=value, tags=tuple(tags))
        hint = Hint(a_change(run, changed={"metadata": value, "output": value}), run)
        encoded = encode(hint, 1_000_000)
        assert encoded is not None
        ((body, count),) = pack([encoded], 1_000_000)
        assert count == 1
        assert [as_sent(hint) for hint in unpack(body)] == [as_sent(hint)]

    @pytest.mark.parametrize("output", [2**64, -(2**63) - 1, "\ud800", {"a": ["\udfff"]}])
    def test_what_messagepack_cannot_say_goes_out_as_ids(self, output: object) -> None:
        """It is JSON all the same, and in the log; only the hint cannot carry it."""
        run = a_run(output=output)
        encoded = encode(Hint(a_change(run), run), 16_384)
        assert encoded is not None
        ((body, _),) = pack([encoded], 65_536)
        (hint,) = unpack(body)
        assert (hint.whole, hint.run, hint.change.run_id) == (False, None, run.id)

    @pytest.mark.parametrize("version, whole", [(1, False), (2, True)])
    def test_a_large_payload_stays_behind_before_all_else_does(
        self, version: int, whole: bool
    ) -> None:
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

    def test_what_not_even_ids_can_say_is_given_up(self) -> None:
        assert encode(Hint(a_change(run_id="\ud800"), None), 16_384) is None
        assert encode(Hint(a_change(run_id="x" * 20_000), None), 16_384) is None

    @given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1_000))
    def test_packing_keeps_all_in_order_within_the_limit(
        self, sizes: list[int], limit: int
    ) -> None:
        hints = [a_hint(id=f"run_{i}", output="x" * size) for i, size in enumerate(sizes)]
        encoded = [one for hint in hints if (one := encode(hint, 16_384)) is not None]
        packed = list(pack(encoded, limit))
        out = [unpack(body) for body, _ in packed]
        assert [hint.change.run_id for some in out for hint in some] == [
            hint.change.run_id for hint in hints
        ]
        assert [len(some) for some in out] == [count for _, count in packed]
        assert all(count == 1 or len(body) <= limit + 5 for body, count in packed)


class TestCounters:
    @given(st.data())
    def test_a_loss_before_a_message_is_a_hole_and_nothing_else_is(
        self, data: st.DataObject
    ) -> None:
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

    def test_late_messages_are_old_and_do_not_turn_the_count_back(self) -> None:
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

    def test_a_forgotten_channel_is_unknown_again(self) -> None:
        counters = Counters()
        assert counters.hear(b"c", b"p", 1) is Heard.UNKNOWN
        counters.forget(b"c")
        counters.forget(b"c")
        assert counters.hear(b"c", b"p", 2) is Heard.UNKNOWN

    def test_publishers_that_came_and_went_do_not_fill_the_memory(self) -> None:
        counters = Counters(publishers=3)
        for number in range(10):
            assert counters.hear(b"c", b"p%d" % number, 1) is Heard.UNKNOWN
        assert counters.hear(b"c", b"p9", 2) is Heard.NEXT
        assert counters.hear(b"c", b"p0", 2) is Heard.UNKNOWN


class TestBackoff:
    def test_the_first_redial_is_at_once_and_the_waits_grow_to_a_bound(self) -> None:
        backoff = Backoff(Tuning(redial_s=0.1, redial_most_s=1.0), chance=lambda: 1.0)
        waits = [backoff.next_s() for _ in range(7)]
        assert waits == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
        assert all(backoff.next_s() == 1.0 for _ in range(100))

    def test_only_a_connection_that_stood_for_a_while_begins_anew(self) -> None:
        """One that is let in and cut off again, as for a tiny buffer, would be dialled in a
        tight loop."""
        backoff = Backoff(Tuning(steady_s=5.0))
        assert backoff.next_s(stood_s=0.1) == 0.0
        assert backoff.next_s(stood_s=4.9) > 0.0
        assert backoff.next_s(stood_s=5.0) == 0.0

    @given(st.floats(0, 1, exclude_max=True), st.integers(1, 40))
    def test_waits_are_jittered_but_never_near_nothing(self, chance: float, failures: int) -> None:
        tuning = Tuning()
        backoff = Backoff(tuning, chance=lambda: chance)
        waits = [backoff.next_s() for _ in range(failures)][1:]
        assert all(tuning.redial_s / 2 <= wait <= tuning.redial_most_s for wait in waits)


class TestInbox:
    """How what was received is handed over; a fast reader of a socket alone cannot show it."""

    @staticmethod
    def read(origin: bytes, message: bytes) -> Reading:
        return "p", [a_hint("p", id=message[:8].decode())], None

    async def test_a_flood_is_handed_over_in_pieces(self) -> None:
        """Else decoding it would keep the sockets of this process waiting."""
        inbox, listener = Inbox(NO_METRICS, self.read), Recorder()
        inbox.open(listener)
        inbox.follow("p")
        for number in range(100):
            inbox.receive(b"c", b"%08d" % number + bytes(TURN_BYTES // 10))
        await eventually(lambda: len(listener.hints) == 100)
        assert listener.runs == [f"{number:08}" for number in range(100)]
        assert len(listener.calls) > 5
        assert max(map(len, listener.calls)) <= 100 // TURN_SHARE + 1
        inbox.close()

    async def test_a_flood_that_lasts_is_kept_up_with(self) -> None:
        """Each turn brings more than one turn's least share: what waits must not grow for ever,
        and be thrown away, while there is all the time to read it."""
        inbox, listener = Inbox(NO_METRICS, self.read, max_bytes=20 * TURN_BYTES), Recorder()
        inbox.open(listener)
        inbox.follow("p")
        for number in range(400):
            inbox.receive(b"c", b"%08d" % number + bytes(TURN_BYTES // 2))
            if number % 4 == 3:
                await asyncio.sleep(0)
        await eventually(lambda: len(listener.hints) == 400)
        assert not listener.suspicions
        inbox.close()

    @pytest.mark.parametrize("bound", [{"max_messages": 5}, {"max_bytes": 45}])
    async def test_more_than_fits_is_thrown_away_and_said(self, bound: dict[str, Any]) -> None:
        inbox, listener = Inbox(NO_METRICS, self.read, **bound), Recorder()
        inbox.open(listener)
        inbox.follow("p")
        for number in range(7):
            inbox.receive(b"c", b"%08d" % number)
        await eventually(lambda: listener.suspicions)
        assert listener.suspicions == [(None, "overflow")]
        assert listener.runs == ["00000006"]
        inbox.close()

    async def test_a_suspicion_is_told_once_a_turn(self) -> None:
        inbox, listener = Inbox(NO_METRICS, self.read), Recorder()
        inbox.open(listener)
        for _ in range(3):
            inbox.suspect("p", Suspicion.HOLE)
        await eventually(lambda: listener.suspicions)
        assert listener.suspicions == [("p", "hole")]
        inbox.close()
