"""The run store: runs, batches, tags, the change log, keys and tokens.

The tables are written out here and not taken from `store.tables`, which moves on.
"""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NOT_NULL: dict[str, Any] = {"nullable": False}


def upgrade() -> None:
    postgres = op.get_bind().dialect.name == "postgresql"
    time = sa.DateTime(timezone=True) if postgres else sa.BigInteger()

    state = op.create_table(
        "log_state",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("epoch", sa.Text, **NOT_NULL),
        sa.Column("last_number", sa.BigInteger, **NOT_NULL),
    )
    op.bulk_insert(state, [{"id": 1, "epoch": secrets.token_hex(8), "last_number": 0}])
    op.create_table(
        "log_cuts",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("xid", sa.BigInteger, **NOT_NULL),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created_at", time, **NOT_NULL),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("number", sa.BigInteger, **NOT_NULL),
        sa.Column("version", sa.BigInteger, **NOT_NULL),
        sa.Column("last_xid", sa.BigInteger, **NOT_NULL),
        sa.Column("task_identifier", sa.Text, **NOT_NULL),
        sa.Column("status", sa.Text, **NOT_NULL),
        sa.Column("payload", sa.Text),
        sa.Column("output", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("metadata", sa.Text, **NOT_NULL),
        sa.Column("tags", sa.Text, **NOT_NULL),
        sa.Column("batch_id", sa.Text),
        sa.Column("parent_run_id", sa.Text),
        sa.Column("root_run_id", sa.Text),
        sa.Column("depth", sa.Integer, **NOT_NULL),
        sa.Column("attempt", sa.Integer, **NOT_NULL),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("updated_at", time, **NOT_NULL),
        sa.Column("queued_at", time),
        sa.Column("started_at", time),
        sa.Column("finished_at", time),
        sa.Column("delayed_until", time),
        sa.Column("expired_at", time),
        sa.Column("executing_since", time),
        sa.Column("ttl", sa.BigInteger),
        sa.Column("max_duration", sa.BigInteger),
        sa.Column("heartbeat_timeout", sa.BigInteger),
        sa.Column("workflow_id", sa.Text),
        sa.Column("position", sa.Integer),
        sa.Column("duration_ms", sa.BigInteger, **NOT_NULL),
        sa.Column("cost_in_cents", sa.Float(53), **NOT_NULL),
        sa.Column("base_cost_in_cents", sa.Float(53), **NOT_NULL),
        sa.Column("is_test", sa.Boolean, **NOT_NULL),
        sa.Column("due_at", time),
    )
    op.create_index("runs_number", "runs", ["project", "number"], unique=True)
    op.create_index("runs_status", "runs", ["project", "status", "number"])
    op.create_index("runs_task", "runs", ["project", "task_identifier", "number"])
    for name, columns in (
        ("runs_batch", ["batch_id", "status"]),
        ("runs_parent", ["parent_run_id"]),
        ("runs_due", ["due_at"]),
        ("runs_finished", ["finished_at"]),
    ):
        where = sa.text(f"{columns[0]} IS NOT NULL")
        op.create_index(name, "runs", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "run_tags",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("tag", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("sealed_at", time),
        sa.Column("deleted_counts", sa.Text, **NOT_NULL),
        sa.Column("deleted_finished_at", time),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("task_identifier", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, **NOT_NULL),
    )
    op.create_table(
        "answers",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, **NOT_NULL),
        sa.Column("outcomes", sa.Text, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
    )
    op.create_index("answers_created", "answers", ["created_at"])
    op.create_table(
        "used_tokens",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("token_id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, **NOT_NULL),
        sa.Column("task_identifier", sa.Text, **NOT_NULL),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("used_at", time, **NOT_NULL),
    )
    op.create_index("used_tokens_at", "used_tokens", ["used_at"])
    op.create_table(
        "heartbeats",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("due_at", time, **NOT_NULL),
    )
    op.create_index("heartbeats_due", "heartbeats", ["due_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("name", sa.Text, **NOT_NULL),
        sa.Column("hash", sa.Text, **NOT_NULL),
        sa.Column("read_only", sa.Boolean, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("revoked_at", time),
    )
    op.create_index("api_keys_hash", "api_keys", ["hash"], unique=True)
    op.create_index("api_keys_project", "api_keys", ["project"])
    op.create_table(
        "signing_secrets",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, **NOT_NULL),
        sa.Column("secret", sa.Text, **NOT_NULL),
        sa.Column("created_at", time, **NOT_NULL),
        sa.Column("retired_at", time),
    )
    op.create_index("signing_secrets_project", "signing_secrets", ["project"])
    op.create_table(
        "revoked_tokens",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("token_id", sa.Text, primary_key=True),
        sa.Column("revoked_at", time, **NOT_NULL),
        sa.Column("expires_at", time, **NOT_NULL),
    )
    op.create_index("revoked_tokens_at", "revoked_tokens", ["revoked_at"])
    if postgres:
        _postgres_log()
    else:
        _sqlite_log()


def _postgres_log() -> None:
    op.execute("CREATE SEQUENCE run_number")
    # Room in each page for the next versions of its rows: they then need no new index entries.
    op.execute("ALTER TABLE runs SET (fillfactor = 80)")
    # No unique key on run and version is possible here: it would have to hold `at`. Versions
    # are unique because they are given under the row's lock.
    op.execute(
        """
        CREATE TABLE changes (
            project text NOT NULL,
            run_id text NOT NULL,
            version bigint NOT NULL,
            kind text NOT NULL,
            xid bigint NOT NULL,
            previous_xid bigint NOT NULL,
            at timestamptz NOT NULL,
            changed text NOT NULL,
            before text,
            stamp bigint
        ) PARTITION BY RANGE (at)
        """
    )
    op.execute("CREATE INDEX changes_xid ON changes (project, xid)")
    op.execute("CREATE INDEX changes_run ON changes (run_id, version)")


def _sqlite_log() -> None:
    # AUTOINCREMENT: plain rowids start again after the log was emptied.
    op.execute(
        """
        CREATE TABLE changes (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            project TEXT NOT NULL,
            run_id TEXT NOT NULL,
            version BIGINT NOT NULL,
            kind TEXT NOT NULL,
            xid BIGINT NOT NULL,
            previous_xid BIGINT NOT NULL,
            at BIGINT NOT NULL,
            changed TEXT NOT NULL,
            before TEXT,
            stamp BIGINT
        )
        """
    )
    op.execute("CREATE UNIQUE INDEX changes_run ON changes (run_id, version)")
    op.execute("CREATE INDEX changes_at ON changes (at)")
