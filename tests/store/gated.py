"""A writer whose commits wait: what comes meanwhile is seen to be gathered, or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from store import writer
from store.commands import Limits, Submission
from store.writer.group import Committed
from store.writer.open_claims import NOTHING, OpenClaim, OpenClaims, Tried
from tests.builders import PROJECT, a_create
from tests.store.asking import until


class Gated:
    """A database whose commits wait for a gate; keeps how many submissions each was of, and how
    many claims went along."""

    dialect = "postgresql"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = asyncio.Event()
        self.sizes: list[int] = []
        self.claims: list[int] = []
        self.open_claims = OpenClaims()
        monkeypatch.setattr(writer, "run_group", self._run_group)

    def _run_group(
        self,
        _connection: Any,
        submissions: Sequence[Submission],
        _limits: Any,
        claims: Sequence[OpenClaim] = (),
    ) -> Any:
        self.sizes.append(len(submissions))
        self.claims.append(len(claims))
        return Committed([[] for _ in submissions], [], 1, [NOTHING for _ in claims])

    async def write(self, work: Callable[[Any], Any]) -> Any:
        committed = work(None)
        await self.open.wait()
        return committed

    async def begin(self, tasks: asyncio.TaskGroup, submissions: int = 1) -> writer.Writer:
        """A writer with the first of so many submissions in flight; the others have come behind."""
        under_test = self.make_writer()
        for _ in range(submissions):
            tasks.create_task(self.submit(under_test))
        await until(lambda: self.sizes)
        return under_test

    def make_writer(self) -> writer.Writer:
        database: Any = self
        return writer.Writer(
            database, Limits(), lambda hints: None, in_flight=2, claims=self.open_claims
        )

    def look(self) -> asyncio.Future[Tried]:
        return self.open_claims.look(OpenClaim(PROJECT, frozenset({"task"}), "w", 60, None))

    @staticmethod
    async def submit(under_test: writer.Writer) -> None:
        await under_test.submit(Submission(project=PROJECT, commands=(a_create(),)))
