"""What every broker does, on memory and on Redis, as far as one process sees it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from store.broker import Broker, Hint
from store.broker.inbox import Inbox
from store.broker.memory import MemoryBroker
from store.broker.redis import RedisBroker
from store.model import new_id
from tests.servers import Valkey
from tests.store.broker.doubles import HURRIED, Recorder, a_hint, eventually, is_ok, running


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
