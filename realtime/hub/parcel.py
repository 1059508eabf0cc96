"""A group on its way to many: each verdict found once, each line written once."""

from __future__ import annotations

from collections.abc import Sequence

from realtime import protocol
from realtime.protocol import EndReason, Fields, Kind
from realtime.subscription import Verdict, Wish, judge
from store.model import Group, Run, RunStatus

Ids = tuple[int, ...]


class Item:
    """One thing to say of a run; to whom is added by `line`."""

    __slots__ = ("_lines", "_object", "fields", "kind", "run_id")

    def __init__(self, run_id: str, kind: Kind, fields: Fields) -> None:
        self.run_id = run_id
        self.kind = kind
        self.fields = fields
        self._object: bytes | None = None
        self._lines: dict[Ids, bytes] = {}

    def line(self, ids: Ids) -> bytes:
        """The message for these subscriptions of one connection."""
        found = self._lines.get(ids)
        if found is None:
            if self._object is None:
                self._object = protocol.run_object(self.fields)
            found = self._lines[ids] = protocol.change(ids, self.kind, self._object)
        return found


class Parcel:
    """What a group means to each wish, and how that is said."""

    def __init__(self, group: Group, payload: bytes | None, *, gone: bool = False) -> None:
        self.group = group
        self._payload = payload
        self._gone = gone
        """The run was deleted meanwhile: its payload is nowhere."""
        self._verdicts: dict[Wish, Verdict] = {}
        self._items: dict[tuple[object, ...], tuple[Item, ...]] = {}
        self._wholes: dict[frozenset[str], Fields] = {}
        self._statuses: dict[int, RunStatus] | None = None

    def verdict(self, wish: Wish, group: Group | None = None) -> Verdict:
        """What it means to the wish; with `group`, what that last part of it does."""
        if group is not None and group is not self.group:
            return self._settled(wish, judge(wish, group))
        found = self._verdicts.get(wish)
        if found is None:
            found = self._verdicts[wish] = self._settled(wish, judge(wish, self.group))
        return found

    def _settled(self, wish: Wish, verdict: Verdict) -> Verdict:
        if verdict.kind is Kind.ENTER and self._gone and "payload" not in wish.hidden:
            # It can't be shown whole any more, and its deletion is on the way.
            assert self.group.run is not None
            return verdict._replace(
                kind=Kind.LEAVE,
                status=self.group.run.status,
                lost=True,
                end=None if verdict.end is None else EndReason.DELETED,
            )
        return verdict

    def lacks_payload(self, verdict: Verdict, wish: Wish) -> bool:
        """Whether it takes the run's payload to say it, and that is not at hand."""
        return (
            verdict.kind is Kind.ENTER
            and self._payload is None
            and "payload" not in wish.hidden
            and self.group.run is not None
            and not self.group.run.has_payload
        )

    def items(self, verdict: Verdict, wish: Wish) -> Sequence[Item]:
        """What is to be said, in order. The same object for all to whom the same is said."""
        if verdict.kind is None:
            return ()
        changes = verdict.changes
        first, last = changes[0].version, changes[-1].version
        hidden = frozenset[str]() if verdict.kind is Kind.LEAVE else wish.hidden
        key = (verdict.kind, first, last, verdict.status, hidden)
        found = self._items.get(key)
        if found is None:
            found = self._items[key] = tuple(self._write(verdict, hidden))
        return found

    def _write(self, verdict: Verdict, hidden: frozenset[str]) -> list[Item]:
        run = self.group.run
        assert run is not None
        assert verdict.kind is not None
        if verdict.kind is Kind.ENTER:
            return [Item(run.id, Kind.ENTER, self._whole(run, hidden))]
        if verdict.kind is Kind.LEAVE:
            last = verdict.changes[-1]
            fields = protocol.brief_run(run, last.version, verdict.status or run.status, last.at)
            return [Item(run.id, Kind.LEAVE, fields)]
        statuses = self._status_after()
        return [
            Item(
                run.id,
                Kind.CHANGE,
                protocol.without(
                    protocol.changed_run(run, change, statuses[change.version]), hidden
                ),
            )
            for change in verdict.changes
        ]

    def _whole(self, run: Run, hidden: frozenset[str]) -> Fields:
        whole = self._wholes.get(hidden)
        if whole is None:
            whole = protocol.without(protocol.whole_run(run, self._payload), hidden)
            self._wholes[hidden] = whole
        return whole

    def _status_after(self) -> dict[int, RunStatus]:
        """The status after each version."""
        if self._statuses is None:
            changes, facets = self.group.changes, self.group.facets()
            assert self.group.run is not None
            self._statuses = {
                change.version: self.group.run.status if after is None else after.status
                for change, after in zip(changes, facets[1:], strict=True)
            }
        return self._statuses
