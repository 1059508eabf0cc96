"""Lists in the order of time: every index of a list ends in `created_at` and `number`.

Before, they ended in `number` alone, and a list between two times was read from its newest end.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

NOT_NULL: dict[str, Any] = {"nullable": False}


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    time = sa.DateTime(timezone=True) if postgres else sa.BigInteger()
    # SQLite cannot change a primary key, and a new table is filled faster than an old one altered.
    op.rename_table("run_tags", "run_tags_before")
    if postgres:
        # The key's name is one for all tables.
        op.execute("ALTER INDEX run_tags_pkey RENAME TO run_tags_before_pkey")
    op.create_table(
        "run_tags",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("tag", sa.Text, primary_key=True),
        sa.Column("created_at", time, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
    )
    op.execute(
        """
        INSERT INTO run_tags (project, tag, created_at, number)
        SELECT old.project, old.tag, runs.created_at, old.number
        FROM run_tags_before AS old
        JOIN runs ON runs.project = old.project AND runs.number = old.number
        """
    )
    op.drop_table("run_tags_before")
    if postgres:
        # Until it has been looked at, the planner expects a new table to be small.
        op.execute("ANALYZE run_tags")
    for name in ("number", "status", "task", "jobs", "jobs_status", "job", "job_status"):
        op.drop_index(f"runs_{name}", "runs")
    place = ["created_at", "number"]
    op.create_index("runs_created", "runs", ["project", *place], unique=True)
    op.create_index("runs_status", "runs", ["project", "status", *place])
    op.create_index("runs_task", "runs", ["project", "task_identifier", "status", *place])
    for name, columns, condition in (
        ("runs_jobs", [], "job_id IS NOT NULL"),
        ("runs_jobs_status", ["status"], "job_id IS NOT NULL"),
        ("runs_tests", [], "is_test"),
    ):
        where = sa.text(condition)
        op.create_index(
            name, "runs", ["project", *columns, *place],
            sqlite_where=where, postgresql_where=where,
        )  # fmt: skip
