"""Endpoints in the database: make, read, change, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from store import changes
from store.commands import check_words
from store.errors import Invalid, NotFound
from store.model import Horizon, new_id
from store.tables.webhooks import deliveries, webhook_cursors, webhooks
from store.webhooks import signing
from store.webhooks.addresses import AddressPolicy
from store.webhooks.values import PATTERNS, Endpoint, Secret

FILTERS_MAX: Final = 100
OVERLAP_MAX_S: Final = 30 * 24 * 3_600
SECRETS_MAX: Final = 10


class NewEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of a webhook."""

    url: str
    events: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None


class ChangedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What is to change of a webhook; UNSET stays as it is."""

    url: str | UnsetType = UNSET
    events: tuple[str, ...] | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType | None = UNSET
    tasks: tuple[str, ...] | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    rotate_secret: bool = False
    overlap_s: int = 24 * 3_600
    """For how long the old secret signs along."""


def check(asked: NewEndpoint | ChangedEndpoint, policy: AddressPolicy) -> None:
    """Raises Invalid for what no endpoint can be."""
    if asked.url is not UNSET:
        wrong = policy.check_url(asked.url)
        if wrong is not None:
            raise Invalid("url", wrong)
    if asked.events is not UNSET:
        if not 1 <= len(asked.events) <= FILTERS_MAX:
            raise Invalid("events", f"must hold 1 to {FILTERS_MAX} events")
        for place, event in enumerate(asked.events):
            if event not in PATTERNS:
                raise Invalid(f"events.{place}", "is no event, nor a kind of events like run.*")
    for name, words in (("tags", asked.tags), ("tasks", asked.tasks)):
        if isinstance(words, tuple):
            if not 1 <= len(words) <= FILTERS_MAX:
                raise Invalid(name, f"must hold 1 to {FILTERS_MAX} {name}, or be null")
            for place, word in enumerate(words):
                check_words(f"{name}.{place}", word, 256)
    if isinstance(asked, ChangedEndpoint) and not 0 <= asked.overlap_s <= OVERLAP_MAX_S:
        raise Invalid("secretOverlapS", f"must be from 0 to {OVERLAP_MAX_S}")


def create(connection: Connection, project: str, new: NewEndpoint) -> Endpoint:
    """The new endpoint, with its secret; from now on it is told what it asks for."""
    log = changes.now(connection, project)
    at = datetime.now(UTC)
    endpoint = Endpoint(
        id=new_id("wh"),
        project=project,
        url=new.url,
        events=new.events,
        tags=new.tags,
        tasks=new.tasks,
        secrets=(Secret(secret=signing.new_secret()),),
        epoch=log.epoch,
        horizon=log.horizon,
        created_at=at,
        updated_at=at,
    )
    connection.execute(sa.insert(webhooks), _row(endpoint))
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(
        dialect.insert(webhook_cursors)
        .values(
            project=project, epoch=log.epoch, horizon=msgspec.to_builtins(log.horizon), serial=0
        )
        .on_conflict_do_nothing()
    )
    return endpoint


def get(connection: Connection, project: str, id: str) -> Endpoint:
    """Raises NotFound."""
    return _get(connection, project, id, lock=False)


def _get(connection: Connection, project: str, id: str, *, lock: bool) -> Endpoint:
    found = sa.select(webhooks).where(webhooks.c.id == id, webhooks.c.project == project)
    row = connection.execute(found.with_for_update() if lock else found).one_or_none()
    if row is None:
        raise NotFound("webhook", id)
    return endpoint_of(row)


def page(
    connection: Connection, project: str, limit: int, after: str | None
) -> tuple[list[Endpoint], str | None]:
    """Newest first, and the `after` of the next page."""
    found = sa.select(webhooks).where(webhooks.c.project == project)
    if after is not None:
        found = found.where(webhooks.c.id < after)
    rows = connection.execute(found.order_by(webhooks.c.id.desc()).limit(limit + 1)).all()
    some = [endpoint_of(row) for row in rows[:limit]]
    return some, some[-1].id if len(rows) > limit else None


def of_project(connection: Connection, project: str) -> list[Endpoint]:
    """All of the project's."""
    rows = connection.execute(sa.select(webhooks).where(webhooks.c.project == project))
    return [endpoint_of(row) for row in rows]


def change(connection: Connection, project: str, id: str, asked: ChangedEndpoint) -> Endpoint:
    """The endpoint as it is from now on. Raises NotFound."""
    before = _get(connection, project, id, lock=True)
    at = datetime.now(UTC)
    fields: dict[str, Any] = {"updated_at": at}
    for name in ("url", "events", "tags", "tasks"):
        value = getattr(asked, name)
        if value is not UNSET:
            fields[name] = value
    if asked.paused is True and before.paused_at is None:
        fields |= {"paused_at": at, "paused_reason": BY_OWNER}
    elif asked.paused is False:
        fields |= {"paused_at": None, "paused_reason": None, "failing_since": None}
    if asked.rotate_secret:
        fields["secrets"] = rotated(before.secrets, at, asked.overlap_s)
    after = replace(before, **fields)
    connection.execute(sa.update(webhooks).where(webhooks.c.id == id), _row(after))
    return after


BY_OWNER: Final = "paused by its owner"


def rotated(secrets: Sequence[Secret], at: datetime, overlap_s: int) -> tuple[Secret, ...]:
    """With a new secret in front; the others sign along until their time is over."""
    until = at + timedelta(seconds=overlap_s)
    old = [
        one if one.until is not None and one.until < until else replace(one, until=until)
        for one in secrets
    ]
    kept = [one for one in old if one.until is not None and one.until > at]
    return (Secret(secret=signing.new_secret()), *kept[: SECRETS_MAX - 1])


def delete(connection: Connection, project: str, id: str) -> None:
    """Deletes it with its deliveries. Raises NotFound."""
    _get(connection, project, id, lock=True)
    connection.execute(sa.delete(deliveries).where(deliveries.c.webhook_id == id))
    connection.execute(sa.delete(webhooks).where(webhooks.c.id == id))


def endpoint_of(row: sa.Row[Any]) -> Endpoint:
    """The endpoint in its row."""
    fields = dict(row._mapping)
    fields["events"] = tuple(fields["events"])
    for name in ("tags", "tasks"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    fields["secrets"] = msgspec.convert(fields["secrets"], tuple[Secret, ...])
    fields["horizon"] = msgspec.convert(fields["horizon"], Horizon)
    return Endpoint(**fields)


def _row(endpoint: Endpoint) -> dict[str, Any]:
    fields = msgspec.structs.asdict(endpoint)
    fields["secrets"] = msgspec.to_builtins(endpoint.secrets)
    fields["horizon"] = msgspec.to_builtins(endpoint.horizon)
    return fields
