"""No name and no answer leads a message to an address that was not checked."""

from __future__ import annotations

import pytest

from store import RunStore
from store.webhooks import AddressPolicy, NewEndpoint, Webhooks
from tests.receiving import Receiver, answering
from tests.store.asking import create, until
from tests.store.webhooks.hooking import an_endpoint, are_over, at_work, is_tried, sent

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("no_endpoint_left")]


async def test_redirects_are_not_followed(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    """Taken out, by following them: the message came to an address that nobody had looked at."""
    endpoint = await an_endpoint(hooks, receiver, path="/moved")
    receiver.behaviour["/moved"] = answering(302, location=receiver.url("/inside"))
    await create(shared_store)
    await until(lambda: is_tried(hooks, endpoint))
    (delivery,) = await sent(hooks, endpoint)
    assert delivery.attempts[0].status == 302
    assert receiver.at("/inside") == []


async def test_a_name_that_leads_inside_is_not_sent_to(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """Also where the name server changes its answer: it is asked once, and what it has
    answered is both checked and connected to.

    Taken out: the check; the message came.
    """
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.7"] if len(asked) > 1 else ["127.0.0.1", "10.0.0.1", "::1"]

    async with at_work(
        shared_store, policy=AddressPolicy(), resolve=resolve, attempt_s=2.0
    ) as hooks:
        url = f"http://rebind.example:{receiver.port}/"
        endpoint = await hooks.create("default", NewEndpoint(url=url, events=("*",)))
        await create(shared_store)
        await until(lambda: is_tried(hooks, endpoint))
        (delivery,) = await sent(hooks, endpoint)
        assert "must not be sent to" in (delivery.attempts[0].error or "")
        assert asked == ["rebind.example"]
        assert receiver.messages == []
        await hooks.delete("default", endpoint.id)


async def test_a_name_is_connected_to_at_the_address_that_was_checked(
    shared_store: RunStore, receiver: Receiver
) -> None:
    """A name server that answers something else when it is asked again leads nowhere else.

    Taken out, by looking the name up again to connect: the message went to another address.
    """
    answers = [["169.254.169.254", "127.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop() if answers else ["127.0.0.2"]

    async with at_work(shared_store, resolve=resolve) as hooks:
        url = f"http://inside.example:{receiver.port}/named"
        endpoint = await hooks.create("default", NewEndpoint(url=url, events=("*",)))
        await create(shared_store)
        await until(lambda: are_over(hooks, endpoint, 1))
        assert receiver.at("/named")[0].headers["host"] == f"inside.example:{receiver.port}"
        await hooks.delete("default", endpoint.id)
