"""The SQL tables of webhooks and their deliveries."""

from __future__ import annotations

import sqlalchemy as sa

from store.tables import JsonText, UtcTime, metadata

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", JsonText, nullable=False),
    sa.Column("tags", JsonText),
    sa.Column("tasks", JsonText),
    # Newest first; the older ones sign along until their time is over.
    sa.Column("secrets", JsonText, nullable=False),
    # What was committed before it was made is none of its business.
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("horizon", JsonText, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("failing_since", UtcTime),
    sa.Column("paused_at", UtcTime),
    sa.Column("paused_reason", sa.Text),
    sa.Index("webhooks_project", "project", "id"),
)

# How far a project's log has been turned into deliveries.
webhook_cursors = sa.Table(
    "webhook_cursors",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("horizon", JsonText, nullable=False),
    # In the middle of a long read: the horizon of its first page, and the last run of the page.
    sa.Column("bound", JsonText),
    sa.Column("after", sa.Text),
    # Raised with each move: whoever read at another number has read in vain.
    sa.Column("serial", sa.BigInteger, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("webhook_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    # What it tells of; each endpoint is told once.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", JsonText, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("gives_up_at", UtcTime, nullable=False),
    # When it is tried next; while it is being tried, when that is given up. NULL: it is over.
    sa.Column("next_at", UtcTime),
    # Who is trying it: a late answer of a try that was given up counts no more.
    sa.Column("claim", sa.Text),
    # Asked for by its owner: tried although the endpoint is paused.
    sa.Column("by_hand", sa.Boolean, nullable=False),
    sa.Index("deliveries_subject", "webhook_id", "subject", unique=True),
    sa.Index("deliveries_webhook", "webhook_id", "id"),
    sa.Index("deliveries_due", "webhook_id", "next_at",
             sqlite_where=sa.text("next_at IS NOT NULL"),
             postgresql_where=sa.text("next_at IS NOT NULL")),
    sa.Index("deliveries_created", "created_at"),
)  # fmt: skip
