"""What a Redis broker does when Redis, or the way to it, fails: says so, comes back, loses hints at
most, and is in nobody's way. Every test runs against a real Valkey and waits for conditions only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import redis
import trustme

from store.broker import Broker
from store.broker.redis import RedisBroker, Tuning, publisher
from store.broker.redis.codec import HEADER, encode, pack
from store.broker.redis.link import BEAT
from store.model import new_id
from tests.faults import Cut, Proxy, Way, client_kill
from tests.servers import Valkey
from tests.store.broker.doubles import (
    HURRIED,
    Counts,
    Recorder,
    a_hint,
    eventually,
    is_degraded,
    is_ok,
    no_task_left,
    running,
)


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    async with no_task_left():
        yield


@pytest.fixture
def namespace() -> str:
    return new_id("test")


@pytest.fixture
async def proxy(valkey: Valkey) -> AsyncIterator[Proxy]:
    async with led_through(valkey.url) as proxy:
        yield proxy


@pytest.fixture
def make(namespace: str) -> Callable[..., RedisBroker]:
    """Brokers that hear each other, by whatever way they go to Redis."""

    def make(url: str, metrics: Counts | None = None, tuning: Tuning = HURRIED) -> RedisBroker:
        return RedisBroker(url, namespace=namespace, tuning=tuning, metrics=metrics or Counts())

    return make


Make = Callable[..., RedisBroker]


async def carries(here: Broker, there: Recorder) -> None:
    """Whether what one publishes reaches the other again; tried until it does."""

    async def heard() -> bool:
        here.publish([hint := a_hint()])
        with contextlib.suppress(TimeoutError):
            await eventually(partial(there.heard, hint), within_s=0.5)
            return True
        return False

    async with asyncio.timeout(30):
        while not await heard():
            pass


class TestConnectionLost:
    async def test_a_subscriber_cut_off_says_so_and_subscribes_again(
        self, valkey: Valkey, make: Make
    ) -> None:
        """The client library's own reconnects are silent. Taken out: LOST and SUBSCRIBED."""
        counts = Counts()
        here, there = make(valkey.url), make(valkey.url, counts)
        async with running(here), running(there, "one", "two") as listener:
            for times in (2, 3, 4):
                assert client_kill(valkey) >= 1
                await eventually(partial(listener.was_suspected, "subscribed", times))
                assert listener.was_suspected("lost", times - 1)
                await eventually(is_ok(here, there))
                await carries_to(here, listener, "one")
                await carries_to(here, listener, "two")
        assert counts.of["reconnected subscriber"] >= 3

    async def test_a_publisher_cut_off_sends_what_it_had(self, valkey: Valkey, make: Make) -> None:
        """Taken out: the second try at once of a pipeline whose connection was cut."""
        counts = Counts()
        here, there = make(valkey.url, counts), make(valkey.url)
        async with running(here), running(there, "default") as listener:
            await carries(here, listener)
            hints = []
            for _ in range(20):
                client_kill(valkey, "normal")
                hints.append(a_hint())
                here.publish(hints[-1:])
                await eventually(partial(listener.heard, hints[-1]))
        assert not sum(n for name, n in counts.of.items() if name.startswith("dropped"))

    async def test_the_first_redial_is_refused(
        self, proxy: Proxy, valkey: Valkey, make: Make
    ) -> None:
        """As when a server takes a moment to start again. Taken out: the second redial."""
        here, there = make(valkey.url), make(proxy.url)
        async with running(here), running(there, "default") as listener:
            proxy.refuse(3)
            proxy.cut()
            await eventually(partial(listener.was_suspected, "subscribed", 2))
            await eventually(is_ok(there))
            await carries(here, listener)

    async def test_nobody_listens_for_a_while(
        self, proxy: Proxy, valkey: Valkey, make: Make
    ) -> None:
        counts = Counts()
        here, there = make(valkey.url), make(proxy.url, counts)
        async with running(here), running(there, "default") as listener:
            async with proxy.closed():
                await eventually(partial(listener.was_suspected, "lost", 1))
                assert is_degraded(there)()
                # Dropped once a redial has failed, too.
                there.publish([a_hint()])
                await eventually(lambda: counts.of["dropped away"])
            await eventually(is_ok(there))
            await carries(here, listener)
            await carries_to(there, listener, "default")

    @pytest.mark.parametrize("how", Cut)
    async def test_a_connection_is_cut_inside_a_message(
        self, proxy: Proxy, valkey: Valkey, make: Make, how: Cut
    ) -> None:
        here, there = make(valkey.url), make(proxy.url)
        async with running(here), running(there, "default") as listener:
            for size in (1, 30, 700):
                before = listener.suspected("subscribed")
                proxy.cut_after(size, Way.DOWN, how)
                here.publish([a_hint() for _ in range(5)])
                await eventually(partial(listener.was_suspected, "subscribed", before + 1))
                await eventually(is_ok(there))
                await carries(here, listener)

    async def test_bytes_come_one_by_one(self, proxy: Proxy, valkey: Valkey, make: Make) -> None:
        proxy.pieces(1)
        here, there = make(valkey.url), make(proxy.url)
        async with running(here), running(there, "default") as listener:
            here.publish([hint := a_hint()])
            await eventually(partial(listener.heard, hint))
            assert not listener.suspected("unreadable", "default")


class TestRedisItself:
    async def test_it_starts_anew_and_empty(self, valkey: Valkey, make: Make) -> None:
        here, there = make(valkey.url), make(valkey.url)
        async with running(here, "default") as own, running(there, "default") as listener:
            valkey.kill()
            await eventually(is_degraded(here, there))
            await eventually(partial(listener.was_suspected, "lost", 1))
            here.publish([meanwhile := a_hint()])
            await eventually(partial(own.heard, meanwhile))
            valkey.start()
            await eventually(is_ok(here, there))
            assert listener.was_suspected("subscribed", 2)
            await carries(here, listener)
            # What was lost meanwhile is a hole, found by the first hint after it.
            assert listener.suspected("hole", "default") or listener.suspected(
                "unknown_publisher", "default"
            )

    async def test_it_is_not_there_at_the_start(self, valkey: Valkey, make: Make) -> None:
        """A server starts, and its own subscribers are served, also then."""
        valkey.kill()
        here = make(valkey.url)
        async with running(here, "default", wait=False) as own:
            here.publish([hint := a_hint()])
            await eventually(partial(own.heard, hint))
            assert is_degraded(here)()
            assert not own.suspected("subscribed")
            valkey.start()
            await eventually(is_ok(here))
            assert own.suspected("subscribed") == 1

    async def test_it_freezes(self, valkey: Valkey, make: Make) -> None:
        """Connections stand, and nothing comes. Taken out: the canary."""
        counts = Counts()
        here, there = make(valkey.url), make(valkey.url, counts)
        async with running(here, "default") as own, running(there, "default") as listener:
            with valkey.frozen_meanwhile():
                await eventually(is_degraded(here, there))
                await eventually(partial(listener.was_suspected, "canary", 1))
                assert counts.of["canary missed"] >= 1
                here.publish([meanwhile := a_hint()])
                await eventually(partial(own.heard, meanwhile))
            await eventually(is_ok(here, there))
            await carries(here, listener)
            await carries(there, own)

    async def test_it_cuts_off_whoever_has_too_much_unsent(
        self, valkey: Valkey, make: Make
    ) -> None:
        """A tiny output buffer: as a server does with subscribers that are too slow."""
        here, there = make(valkey.url), make(valkey.url)
        async with running(here), running(there, "default") as listener:
            valkey.set_config("client-output-buffer-limit", "pubsub 1kb 1kb 1")
            try:
                # Each a message of its own: several are then answered before the first is sent.
                for _ in range(100):
                    here.publish([a_hint(output="x" * 10_000)])
                await eventually(lambda: listener.suspected("lost"))
                await eventually(lambda: listener.suspected("subscribed") >= 2)
            finally:
                valkey.set_config("client-output-buffer-limit", "pubsub 32mb 8mb 60")
            await eventually(is_ok(there))
            await carries(here, listener)

    async def test_it_becomes_a_replica(self, valkey: Valkey, make: Make) -> None:
        """After a failover the old primary lives on as a replica. What is published there stays
        there, though the canary sings. Taken out: the look at ROLE."""
        broker = make(valkey.url)
        async with running(broker, "default") as listener:
            with Valkey() as primary:
                valkey.execute("REPLICAOF", "127.0.0.1", primary.port)
                try:
                    await eventually(is_degraded(broker))
                    await eventually(lambda: listener.suspected("lost"))
                finally:
                    valkey.execute("REPLICAOF", "NO", "ONE")
            await eventually(is_ok(broker))

    @pytest.mark.parametrize("moved", ["normal", "pubsub"])
    async def test_another_takes_its_place(self, valkey: Valkey, make: Make, moved: str) -> None:
        """A failover behind one address moves one of the connections, and the other stands at
        the old server, alive and alone. Taken out: renewing both when the canary is silent."""
        with Valkey() as other:
            async with led_through(valkey.url) as proxy:
                here, there = make(proxy.url), make(proxy.url)
                async with running(here), running(there, "default") as listener:
                    proxy._target_port = other.port
                    client_kill(valkey, moved)
                    await eventually(lambda: listener.suspected("canary"))
                    await eventually(is_ok(here, there))
                    await carries(here, listener)
                    assert other.execute("PUBSUB", "CHANNELS", "*hints*")

    async def test_it_does_not_let_us_in(self, valkey: Valkey, make: Make) -> None:
        """A wrong password is tried again, with waits: it may be Redis that has the wrong one."""
        valkey.execute("ACL", "SETUSER", "guest", "on", ">right", "+@all", "allchannels")
        try:
            broker = make(valkey.url.replace("//", "//guest:wrong@"))
            async with running(broker, "default", wait=False) as listener:
                await eventually(lambda: "WRONGPASS" in broker._link._complaint)
                assert is_degraded(broker)()
                valkey.execute("ACL", "SETUSER", "guest", ">wrong")
                await eventually(is_ok(broker))
                await carries(broker, listener)
        finally:
            valkey.execute("ACL", "DELUSER", "guest")

    async def test_a_login_that_may_not_hear_a_project_makes_it_degraded(
        self, valkey: Valkey, make: Make, namespace: str
    ) -> None:
        """It is asked for again with each beat, so that a permission is all that it needs."""
        url = valkey.url.replace("//", "//limited:secret@")
        allowed = f"&{namespace}:0:canary:*"
        valkey.execute(
            "ACL", "SETUSER", "limited", "on", ">secret", "+@all", "resetchannels", allowed
        )
        try:
            broker = make(url)
            async with running(broker) as listener:
                broker.follow("default")
                await eventually(is_degraded(broker))
                assert not listener.suspected("followed", "default")
                valkey.execute("ACL", "SETUSER", "limited", f"&{namespace}:0:hints:*")
                await eventually(is_ok(broker))
                assert listener.suspected("followed", "default") == 1
        finally:
            valkey.execute("ACL", "DELUSER", "limited")

    async def test_a_login_that_may_publish_and_subscribe_and_no_more_is_enough(
        self, valkey: Valkey, make: Make
    ) -> None:
        url = valkey.url.replace("//", "//least:secret@")
        valkey.execute(
            "ACL", "SETUSER", "least", "on", ">secret", "-@all", "allchannels",
            "+publish", "+subscribe", "+unsubscribe", "+select",
        )  # fmt: skip
        try:
            here, there = make(url), make(url)
            async with running(here), running(there, "default") as listener:
                await carries(here, listener)
                client_kill(valkey, "normal")
                await carries(here, listener)
                there.unfollow("default")
        finally:
            valkey.execute("ACL", "DELUSER", "least")


class TestSilentWay:
    @pytest.mark.parametrize("ways", [(Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)])
    async def test_a_half_open_connection_is_noticed_and_left(
        self, proxy: Proxy, valkey: Valkey, make: Make, ways: tuple[Way, ...]
    ) -> None:
        """Taken out: the canary; then nothing is noticed for as long as the kernel likes."""
        counts = Counts()
        here, there = make(valkey.url), make(proxy.url, counts)
        async with running(here), running(there, "default") as listener:
            with proxy.stalled(*ways):
                await eventually(is_degraded(there))
                await eventually(partial(listener.was_suspected, "canary", 1))
                await eventually(partial(listener.was_suspected, "lost", 1))
                assert counts.of["canary missed"] >= 1
            await eventually(is_ok(there))
            await carries(here, listener)

    async def test_a_way_slower_than_the_canary_is_no_good_way(
        self, proxy: Proxy, valkey: Valkey, make: Make
    ) -> None:
        """Every heartbeat comes, and each too late."""
        counts = Counts()
        tuning = replace(HURRIED, connect_s=30.0, send_s=30.0)
        there = make(proxy.url, counts, tuning)
        async with running(there, "default"):
            proxy.delay(0.5)
            await eventually(is_degraded(there))
            await eventually(lambda: counts.of["canary missed"] >= 2)
            proxy.delay(0)
            await eventually(is_ok(there))

    async def test_a_heartbeat_that_is_old_proves_nothing(
        self, valkey: Valkey, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a backlog grows bit by bit one comes with every beat, later and later. Taken
        out: the age of a heartbeat."""
        counts = Counts()
        there = make(valkey.url, counts)
        async with running(there):
            beating = there._link._publisher
            beat = beating.beat

            def beat_late(channel: bytes, message: bytes) -> None:
                life, sent_at = BEAT.unpack(message)
                beat(channel, BEAT.pack(life, sent_at - 10))

            with monkeypatch.context() as patch:
                patch.setattr(beating, "beat", beat_late)
                await eventually(is_degraded(there))
                await eventually(lambda: counts.of["canary missed"] >= 2)
            await eventually(is_ok(there))

    async def test_our_own_stall_is_not_taken_for_one_of_redis(
        self, valkey: Valkey, make: Make
    ) -> None:
        """Beats are counted, not seconds: a process that was stopped for long has heard nothing,
        and nothing is wrong."""
        counts = Counts()
        there = make(valkey.url, counts)
        async with running(there):
            beats = published(valkey)
            time.sleep(  # noqa: ASYNC251 -- the loop is what shall stand still
                HURRIED.beat_s * (HURRIED.silent_beats + 3)
            )
            await eventually(lambda: published(valkey) > beats + 3)
        assert not counts.of["canary missed"]
        assert not counts.of["reconnected subscriber"]


class TestPublisher:
    async def test_a_frozen_redis_costs_a_writer_nothing(self, valkey: Valkey, make: Make) -> None:
        """Hints beyond the bounds are dropped, and the counter still rises: it shows as a hole.
        Taken out: the bounds of the queue."""
        counts = Counts()
        tuning = replace(HURRIED, queue_bytes=100_000, queue_messages=50)
        here, there = make(valkey.url, counts, tuning), make(valkey.url)
        async with running(here, "default") as own, running(there, "default") as listener:
            await carries(here, listener)
            listener.forget()
            hints = [a_hint() for _ in range(2_000)]
            with valkey.frozen_meanwhile():
                longest = 0.0
                for first in range(0, 2_000, 20):
                    began = time.thread_time()
                    here.publish(hints[first : first + 20])
                    longest = max(longest, time.thread_time() - began)
                await eventually(lambda: own.heard(*hints))
                await eventually(lambda: sum(counts.of.values()) and counts.of["dropped overflow"])
                await eventually(is_degraded(here))
                await eventually(lambda: counts.of["dropped away"])
                here.publish([a_hint()])
            assert longest < 0.05
            await eventually(is_ok(here, there))
            await carries(here, listener)
            await eventually(lambda: listener.suspected("hole", "default"))
        lost = counts.of["dropped overflow"] + counts.of["dropped away"]
        assert 1_000 < lost <= 2_100

    async def test_a_hint_that_is_refused_is_counted(
        self, valkey: Valkey, make: Make, namespace: str
    ) -> None:
        url = valkey.url.replace("//", "//mute:secret@")
        valkey.execute(
            "ACL", "SETUSER", "mute", "on", ">secret", "+@all", "resetchannels",
            f"&{namespace}:0:canary:*",
        )  # fmt: skip
        try:
            counts = Counts()
            here = make(url, counts)
            async with running(here):
                here.publish([a_hint(), a_hint()])
                await eventually(lambda: counts.of["dropped refused"] == 2)
                assert is_ok(here)()
        finally:
            valkey.execute("ACL", "DELUSER", "mute")

    async def test_what_cannot_be_encoded_is_a_hole(self, valkey: Valkey, make: Make) -> None:
        counts = Counts()
        here, there = make(valkey.url, counts), make(valkey.url)
        async with running(here), running(there, "default") as listener:
            await carries(here, listener)
            here.publish([a_hint(id="x" * 20_000)])
            here.publish([hint := a_hint()])
            await eventually(partial(listener.heard, hint))
            await eventually(lambda: listener.suspected("hole", "default"))
        assert counts.of["dropped unencodable"] == 1

    async def test_it_closes_at_once_while_redis_is_frozen(
        self, valkey: Valkey, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And leaves no socket that goes on trying to be rid of its bytes."""
        # More in one pipeline than the kernel takes for a peer that reads nothing.
        monkeypatch.setattr(publisher, "PIPELINE_BYTES", 50_000_000)
        # What waited for the server would wait for an hour.
        broker = make(valkey.url, tuning=replace(HURRIED, queue_bytes=50_000_000, send_s=3_600.0))
        async with running(broker, "default"):
            with valkey.frozen_meanwhile():
                broker.publish([a_hint(output="x" * 16_000) for _ in range(2_000)])
                await eventually(lambda: not broker._link._publisher._queue)
                async with asyncio.timeout(60):
                    await broker.close()
                await eventually(lambda: not connections_to(valkey.port), within_s=5)


class TestWhatIsHeard:
    """Messages made by hand, as another process would send them, or never would."""

    @staticmethod
    def message(publisher: bytes, number: int) -> bytes:
        encoded = encode(a_hint(), 16_384)
        assert encoded is not None
        ((body, _),) = pack([encoded], 65_536)
        return HEADER.pack(publisher, number) + body

    async def test_a_jump_of_a_counter_is_a_hole(self, valkey: Valkey, make: Make) -> None:
        """Taken out: the counters. Then only the tail finds it, up to a second later."""
        broker = make(valkey.url)
        channel = broker.channel_of("default")
        async with running(broker, "default") as listener:
            for count, number in enumerate((7, 8, 8, 9), 1):
                publish(valkey, channel, self.message(b"stranger", number))
                await eventually(partial(listener.has_hints, count))
            assert listener.suspected("unknown_publisher", "default") == 1
            assert not listener.suspected("hole", "default")
            publish(valkey, channel, self.message(b"stranger", 11))
            await eventually(lambda: listener.suspected("hole", "default"))
            assert len(listener.hints) == 5

    async def test_our_own_jump_is_a_hole_too(self, valkey: Valkey, make: Make) -> None:
        """What we sent and did not get back, others may have missed as well."""
        broker = make(valkey.url)
        channel = broker.channel_of("default")
        async with running(broker, "default") as listener:
            own = broker._publisher
            for number in (5, 6):
                publish(valkey, channel, self.message(own, number))
            publish(valkey, channel, self.message(own, 9))
            await eventually(lambda: listener.suspected("hole", "default"))
        assert not listener.suspected("unknown_publisher", "default")
        assert not listener.hints

    @pytest.mark.parametrize(
        "rubbish", [b"", b"short", b"x" * 16, b"x" * 16 + b"\xc1", b"x" * 16 + b"\x93\x01\x02\x03"]
    )
    async def test_what_cannot_be_read_is_suspect(
        self, valkey: Valkey, make: Make, rubbish: bytes
    ) -> None:
        """A later version of this program may say more than this one understands."""
        broker = make(valkey.url)
        async with running(broker, "default") as listener:
            publish(valkey, broker.channel_of("default"), rubbish)
            await eventually(lambda: listener.suspected("unreadable", "default"))
            publish(valkey, broker.channel_of("default"), self.message(b"stranger", 1))
            await eventually(lambda: listener.hints)
        assert listener.suspected("lost") == 0

    async def test_a_strange_canary_is_not_heard(self, valkey: Valkey, make: Make) -> None:
        broker = make(valkey.url)
        async with running(broker, "default") as listener:
            for rubbish in (b"", b"x" * 15, b"x" * 16, b"x" * 17):
                publish(valkey, broker.canary_of(), rubbish)
            publish(valkey, broker.channel_of("default"), self.message(b"stranger", 1))
            await eventually(lambda: listener.hints)
        assert listener.suspected("lost") == 0

    async def test_more_than_is_taken_is_thrown_away_and_said(
        self, valkey: Valkey, make: Make
    ) -> None:
        counts = Counts()
        tuning = replace(HURRIED, inbox_messages=3)
        here, there = make(valkey.url), make(valkey.url, counts, tuning)
        async with running(here), running(there, "default") as listener:
            for _ in range(200):
                here.publish([a_hint()])
            await eventually(lambda: listener.suspected("overflow"))
            await carries(here, listener)


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    async def test_both_connections_are_encrypted_and_checked(
        self, valkey: Valkey, make: Make, authority: trustme.CA, tmp_path: Path
    ) -> None:
        ca = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca))
        async with tls_in_front_of(valkey, authority, "localhost") as port:
            url = f"rediss://localhost:{port}"
            here, there = (make(f"{url}?ssl_ca_certs={ca}") for _ in range(2))
            async with running(here), running(there, "default") as listener:
                await carries(here, listener)
            unchecked = make(f"{url}?ssl_cert_reqs=none")
            async with running(unchecked):
                pass
            untrusting = make(url)
            async with running(untrusting, wait=False):
                await eventually(lambda: "certificate" in untrusting._link._complaint.lower())
                assert is_degraded(untrusting)()

    async def test_a_certificate_that_is_not_there_is_told_at_once(self, make: Make) -> None:
        with pytest.raises(OSError, match="No such file"):
            make("rediss://localhost?ssl_ca_certs=/nowhere/ca.pem")


@contextlib.asynccontextmanager
async def tls_in_front_of(valkey: Valkey, authority: trustme.CA, host: str) -> AsyncIterator[int]:
    """A port that speaks TLS; the Valkey of the wheel has none of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", valkey.port)
        try:
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        finally:
            writer.transport.abort()
            up_writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def led_through(url: str) -> AsyncIterator[Proxy]:
    """A proxy that is closed once the connections through it have ended by themselves."""
    async with Proxy(url) as proxy:
        yield proxy
        await eventually(lambda: not proxy._tasks)


def connections_to(port: int) -> int:
    """How many of this process stand."""
    return sum(
        bool(one.raddr) and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp4")
    )


def published(valkey: Valkey) -> int:
    """How many messages it was ever given."""
    calls: int = valkey.execute("INFO", "commandstats")["cmdstat_publish"]["calls"]
    return calls


def publish(valkey: Valkey, channel: bytes, message: bytes) -> None:
    with redis.Redis(port=valkey.port, protocol=2) as client:
        client.publish(channel, message)


async def carries_to(here: Broker, there: Recorder, project: str) -> None:
    here.publish([hint := a_hint(project)])
    await eventually(partial(there.heard, hint))
