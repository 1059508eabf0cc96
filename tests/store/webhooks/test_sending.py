"""One try over a real connection: how long it may take, and what is kept of its answer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from store import RunStore
from store.webhooks import Webhooks
from tests.receiving import Endless, Receiver, answering, hang
from tests.store.asking import create, until
from tests.store.webhooks.hooking import an_endpoint, are_over, at_work, is_tried, sent

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("no_endpoint_left")]


async def test_what_the_endpoint_says_is_kept_but_only_so_much_of_it(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/long")
    receiver.behaviour["/long"] = answering(500, "x" * 50_000, retry_after="600")
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    (attempt,) = delivery.attempts
    assert attempt.response == "x" * 2_048
    assert attempt.status == 500
    assert delivery.next_at is not None
    assert delivery.next_at - attempt.at > timedelta(seconds=590)


async def test_an_answer_without_end_is_cut_off(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    """Taken out: the bound on what is read of it; all of it was, or what came within a try."""
    endpoint = await an_endpoint(hooks, receiver, path="/endless")
    receiver.behaviour["/endless"] = endless = Endless()
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 1))
    (delivery,) = await sent(hooks, endpoint)
    assert len(delivery.attempts[0].response) == 2_048
    await until(lambda: _is_idle(receiver))
    assert endless.written < 50_000_000  # what the sockets have taken unread


async def test_an_endpoint_that_hangs_slows_nobody_else(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """Taken out: how many tries one endpoint has at once; it had all of them."""
    async with at_work(shared_store, attempt_s=20.0) as hooks:
        slow = [await an_endpoint(hooks, receiver, path=f"/slow{i}") for i in range(3)]
        for i in range(3):
            receiver.behaviour[f"/slow{i}"] = hang
        quick = await an_endpoint(hooks, receiver, path="/quick")
        for _ in range(30):
            await create(shared_store)
        await until(lambda: are_over(hooks, quick, 30))
        assert not any([await is_tried(hooks, one) for one in slow])
        assert all(len(receiver.at(f"/slow{i}")) <= 4 for i in range(3))
        for one in slow:
            await hooks.delete("default", one.id)


async def test_one_that_does_not_answer_in_time_has_not_taken_it(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """Taken out: how long a try may take; it never ended."""
    async with at_work(shared_store, attempt_s=0.2) as hooks:
        endpoint = await an_endpoint(hooks, receiver, path="/late")
        receiver.behaviour["/late"] = hang
        await create(shared_store)
        await until(lambda: is_tried(hooks, endpoint))
        (delivery,) = await sent(hooks, endpoint)
        assert "no answer within" in (delivery.attempts[0].error or "")


async def _is_idle(receiver: Receiver) -> bool:
    return receiver.at_once == 0
