"""Cohorts: whoever is told the same is told it together, and nobody can tell."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.hub import Connection, Hub, HubSettings
from realtime.hub.project import dispatch
from realtime.outlets import FrameOutlet
from realtime.session import SessionSettings
from store.model import RunStatus
from tests.doubles import FakeBroker, FakeGrant, FakeStore
from tests.realtime.watching import turns

NOBODY_IS_TOLD_TOGETHER = 10**9


class SocketLink:
    """A link over a real socket whose other end may be left unread; keeps what it can't take."""

    def __init__(self, *, direct: bool) -> None:
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)
        self.direct = direct
        self.resumed: Callable[[], None] = lambda: None
        self.blocked: Callable[[], None] = lambda: None
        self.kept = b""
        self.came = b""
        self.closed: int | None = None
        self.files_given = 0

    @property
    def writable(self) -> bool:
        return len(self.kept) < 10_000 and self.closed is None

    def write(self, frame: bytes) -> None:
        assert self.closed is None
        self.kept += frame
        self._push()
        if self.kept:
            self.blocked()

    def _push(self) -> None:
        while self.kept:
            try:
                self.kept = self.kept[os.write(self.ours.fileno(), self.kept) :]
            except BlockingIOError:
                return

    def file(self) -> int | None:
        if not self.direct or self.kept or self.closed is not None:
            return None
        self.files_given += 1
        return self.ours.fileno()

    def taken(self) -> int:
        return -len(self.kept)

    def close(self, code: int, reason: str) -> None:
        self.blocked()
        self.closed = code

    def abort(self) -> None:
        self.close(1006, "")

    def read(self) -> None:
        """The other end takes all there is, and what is kept follows."""
        was_full = not self.writable
        while True:
            try:
                self.came += self.theirs.recv(1_000_000)
            except BlockingIOError:
                if not self.kept:
                    break
                self._push()
        if was_full and self.closed is None:
            self.resumed()

    def lines(self) -> list[bytes]:
        """What came, line by line."""
        found: list[bytes] = []
        data = self.came
        while data:
            assert data[0] == 0x81
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(data[2:10], "big"), 10
            assert len(data) >= start + size, "a frame is not whole"
            found += data[start : start + size].split(b"\n")
            data = data[start + size :]
        return found

    def carry(self, take: Callable[[Any], Awaitable[None]]) -> None:
        raise AssertionError("nothing comes")

    def end(self) -> None:
        self.ours.close()
        self.theirs.close()


class Reader:
    """A connection, its link, and what it asks for."""

    def __init__(self, hub: Hub, *, direct: bool, grant: FakeGrant | None = None) -> None:
        self.link = SocketLink(direct=direct)
        self.grant = grant or FakeGrant()

        async def authenticate(token: str | None) -> FakeGrant:
            return self.grant

        self.connection: Connection = hub.connect(FrameOutlet(self.link), authenticate)
        self.connection.outlet.attach(self.connection)  # type: ignore[attr-defined]

    async def say(self, **message: Any) -> None:
        await self.connection.received(msgspec.json.encode(message))

    @property
    def is_plain(self) -> bool:
        return self.connection.mailbox.lane is not None

    def said(self) -> list[Any]:
        """What it was told, less what names the moment or the connection."""
        told = []
        for line in self.link.lines():
            message = msgspec.json.decode(line)
            if message["type"] == "welcome":
                continue
            message.pop("cursor", None)
            told.append(message)
        return told


class World:
    """A hub, some runs, and readers of their tags."""

    def __init__(self, *, direct: bool, **how: Any) -> None:
        self.direct = direct
        self.store = FakeStore()
        self.store.slowness = (0, 0, 0, 0)
        self.broker = FakeBroker()
        self.store.publish = self.broker.publish
        session = SessionSettings(**({"checkpoint_s": 1e6, "heartbeat_s": 1e6} | how))
        self.hub = Hub(
            self.store, self.broker, settings=HubSettings(tail_s=1_000.0, session=session)
        )
        self.readers: list[Reader] = []
        self.lost: list[Reader] = []
        self.stalled: set[int] = set()
        for name, tags in (("r0", ("a",)), ("r1", ("a", "b")), ("r2", ("b",))):
            self.store.create(name, tags=tags)

    async def __aenter__(self) -> World:
        self._running = asyncio.create_task(self.hub.run())
        await self.hub.ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait([self._running])
        for reader in self.readers:
            reader.link.end()

    async def add(self, **ask: Any) -> Reader:
        reader = Reader(self.hub, direct=self.direct)
        self.readers.append(reader)
        await reader.connection.open(None)
        await reader.say(type="subscribeToRunsWithTag", id=1, tag="a", **ask)
        await turns(12)
        return reader

    async def settle(self) -> None:
        self.hub.suspect(None, "test")
        await turns(12)

    def burst(self, steps: Sequence[tuple[int, int]]) -> None:
        """Some changes in one transaction, and so in one turn."""

        def work(tx: Any) -> None:
            for run, size in steps:
                tx.update(f"r{run}", metadata={"pad": "x" * size})

        self.store.write(work)

    def read(self) -> None:
        for index, reader in enumerate(self.readers):
            if index not in self.stalled:
                reader.link.read()

    async def do(self, step: tuple[Any, ...]) -> None:
        what, who, *rest = step
        reader = self.readers[who % len(self.readers)] if self.readers else None
        if what == "add":
            await self.add(**rest[0])
        elif what == "burst":
            self.burst(rest[0])
        elif what == "settle":
            await self.settle()
        elif what == "turn":
            await turns(3)
        elif what == "tag":
            run = self.store.runs["r1"]
            tags = ("b",) if "a" in run.tags else ("a", "b")
            self.store.update("r1", tags=tags)
        elif reader is None or reader.connection.session.state.value == "closed":
            return
        elif what == "ping":
            await reader.say(type="ping", data=who)
        elif what == "more":
            await reader.say(type="subscribeToRunsWithTag", id=2, tag="b")
        elif what == "less":
            await reader.say(type="unsubscribe", id=2)
        elif what == "again":
            await reader.say(type="unsubscribe", id=1)
            await reader.say(type="subscribeToRunsWithTag", id=1, tag="a")
        elif what == "token":
            reader.grant = replace(reader.grant, skip=frozenset(rest[0]))
            await reader.say(type="authenticate", token="another")
        elif what == "stall":
            self.stalled.add(who % len(self.readers))
        elif what == "lose":
            reader.connection.lost()
            self.lost.append(reader)
        self.read()
        if what in ("more", "again", "token"):
            # How far a joining has come when something else happens is a matter of turns, of
            # which a write at once and one at the end of the turn take different numbers.
            for _ in range(6):
                await turns(4)
                self.read()


async def told(script: Sequence[tuple[Any, ...]], *, direct: bool) -> list[list[Any]]:
    """What each reader was told in the end."""
    async with World(direct=direct) as world:
        for _ in range(3):
            await world.add()
        await world.settle()
        for step in script:
            await world.do(step)
        await turns(20)
        world.stalled.clear()
        for _ in range(30):
            world.read()
            await turns(3)
        assert not any(reader.connection.mailbox for reader in world.readers)
        # What was under way when a connection was lost is nobody's.
        return [[] if reader in world.lost else reader.said() for reader in world.readers]


WHO = st.integers(0, 5)
BURST = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 10, 3_000, 150_000])),
    min_size=1,
    max_size=4,
)
ASKS = st.sampled_from(
    [{}, {}, {}, {"skip": ["metadata"]}, {"delivery": "latest"}, {"statuses": ["QUEUED"]}]
)
STEP = st.one_of(
    st.tuples(st.just("burst"), WHO, BURST),
    st.tuples(st.just("burst"), WHO, BURST),
    st.tuples(st.just("add"), WHO, ASKS),
    st.tuples(st.just("token"), WHO, st.sampled_from([[], ["metadata"]])),
    st.tuples(
        st.sampled_from(
            ["turn", "turn", "settle", "tag", "ping", "more", "less", "again", "stall", "lose"]
        ),
        WHO,
    ),
)


@given(st.lists(STEP, max_size=25))
def test_each_is_told_what_it_would_be_told_alone(script: list[tuple[Any, ...]]) -> None:
    """Joining, leaving, other tokens, second subscriptions, pings in between and stalled sockets:
    together or one by one, the lines are the same and in the same order."""
    together = asyncio.run(told(script, direct=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "SMALLEST", NOBODY_IS_TOLD_TOGETHER)
        alone = asyncio.run(told(script, direct=False))
    assert together == alone


async def test_those_for_whom_nothing_waits_get_one_frame() -> None:
    async with World(direct=True) as world:
        readers = [await world.add() for _ in range(5)]
        await world.settle()
        world.burst([(0, 1)])
        await turns(3)
        assert all(reader.is_plain for reader in readers)
        before = [len(reader.said()) for reader in readers]
        world.burst([(0, 1), (0, 2), (1, 3)])
        await turns(3)
        world.read()
        for reader, count in zip(readers, before, strict=True):
            assert len(reader.said()) > count
            assert reader.is_plain
            assert not reader.connection.mailbox


async def test_what_is_put_into_a_mailbox_comes_after_what_was_owed_before() -> None:
    """A ping's answer in the turn of a change, which is not written yet."""
    async with World(direct=True) as world:
        readers = [await world.add() for _ in range(3)]
        await world.settle()
        world.burst([(0, 1)])
        await turns(3)
        world.burst([(0, 2)])
        await readers[1].say(type="ping", data="?")
        assert not readers[1].is_plain
        world.burst([(0, 3)])
        await turns(3)
        world.read()
        assert [message["type"] for message in readers[1].said()][-3:] == [
            "change",
            "pong",
            "change",
        ]
        assert readers[1].is_plain, "and is told together with the others again"


async def test_one_that_reads_nothing_keeps_its_bound_and_the_others_their_pace() -> None:
    async with World(direct=True) as world:
        world.hub.settings = HubSettings(mailbox_bytes=50_000)
        slow, quick = [await world.add() for _ in range(2)]
        await world.settle()
        world.stalled.add(0)
        for n in range(100):
            world.burst([(0, 1_000 + n)])
            await turns(2)
            world.read()
            assert slow.connection.mailbox.size <= 50_000
        assert not slow.is_plain
        assert slow.connection.session.state.value == "closed"
        assert quick.is_plain
        versions = [m["run"]["version"] for m in quick.said() if m["type"] == "change"]
        assert versions == list(range(2, 102))


async def test_a_burst_that_fills_the_mailboxes_of_a_turn_is_told_once() -> None:
    """A mailbox that is about to be full is emptied in the midst of being put into: whoever it is
    of is not told together with the others again before that is done."""
    async with World(direct=True) as world:
        world.hub.settings = HubSettings(mailbox_bytes=2_000)
        readers = [await world.add() for _ in range(2)]
        await world.settle()
        world.burst([(0, 1)])
        await turns(3)
        for reader in readers:
            await reader.say(type="ping")
        world.burst([(0, 1_000)])
        world.burst([(0, 1_001)])
        world.burst([(0, 10)])
        await turns(3)
        world.read()
        for reader in readers:
            changes = [m["run"]["version"] for m in reader.said() if m["type"] == "change"]
            assert changes == [2, 3, 4, 5]
        world.burst([(0, 11)])
        await turns(3)
        world.burst([(0, 12)])
        assert all(reader.is_plain for reader in readers)


async def test_a_checkpoint_goes_to_all_and_stands_for_what_each_was_told() -> None:
    async with World(direct=True, checkpoint_s=0.0) as world:
        readers = [await world.add() for _ in range(3)]
        await world.settle()
        world.read()
        before = [len(reader.said()) for reader in readers]
        for _ in range(2):
            world.burst([(0, 1)])
            await turns(3)
            await world.settle()
        world.read()
        for reader, count in zip(readers, before, strict=True):
            types = [message["type"] for message in reader.said()]
            assert types[count:] == ["change", "checkpoint"] * 2
            reader.connection.step_out()
            assert not reader.connection.session.has_news
        world.burst([(0, 1)])
        assert all(reader.connection.session.has_news for reader in readers)


async def test_a_heartbeat_breaks_the_silence_of_all() -> None:
    async with World(direct=True, heartbeat_s=0.1) as world:
        readers = [await world.add() for _ in range(3)]
        await world.settle()
        world.burst([(0, 1)])
        async with asyncio.timeout(10):
            while not all(
                [m["type"] for m in reader.said()].count("heartbeat") >= 2 for reader in readers
            ):
                await asyncio.sleep(0.02)
                world.read()
        assert all(reader.is_plain for reader in readers)


async def test_a_cohort_is_gone_with_its_last_member() -> None:
    async with World(direct=True) as world:
        readers = [await world.add() for _ in range(3)]
        await world.settle()
        world.burst([(0, 1)])
        (project,) = world.hub.projects.values()
        assert len(project.cohorts) == 1
        for reader in readers:
            reader.connection.lost()
        assert len(project.cohorts) == 0
        world.store.update("r0", status=RunStatus.EXECUTING)


async def test_tokens_that_let_the_same_be_seen_share_a_cohort() -> None:
    """Each browser has a token of its own, with an end of its own."""
    async with World(direct=True) as world:
        for n in range(3):
            reader = await world.add()
            reader.grant = replace(reader.grant, token_id=f"t{n}")
            await reader.say(type="authenticate", token="mine")
        await world.settle()
        world.burst([(0, 1)])
        (project,) = world.hub.projects.values()
        assert len(project.cohorts) == 1


async def test_two_subscriptions_of_one_connection_share_their_messages_again() -> None:
    """Whoever subscribes once more is told for itself; and together with others once it is over."""
    async with World(direct=True) as world:
        first, _ = [await world.add() for _ in range(2)]
        await world.settle()
        world.burst([(1, 1)])
        await turns(3)
        world.read()
        await first.say(type="subscribeToRunsWithTag", id=2, tag="b")
        await turns(12)
        world.burst([(1, 2)])
        await turns(3)
        world.read()
        assert not first.is_plain
        await first.say(type="unsubscribe", id=2)
        world.burst([(1, 3)])
        await turns(3)
        world.read()
        world.burst([(1, 4)])
        await turns(3)
        world.read()
        world.read()
        ids = [message["ids"] for message in first.said() if message["type"] == "change"]
        assert ids == [[1], [1, 2], [1], [1]]
        assert first.is_plain
