"""Workflows, jobs, job runs, and leases of claimed runs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NOT_NULL: dict[str, Any] = {"nullable": False}


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    time = sa.DateTime(timezone=True) if postgres else sa.BigInteger()

    op.create_table(
        "workflows",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("name", sa.Text, **NOT_NULL),
        sa.Column("task_identifier", sa.Text, **NOT_NULL),
        sa.Column("payload", sa.Text),
        sa.Column("ttl", sa.BigInteger),
        sa.Column("max_duration", sa.BigInteger),
        sa.Column("heartbeat_timeout", sa.BigInteger),
        sa.Column("max_attempts", sa.Integer, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("updated_at", time, **NOT_NULL),
    )
    op.create_index("workflows_project", "workflows", ["project", "id"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("name", sa.Text, **NOT_NULL),
        sa.Column("config", sa.Text, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("updated_at", time, **NOT_NULL),
    )
    op.create_index("jobs_project", "jobs", ["project", "id"])
    op.create_table(
        "job_workflows",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("workflow_id", sa.Text, **NOT_NULL),
    )
    op.create_index("job_workflows_workflow", "job_workflows", ["workflow_id"])
    op.create_table(
        "job_runs",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("config", sa.Text, **NOT_NULL),
        sa.Column("plan", sa.Text, **NOT_NULL),
    )

    op.add_column("runs", sa.Column("job_id", sa.Text))
    op.add_column("runs", sa.Column("max_attempts", sa.Integer, server_default="1", **NOT_NULL))
    op.add_column("runs", sa.Column("worker", sa.Text))
    op.add_column("runs", sa.Column("lease_s", sa.Integer))
    op.add_column(
        "heartbeats", sa.Column("leased", sa.Boolean, server_default=sa.false(), **NOT_NULL)
    )
    # No position of a job run is begun twice, whatever else goes wrong.
    where = sa.text("workflow_id IS NOT NULL")
    op.create_index(
        "runs_step", "runs", ["parent_run_id", "position"], unique=True,
        sqlite_where=where, postgresql_where=where,
    )  # fmt: skip
    where = sa.text("job_id IS NOT NULL")
    for name, columns in (
        ("runs_jobs", ["project", "number"]),
        ("runs_jobs_status", ["project", "status", "number"]),
        ("runs_job", ["project", "job_id", "number"]),
        ("runs_job_status", ["project", "job_id", "status", "number"]),
    ):
        op.create_index(name, "runs", columns, sqlite_where=where, postgresql_where=where)
    # What workers may claim, the oldest first.
    where = sa.text("status = 'QUEUED' AND job_id IS NULL")
    op.create_index(
        "runs_waiting", "runs", ["project", "task_identifier", "number"],
        sqlite_where=where, postgresql_where=where,
    )  # fmt: skip
