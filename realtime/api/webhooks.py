"""HTTP calls about webhooks and their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from realtime.api.bodies import NoBody
from realtime.api.paging import PageQuery, opaque, place_of
from realtime.api.routing import SMALL, Call, Operation, Resource, answer
from realtime.api.workflows import reader
from store.model import wire_value
from store.webhooks import ChangedEndpoint, Delivery, Endpoint, NewEndpoint

SHOWN_CHARS: Final = 16_384
"""How much of a message's body a list shows; the delivery itself has all of it."""


class NewWebhookBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint that is to be told of what happens."""

    url: str
    events: list[str]
    """Such as `job_run.completed`, `run.*`, `*`."""
    tags: list[str] | None = None
    """Only of what has all of these."""
    tasks: list[str] | None = None
    """Only of runs of one of these."""


class WebhookChangeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True,
                        rename={"rotate_secret": "rotateSecret",
                                "overlap_s": "secretOverlapS"}):  # fmt: skip
    """What is to change of an endpoint; what is left out stays as it is."""

    url: str | UnsetType = UNSET
    events: list[str] | UnsetType = UNSET
    tags: list[str] | UnsetType | None = UNSET
    tasks: list[str] | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    rotate_secret: bool = False
    """Sign with a new secret, which the answer shows this once; the old one signs along."""
    overlap_s: int = 24 * 3_600
    """For so many seconds."""


class WebhookBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An endpoint as it stands."""

    id: str
    url: str
    events: list[str]
    tags: list[str] | None
    tasks: list[str] | None
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None
    """Since then no delivery was taken."""
    paused: bool
    paused_at: datetime | None
    paused_reason: str | None


class SecretWebhookBody(WebhookBody, frozen=True, kw_only=True, rename="camel"):
    """An endpoint with the secret that signs what it is sent; it is shown this once."""

    secret: str


class WebhooksAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of endpoints, newest first."""

    data: list[WebhookBody]
    next: str | None


class AttemptBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One try of a delivery."""

    at: datetime
    duration_ms: int
    status: int | None
    """Of the response; null where there was none."""
    response: str
    """The beginning of the response's body."""
    error: str | None


class RequestBody(msgspec.Struct, frozen=True, kw_only=True):
    """What was, or will be, sent."""

    url: str
    body: str
    """In a list its beginning."""


class DeliveryBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A message to an endpoint, and how that went."""

    id: str
    """The `webhook-id` of every try."""
    webhook_id: str
    type: str
    status: Literal["pending", "delivered", "failed"]
    created_at: datetime
    next_attempt_at: datetime | None
    request: RequestBody
    attempts: list[AttemptBody]


class DeliveriesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of deliveries, newest first."""

    data: list[DeliveryBody]
    next: str | None


def webhook_body(endpoint: Endpoint, *, secret: bool = False) -> dict[str, Any]:
    """See WebhookBody."""
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.events,
        "tags": endpoint.tags,
        "tasks": endpoint.tasks,
        "createdAt": wire_value(endpoint.created_at),
        "updatedAt": wire_value(endpoint.updated_at),
        "failingSince": wire_value(endpoint.failing_since),
        "paused": endpoint.paused_at is not None,
        "pausedAt": wire_value(endpoint.paused_at),
        "pausedReason": endpoint.paused_reason,
    } | ({"secret": endpoint.secrets[0].secret} if secret else {})


def delivery_body(
    delivery: Delivery, endpoint: Endpoint, shown_chars: int | None = None
) -> dict[str, Any]:
    """See DeliveryBody."""
    return {
        "id": delivery.id,
        "webhookId": delivery.webhook_id,
        "type": delivery.type,
        "status": delivery.state,
        "createdAt": wire_value(delivery.created_at),
        "nextAttemptAt": wire_value(delivery.next_at),
        "request": {"url": endpoint.url, "body": delivery.body[:shown_chars]},
        "attempts": [
            {
                "at": wire_value(attempt.at),
                "durationMs": attempt.duration_ms,
                "status": attempt.status,
                "response": attempt.response,
                "error": attempt.error,
            }
            for attempt in delivery.attempts
        ],
    }


def _words(words: list[str] | UnsetType | None) -> Any:
    return tuple(words) if isinstance(words, list) else words


async def create(call: Call) -> Response:
    call.writer()
    raw = await call.raw_body(SMALL)
    body = call.parse(raw, NewWebhookBody)
    new = NewEndpoint(
        url=body.url,
        events=tuple(body.events),
        tags=_words(body.tags),
        tasks=_words(body.tasks),
    )
    made = await call.store.webhooks.create(call.project, new, call.key(raw))
    return answer(webhook_body(made, secret=True), 201)


async def list_all(call: Call) -> Response:
    reader(call)
    query = call.query(PageQuery)
    found, following = await call.store.webhooks.list_endpoints(
        call.project, query.limit, place_of(query.after, str)
    )
    return answer({"data": [webhook_body(one) for one in found], "next": opaque(following)})


async def get(call: Call) -> Response:
    reader(call)
    return answer(webhook_body(await call.store.webhooks.get(call.project, call.id("webhook"))))


async def change(call: Call) -> Response:
    call.writer()
    id = call.id("webhook")
    raw = await call.raw_body(SMALL)
    body = call.parse(raw, WebhookChangeBody)
    asked = ChangedEndpoint(
        url=body.url,
        events=_words(body.events),
        tags=_words(body.tags),
        tasks=_words(body.tasks),
        paused=body.paused,
        rotate_secret=body.rotate_secret,
        overlap_s=body.overlap_s,
    )
    changed = await call.store.webhooks.change(call.project, id, asked, call.key(raw))
    return answer(webhook_body(changed, secret=body.rotate_secret))


async def delete(call: Call) -> Response:
    call.writer()
    id = call.id("webhook")
    await call.no_body()
    await call.store.webhooks.delete(call.project, id, call.key())
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


async def list_deliveries(call: Call) -> Response:
    reader(call)
    id = call.id("webhook")
    query = call.query(PageQuery)
    endpoint = await call.store.webhooks.get(call.project, id)
    found, following = await call.store.webhooks.list_deliveries(
        call.project, id, query.limit, place_of(query.after, str)
    )
    return answer(
        {
            "data": [delivery_body(one, endpoint, SHOWN_CHARS) for one in found],
            "next": opaque(following),
        }
    )


async def get_delivery(call: Call) -> Response:
    reader(call)
    id = call.id("webhook")
    delivery_id = call.id("delivery", "delivery")
    endpoint = await call.store.webhooks.get(call.project, id)
    found = await call.store.webhooks.get_delivery(call.project, id, delivery_id)
    return answer(delivery_body(found, endpoint))


async def retry(call: Call) -> Response:
    call.writer()
    id = call.id("webhook")
    delivery_id = call.id("delivery", "delivery")
    await call.no_body()
    endpoint = await call.store.webhooks.get(call.project, id)
    found = await call.store.webhooks.retry(call.project, id, delivery_id, call.key())
    return answer(delivery_body(found, endpoint))


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/webhooks",
        "webhooks",
        {
            "POST": Operation(
                name="createWebhook",
                summary="Have an endpoint told of what happens from now on",
                handle=create,
                body=NewWebhookBody,
                answers={201: SecretWebhookBody},
                is_command=True,
            ),
            "GET": Operation(
                name="listWebhooks",
                summary="List webhooks, newest first",
                handle=list_all,
                query=PageQuery,
                answers={200: WebhooksAnswer},
            ),
        },
    ),
    Resource(
        "/v1/webhooks/{id}",
        "webhooks",
        {
            "GET": Operation(
                name="getWebhook",
                summary="Get a webhook, and whether it is paused and why",
                handle=get,
                answers={200: WebhookBody},
                problems=(404,),
            ),
            "PATCH": Operation(
                name="updateWebhook",
                summary="Change a webhook, pause it or go on, rotate its secret",
                handle=change,
                body=WebhookChangeBody,
                answers={200: SecretWebhookBody},
                problems=(404,),
                is_command=True,
            ),
            "DELETE": Operation(
                name="deleteWebhook",
                summary="Delete a webhook with its deliveries",
                handle=delete,
                answers={204: None},
                problems=(404, 413, 422),
                is_command=True,
            ),
        },
    ),
    Resource(
        "/v1/webhooks/{id}/deliveries",
        "webhooks",
        {
            "GET": Operation(
                name="listDeliveries",
                summary="What a webhook was sent, newest first, and how that went",
                handle=list_deliveries,
                query=PageQuery,
                answers={200: DeliveriesAnswer},
                problems=(404,),
            )
        },
    ),
    Resource(
        "/v1/webhooks/{id}/deliveries/{delivery}",
        "webhooks",
        {
            "GET": Operation(
                name="getDelivery",
                summary="Get one delivery, with all that was sent",
                handle=get_delivery,
                answers={200: DeliveryBody},
                problems=(404,),
            )
        },
    ),
    Resource(
        "/v1/webhooks/{id}/deliveries/{delivery}/retry",
        "webhooks",
        {
            "POST": Operation(
                name="retryDelivery",
                summary="Send it again, now",
                handle=retry,
                body=NoBody,
                answers={200: DeliveryBody},
                problems=(404,),
                is_command=True,
            )
        },
    ),
)
