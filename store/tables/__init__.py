"""The SQL tables, on SQLite and PostgreSQL alike.

JSON is kept as text: the database never looks inside, and a value comes back as it was given.
Times are `timestamptz` on PostgreSQL and microseconds since 1970 on SQLite.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class UtcTime(TypeDecorator[datetime]):
    """An aware time, kept to the microsecond."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.BigInteger())
        return dialect.type_descriptor(sa.DateTime(timezone=True))

    @staticmethod
    def down(value: datetime) -> int:
        """The time as SQLite has it."""
        return (value - _EPOCH) // _MICROSECOND

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return self.down(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        # The driver's own value is the right one on PostgreSQL, and not looked at again.
        return _time if dialect.name == "sqlite" else None


def _time(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


class JsonText(TypeDecorator[Any]):
    """A JSON value as text; None is NULL."""

    impl = sa.Text
    cache_ok = True

    @staticmethod
    def down(value: Any) -> str:
        """The value as it is stored."""
        return _encode(value).decode()

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else self.down(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        return _value


def _value(text: str | None) -> Any:
    return None if text is None else _decode(text)


# SQLite gives out rising numbers only for a column of just this type.
_Sequence = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

log_state = sa.Table(
    "log_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Text, nullable=False),
    # SQLite only; PostgreSQL takes a run's number from the sequence `run_number`.
    sa.Column("last_number", sa.BigInteger, nullable=False),
)

# The newest transaction of each project that retention has cut out of the log.
log_cuts = sa.Table(
    "log_cuts",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("xid", sa.BigInteger, nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("created_at", UtcTime, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("last_xid", sa.BigInteger, nullable=False),
    sa.Column("task_identifier", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("payload", JsonText),
    sa.Column("output", JsonText),
    sa.Column("error", JsonText),
    sa.Column("metadata", JsonText, nullable=False),
    sa.Column("tags", JsonText, nullable=False),
    sa.Column("batch_id", sa.Text),
    sa.Column("parent_run_id", sa.Text),
    sa.Column("root_run_id", sa.Text),
    sa.Column("depth", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("queued_at", UtcTime),
    sa.Column("started_at", UtcTime),
    sa.Column("finished_at", UtcTime),
    sa.Column("delayed_until", UtcTime),
    sa.Column("expired_at", UtcTime),
    sa.Column("executing_since", UtcTime),
    sa.Column("ttl", sa.BigInteger),
    sa.Column("max_duration", sa.BigInteger),
    sa.Column("heartbeat_timeout", sa.BigInteger),
    sa.Column("workflow_id", sa.Text),
    sa.Column("position", sa.Integer),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.Column("cost_in_cents", sa.Float(53), nullable=False),
    sa.Column("base_cost_in_cents", sa.Float(53), nullable=False),
    sa.Column("is_test", sa.Boolean, nullable=False),
    sa.Column("job_id", sa.Text),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("lease_s", sa.Integer),
    # When the server's own clock for the present status runs out; heartbeats have their table.
    sa.Column("due_at", UtcTime),
    # Lists are in the order of `created_at` and `number`: see store/newest.py.
    sa.Index("runs_created", "project", "created_at", "number", unique=True),
    sa.Index("runs_batch", "batch_id", "status", sqlite_where=sa.text("batch_id IS NOT NULL"),
             postgresql_where=sa.text("batch_id IS NOT NULL")),
    sa.Index("runs_parent", "parent_run_id", sqlite_where=sa.text("parent_run_id IS NOT NULL"),
             postgresql_where=sa.text("parent_run_id IS NOT NULL")),
    sa.Index("runs_status", "project", "status", "created_at", "number"),
    sa.Index("runs_task", "project", "task_identifier", "status", "created_at", "number"),
    sa.Index("runs_jobs", "project", "created_at", "number",
             sqlite_where=sa.text("job_id IS NOT NULL"),
             postgresql_where=sa.text("job_id IS NOT NULL")),
    sa.Index("runs_jobs_status", "project", "status", "created_at", "number",
             sqlite_where=sa.text("job_id IS NOT NULL"),
             postgresql_where=sa.text("job_id IS NOT NULL")),
    sa.Index("runs_tests", "project", "created_at", "number",
             sqlite_where=sa.text("is_test"), postgresql_where=sa.text("is_test")),
    sa.Index("runs_due", "due_at", sqlite_where=sa.text("due_at IS NOT NULL"),
             postgresql_where=sa.text("due_at IS NOT NULL")),
    sa.Index("runs_finished", "finished_at", sqlite_where=sa.text("finished_at IS NOT NULL"),
             postgresql_where=sa.text("finished_at IS NOT NULL")),
)  # fmt: skip

run_tags = sa.Table(
    "run_tags",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("tag", sa.Text, primary_key=True),
    # The run's: it is found by these, and lists by tag are in this order.
    sa.Column("created_at", UtcTime, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
)

changes = sa.Table(
    "changes",
    metadata,
    # SQLite only: the place in the log, which on PostgreSQL is the transaction's id.
    sa.Column("seq", _Sequence, primary_key=True, autoincrement=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("xid", sa.BigInteger, nullable=False),
    sa.Column("previous_xid", sa.BigInteger, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("changed", JsonText, nullable=False),
    sa.Column("before", JsonText),
    # SQLite only: the commit's random stamp, by which a cursor knows the log it came from.
    sa.Column("stamp", sa.BigInteger),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("sealed_at", UtcTime),
    # What deleted runs leave behind, so that a complete batch stays complete.
    sa.Column("deleted_counts", JsonText, nullable=False),
    sa.Column("deleted_finished_at", UtcTime),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("task_identifier", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("outcomes", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Index("answers_created", "created_at"),
)

used_tokens = sa.Table(
    "used_tokens",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("token_id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("task_identifier", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("used_at", UtcTime, nullable=False),
    sa.Index("used_tokens_at", "used_at"),
)

heartbeats = sa.Table(
    "heartbeats",
    metadata,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("due_at", UtcTime, nullable=False),
    # Whether the run goes to another worker then, as against: is lost.
    sa.Column("leased", sa.Boolean, nullable=False),
    sa.Index("heartbeats_due", "due_at"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("read_only", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("revoked_at", UtcTime),
    sa.Index("api_keys_hash", "hash", unique=True),
    sa.Index("api_keys_project", "project"),
)

signing_secrets = sa.Table(
    "signing_secrets",
    metadata,
    sa.Column("kid", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    # From then on it signs no more; what it signed is taken until it is deleted.
    sa.Column("retired_at", UtcTime),
    sa.Index("signing_secrets_project", "project"),
)

revoked_tokens = sa.Table(
    "revoked_tokens",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("token_id", sa.Text, primary_key=True),
    sa.Column("revoked_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
    sa.Index("revoked_tokens_at", "revoked_at"),
)
