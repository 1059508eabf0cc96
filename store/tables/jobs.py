"""The SQL tables of workflows, jobs and job runs."""

from __future__ import annotations

import sqlalchemy as sa

from store.tables import JsonText, UtcTime, metadata

workflows = sa.Table(
    "workflows",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("task_identifier", sa.Text, nullable=False),
    sa.Column("payload", JsonText),
    sa.Column("ttl", sa.BigInteger),
    sa.Column("max_duration", sa.BigInteger),
    sa.Column("heartbeat_timeout", sa.BigInteger),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Index("workflows_project", "project", "id"),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("config", JsonText, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Index("jobs_project", "project", "id"),
)

# The order of execution again, so that one statement reads a job with its workflows, and a
# workflow knows who uses it.
job_workflows = sa.Table(
    "job_workflows",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("workflow_id", sa.Text, nullable=False),
    sa.Index("job_workflows_workflow", "workflow_id"),
)

# What a job run executes. It never changes, so it is read without a lock.
job_runs = sa.Table(
    "job_runs",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("config", JsonText, nullable=False),
    sa.Column("plan", JsonText, nullable=False),
)
