"""Claims in a test: runs that are queued for one, and whoever asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store import RunStore
from store.claims import Claims
from store.commands import Command, Submission
from store.model import Run, RunStatus
from store.writer.group import run_group
from store.writer.open_claims import OpenClaim, Tried
from tests.builders import PROJECT
from tests.store.asking import create


async def queued(store: RunStore, task: str, **new: Any) -> Run:
    return await create(store, task_identifier=task, **new)


async def claim(store: RunStore, *tasks: str, lease_s: int = 60, **how: Any) -> Run | None:
    return await store.claims.claim(PROJECT, tasks, "worker-1", lease_s, **how)


def a_claim(*tasks: str, looks: bool = False) -> OpenClaim:
    made = OpenClaim(PROJECT, frozenset(tasks), "w", 60, None)
    made.looks = looks
    return made


async def group_of(
    store: RunStore, *commands: Command, claims: Sequence[OpenClaim]
) -> list[Run | None]:
    """What claims are given that one transaction takes along, carried out after the commands."""
    submission = Submission(project=PROJECT, commands=commands)
    submissions = [submission] if commands else []
    committed = await store.database.write(run_group, submissions, store.limits, claims)
    tried = committed.tried
    assert all(isinstance(one, Tried) for one in tried)
    return [one.run for one in tried if isinstance(one, Tried)]


async def has_open(claims: Claims, count: int) -> bool:
    return claims.open >= count


async def stands_at(store: RunStore, run: Run, status: RunStatus) -> bool:
    return (await store.get_run(PROJECT, run.id)).status == status
