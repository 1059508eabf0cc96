"""Matching: what one change costs with 100 and with 100,000 subscriptions that it does not match.

The hub alone, in this process, over a store of memory: its index, its verdicts, and the mailbox of
the one subscription that does match. Subscriptions are for runs, tags and batches of others.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from typing import Any, Final

from bench.load import Lost
from bench.stats import table
from realtime.hub.parcel import Parcel
from realtime.matching import Index
from realtime.subscription import Wish
from store.broker import Hint
from store.model import Group, Selection
from tests.doubles import FakeGrant, FakeStore

COUNTS: Final = (100, 100_000)
CHANGES: Final = 2_000
ROUNDS: Final = 7


class Member:
    """A subscription, as far as matching goes."""

    __slots__ = ("wish",)

    def __init__(self, selection: Selection) -> None:
        self.wish = Wish(selection, GRANT, skip=frozenset(), stop=True)


GRANT: Final = FakeGrant()


def selection_of(n: int) -> Selection:
    match n % 3:
        case 0:
            return Selection(project="default", run_id=f"other{n}")
        case 1:
            return Selection(project="default", tags=(f"tag{n}",))
    return Selection(project="default", batch_id=f"batch{n}")


def main() -> None:
    groups = asyncio.run(changes())
    indexes = {count: index_of(count) for count in COUNTS}
    gc.collect()
    gc.freeze()
    costs: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):
        for count, index in indexes.items():
            costs[count].append(cost(index, groups))
    rows = [[count, statistics.median(costs[count])] for count in COUNTS]
    print(table(["subscriptions that don't match", "µs a change"], rows))
    few, many = (statistics.median(costs[count]) for count in COUNTS)
    print(f"\nratio {many / few:.2f}")


async def changes() -> list[Group]:
    """Changes of one run, whose tag one subscription follows."""
    store = FakeStore()
    hints: list[Hint] = []
    store.publish = hints.extend
    store.create("mine", tags=("watched",))
    for n in range(CHANGES):
        store.update("mine", metadata={"n": n})
    return [Group((hint.change,), hint.run) for hint in hints[1:]]


def index_of(count: int) -> Index[Any]:
    index: Index[Any] = Index()
    for n in range(count):
        member = Member(selection_of(n))
        index.add(member, member.wish.selection)
    mine = Member(Selection(project="default", tags=("watched",)))
    index.add(mine, mine.wish.selection)
    return index


def cost(index: Index[Any], groups: list[Group]) -> float:
    """µs for each change: who it may concern, what it means to them, and how that is said."""
    told = 0
    began = time.process_time()
    for group in groups:
        parcel = Parcel(group, b"null")
        for member in index.candidates(group):
            for item in parcel.items(parcel.verdict(member.wish), member.wish):
                told += bool(item.line((1,)))
    spent = time.process_time() - began
    if told != len(groups):
        raise Lost(f"{told} of {len(groups)} were told")
    return spent / len(groups) * 1e6


if __name__ == "__main__":
    main()
