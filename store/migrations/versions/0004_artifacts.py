"""Artifacts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NOT_NULL: dict[str, Any] = {"nullable": False}


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    time = sa.DateTime(timezone=True) if postgres else sa.BigInteger()
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("run_id", sa.Text, **NOT_NULL),
        sa.Column("name", sa.Text, **NOT_NULL),
        sa.Column("content_type", sa.Text, **NOT_NULL),
        sa.Column("size", sa.BigInteger, **NOT_NULL),
        sa.Column("sha256", sa.Text, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("cleaned_at", time),
        sa.Column("is_whole", sa.Boolean, **NOT_NULL),
    )
    op.create_index("artifacts_run", "artifacts", ["run_id", "id"])
    where = sa.text("cleaned_at IS NOT NULL")
    op.create_index(
        "artifacts_cleaned", "artifacts", ["cleaned_at"],
        sqlite_where=where, postgresql_where=where,
    )  # fmt: skip
