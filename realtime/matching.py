"""Topics: which subscriptions a group may concern, by index and not by loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from store.model import ChangeKind, Group, Match, Selection

MemberT = TypeVar("MemberT")

# Ordered, so that what is matched does not depend on hashes; a set would do otherwise.
_Bucket = dict[MemberT, None]


class Index(Generic[MemberT]):
    """The subscriptions of one project, by what they are about.

    It finds every member whose selection has the group's run before or after one of its changes,
    and not many more: the filter behind it is the caller's.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Bucket[MemberT]] = {}
        self._parents: dict[str, _Bucket[MemberT]] = {}
        self._batches: dict[str, _Bucket[MemberT]] = {}
        self._tags: dict[str, _Bucket[MemberT]] = {}
        self._all: _Bucket[MemberT] = {}
        # Where each member is, so that it is found again also when the tags' buckets have grown.
        self._places: dict[MemberT, list[tuple[dict[str, _Bucket[MemberT]] | None, str]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[MemberT]:
        return iter(list(self._places))

    def __contains__(self, member: MemberT) -> bool:
        return member in self._places

    def add(self, member: MemberT, selection: Selection) -> None:
        """Finds the member from now on. It must not be in it."""
        assert member not in self._places
        places = self._places[member] = list(self._topics(selection))
        for buckets, topic in places:
            bucket = self._all if buckets is None else buckets.setdefault(topic, {})
            bucket[member] = None

    def remove(self, member: MemberT) -> bool:
        """Finds it no more. False if it was not in it."""
        places = self._places.pop(member, None)
        if places is None:
            return False
        for buckets, topic in places:
            if buckets is None:
                del self._all[member]
                continue
            bucket = buckets[topic]
            del bucket[member]
            if not bucket:
                del buckets[topic]
        return True

    def candidates(self, group: Group) -> list[MemberT]:
        """Whoever the group may concern, each once."""
        if group.first.kind is ChangeKind.SEALED:
            return list(self._batches.get(group.first.run_id, ()))
        run = group.run
        if run is None:
            return []
        hit: list[_Bucket[MemberT]] = [self._all] if self._all else []
        for buckets, topic in (
            (self._runs, run.id),
            (self._parents, run.parent_run_id),
            (self._batches, run.batch_id),
        ):
            if topic is not None and (bucket := buckets.get(topic)):
                hit.append(bucket)
        if self._tags:
            tags: set[str] = set()
            for facet in group.facets():
                if facet is not None:
                    tags.update(facet.tags)
            hit.extend(bucket for tag in sorted(tags) if (bucket := self._tags.get(tag)))
        if not hit:
            return []
        if len(hit) == 1:
            return list(hit[0])
        # Who asked for any of several tags may stand in several buckets.
        found: _Bucket[MemberT] = {}
        for bucket in hit:
            found |= bucket
        return list(found)

    def of_batch(self, batch_id: str) -> list[MemberT]:
        """Whoever follows that batch."""
        return list(self._batches.get(batch_id, ()))

    def _topics(
        self, selection: Selection
    ) -> Iterator[tuple[dict[str, _Bucket[MemberT]] | None, str]]:
        if selection.run_id is not None:
            yield self._runs, selection.run_id
        elif selection.batch_id is not None:
            yield self._batches, selection.batch_id
        elif selection.job_run_id is not None:
            yield self._runs, selection.job_run_id
            yield self._parents, selection.job_run_id
        elif selection.tags and selection.match is Match.ANY:
            for tag in selection.tags:
                yield self._tags, tag
        elif selection.tags:
            # A run that has all of them has this one. The least crowded, since what many
            # subscribe to is likely what many runs have.
            yield self._tags, min(selection.tags, key=lambda tag: len(self._tags.get(tag, ())))
        else:
            yield None, ""
