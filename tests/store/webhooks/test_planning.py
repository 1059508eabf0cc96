"""Which changes become deliveries: all that are committed, whatever is cut and whoever comes late."""

from __future__ import annotations

from datetime import timedelta

from store import RunStore
from store.housekeeping import _cut_rows
from store.webhooks import AddressPolicy, Endpoint, NewEndpoint, Webhooks
from tests.builders import PROJECT
from tests.store.asking import create, finish, open_batch, seal
from tests.store.conftest import OpenStore


async def an_endpoint(hooks: Webhooks, *events: str) -> Endpoint:
    return await hooks.create(PROJECT, NewEndpoint(url="https://example.com/", events=events))


async def told(hooks: Webhooks, endpoint: Endpoint) -> list[str]:
    """What the endpoint is to be told, the newest first."""
    found, _ = await hooks.list_deliveries(PROJECT, endpoint.id, 100, None)
    return [delivery.subject for delivery in found]


async def test_what_is_cut_of_other_projects_loses_nothing_of_a_quiet_one(
    migrated_sqlite: str, open_any: OpenStore
) -> None:
    """On SQLite a cursor names the newest change of the database, which may be another project's.

    Taken out: that a plan goes by the cursor without its witness; the second run was never told.
    """
    store = await open_any(migrated_sqlite)
    hooks = Webhooks(store.database, AddressPolicy())
    endpoint = await an_endpoint(hooks, "run.created")
    await create(store)
    await hooks.plan()
    for _ in range(3):
        await create(store, project="busy")
        await hooks.plan()
    await store.database.write(_cut_rows, timedelta(0))
    await create(store)
    await hooks.plan()
    assert len(await told(hooks, endpoint)) == 2


async def test_who_was_there_when_a_batch_was_completed_is_told(store: RunStore) -> None:
    """By whichever of its runs: of one that was over before, the endpoint need not have heard.

    Taken out: all the groups of a batch, where the last of a page stood for them; nothing came.
    """
    hooks = Webhooks(store.database, AddressPolicy())
    await an_endpoint(hooks, "run.created")  # which has the log followed
    batch_id = await open_batch(store)
    made = [await create(store, batch_id=batch_id) for _ in range(2)]
    first, second = sorted(made, key=lambda run: run.id)
    await seal(store, batch_id)
    await hooks.plan()
    await finish(store, second.id)
    endpoint = await an_endpoint(hooks, "batch.completed")
    await finish(store, first.id)
    await hooks.plan()
    assert await told(hooks, endpoint) == [f"{batch_id}:completed"]
