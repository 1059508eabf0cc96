"""What the writers told of what they committed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from store.broker import Hint
from store.model import Run
from tests.oracle.ledger import Ledger


class Known:
    """The runs and batches that are there, so that commands and streams can name them."""

    def __init__(self, projects: Sequence[str]) -> None:
        self.projects = projects
        self.runs: dict[str, Run] = {}
        self.deleted: set[str] = set()
        self.batches: dict[str, tuple[str, bool]] = {}
        """Of each batch its project, and whether it is sealed."""
        self.commits = 0
        """How many changes were committed."""
        self.committed: dict[str, int] = {}
        """For each run, how many changes had been committed with its last."""

    def note(self, hint: Hint) -> None:
        """Something was committed."""
        id = hint.change.run_id
        self.commits += 1
        self.committed[id] = self.commits
        if hint.run is None:
            self.batches[id] = (hint.change.project, True)
        elif hint.change.kind == "deleted":
            self.deleted.add(id)
            self.runs.pop(id, None)
        elif id not in self.deleted:
            old = self.runs.get(id)
            if old is None or old.version < hint.run.version:
                self.runs[id] = hint.run

    def begin_again(self, ledgers: Iterable[Ledger]) -> None:
        """Nothing is known but what these say."""
        self.runs, self.deleted, self.batches, self.committed = {}, set(), {}, {}
        for ledger in ledgers:
            self.runs |= ledger.rows
            self.deleted |= ledger.deleted.keys()
            for id in ledger.batch_ids:
                self.batches[id] = (ledger.project, id in ledger.sealed)

    def newest(self, project: str) -> list[Run]:
        """A project's runs among those that came last."""
        return [run for run in list(self.runs.values())[-10:] if run.project == project]

    def batches_of(self, project: str) -> list[str]:
        """All that it has."""
        return [id for id, (of, _) in self.batches.items() if of == project]

    def open_batches(self, project: str) -> list[str]:
        """Those that are not sealed."""
        return [id for id, (of, sealed) in self.batches.items() if of == project and not sealed]

    def other(self, project: str) -> str | None:
        """The other project, if there are two."""
        return next((name for name in self.projects if name != project), None)
