"""One-time tokens: one run of each, and nobody else is shown it."""

from __future__ import annotations

import asyncio

import pytest

from store.errors import Invalid, TokenUsed
from store.runs import RunStore
from store.tables import used_tokens
from tests.store.asking import all_runs, ask, create, one, outcome, rows, with_token
from tests.store.conftest import OpenStore


async def test_a_one_time_token_makes_one_run_however_many_try(open_store: OpenStore) -> None:
    """Taken out: the insert of tokens in `Held`, which then only looked."""
    stores = [await open_store(), await open_store()]
    results = await asyncio.gather(
        *(one(stores[i % 2], with_token("t")) for i in range(24)), return_exceptions=True
    )
    assert sorted(map(outcome, results)) == ["Done", *["TokenUsed"] * 23]
    assert len(await all_runs(stores[0])) == 1


async def test_the_token_used_again_with_the_same_key_returns_the_first_run(
    open_store: OpenStore,
) -> None:
    """A browser that repeats its request must not be told that somebody has used its token.

    Taken out: the row's run in `_settle_keys`; it named the last of the group, not the one that
    was made.
    """
    stores = [await open_store(), await open_store()]
    done = await asyncio.gather(
        *(one(stores[i % 2], with_token("t", idempotency_key="k")) for i in range(16))
    )
    assert len({answer.run.id for answer in done if answer.run}) == 1
    assert sum(answer.first for answer in done) == 1
    again = await one(stores[1], with_token("t", idempotency_key="k"))
    assert again.run == done[0].run
    for over in ({}, {"idempotency_key": "k2"}, {"idempotency_key": "k", "task_identifier": "b"}):
        with pytest.raises(TokenUsed):
            await one(stores[0], with_token("t", **over))


async def test_a_token_names_the_run_that_came_of_it_also_if_another_was_asked_first(
    store: RunStore,
) -> None:
    outcomes = await ask(
        store,
        with_token("t", idempotency_key="a", batch_id="batch_none"),
        with_token("t", idempotency_key="b"),
        with_token("t", idempotency_key="c"),
    )
    assert [outcome(result) for result in outcomes] == ["Invalid", "Done", "TokenUsed"]
    again = await one(store, with_token("t", idempotency_key="b"))
    assert (again.run, again.first) == (outcomes[1].run, False)


async def test_a_refused_create_gives_its_token_back(store: RunStore) -> None:
    with pytest.raises(Invalid):
        await one(store, with_token("t", batch_id="batch_none"))
    assert await rows(store, used_tokens) == []
    await one(store, with_token("t"))


async def test_a_token_that_has_found_a_run_by_its_key_is_used_up(store: RunStore) -> None:
    """Else it could be used to try one key after another, and be shown each run that has one."""
    run = await create(store, idempotency_key="k")
    assert (await one(store, with_token("t", idempotency_key="k"))).run == run
    with pytest.raises(TokenUsed):
        await one(store, with_token("t", idempotency_key="k2"))
    assert (await one(store, with_token("t", idempotency_key="k"))).run == run
