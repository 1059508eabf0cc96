"""Several processes on one Redis: what one of them publishes, the others hear."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest

from store.broker import Hint
from store.broker.redis import RedisBroker
from store.model import Change, ChangeKind, Facet, RunStatus, new_id
from tests.builders import AT, a_change, a_run
from tests.servers import Valkey
from tests.store.broker.doubles import HURRIED, Counts, a_hint, as_sent, eventually, running


class TestBetweenProcesses:
    """What one process publishes and another hears: Redis only."""

    @pytest.fixture
    def url(self, valkey: Valkey) -> str:
        return valkey.url

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
