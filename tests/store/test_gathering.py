"""Gathering: who comes during a commit goes with the next group, or makes one beside it."""

from __future__ import annotations

import asyncio

import pytest

from store import writer
from store.writer.open_claims import NOTHING
from tests.store.asking import until
from tests.store.gated import Gated


async def test_few_who_come_during_a_commit_share_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one costs nearly as much as one of thirty: at half a server's rate, groups begun
    beside each other doubled its work, and what changed reached its readers twice as late."""
    monkeypatch.setattr(writer, "GATHER_S", 60.0)
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        await gated.begin(tasks, 6)
        assert gated.sizes == [1]
        gated.open.set()
    assert gated.sizes == [1, 5]


async def test_many_who_come_during_a_commit_make_a_group_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one commit is synced to disk, the next is worked out."""
    monkeypatch.setattr(writer, "GATHER_S", 60.0)
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        await gated.begin(tasks, 1 + writer.GROUP_BESIDE)
        await until(lambda: gated.sizes == [1, writer.GROUP_BESIDE])
        gated.open.set()


async def test_nobody_is_gathered_for_long_behind_a_commit_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may wait for a lock that another process holds."""
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        await gated.begin(tasks, 3)
        await until(lambda: gated.sizes == [1, 2])
        gated.open.set()


async def test_claims_that_look_during_a_commit_go_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A small group of their own beside it makes both slower.

    Taken out: in `_gathers`, that claims wait too; each began a group.
    """
    monkeypatch.setattr(writer, "GATHER_S", 60.0)
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        under_test = await gated.begin(tasks)
        looks = [gated.look() for _ in range(3)]
        tasks.create_task(gated.submit(under_test))
        await asyncio.sleep(0)
        assert gated.claims == [0]
        gated.open.set()
        assert await asyncio.gather(*looks) == [NOTHING] * 3
    assert (gated.sizes, gated.claims) == ([1, 1], [0, 3])


async def test_no_claim_is_gathered_for_long_behind_a_commit_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gated = Gated(monkeypatch)
    async with asyncio.TaskGroup() as tasks:
        await gated.begin(tasks)
        look = gated.look()
        await until(lambda: gated.claims == [0, 1])
        gated.open.set()
        assert await look == NOTHING
