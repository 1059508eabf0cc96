"""`client.batches`: runs made together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from runstream.commands import NewRun
from runstream.http import Http, part
from runstream.models import AnyRun, Batch, Task
from runstream.resources.runs import typed


@dataclass(frozen=True)
class MadeBatch:
    """A new batch and the runs made with it, in the order of the items."""

    batch: Batch
    runs: Sequence[AnyRun]

    @property
    def id(self) -> str:
        """The batch's id."""
        return self.batch.id


class _Made(msgspec.Struct):
    batch: Batch
    runs: list[AnyRun]


class _Runs(msgspec.Struct):
    runs: list[AnyRun]


class Batches:
    """Calls about batches."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        items: Iterable[NewRun[Any, Any]] = (),
        *,
        sealed: bool | None = None,
        command_key: str | None = None,
    ) -> MadeBatch:
        """Makes a batch of these runs (at most 1,000); sealed if there are any, unless said otherwise.

        All of them are made, or none.
        """
        new = list(items)
        body: dict[str, Any] = {"items": [item.body() for item in new]} if new else {}
        if sealed is not None:
            body["sealed"] = sealed
        made = await self._http.call(
            _Made, "POST", "/v1/batches", body=body, command_key=command_key
        )
        return MadeBatch(made.batch, _typed(made.runs, new))

    async def get(self, batch_id: str) -> Batch:
        """The batch as it stands."""
        return await self._http.call(Batch, "GET", _path(batch_id))

    async def add(
        self,
        batch_id: str,
        items: Iterable[NewRun[Any, Any]],
        *,
        command_key: str | None = None,
    ) -> Sequence[AnyRun]:
        """Makes runs in a batch that is not sealed; `Conflict` if it is."""
        new = list(items)
        made = await self._http.call(
            _Runs,
            "POST",
            _path(batch_id, "items"),
            body={"items": [item.body() for item in new]},
            command_key=command_key,
        )
        return _typed(made.runs, new)

    async def seal(self, batch_id: str, *, command_key: str | None = None) -> Batch:
        """Lets no more runs in; the batch is complete when all it has are final."""
        return await self._http.call(
            Batch, "POST", _path(batch_id, "seal"), command_key=command_key
        )


def _path(batch_id: str, *more: str) -> str:
    return "/".join(("/v1/batches", part(batch_id), *more))


def _typed(runs: list[AnyRun], items: list[NewRun[Any, Any]]) -> list[AnyRun]:
    tasks = {item.task.name: item.task for item in items if isinstance(item.task, Task)}
    return [typed(run, tasks.get(run.task_identifier)) for run in runs]
