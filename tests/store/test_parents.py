"""Parents and roots: the runs whose metadata their children may change."""

from __future__ import annotations

import asyncio

import pytest

from store.commands import Done, MetadataOp, MetadataOperation, MetadataTarget, MutateMetadata
from store.errors import Invalid, NotFound
from store.model import new_id
from store.runs import RunStore
from tests.builders import PROJECT, a_create
from tests.store.asking import ask, create, one
from tests.store.conftest import OpenStore


async def test_increments_from_fifty_callers_on_parent_and_root_add_up(
    open_store: OpenStore,
) -> None:
    """The target is locked, not only the run in the URL.

    Taken out: the target's id among those that `Held` locks; nothing was then found to change.
    """
    stores = [await open_store(), await open_store()]
    root = await create(stores[0], metadata={})
    parent = await create(stores[0], metadata={}, parent_run_id=root.id)
    children = [await create(stores[0], metadata={}, parent_run_id=parent.id) for _ in range(5)]

    async def add(i: int) -> Done:
        return await one(
            stores[i % 2],
            MutateMetadata(
                project=PROJECT,
                run_id=children[i % 5].id,
                target=MetadataTarget.PARENT if i % 3 else MetadataTarget.ROOT,
                operations=(MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),),
            ),
        )

    done = await asyncio.gather(*(add(i) for i in range(50)))
    assert all(answer.run is not None and answer.run.version == 1 for answer in done)
    on_root = await stores[0].get_run(PROJECT, root.id)
    on_parent = await stores[0].get_run(PROJECT, parent.id)
    assert (on_root.metadata["n"], on_parent.metadata["n"]) == (17, 33)
    assert (on_root.version, on_parent.version) == (18, 34)


async def test_metadata_of_a_parent_that_is_not_there_is_refused(store: RunStore) -> None:
    run = await create(store)
    operations = (MetadataOperation(op=MetadataOp.SET, path="a", value=1),)
    with pytest.raises(Invalid):
        await one(
            store,
            MutateMetadata(
                project=PROJECT,
                run_id=run.id,
                target=MetadataTarget.PARENT,
                operations=operations,
            ),
        )
    for target in MetadataTarget:
        with pytest.raises(NotFound):
            await one(
                store,
                MutateMetadata(
                    project=PROJECT, run_id="run_none", target=target, operations=operations
                ),
            )
    done = await one(
        store,
        MutateMetadata(
            project=PROJECT, run_id=run.id, target=MetadataTarget.ROOT, operations=operations
        ),
    )
    assert done.run is not None
    assert done.run.metadata["a"] == 1


async def test_a_run_made_in_the_same_submission_can_be_a_parent(store: RunStore) -> None:
    parent, child = a_create(metadata={}), new_id("run")
    outcomes = await ask(
        store,
        parent,
        a_create(run_id=child, parent_run_id=parent.run_id),
        MutateMetadata(
            project=PROJECT,
            run_id=child,
            target=MetadataTarget.PARENT,
            operations=(MetadataOperation(op=MetadataOp.SET, path="a", value=1),),
        ),
        atomic=True,
    )
    assert outcomes[1].run.root_run_id == parent.run_id
    assert (await store.get_run(PROJECT, parent.run_id)).metadata == {"a": 1}
