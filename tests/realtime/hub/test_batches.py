"""How far a batch is: told to whoever may know it, never backwards, and until it is complete."""

from __future__ import annotations

from typing import Any

from realtime.auth.grants import Grant
from store.model import RunStatus
from tests.doubles import FakeGrant, FakeStore, of_type
from tests.realtime.hub.setting import ANOTHER_TOKEN, RUNS, Held, Setting, setting
from tests.realtime.serving import until
from tests.realtime.watching import turns

KEY = Grant(project="default", full=True, key_id="k")
OF_A_TASK = Grant(project="default", scopes=frozenset({"read:tasks:task"}), token_id="t")
"""It covers the runs of a batch, and not how far that is."""


def make_batch(store: FakeStore, id: str, *statuses: RunStatus, seal: bool = True) -> None:
    """A batch with a run for each of these."""
    store.batches[id] = None
    for n, status in enumerate(statuses):
        store.create(f"{id}{n}", batch_id=id, status=status)
    if seal:
        store.write(lambda tx: tx.seal(id))


async def with_a_cursor(s: Setting, asked: dict[str, Any]) -> dict[str, Any]:
    """What a client asks that comes back, and had come as far as `live`."""
    outlet = await s.connect(asked)
    await until(lambda: "end" in outlet.types())
    return asked | {"cursor": of_type(outlet.said(), "live")[0]["cursor"]}


async def test_a_batch_of_a_project_that_is_followed_again_is_read_for_it() -> None:
    """A read that waits for its place was asked for while the project was followed before, and
    names the batches of then: of any other it said that there is none, and its stream never ended.

    Taken out: the batches themselves in the key of their flight, which was the project's id; no
    `end` came.
    """
    async with setting(linger_s=0.0, cold_reads=1) as s:
        make_batch(s.store, "p", RunStatus.COMPLETED)
        make_batch(s.store, "q", RunStatus.COMPLETED)
        p = await with_a_cursor(s, {"type": "subscribeToBatch", "batchId": "p"})
        q = await with_a_cursor(s, {"type": "subscribeToBatch", "batchId": "q"})
        await until(lambda: not s.hub.projects)
        elsewhere = Held(s.store, "snapshot")
        await s.connect(RUNS, live=False, grants=[FakeGrant(project="other")])
        await elsewhere.reached.wait()  # and has the one place
        before = await s.connect(p)
        await turns(50)
        s.connection(before).lost()
        await until(lambda: "default" not in s.hub.projects)
        again = await s.connect(q)
        await turns(50)
        elsewhere.let_go()
        await until(lambda: "end" in again.types(), "end")


async def test_a_read_for_those_who_have_left_a_batch_is_told_to_nobody_who_came_after() -> None:
    """They have had a later one: a batch that was complete became open again, and stayed so.

    Taken out: `is_watched_by` where a watch has read; the last that was told had no `completedAt`.
    """
    asked = {"type": "subscribeToBatch", "batchId": "b", "stopOnCompletion": False}
    async with setting() as s:
        make_batch(s.store, "b", RunStatus.QUEUED)
        early = Held(s.store, "batch")
        outlet = await s.connect(asked)
        await early.reached.wait()
        await s.ask(outlet, {"type": "unsubscribe", "id": 1})
        s.store.update("b0", status=RunStatus.COMPLETED)
        await s.ask(outlet, asked | {"id": 2})
        await until(lambda: "batch" in outlet.types())
        early.let_go()
        await turns(50)
        await s.ask(outlet, {"type": "ping"})
        await until(lambda: "pong" in outlet.types())
        told = [each["batch"]["completedAt"] for each in of_type(outlet.said(), "batch")]
        assert told
        assert None not in told


async def test_the_tail_rests_when_a_batch_is_complete_of_which_the_token_may_not_know() -> None:
    """Nobody waits for a further statement, who was there when the last one began; a gateway must
    not read its log without a pause for as long as one such client stays.

    Taken out: that only those wait for the next who came after it; one statement after another.
    """
    asked = {"type": "subscribeToBatch", "batchId": "b", "tasks": ["task"]}
    async with setting() as s:
        make_batch(s.store, "b", RunStatus.COMPLETED)
        await s.connect(asked | {"stopOnCompletion": False}, grants=[OF_A_TASK])
        await until(lambda: "batch" in s.store.reads)
        await turns(1_000)
        assert s.store.reads.count("log") < 10


async def test_a_token_that_may_know_how_far_a_batch_is_is_told_so_at_once() -> None:
    """The batch may never change again.

    Taken out: the look at the batch when the token was replaced; no `batch` came.
    """
    asked = {"type": "subscribeToBatch", "batchId": "b", "tasks": ["task"]}
    async with setting() as s:
        make_batch(s.store, "b", RunStatus.QUEUED, RunStatus.COMPLETED, seal=False)
        outlet = await s.connect(asked, grants=[OF_A_TASK, KEY])
        await until(lambda: "batch" in s.store.reads)
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: "batch" in outlet.types(), "batch")
        types = outlet.types()
        assert types.index("authenticated") < types.index("batch")
