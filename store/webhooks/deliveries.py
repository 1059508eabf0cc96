"""Deliveries in the database: claim what is due, note what came of it, list, retry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import changes
from store.errors import NotFound
from store.tables.webhooks import deliveries, webhooks
from store.webhooks import schedule
from store.webhooks.endpoints import BY_OWNER, endpoint_of
from store.webhooks.values import Answer, Attempt, Delivery, Endpoint, State

CLAIM_S: Final = 25.0
"""How long a try has before another server takes it over: longer than any try lasts."""

PAUSED_AFTER: Final = timedelta(hours=24)
"""How long an endpoint may fail, without one success, before it is paused."""

GONE: Final = 410
"""By it a receiver says that it wants no more."""

KEPT_FOR: Final = timedelta(days=7)
ATTEMPTS_MAX: Final = 50


class Claimed(NamedTuple):
    """A delivery that this process is to try, under that claim."""

    endpoint: Endpoint
    delivery: Delivery
    claim: str


def due(connection: Connection, full: Sequence[str]) -> list[str]:
    """The endpoints that have something due, but for those that are full."""
    now = changes.database_time(connection)
    waits = (
        sa.select(deliveries.c.id)
        .where(deliveries.c.webhook_id == webhooks.c.id, deliveries.c.next_at <= now)
        .where(sa.or_(webhooks.c.paused_at.is_(None), deliveries.c.by_hand.is_(True)))
        .exists()
    )
    found = sa.select(webhooks.c.id).where(waits)
    if full:
        found = found.where(webhooks.c.id.not_in(full))
    return list(connection.scalars(found))


def claim(connection: Connection, webhook_id: str, count: int, token: str) -> list[Claimed]:
    """Up to so many of the endpoint's that are due, now this process's to try."""
    now = changes.database_time(connection)
    row = connection.execute(
        sa.select(webhooks).where(webhooks.c.id == webhook_id)
    ).one_or_none()  # fmt: skip
    if row is None:
        return []
    endpoint = endpoint_of(row)
    found = sa.select(deliveries).where(
        deliveries.c.webhook_id == webhook_id, deliveries.c.next_at <= now
    )
    if endpoint.paused_at is not None:
        found = found.where(deliveries.c.by_hand.is_(True))
    rows = connection.execute(
        found.order_by(deliveries.c.next_at).limit(count).with_for_update(skip_locked=True)
    ).all()
    over = [row.id for row in rows if row.gives_up_at < now and not row.by_hand and row.attempts]
    if over:
        # It waited behind a pause, or for a server, until its time was over.
        _end(connection, over)
    mine = [row for row in rows if row.id not in over]
    if mine:
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id.in_([row.id for row in mine]))
            .values(claim=token, next_at=now + timedelta(seconds=CLAIM_S))
        )
    return [Claimed(endpoint, delivery_of(row), token) for row in mine]


def _end(connection: Connection, ids: list[str]) -> None:
    connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id.in_(ids))
        .values(state=State.FAILED, next_at=None, claim=None, by_hand=False)
    )


def note(
    connection: Connection,
    claimed: Claimed,
    at: datetime,
    answer: Answer,
    chance: float,
    paused_after: timedelta,
) -> None:
    """Writes down what came of a try, for the delivery and for its endpoint."""
    # The endpoint's lock before the delivery's, as whoever deletes an endpoint takes them.
    held = sa.select(webhooks).where(webhooks.c.id == claimed.endpoint.id).with_for_update()
    endpoint = connection.execute(held).one_or_none()
    row = connection.execute(
        sa.select(deliveries)
        .where(deliveries.c.id == claimed.delivery.id, deliveries.c.claim == claimed.claim)
        .with_for_update()
    ).one_or_none()
    if row is None or endpoint is None:
        return  # it was taken over, tried by hand, or deleted meanwhile
    delivery = delivery_of(row)
    attempt = Attempt(
        at=at,
        duration_ms=answer.duration_ms,
        status=answer.status,
        response=answer.body,
        error=answer.error,
    )
    attempts = (*delivery.attempts, attempt)
    next_at = None
    if not answer.is_taken and answer.status != GONE:
        next_at = schedule.next_try(
            len(attempts),
            changes.database_time(connection),
            delivery.gives_up_at,
            schedule.retry_after_s(answer.retry_after),
            chance,
        )
    state = State.PENDING
    if answer.is_taken:
        state = State.DELIVERED
    elif next_at is None:
        state = State.FAILED
    connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id == delivery.id)
        .values(
            attempts=msgspec.to_builtins(attempts[-ATTEMPTS_MAX:]),
            state=state,
            next_at=next_at,
            claim=None,
            by_hand=False,
        )
    )
    _note_endpoint(connection, endpoint, answer, paused_after)


def _note_endpoint(
    connection: Connection, row: sa.Row[Any], answer: Answer, paused_after: timedelta
) -> None:
    now = changes.database_time(connection)
    values: dict[str, Any] = {}
    if answer.is_taken:
        if row.failing_since is not None:
            values["failing_since"] = None
        if row.paused_at is not None and row.paused_reason != BY_OWNER:
            # A try by hand has shown that it is well again.
            values |= {"paused_at": None, "paused_reason": None}
    else:
        since = row.failing_since or now
        if row.failing_since is None:
            values["failing_since"] = now
        if row.paused_at is None:
            if answer.status == GONE:
                values |= {"paused_at": now, "paused_reason": f"it answered {GONE}: Gone"}
            elif now - since >= paused_after:
                said = f"no delivery was taken since {since:%Y-%m-%d %H:%M} UTC; the last error: "
                values |= {"paused_at": now, "paused_reason": said + (answer.error or "none")}
    if values:
        connection.execute(sa.update(webhooks).where(webhooks.c.id == row.id).values(**values))


def page(
    connection: Connection, webhook_id: str, limit: int, after: str | None
) -> tuple[list[Delivery], str | None]:
    """Newest first, and the `after` of the next page."""
    found = sa.select(deliveries).where(deliveries.c.webhook_id == webhook_id)
    if after is not None:
        found = found.where(deliveries.c.id < after)
    rows = connection.execute(found.order_by(deliveries.c.id.desc()).limit(limit + 1)).all()
    some = [delivery_of(row) for row in rows[:limit]]
    return some, some[-1].id if len(rows) > limit else None


def get(connection: Connection, webhook_id: str, id: str) -> Delivery:
    """Raises NotFound."""
    row = connection.execute(
        sa.select(deliveries).where(deliveries.c.id == id, deliveries.c.webhook_id == webhook_id)
    ).one_or_none()
    if row is None:
        raise NotFound("delivery", id)
    return delivery_of(row)


def retry(connection: Connection, webhook_id: str, id: str) -> Delivery:
    """Has it tried at once, also if its endpoint is paused, and then for a day again."""
    now = changes.database_time(connection)
    done = connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id == id, deliveries.c.webhook_id == webhook_id)
        .values(
            state=State.PENDING,
            next_at=now,
            gives_up_at=now + schedule.TRIED_FOR,
            claim=None,
            by_hand=True,
        )
    )
    if not done.rowcount:
        raise NotFound("delivery", id)
    return get(connection, webhook_id, id)


def forget(connection: Connection, at_once: int = 1_000) -> int:
    """Deletes deliveries that are long over, and those of no endpoint; how many."""
    old = changes.database_time(connection) - KEPT_FOR
    there = sa.select(webhooks.c.id).where(webhooks.c.id == deliveries.c.webhook_id).exists()
    gone = list(
        connection.scalars(
            sa.select(deliveries.c.id)
            .where(deliveries.c.created_at < old)
            .where(sa.or_(deliveries.c.next_at.is_(None), ~there))
            .order_by(deliveries.c.created_at)
            .limit(at_once)
        )
    )
    if gone:
        connection.execute(sa.delete(deliveries).where(deliveries.c.id.in_(gone)))
    return len(gone)


def delivery_of(row: sa.Row[Any]) -> Delivery:
    """The delivery in its row."""
    fields = dict(row._mapping)
    fields["state"] = State(fields["state"])
    fields["attempts"] = msgspec.convert(fields["attempts"], tuple[Attempt, ...])
    return Delivery(**fields)
