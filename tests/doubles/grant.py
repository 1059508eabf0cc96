"""Stands in for what a token allows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from store.model import Facet, Run, Selection


@dataclass(frozen=True)
class FakeGrant:
    """Allows everything, or just the runs with certain tags or ids."""

    project: str = "default"
    expires_at: datetime | None = None
    skip: frozenset[str] = frozenset()
    token_id: str | None = None
    tags: frozenset[str] | None = None
    runs: frozenset[str] = frozenset()

    @property
    def sight(self) -> tuple[object, ...]:
        return self.project, self.skip, self.tags, self.runs

    def covers(self, run: Run, facet: Facet) -> bool:
        if run.project != self.project:
            return False
        return self.tags is None or run.id in self.runs or bool(self.tags & set(facet.tags))

    def allows(self, selection: Selection) -> bool:
        if selection.project != self.project:
            return False
        if self.tags is None or selection.run_id is not None:
            return True
        return bool(selection.tags) and self.tags.issuperset(selection.tags)
