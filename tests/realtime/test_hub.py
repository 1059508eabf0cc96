"""The hub: what it reads, whom it looks at, and what it counts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from realtime.hub import Hub, HubSettings
from realtime.hub.flights import Flights
from realtime.hub.measures import NoMeasures
from realtime.hub.tasks import Tasks
from realtime.ring import Ring
from realtime.session import SessionSettings
from realtime.subscription import Wish
from store.model import Cursor, RunStatus
from tests.doubles import FakeBroker, FakeGrant, FakeStore, RecordingOutlet, of_type
from tests.realtime.serving import until
from tests.realtime.watching import turns


class Counting:
    """One counter, gauge or histogram, and one for each of its labels."""

    def __init__(self) -> None:
        self.total = 0.0
        self.by: Counter[str] = Counter()

    def inc(self, amount: float = 1, /) -> None:
        self.total += amount

    def set(self, value: float, /) -> None:
        self.total = value

    def observe(self, amount: float, /) -> None:
        self.total += 1

    def labels(self, **labels: str) -> _Labelled:
        return _Labelled(self, next(iter(labels.values())))


class _Labelled:
    def __init__(self, counting: Counting, label: str) -> None:
        self.counting = counting
        self.label = label

    def inc(self, amount: float = 1, /) -> None:
        self.counting.by[self.label] += int(amount)

    def set(self, value: float, /) -> None:
        self.counting.by[self.label] = int(value)


class CountingMeasures:
    """Counts everything that the hub counts."""

    def __init__(self) -> None:
        for name in vars(NoMeasures):
            if not name.startswith("_"):
                setattr(self, name, Counting())

    def __getattr__(self, name: str) -> Counting:
        raise AttributeError(name)


class Setting:
    """A hub over a store of memory."""

    def __init__(self, store: FakeStore | None = None, **how: Any) -> None:
        self.store = store or FakeStore()
        self.broker = FakeBroker()
        self.store.publish = self.broker.publish
        self.measures: Any = CountingMeasures()
        settings = HubSettings(**({"tail_s": 1_000.0} | how))
        self.hub = Hub(self.store, self.broker, settings=settings, measures=self.measures)

    async def connect(self, *asked: dict[str, Any], live: bool = True) -> RecordingOutlet:
        async def authenticate(token: str | None) -> FakeGrant:
            return FakeGrant()

        outlet = RecordingOutlet()
        connection = self.hub.connect(outlet, authenticate)
        await connection.open(None)
        for number, each in enumerate(asked):
            await connection.received(protocol_line({"id": number + 1} | each))
        if live:
            await until(lambda: outlet.types().count("live") == len(asked), "live")
        return outlet

    def tail(self) -> None:
        self.hub.suspect(None, "test")

    async def settled(self) -> None:
        """Until a statement of the tail has passed and nothing remembers its joining."""
        project = next(iter(self.hub.projects.values()))
        while not all(member.is_settled for member in project.index):
            self.tail()
            await turns(5)


def protocol_line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


@asynccontextmanager
async def setting(**how: Any) -> AsyncIterator[Setting]:
    made = Setting(**how)
    running = asyncio.create_task(made.hub.run())
    await made.hub.ready.wait()
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()


RUNS = {"type": "subscribeToRuns"}


async def test_a_change_that_a_hint_tells_is_read_from_no_database() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.store.reads.clear()
        s.store.update("r", status=RunStatus.EXECUTING)
        await until(lambda: "change" in outlet.types())
        assert not s.store.reads
        assert s.measures.hints_total.by["next"] == 1


async def test_what_no_hint_told_is_found_by_the_tail_and_counted() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        s.store.write(lambda tx: tx.update("r", metadata={"n": 1}), publish=False)
        s.tail()
        await until(lambda: "change" in outlet.types())
        assert s.measures.found_by_tail_total.total == 1


async def test_hints_out_of_order_are_fetched_once_and_shown_in_order() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.broker.at_once = False
        for n in range(6):
            s.store.update("r", metadata={"n": n})
        s.store.reads.clear()
        for index in (4, 2, 2, 1, 0):
            s.broker.deliver(index)
        await until(lambda: outlet.types().count("change") == 6)
        s.broker.deliver(0)
        await turns(20)
        versions = [message["run"]["version"] for message in of_type(outlet.said(), "change")]
        assert versions == [2, 3, 4, 5, 6, 7]
        assert s.store.reads == ["log"]
        assert s.measures.fetches_total.total == 1


async def test_a_hint_that_was_too_long_is_fetched() -> None:
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        s.store.inline_bytes = 10
        s.store.update("r", metadata={"pad": "x" * 100})
        await until(lambda: "change" in outlet.types())
        assert s.measures.hints_total.by["ids"] == 1


async def test_a_hint_of_what_never_was_holds_nothing_up() -> None:
    """Whoever can publish can forge; the fetch finds nothing, and what follows is shown."""
    async with setting() as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.broker.at_once = False
        s.store.update("r", metadata={"n": 1})
        forged = s.broker.waiting.pop()
        change = forged.change
        future = msgspec.structs.replace(change, version=50, xid=10_000, previous_xid=9_999)
        s.hub.hinted([msgspec.structs.replace(forged, change=future)])
        await turns(50)
        s.broker.at_once = True
        s.store.update("r", metadata={"n": 2})
        await until(lambda: outlet.types().count("change") == 2)


async def test_payloads_of_runs_that_enter_together_are_read_together() -> None:
    async with setting(payload_cache_bytes=0) as s:
        for n in range(20):
            s.store.create(f"r{n:02}")
        outlet = await s.connect(RUNS | {"statuses": ["EXECUTING"]})
        await s.settled()
        s.store.reads.clear()
        s.store.write(
            lambda tx: [tx.update(f"r{n:02}", status=RunStatus.EXECUTING) for n in range(20)]
        )
        await until(lambda: outlet.types().count("change") == 20)
        assert len(s.store.reads) <= 2
        entered = of_type(outlet.said(), "change")
        assert [m["run"]["payload"] for m in entered] == [{"of": f"r{n:02}"} for n in range(20)]


async def test_a_payload_that_is_at_hand_is_not_read() -> None:
    async with setting() as s:
        outlet = await s.connect(RUNS | {"statuses": ["EXECUTING"]})
        s.store.create("r")
        s.store.reads.clear()
        s.store.update("r", status=RunStatus.EXECUTING)
        await until(lambda: "change" in outlet.types())
        assert "payloads" not in s.store.reads


async def test_the_payload_of_a_run_that_is_over_is_at_hand_no_longer() -> None:
    """Those of the runs that live have its room.

    Taken out: `drop` in `Order._advance`; the cache grew with every run that ended.
    """
    async with setting() as s:
        outlet = await s.connect(RUNS)
        s.store.create("r")
        s.store.update("r", status=RunStatus.EXECUTING)
        await s.settled()
        assert s.hub._services.payloads.get("r") is not None
        s.store.update("r", status=RunStatus.COMPLETED)
        await until(lambda: outlet.types().count("change") == 3)
        assert s.hub._services.payloads.get("r") is None


async def test_no_cursor_takes_a_stream_to_before_its_own_live() -> None:
    """Whoever came back with it was told as news what its snapshot had left behind: changes of a
    run that it does not hold.

    Taken out: `has_come_to` in `Checkpoints.send` and in `Hub._send_cursor`; seed 500049.
    """
    async with setting(session=SessionSettings(checkpoint_s=0.0)) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        await s.settled()
        s.store.write(lambda tx: tx.create("later"), publish=False)
        (connection,) = s.hub.connections
        await connection.received(protocol_line(RUNS | {"id": 2, "statuses": ["QUEUED"]}))
        await until(lambda: outlet.types().count("live") == 2)
        before = outlet.types().count("checkpoint")
        s.store.update("r", metadata={"n": 1})
        await until(lambda: outlet.types().count("checkpoint") > before)
        said = outlet.said()
        joined = Cursor.decode(of_type(said, "live")[-1]["cursor"]).horizon
        assert Cursor.decode(of_type(said, "checkpoint")[before]["cursor"]).horizon.covers(joined)


async def test_who_has_joined_just_before_the_store_went_away_is_told_that_it_lives() -> None:
    """A heartbeat takes a cursor, and there is none yet that is not before its `live`."""
    async with setting(session=SessionSettings(heartbeat_s=0.05, checkpoint_s=1e6)) as s:
        s.store.create("r")
        await s.connect(RUNS)
        await s.settled()
        s.store.write(lambda tx: tx.create("later"), publish=False)
        outlet = await s.connect(RUNS)
        s.store.away = True
        await until(lambda: outlet.types().count("stale") > 2)
        assert "heartbeat" not in outlet.types()
        s.store.away = False
        await until(lambda: "heartbeat" in outlet.types())


async def test_of_a_run_that_was_deleted_before_it_could_enter_no_change_is_shown() -> None:
    """Nobody has it to change.

    Taken out: what is remembered of it; `change` after `change` came between two leaves.
    """
    async with setting(payload_cache_bytes=0) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS | {"statuses": ["EXECUTING", "COMPLETED"]})
        await s.settled()
        s.store.held = asyncio.Event()
        s.store.update("r", status=RunStatus.EXECUTING)
        s.store.update("r", metadata={"n": 1})
        s.store.update("r", status=RunStatus.COMPLETED)
        s.store.write(lambda tx: tx.delete("r"))
        s.store.held.set()
        await until(lambda: "change" in outlet.types())
        await s.settled()
        told = of_type(outlet.said(), "change")
        assert {message["kind"] for message in told} == {"leave"}
        assert told[-1]["run"]["version"] == 5


async def test_nobody_is_looked_at_whom_a_change_does_not_concern(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And of those whom it concerns, all with the same wish are judged at once."""
    judged = 0
    admits = Wish.admits

    def counted(self: Wish, *args: Any) -> bool:
        nonlocal judged
        judged += 1
        return admits(self, *args)

    async with setting() as s:
        s.store.create("r")
        asked = {"type": "subscribeToRunsWithTag", "tag": "other"}
        for _ in range(20):
            await s.connect(*[asked] * 10)
        outlets = [await s.connect(RUNS, RUNS) for _ in range(10)]
        await s.settled()
        monkeypatch.setattr(Wish, "admits", counted)
        s.store.update("r", metadata={"n": 1})
        await until(lambda: all("change" in outlet.types() for outlet in outlets))
        assert judged == 2
        assert {tuple(of_type(outlet.said(), "change")[0]["ids"]) for outlet in outlets} == {(1, 2)}


async def test_many_who_come_together_share_their_reads() -> None:
    """A gateway that is stormed must not storm its database."""
    async with setting() as s:
        for n in range(5):
            s.store.create(f"r{n}")
        await s.connect(RUNS)
        cursor = ""
        outlet = await s.connect(RUNS)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        s.store.reads.clear()
        s.store.held = asyncio.Event()
        outlets = [await s.connect(RUNS, live=False) for _ in range(50)]
        await turns(10)
        s.store.held.set()
        await until(lambda: all("live" in outlet.types() for outlet in outlets))
        assert s.store.reads.count("snapshot") <= 3
        s.store.reads.clear()
        outlets = [await s.connect(RUNS | {"cursor": cursor}) for _ in range(50)]
        assert "log" not in s.store.reads[1:]
        assert s.measures.resumes_total.by["ring"] == 50


async def test_whoever_asks_gets_a_read_that_begins_after_they_asked() -> None:
    """One that is under way may have seen the store before they were in the index."""
    tasks = Tasks()
    flights = Flights(tasks)
    begun: list[asyncio.Event] = []

    async def read() -> int:
        begun.append(asyncio.Event())
        mine = len(begun)
        await begun[-1].wait()
        return mine

    first = asyncio.create_task(flights.get("k", read))
    await until(lambda: begun)
    others = [asyncio.create_task(flights.get("k", read)) for _ in range(5)]
    await until(lambda: len(begun) == 2)
    for event in begun:
        event.set()
    assert await first == 1
    assert [await other for other in others] == [2] * 5
    await tasks.close()


async def test_one_who_gives_up_takes_the_read_from_nobody() -> None:
    tasks = Tasks()
    flights = Flights(tasks)
    go = asyncio.Event()

    async def read() -> str:
        await go.wait()
        return "read"

    one = asyncio.create_task(flights.get("k", read))
    two = asyncio.create_task(flights.get("k", read))
    await turns(3)
    one.cancel()
    go.set()
    assert await two == "read"
    await tasks.close()


async def test_only_so_many_reads_are_made_at_once() -> None:
    tasks = Tasks()
    flights = Flights(tasks, at_once=2)
    now = most = 0

    async def read() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await turns(3)
        now -= 1

    await asyncio.gather(*(flights.get(n, read) for n in range(20)))
    assert most == 2
    await tasks.close()


async def test_a_batch_is_read_once_for_all_and_not_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime.hub.project.batches.INTERVAL_S", 0.05)
    async with setting() as s:
        s.store.batches["b"] = None
        asked = {"type": "subscribeToBatch", "batchId": "b"}
        outlets = [await s.connect(asked) for _ in range(10)]
        for n in range(100):
            s.store.create(f"r{n}", batch_id="b")
        await until(
            lambda: all(
                (found := of_type(outlet.said(), "batch")) and found[-1]["batch"]["size"] == 100
                for outlet in outlets
            )
        )
        assert s.store.reads.count("batch") < 15
        s.store.write(
            lambda tx: [tx.update(f"r{n}", status=RunStatus.COMPLETED) for n in range(100)]
        )
        s.store.write(lambda tx: tx.seal("b"))
        await until(lambda: all("end" in outlet.types() for outlet in outlets))
        for outlet in outlets:
            *_, last, end = outlet.said()
            assert last["batch"]["completedAt"] is not None
            assert end["reason"] == "completed"


async def test_a_project_that_nobody_follows_is_let_go() -> None:
    async with setting(linger_s=0.0) as s:
        outlet = await s.connect(RUNS)
        assert s.broker.followed == {"default"}
        connection = next(iter(s.hub.connections))
        connection.lost()
        await until(lambda: not s.hub.projects)
        assert not s.broker.followed
        assert outlet.types()[-1] == "live"
        await s.connect(RUNS)
        assert s.broker.followed == {"default"}


async def test_a_join_is_remembered_until_a_statement_has_passed_that_began_after_it() -> None:
    """One that was under way has an older horizon: by it, what the join has shown is unseen."""
    async with setting() as s:
        s.store.create("r")
        await s.connect(RUNS)
        await s.settled()
        s.broker.at_once = False
        outlet = RecordingOutlet()

        async def change_and_join(read: str) -> None:
            nonlocal outlet
            assert read == "log"
            s.store.update("r", metadata={"n": 1})
            outlet = await s.connect(RUNS)

        s.store.meanwhile = change_and_join
        s.tail()
        await until(lambda: outlet.lines)
        await turns(20)
        s.broker.deliver(0)
        await turns(20)
        assert of_type(outlet.said(), "snapshot")[0]["runs"][0]["version"] == 2
        assert "change" not in outlet.types()


async def test_what_a_later_page_of_a_replay_has_shown_is_not_shown_again() -> None:
    """Each page is a statement of its own, and sees more than the one before."""
    async with setting(linger_s=0.0) as s:
        for id in ("a", "b"):
            s.store.create(id)
        outlet = await s.connect(RUNS)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        next(iter(s.hub.connections)).lost()
        await until(lambda: not s.hub.projects)
        s.store.pages_of = 1
        for id in ("a", "b"):
            s.store.update(id, metadata={"n": 1})
        follows = await s.connect(RUNS | {"snapshot": False})
        await s.settled()
        s.broker.at_once = False

        async def change_b(read: str) -> None:
            assert read == "log"
            s.store.update("b", metadata={"n": 2})

        s.store.meanwhile = change_b
        again = await s.connect(RUNS | {"cursor": cursor})
        assert again.types().count("change") == 3
        s.broker.deliver(0)
        await until(lambda: "change" in follows.types())
        assert again.types().count("change") == 3


async def test_a_job_run_ends_after_the_last_changes_of_its_children() -> None:
    """They are of one transaction, and hints come in any order."""
    async with setting() as s:
        s.store.create("job", status=RunStatus.EXECUTING)
        s.store.create("step", parent_run_id="job", status=RunStatus.EXECUTING)
        outlet = await s.connect({"type": "subscribeToJobRun", "jobRunId": "job"})
        await s.settled()
        s.broker.at_once = False
        s.store.write(
            lambda tx: [tx.update(id, status=RunStatus.COMPLETED) for id in ("step", "job")]
        )
        s.broker.deliver(1)
        await until(lambda: "end" in outlet.types())
        assert outlet.types()[-3:] == ["change", "change", "end"]


async def test_a_resume_ends_although_the_end_lies_before_its_cursor() -> None:
    """The cursor may come from a stream that was to stay: nothing after it says `final`."""
    async with setting() as s:
        s.store.create("r", status=RunStatus.COMPLETED)
        asked = {"type": "subscribeToRun", "runId": "r"}
        outlet = await s.connect(asked | {"stopOnCompletion": False})
        assert outlet.types()[-1] == "live"
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        again = await s.connect(asked | {"cursor": cursor})
        await until(lambda: "end" in again.types())
        assert again.types() == ["welcome", "live", "end"]


async def test_a_stream_that_goes_on_resumes_without_a_look_at_its_run() -> None:
    """Five thousand that come back at once must not be five thousand statements."""
    async with setting() as s:
        s.store.create("r")
        asked = {"type": "subscribeToRun", "runId": "r"}
        outlet = await s.connect(asked)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        s.store.reads.clear()
        again = await s.connect(asked | {"cursor": cursor})
        assert again.types() == ["welcome", "live"]
        assert not s.store.reads


async def test_a_reader_that_takes_too_little_is_closed_and_can_resume() -> None:
    async with setting(mailbox_bytes=10_000) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        outlet.writable = False
        connection = next(iter(s.hub.connections))
        for n in range(100):
            s.store.update("r", metadata={"n": n})
        assert connection.mailbox.size == 0
        outlet.writable = True
        connection.writable()
        assert outlet.closed is not None
        assert outlet.closed[0] == 4408
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        again = await s.connect(RUNS | {"cursor": cursor})
        assert again.types().count("change") == 100


async def test_a_reader_of_the_latest_is_owed_one_state_a_run() -> None:
    async with setting(mailbox_bytes=10_000) as s:
        for n in range(5):
            s.store.create(f"r{n}")
        outlet = await s.connect(RUNS | {"delivery": "latest"})
        outlet.writable = False
        for n in range(1_000):
            s.store.update(f"r{n % 5}", metadata={"n": n})
        outlet.writable = True
        next(iter(s.hub.connections)).writable()
        changes = of_type(outlet.said(), "change")
        assert [change["run"]["version"] for change in changes] == [201] * 5
        assert outlet.closed is None


async def test_whoever_was_too_slow_again_and_again_starts_from_a_snapshot() -> None:
    """A replay that is never finished would be begun for ever."""
    async with setting(mailbox_bytes=1_000) as s:
        s.store.create("r")
        outlet = await s.connect(RUNS)
        cursor = of_type(outlet.said(), "live")[0]["cursor"]
        for _ in range(3):
            s.hub.was_slow(cursor)
        again = await s.connect(RUNS | {"cursor": cursor})
        assert of_type(again.said(), "reset")[0]["reason"] == "too_far_behind"


async def test_a_subscription_waits_for_a_store_that_is_away_but_not_for_ever() -> None:
    async with setting(join_s=0.3) as s:
        s.store.away = True
        waits = await s.connect(RUNS, live=False)
        await until(lambda: "error" in waits.types())
        assert of_type(waits.said(), "error")[0]["code"] == "unavailable"
        assert "stale" in waits.types()


async def test_a_subscription_that_waited_for_the_store_joins_when_it_is_back() -> None:
    async with setting() as s:
        s.store.away = True
        outlet = await s.connect(RUNS, live=False)
        await until(lambda: "stale" in outlet.types())
        s.store.away = False
        await until(lambda: "live" in outlet.types())
        await until(lambda: "fresh" in outlet.types())


async def test_a_fresh_token_is_held_against_the_run_as_soon_as_the_store_can_be_read() -> None:
    """The run may never change again.

    Taken out: the second try; the stream stayed, under a token that does not cover it.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        grants = [FakeGrant(tags=frozenset("b")), FakeGrant(tags=frozenset("a"))]

        async def authenticate(token: str | None) -> FakeGrant:
            return grants.pop()

        outlet = RecordingOutlet()
        connection = s.hub.connect(outlet, authenticate)
        await connection.open(None)
        await connection.received(protocol_line({"type": "subscribeToRun", "runId": "r", "id": 1}))
        await until(lambda: "live" in outlet.types(), "live")
        s.store.away = True
        await connection.received(protocol_line({"type": "authenticate", "token": "another"}))
        await until(lambda: "authenticated" in outlet.types())
        await turns(50)  # the first look fails
        s.store.away = False
        await until(lambda: "end" in outlet.types(), "end")
        assert of_type(outlet.said(), "end")[0]["reason"] == "forbidden"


async def test_history_that_waits_its_turn_is_shown_under_the_token_of_that_moment() -> None:
    """Taken out: the second look; what the token before it covered came after `authenticated`."""
    async with setting() as s:
        s.store.create("r", tags=["a"])
        grants = [FakeGrant(tags=frozenset("b")), FakeGrant(tags=frozenset("a"))]

        async def authenticate(token: str | None) -> FakeGrant:
            return grants.pop()

        outlet = RecordingOutlet()
        connection = s.hub.connect(outlet, authenticate)
        await connection.open(None)
        await until(lambda: "welcome" in outlet.types())
        outlet.writable = False
        for id in (1, 2):
            asked = {"type": "subscribeToRun", "runId": "r", "id": id}
            await connection.received(protocol_line(asked))
        # A page of one of them waits for the socket, and one of the other for its turn.
        await until(lambda: connection.mailbox.pages)
        await until(lambda: s.store.reads.count("snapshot") == 1)
        await turns(50)
        await connection.received(protocol_line({"type": "authenticate", "token": "another"}))
        outlet.writable = True
        connection.writable()
        await until(lambda: outlet.types().count("end") == 2, "end")
        types = outlet.types()
        at = types.index("authenticated")
        assert types[:at].count("snapshot") == 1
        assert "snapshot" not in types[at:]


async def test_a_heartbeat_breaks_the_silence() -> None:
    settings = SessionSettings(heartbeat_s=0.1)
    async with setting(session=settings) as s:
        outlet = await s.connect(RUNS)
        await until(lambda: outlet.types().count("heartbeat") > 1)


async def test_one_that_fails_takes_no_other_along() -> None:
    async with setting() as s:
        s.store.create("r")
        good = await s.connect(RUNS)
        bad = await s.connect(RUNS)

        def fails(*_: object) -> None:
            raise RuntimeError("broken")

        bad.write = fails  # type: ignore[method-assign, assignment]
        s.store.update("r", metadata={"n": 1})
        await until(lambda: "change" in good.types())
        await until(lambda: bad.aborted)
        assert len(s.hub.connections) == 1


@asynccontextmanager
async def restarted() -> AsyncIterator[tuple[Setting, list[str]]]:
    """A hub that is new, and the cursors of ten readers of the one before it, each of which had
    seen a run more than the last."""
    cursors: list[str] = []
    async with setting() as before:
        for n in range(10):
            before.store.create(f"r{n}", tags=("a",))
            outlet = await before.connect({"type": "subscribeToRunsWithTag", "tag": "a"})
            cursors.append(of_type(outlet.said(), "live")[0]["cursor"])
    async with setting(store=before.store) as after:
        await after.connect({"type": "subscribeToRun", "runId": "r0"})
        await after.settled()
        yield after, cursors


async def test_after_a_restart_the_log_is_read_once_for_all_who_come_back() -> None:
    """However far back each of them was: who comes later finds in the ring what was read."""
    async with restarted() as (after, cursors):
        after.store.reads.clear()
        asked = [{"type": "subscribeToRunsWithTag", "tag": "a", "cursor": c} for c in cursors]
        outlets = await asyncio.gather(*(after.connect(each) for each in asked))
        assert after.store.reads.count("log") == 1
        assert after.measures.resumes_total.by == {"ring": 10}
        for n, outlet in enumerate(outlets):
            shown = [each["run"]["id"] for each in of_type(outlet.said(), "change")]
            assert sorted(shown) == [f"r{i}" for i in range(n + 1, 10)]
        late = await after.connect(asked[3])
        assert len(of_type(late.said(), "change")) == 6
        assert after.store.reads.count("log") == 1


async def test_what_a_read_for_the_ring_has_found_is_shown_once() -> None:
    """It is in the log and no hint has told it: out of the ring, or when the hint comes."""
    async with setting() as before:
        before.store.create("r1")
        first = await before.connect({"type": "subscribeToRun", "runId": "r1"})
        cursor = of_type(first.said(), "live")[0]["cursor"]
        before.store.update("r1", metadata={"n": 2})
    async with setting(store=before.store) as after:
        await after.connect({"type": "subscribeToRuns"})
        await after.settled()
        after.broker.at_once = False
        after.store.update("r1", metadata={"n": 3})
        outlet = await after.connect({"type": "subscribeToRun", "runId": "r1", "cursor": cursor})
        after.broker.deliver(0)
        after.store.update("r1", metadata={"n": 4})
        after.broker.deliver(0)
        await until(lambda: len(of_type(outlet.said(), "change")) >= 3)
        late = await after.connect({"type": "subscribeToRun", "runId": "r1", "cursor": cursor})
        for each in outlet, late:
            shown = [change["run"]["version"] for change in of_type(each.said(), "change")]
            assert shown == [2, 3, 4]


async def test_a_cursor_of_a_process_that_is_ahead_waits_for_the_tail_and_not_for_a_replay() -> (
    None
):
    """The other gateway read the log later; its clients come over all at once."""
    async with setting() as one:
        one.store.create("r1")
        await one.connect({"type": "subscribeToRuns"})
        await one.settled()
        store = one.store
        other = Setting(store=store)
        running = asyncio.create_task(other.hub.run())
        await other.hub.ready.wait()
        one.broker.at_once = False
        store.update("r1", metadata={"n": 2})
        ahead = await other.connect({"type": "subscribeToRun", "runId": "r1"})
        cursor = of_type(ahead.said(), "live")[0]["cursor"]
        store.reads.clear()
        asked = {"type": "subscribeToRun", "runId": "r1", "cursor": cursor}
        outlets = await asyncio.gather(*(one.connect(asked) for _ in range(20)))
        assert store.reads.count("log") <= 2
        assert one.measures.resumes_total.by == {"ring": 20}
        assert not any(of_type(outlet.said(), "change") for outlet in outlets)
        running.cancel()
        await asyncio.wait([running])


async def test_several_replays_from_about_the_same_place_share_their_reads() -> None:
    """The ring could not hold it all: the log is read, for all of them together."""
    async with restarted() as (after, cursors):
        project = next(iter(after.hub.projects.values()))
        assert project.order.horizon is not None
        project.ring = Ring(project.order.horizon, max_changes=2)
        after.store.reads.clear()
        asked = [{"type": "subscribeToRunsWithTag", "tag": "a", "cursor": c} for c in cursors[:5]]
        outlets = await asyncio.gather(*(after.connect(each) for each in asked))
        assert after.store.reads.count("log") <= 3
        assert after.measures.resumes_total.by == {"log": 5}
        for n, outlet in enumerate(outlets):
            shown = [each["run"]["id"] for each in of_type(outlet.said(), "change")]
            assert sorted(shown) == [f"r{i}" for i in range(n + 1, 10)]
