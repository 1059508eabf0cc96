"""`client.webhooks`: endpoints that are told of changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runstream.commands import UNSET, given, strings
from runstream.http import Http, part
from runstream.resources.models import Delivery, Webhook
from runstream.resources.paging import Listing, Page, listing


class Webhooks:
    """Calls about webhooks."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        url: str,
        events: Sequence[str],
        *,
        tags: Sequence[str] | None = None,
        tasks: Sequence[str] | None = None,
        command_key: str | None = None,
    ) -> Webhook:
        """Makes a webhook. Its `secret`, which signs what it is sent, is shown this once."""
        body = given(
            url=url,
            events=[*events],
            tags=strings(tags),
            tasks=strings(tasks),
        )
        return await self._http.call(
            Webhook, "POST", "/v1/webhooks", body=body, command_key=command_key
        )

    async def get(self, webhook_id: str) -> Webhook:
        """The webhook as it stands."""
        return await self._http.call(Webhook, "GET", _path(webhook_id))

    def list(self, *, limit: int | None = None, after: str | None = None) -> Listing[Webhook, str]:
        """All webhooks."""
        return listing(self._http, Page[Webhook, str], "/v1/webhooks", limit=limit, after=after)

    async def update(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        tags: Sequence[str] | None = UNSET,
        tasks: Sequence[str] | None = UNSET,
        command_key: str | None = None,
    ) -> Webhook:
        """The webhook after a change; what is left out stays, None takes a filter away."""
        body = given(url=url, events=strings(events))
        for name, value in (("tags", tags), ("tasks", tasks)):
            if value is not UNSET:
                body[name] = value
        return await self._http.call(
            Webhook, "PATCH", _path(webhook_id), body=body, command_key=command_key
        )

    async def delete(self, webhook_id: str, *, command_key: str | None = None) -> None:
        """Deletes it; it is told nothing more."""
        await self._http.request("DELETE", _path(webhook_id), command_key=command_key)

    def deliveries(
        self, webhook_id: str, *, limit: int | None = None, after: str | None = None
    ) -> Listing[Delivery, str]:
        """What it was sent, and how that went."""

        async def fetch(place: str | None) -> Page[Delivery, str]:
            query = given(limit=limit, after=place)
            page = await self._http.call(
                Page[dict[str, Any], str], "GET", _path(webhook_id, "deliveries"), query=query
            )
            return Page([_delivery(one) for one in page.data], page.next)

        return Listing(fetch, after)

    async def retry(
        self, webhook_id: str, delivery_id: str, *, command_key: str | None = None
    ) -> Delivery:
        """Sends a delivery again."""
        path = _path(webhook_id, "deliveries", part(delivery_id), "retry")
        told: dict[str, Any] = await self._http.call(
            dict[str, Any], "POST", path, command_key=command_key
        )
        return _delivery({"id": delivery_id, **told})


def _path(webhook_id: str, *more: str) -> str:
    return "/".join(("/v1/webhooks", part(webhook_id), *more))


def _delivery(told: Mapping[str, Any]) -> Delivery:
    return Delivery(id=str(told["id"]), details=dict(told))
