"""What is tried again, by whom and until when; and endpoints that are paused."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import RunStore
from store.errors import NotFound
from store.tables.webhooks import deliveries as delivery_rows
from store.webhooks import ChangedEndpoint, Endpoint, Webhooks
from store.webhooks.values import State
from tests.receiving import Behave, Receiver, answering, hang, in_turn, nonsense, reset
from tests.store.asking import create, until
from tests.store.webhooks.hooking import an_endpoint, are_over, at_work, is_tried, make_due, sent

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("no_endpoint_left")]


async def test_a_dead_servers_tries_are_taken_over(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    """It has claimed a delivery, and is killed before it has sent it or said so."""
    endpoint = await an_endpoint(hooks, receiver, path="/hang")
    receiver.behaviour["/hang"] = in_turn(hang, answering(200))
    await create(shared_store)
    await until(lambda: _came(receiver, "/hang", 1))

    def die(connection: Connection) -> None:
        connection.execute(
            sa.update(delivery_rows)
            .where(delivery_rows.c.webhook_id == endpoint.id)
            .values(next_at=delivery_rows.c.created_at)
        )

    await shared_store.database.write(die)
    await until(lambda: are_over(hooks, endpoint, 1))
    assert len({message.id for message in receiver.at("/hang")}) == 1


@pytest.mark.parametrize(
    "behave,error",
    [
        (answering(500, "oh no"), "answered 500"),
        (answering(404), "answered 404"),
        (reset, ""),
        (nonsense, ""),
    ],
)
async def test_what_is_not_taken_is_tried_again_under_the_same_id(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver, behave: Behave, error: str
) -> None:
    """Taken out: the next try; it was given up at once. That a connection cut off is an answer
    too; nothing was said of it, and only the end of its claim had it sent again.
    """
    endpoint = await an_endpoint(hooks, receiver, path="/bad")
    receiver.behaviour["/bad"] = in_turn(behave, answering(204))
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    assert delivery.state is State.PENDING
    assert delivery.next_at is not None
    assert delivery.next_at > delivery.attempts[0].at
    assert error in (delivery.attempts[0].error or "")
    assert (await hooks.get("default", endpoint.id)).failing_since is not None
    await shared_store.database.write(make_due, endpoint.id)
    await until(lambda: are_over(hooks, endpoint, 1))
    (delivery,) = await sent(hooks, endpoint)
    assert len(delivery.attempts) == 2
    assert {message.id for message in receiver.at("/bad")} == {delivery.id}
    assert (await hooks.get("default", endpoint.id)).failing_since is None


async def test_an_endpoint_that_fails_for_long_is_paused_and_says_why(
    shared_store: RunStore, receiver: Receiver
) -> None:
    async with at_work(shared_store, paused_after=timedelta(0)) as hooks:
        endpoint = await an_endpoint(hooks, receiver, path="/down")
        receiver.behaviour["/down"] = in_turn(answering(503), answering(200))
        await create(shared_store)
        await until(lambda: is_tried(hooks, endpoint))
        paused = await hooks.get("default", endpoint.id)
        assert paused.paused_at is not None
        assert "answered 503" in (paused.paused_reason or "")
        await create(shared_store)
        await shared_store.database.write(make_due, endpoint.id)
        await until(lambda: _has(hooks, endpoint, 2))
        # Nothing is sent while it is paused; what there was to tell is kept, and listed.
        assert len(receiver.at("/down")) == 1
        await hooks.change("default", endpoint.id, ChangedEndpoint(paused=False))
        await until(lambda: are_over(hooks, endpoint, 2))


async def test_one_that_is_gone_is_told_no_more(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/gone")
    receiver.behaviour["/gone"] = answering(410)
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    assert (delivery.state, delivery.next_at) == (State.FAILED, None)
    assert "Gone" in ((await hooks.get("default", endpoint.id)).paused_reason or "")


async def test_a_delivery_can_be_sent_again_by_hand_also_where_it_is_paused(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/again")
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 1))
    (delivery,) = await sent(hooks, endpoint)
    await hooks.change("default", endpoint.id, ChangedEndpoint(paused=True))
    again = await hooks.retry("default", endpoint.id, delivery.id)
    assert again.state is State.PENDING
    await until(lambda: _tried_twice(hooks, endpoint))
    assert {message.id for message in receiver.at("/again")} == {delivery.id}
    assert (await hooks.get("default", endpoint.id)).paused_reason == "paused by its owner"
    for unknown in (("wh_none", delivery.id), (endpoint.id, "msg_none")):
        with pytest.raises(NotFound):
            await hooks.retry("default", *unknown)


async def test_a_delivery_is_given_up_after_a_day(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/never")
    receiver.behaviour["/never"] = answering(500)
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))

    def a_day_later(connection: Connection) -> None:
        connection.execute(
            sa.update(delivery_rows)
            .where(delivery_rows.c.webhook_id == endpoint.id)
            .values(next_at=delivery_rows.c.created_at, gives_up_at=delivery_rows.c.created_at)
        )

    await shared_store.database.write(a_day_later)
    await until(lambda: _failed(hooks, endpoint))


async def _came(receiver: Receiver, path: str, count: int) -> bool:
    return len(receiver.at(path)) >= count


async def _has(hooks: Webhooks, endpoint: Endpoint, count: int) -> bool:
    return len(await sent(hooks, endpoint)) >= count


async def _tried_twice(hooks: Webhooks, endpoint: Endpoint) -> bool:
    return await is_tried(hooks, endpoint, 2)


async def _failed(hooks: Webhooks, endpoint: Endpoint) -> bool:
    return (await sent(hooks, endpoint))[0].state is State.FAILED
