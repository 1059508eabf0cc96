"""Webhooks and their deliveries."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NOT_NULL: dict[str, Any] = {"nullable": False}


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    time = sa.DateTime(timezone=True) if postgres else sa.BigInteger()

    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("url", sa.Text, **NOT_NULL),
        sa.Column("events", sa.Text, **NOT_NULL),
        sa.Column("tags", sa.Text),
        sa.Column("tasks", sa.Text),
        sa.Column("secrets", sa.Text, **NOT_NULL),
        sa.Column("epoch", sa.Text, **NOT_NULL),
        sa.Column("horizon", sa.Text, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("updated_at", time, **NOT_NULL),
        sa.Column("failing_since", time),
        sa.Column("paused_at", time),
        sa.Column("paused_reason", sa.Text),
    )
    op.create_index("webhooks_project", "webhooks", ["project", "id"])
    op.create_table(
        "webhook_cursors",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("epoch", sa.Text, **NOT_NULL),
        sa.Column("horizon", sa.Text, **NOT_NULL),
        sa.Column("bound", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("serial", sa.BigInteger, **NOT_NULL),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("webhook_id", sa.Text, **NOT_NULL),
        sa.Column("type", sa.Text, **NOT_NULL),
        sa.Column("subject", sa.Text, **NOT_NULL),
        sa.Column("body", sa.Text, **NOT_NULL),
        sa.Column("state", sa.Text, **NOT_NULL),
        sa.Column("attempts", sa.Text, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("gives_up_at", time, **NOT_NULL),
        sa.Column("next_at", time),
        sa.Column("claim", sa.Text),
        sa.Column("by_hand", sa.Boolean, **NOT_NULL),
    )
    op.create_index("deliveries_subject", "deliveries", ["webhook_id", "subject"], unique=True)
    op.create_index("deliveries_webhook", "deliveries", ["webhook_id", "id"])
    op.create_index("deliveries_created", "deliveries", ["created_at"])
    where = sa.text("next_at IS NOT NULL")
    op.create_index(
        "deliveries_due", "deliveries", ["webhook_id", "next_at"],
        sqlite_where=where, postgresql_where=where,
    )  # fmt: skip
