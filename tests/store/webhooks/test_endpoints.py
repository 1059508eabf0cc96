"""Endpoints: what none can be, how they are listed and changed, and their secrets rotated."""

from __future__ import annotations

from typing import Any

import pytest

from store import RunStore
from store.errors import Invalid, NotFound
from store.webhooks import ChangedEndpoint, NewEndpoint, Webhooks
from tests.receiving import Receiver
from tests.store.asking import create, until
from tests.store.webhooks.hooking import an_endpoint, are_over

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("no_endpoint_left")]


async def test_what_no_endpoint_can_be_is_refused(shared_store: RunStore, hooks: Webhooks) -> None:
    good: dict[str, Any] = {"url": "https://example.com/", "events": ("*",)}
    for wrong, path in (
        ({"url": "http://169.254.169.254/"}, "url"),
        ({"url": "gopher://example.com"}, "url"),
        ({"events": ()}, "events"),
        ({"events": ("run.exploded",)}, "events.0"),
        ({"events": ("run.*", "run.c*")}, "events.1"),
        ({"tags": ()}, "tags"),
        ({"tags": ("a\n",)}, "tags.0"),
        ({"tasks": ("",)}, "tasks.0"),
    ):
        with pytest.raises(Invalid) as refused:
            await hooks.create("default", NewEndpoint(**(good | wrong)))
        assert refused.value.path == path


async def test_endpoints_are_listed_changed_and_deleted_with_their_deliveries(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver, path="/listed")
    found, _ = await hooks.list_endpoints("default", 1, None)
    assert [one.id for one in found] == [endpoint.id]
    changed = await hooks.change(
        "default", endpoint.id, ChangedEndpoint(events=("batch.*",), tags=("x",))
    )
    assert (changed.events, changed.tags, changed.url) == (("batch.*",), ("x",), endpoint.url)
    with pytest.raises(NotFound):
        await hooks.get("another", endpoint.id)
    await hooks.delete("default", endpoint.id)
    for call in (hooks.get("default", endpoint.id), hooks.delete("default", endpoint.id)):
        with pytest.raises(NotFound):
            await call


async def test_secrets_are_rotated_with_an_overlap(
    shared_store: RunStore, hooks: Webhooks, receiver: Receiver
) -> None:
    endpoint = await an_endpoint(hooks, receiver)
    changed = await hooks.change("default", endpoint.id, ChangedEndpoint(rotate_secret=True))
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 1))
    (message,) = receiver.messages
    old, new = endpoint.secrets[0].secret, changed.secrets[0].secret
    assert old != new
    assert message.is_signed_with(old)
    assert message.is_signed_with(new)
    await hooks.change("default", endpoint.id, ChangedEndpoint(rotate_secret=True, overlap_s=0))
    await create(shared_store)
    await until(lambda: are_over(hooks, endpoint, 2))
    assert not receiver.messages[-1].is_signed_with(new)
