"""What every broker does, on memory and on Redis; and the parts of the Redis one that do no I/O."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.broker import Broker, BrokerState, Hint, Suspicion, open_broker
from store.broker.inbox import TURN_BYTES, TURN_SHARE, Inbox, Reading
from store.broker.memory import MemoryBroker
from store.broker.metrics import NO_METRICS
from store.broker.redis import ClusterBroker, RedisBroker, Tuning
from store.broker.redis.address import Address, parse_url
from store.broker.redis.backoff import Backoff
from store.broker.redis.codec import encode, pack, unpack
from store.broker.redis.counters import Counters, Heard, Numbers
from store.model import Change, ChangeKind, Facet, RunStatus, new_id
from tests.builders import AT, a_change, a_run, json_objects
from tests.servers import Valkey
from tests.store.broker_doubles import (
    HURRIED,
    Counts,
    Recorder,
    a_hint,
    as_sent,
    eventually,
    is_ok,
    no_task_left,
    running,
)


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    async with no_task_left():
        yield


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Callable[[], Broker]:
    """Makes brokers that hear each other, if brokers of that kind do."""
    if request.param == "memory":
        return MemoryBroker
    valkey: Valkey = request.getfixturevalue("valkey")
    namespace = new_id("test")
    return lambda: RedisBroker(valkey.url, namespace=namespace, tuning=HURRIED)


class TestEveryBroker:
    """The contract, as far as one process sees it."""

    async def test_hints_reach_the_own_listener_as_they_are_and_in_order(
        self, make: Callable[[], Broker]
    ) -> None:
        broker = make()
        hints = [a_hint() for _ in range(20)]
        async with running(broker, "default") as listener:
            for hint in hints:
                broker.publish([hint])
            await eventually(lambda: len(listener.hints) == 20)
        assert all(came is hint for came, hint in zip(listener.hints, hints, strict=True))

    async def test_a_large_hint_reaches_the_own_listener_whole(
        self, make: Callable[[], Broker]
    ) -> None:
        broker = make()
        async with running(broker, "default") as listener:
            broker.publish([a_hint(output="x" * 1_000_000)])
            await eventually(lambda: listener.hints)
        assert listener.hints[0].whole

    async def test_the_commits_of_one_turn_come_in_one_call(
        self, make: Callable[[], Broker]
    ) -> None:
        broker = make()
        async with running(broker, "default") as listener:
            for _ in range(5):
                broker.publish([a_hint(), a_hint()])
            assert not listener.calls, "the listener must not run inside the writer"
            await eventually(lambda: listener.hints)
        assert [len(call) for call in listener.calls] == [10]

    async def test_only_followed_projects_are_handed_over(self, make: Callable[[], Broker]) -> None:
        broker = make()
        async with running(broker, "mine") as listener:
            broker.publish([a_hint("other"), a_hint("mine"), a_hint("other")])
            broker.publish([last := a_hint("mine")])
            await eventually(lambda: listener.heard(last))
        assert {change.project for change in listener.changes} == {"mine"}

    async def test_what_waits_for_an_unfollowed_project_is_not_handed_over(
        self, make: Callable[[], Broker]
    ) -> None:
        """The hub has let go of the project, and of the horizon that a hint is judged by."""
        broker = make()
        async with running(broker, "one", "two") as listener:
            broker.publish([a_hint("one")])
            broker.unfollow("one")
            broker.publish([a_hint("one"), last := a_hint("two")])
            await eventually(lambda: listener.heard(last))
        assert listener.runs == [last.change.run_id]

    @staticmethod
    def told(listener: Recorder, times: int) -> bool:
        return listener.suspected("followed", "late") == times

    async def test_following_is_told_by_a_suspicion_and_can_be_done_again(
        self, make: Callable[[], Broker]
    ) -> None:
        """Whoever follows reads the log once after hints flow: what was committed before that
        was hinted to nobody here."""
        broker = make()
        async with running(broker) as listener:
            await eventually(partial(listener.suspected, "subscribed"))
            for times in (1, 2, 3):
                broker.follow("late")
                broker.follow("late")
                await eventually(partial(self.told, listener, times))
                broker.publish([hint := a_hint("late")])
                await eventually(partial(listener.heard, hint))
                broker.unfollow("late")
                broker.unfollow("late")
        assert listener.suspected("followed", "late") == 3

    async def test_a_listener_that_raises_does_not_stop_the_broker(
        self, make: Callable[[], Broker], caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing(Recorder):
            def hinted(self, hints: Sequence[Hint]) -> None:
                super().hinted(hints)
                raise ValueError("hinted")

            def suspect(self, project: str | None, reason: str) -> None:
                super().suspect(project, reason)
                raise ValueError("suspect")

        broker, listener = make(), Failing()
        broker.follow("default")
        await broker.start(listener)
        await eventually(is_ok(broker))
        for _ in range(2):
            broker.publish([hint := a_hint()])
            await eventually(partial(listener.heard, hint))
        broker.follow("other")
        await eventually(lambda: listener.suspected("followed", "other"))
        await broker.close()
        assert "the listener failed on 1 hints" in caplog.text

    async def test_a_listener_may_call_the_broker(self, make: Callable[[], Broker]) -> None:
        broker = make()

        class Calling(Recorder):
            def hinted(self, hints: Sequence[Hint]) -> None:
                super().hinted(hints)
                if len(self.hints) == 1:
                    broker.follow("second")
                    broker.publish([a_hint("second")])
                    broker.unfollow("default")

        listener = Calling()
        broker.follow("default")
        await broker.start(listener)
        broker.publish([a_hint()])
        await eventually(lambda: len(listener.hints) == 2)
        await broker.close()
        assert [change.project for change in listener.changes] == ["default", "second"]

    async def test_nothing_is_told_after_close(self, make: Callable[[], Broker]) -> None:
        broker = make()
        async with running(broker, "default") as listener:
            broker.publish([a_hint()])
        told = len(listener.suspicions)
        broker.publish([a_hint()])
        broker.follow("late")
        broker.unfollow("default")
        await broker.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert (listener.hints, len(listener.suspicions)) == ([], told)

    @pytest.mark.parametrize("turns", range(12))
    async def test_it_closes_at_once_at_any_moment_of_a_publish(
        self, make: Callable[[], Broker], turns: int
    ) -> None:
        """`asyncio.wait_for`, which the client library uses, may swallow a cancellation that
        comes in the turn in which it is done; close() then waited for ever."""
        broker = make()
        async with running(broker, "default"), asyncio.timeout(10):
            for _ in range(3):
                broker.publish([a_hint()])
                for _ in range(turns):
                    await asyncio.sleep(0)
            await broker.close()

    async def test_a_listener_that_closes_the_broker_hears_no_more(
        self, make: Callable[[], Broker]
    ) -> None:
        broker = make()
        closing: list[asyncio.Task[None]] = []

        class Closing(Recorder):
            def hinted(self, hints: Sequence[Hint]) -> None:
                super().hinted(hints)
                closing.append(asyncio.create_task(broker.close()))

        listener = Closing()
        broker.follow("default")
        await broker.start(listener)
        broker.publish([a_hint()])
        await eventually(lambda: closing)
        await closing[0]
        broker.publish([a_hint()])
        await asyncio.sleep(0)
        assert len(listener.hints) == 1

    async def test_it_may_be_closed_unstarted_and_twice_but_started_once(
        self, make: Callable[[], Broker]
    ) -> None:
        broker = make()
        broker.follow("default")
        broker.publish([a_hint()])
        await broker.close()
        await broker.close()
        other = make()
        await other.start(Recorder())
        with pytest.raises(RuntimeError, match="started once"):
            await other.start(Recorder())
        await other.close()

    async def test_a_closed_broker_is_collected(self, make: Callable[[], Broker]) -> None:
        """A process may open and close many, as tests do: none may stay in a registry."""
        gc.collect()
        before = sum(isinstance(it, Inbox) for it in gc.get_objects())
        async with running(make(), "default"):
            pass
        await asyncio.sleep(0)
        gc.collect()
        assert sum(isinstance(it, Inbox) for it in gc.get_objects()) == before


class TestBetweenProcesses:
    """What one process publishes and another hears: Redis only."""

    @pytest.fixture
    def url(self, valkey: Valkey) -> str:
        return valkey.url

    @pytest.fixture
    def namespace(self) -> str:
        return new_id("test")

    async def test_every_kind_of_hint_comes_as_it_was_sent(self, url: str, namespace: str) -> None:
        run = a_run(status=RunStatus.COMPLETED)
        seal = Change(
            project="default",
            run_id=new_id("batch"),
            version=1,
            xid=9,
            previous_xid=0,
            at=AT,
            changed={},
            before=None,
            kind=ChangeKind.SEALED,
        )
        hints = [
            Hint(a_change(), a_run()),
            Hint(a_change(run, before=Facet(RunStatus.EXECUTING, ("a", "ü:☃"))), run),
            Hint(a_change(run, kind=ChangeKind.DELETED), run),
            Hint(seal, None),
        ]
        here, there = (RedisBroker(url, namespace=namespace, tuning=HURRIED) for _ in range(2))
        async with running(here), running(there, "default") as listener:
            here.publish(hints)
            await eventually(lambda: len(listener.hints) == 4)
        assert [as_sent(hint) for hint in listener.hints] == [as_sent(hint) for hint in hints]
        assert listener.suspected("unknown_publisher", "default") == 1

    async def test_thousands_come_in_order_and_none_is_taken_for_lost(
        self, url: str, namespace: str
    ) -> None:
        here, there = (RedisBroker(url, namespace=namespace, tuning=HURRIED) for _ in range(2))
        hints = [a_hint() for _ in range(3_000)]
        async with running(here, "default") as own, running(there, "default") as listener:
            for first in range(0, 3_000, 50):
                here.publish(hints[first : first + 50])
                if first % 500 == 0:
                    await asyncio.sleep(0)
            await eventually(lambda: len(listener.hints) == 3_000)
        assert listener.runs == own.runs == [hint.change.run_id for hint in hints]
        assert not listener.suspected("hole", "default")

    async def test_a_process_does_not_hear_itself_twice(self, url: str, namespace: str) -> None:
        counts = Counts()
        here = RedisBroker(url, namespace=namespace, tuning=HURRIED, metrics=counts)
        there = RedisBroker(url, namespace=namespace, tuning=HURRIED)
        async with running(here, "default") as own, running(there, "default") as listener:
            here.publish([a_hint()])
            await eventually(lambda: listener.hints)
            # What the other publishes now comes after what came back.
            there.publish([last := a_hint()])
            await eventually(lambda: own.heard(last))
        assert len(own.hints) == 2
        assert counts.of["received"] == 1

    async def test_who_waits_for_others_is_told_of_theirs_alone(
        self, url: str, namespace: str
    ) -> None:
        """Its own a process knows of when it commits: to be woken twice is to look in vain."""
        told: list[Hint] = []
        here = RedisBroker(url, namespace=namespace, tuning=HURRIED, of_others=told.extend)
        there = RedisBroker(url, namespace=namespace, tuning=HURRIED)
        async with running(here, "default") as own, running(there, "default") as listener:
            here.publish([mine := a_hint()])
            await eventually(lambda: listener.heard(mine))
            there.publish([theirs := a_hint()])
            await eventually(lambda: own.heard(mine, theirs))
        assert [hint.change.run_id for hint in told] == [theirs.change.run_id]

    async def test_a_hint_over_the_limit_comes_as_ids(self, url: str, namespace: str) -> None:
        here, there = (RedisBroker(url, namespace=namespace, tuning=HURRIED) for _ in range(2))
        large = a_hint(output="x" * 20_000, tags=("kept",))
        async with running(here), running(there, "default") as listener:
            here.publish([a_hint(), large, a_hint()])
            await eventually(lambda: len(listener.hints) == 3)
        slim = listener.hints[1]
        assert [hint.whole for hint in listener.hints] == [True, False, True]
        assert slim.run is None
        assert slim.change == msgspec.structs.replace(large.change, changed={})

    async def test_projects_and_namespaces_and_databases_are_apart(
        self, url: str, namespace: str
    ) -> None:
        """Pub/sub, unlike keys, knows no databases: two servers on one Redis would hear each
        other, and take the other's versions for their own."""
        here = RedisBroker(url, namespace=namespace, tuning=HURRIED)
        deaf = [
            RedisBroker(url, namespace=f"{namespace}x", tuning=HURRIED),
            RedisBroker(f"{url.removesuffix('/0')}/1", namespace=namespace, tuning=HURRIED),
        ]
        there = RedisBroker(url, namespace=namespace, tuning=HURRIED)
        async with (
            running(here),
            running(deaf[0], "default") as first,
            running(deaf[1], "default") as second,
            running(there, "default") as listener,
        ):
            here.publish([a_hint("other"), last := a_hint()])
            await eventually(lambda: listener.heard(last))
            for broker, heard in zip(deaf, (first, second), strict=True):
                # Its own, by way of a broker like it, is behind what it should not have heard.
                broker.publish([own := a_hint()])
                await eventually(partial(heard.heard, own))
        assert listener.runs == [last.change.run_id]
        assert len(first.hints) == len(second.hints) == 1

    async def test_a_process_that_starts_anew_is_unknown(self, url: str, namespace: str) -> None:
        """Its last life may have ended between a commit and its hint."""
        there = RedisBroker(url, namespace=namespace, tuning=HURRIED)
        async with running(there, "default") as listener:
            for lives in (1, 2):
                here = RedisBroker(url, namespace=namespace, tuning=HURRIED)
                async with running(here):
                    here.publish([a_hint()])
                    here.publish([last := a_hint()])
                    await eventually(partial(listener.heard, last))
                assert listener.suspected("unknown_publisher", "default") == lives


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
