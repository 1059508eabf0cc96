"""The SQL table of artifacts; their bytes are in a blob store."""

from __future__ import annotations

import sqlalchemy as sa

from store.tables import UtcTime, metadata

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    # From then on its bytes are to be cleaned away: it is deleted, or its upload came to
    # nothing. NULL: it is whole, and the only kind that anybody is shown.
    sa.Column("cleaned_at", UtcTime),
    sa.Column("is_whole", sa.Boolean, nullable=False),
    sa.Index("artifacts_run", "run_id", "id"),
    sa.Index("artifacts_cleaned", "cleaned_at",
             sqlite_where=sa.text("cleaned_at IS NOT NULL"),
             postgresql_where=sa.text("cleaned_at IS NOT NULL")),
)  # fmt: skip
