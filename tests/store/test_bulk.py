"""Many rows at once: the same on both databases, whatever they hold."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import bulk
from store.runs import RunStore
from store.tables import used_tokens
from store.tables.jobs import job_runs
from tests.builders import AT

TOKENS = ("token_id", "project", "run_id", "task_identifier", "used_at")


def token(name: str, run_id: str) -> tuple[Any, ...]:
    return (name, "p", run_id, "task", AT)


def all_tokens(connection: Connection) -> dict[str, str]:
    columns = sa.select(used_tokens.c.token_id, used_tokens.c.run_id)
    return {row.token_id: row.run_id for row in connection.execute(columns)}


async def test_writes_of_every_kind_go_together(store: RunStore) -> None:
    def work(connection: Connection) -> None:
        with bulk.together(connection) as writes:
            writes.insert(used_tokens, TOKENS, [token(name, "run_1") for name in "abc"])
        with bulk.together(connection) as writes:
            writes.delete(used_tokens, "token_id", ["a", "none"])
            writes.update(used_tokens, ("token_id", "run_id"), [("b", "run_2"), ("none", "run_9")])
            writes.insert(job_runs, ("run_id", "config", "plan"), [("run_1", {"a": "ü"}, [])])
            writes.insert(used_tokens, TOKENS, [token("d", "run_3")])

    await store.database.write(work)
    assert await store.database.read(all_tokens) == {"b": "run_2", "c": "run_1", "d": "run_3"}

    def kept(connection: Connection) -> Any:
        return connection.execute(sa.select(job_runs)).one()

    assert (await store.database.read(kept))[:3] == ("run_1", {"a": "ü"}, [])


async def test_many_kinds_of_updates_go_too(store: RunStore) -> None:
    """More than go along with the rest."""
    names = ("run_id", "task_identifier", "idempotency_key", "used_at")

    def work(connection: Connection) -> None:
        with bulk.together(connection) as writes:
            writes.insert(used_tokens, TOKENS, [token(name, "run_1") for name in "abcd"])
        with bulk.together(connection) as writes:
            for id, name in zip("abcd", names, strict=True):
                value = AT if name == "used_at" else f"new {name}"
                writes.update(used_tokens, ("token_id", name), [(id, value)])
            writes.insert(job_runs, ("run_id", "config", "plan"), [])
            writes.insert(used_tokens, TOKENS, [token("e", "run_1")])

    await store.database.write(work)

    def changed(connection: Connection) -> list[Any]:
        rows = connection.execute(sa.select(used_tokens).order_by(used_tokens.c.token_id))
        return [getattr(row, name) for row, name in zip(rows, names, strict=False)]

    assert await store.database.read(changed) == [
        "new run_id", "new task_identifier", "new idempotency_key", AT,
    ]  # fmt: skip
    assert len(await store.database.read(all_tokens)) == 5


async def test_what_was_sent_is_not_sent_again(store: RunStore) -> None:
    def work(connection: Connection) -> None:
        with bulk.together(connection) as writes:
            writes.insert(used_tokens, TOKENS, [token("a", "run_1")])
            writes.send()
            writes.update(used_tokens, ("token_id", "run_id"), [("a", "run_2")])

    await store.database.write(work)
    assert await store.database.read(all_tokens) == {"a": "run_2"}


async def test_nothing_to_write_asks_the_database_nothing(store: RunStore) -> None:
    def work(connection: Connection) -> None:
        with bulk.together(connection) as writes:
            writes.insert(used_tokens, TOKENS, [])
            writes.update(used_tokens, ("token_id", "run_id"), [])
            writes.delete(used_tokens, "token_id", [])
        connection.rollback()

    await store.database.write(work)


async def test_a_block_that_fails_fails(store: RunStore) -> None:
    def work(connection: Connection) -> None:
        with bulk.together(connection) as writes:
            writes.insert(used_tokens, TOKENS, [token("a", "run_1")])
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await store.database.write(work)
    assert await store.database.read(all_tokens) == {}
