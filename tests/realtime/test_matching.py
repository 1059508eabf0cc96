"""The index: whoever a group may concern, and not everybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.matching import Index
from store.model import ChangeKind, Facet, Group, Match, RunStatus, Selection
from tests.builders import a_change, a_group, a_run

PROJECT = "default"


def selection(**target: object) -> Selection:
    return Selection(project=PROJECT, **target)  # type: ignore[arg-type]


SELECTIONS = st.one_of(
    st.builds(selection, run_id=st.sampled_from(["r1", "r2"])),
    st.builds(selection, batch_id=st.sampled_from(["b1", "b2"])),
    st.builds(selection, job_run_id=st.sampled_from(["r1", "r2"])),
    st.builds(
        selection,
        tags=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(tuple),
        match=st.sampled_from(Match),
    ),
    st.builds(selection),
)
TAGS = st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple)
GROUPS = st.builds(
    lambda id, parent, batch, now, befores: a_group(
        a_run(
            id=id,
            parent_run_id=parent,
            batch_id=batch,
            tags=now,
            version=5,
            status=RunStatus.QUEUED,
        ),
        befores=[Facet(RunStatus.QUEUED, tags) for tags in befores],
    ),
    st.sampled_from(["r1", "r2", "r3"]),
    st.sampled_from([None, "r1", "r2"]),
    st.sampled_from([None, "b1", "b3"]),
    TAGS,
    st.lists(TAGS, min_size=1, max_size=3),
)


def concerns(asked: Selection, group: Group) -> bool:
    run = group.run
    assert run is not None
    return asked.covers(run) and any(asked.admits(facet) for facet in group.facets())


@given(st.lists(SELECTIONS, max_size=12), GROUPS, st.data())
def test_it_finds_whom_a_loop_over_all_would_find(
    asked: list[Selection], group: Group, data: st.DataObject
) -> None:
    """Also those whom the run has left with this group, and each of them once."""
    index: Index[int] = Index()
    for member, each in enumerate(asked):
        index.add(member, each)
    gone = (
        set(data.draw(st.lists(st.sampled_from(range(len(asked))), unique=True)))
        if asked
        else set()
    )
    for member in gone:
        assert index.remove(member)
        assert not index.remove(member)
    found = index.candidates(group)
    assert len(found) == len(set(found))
    assert not gone & set(found)
    for member, each in enumerate(asked):
        if member not in gone and concerns(each, group):
            assert member in found


@given(st.lists(SELECTIONS, max_size=12))
def test_nothing_is_left_of_those_who_have_gone(asked: list[Selection]) -> None:
    """A gateway lives for months; a bucket for each run that was ever watched would fill it."""
    index: Index[int] = Index()
    for member, each in enumerate(asked):
        index.add(member, each)
    for member in range(len(asked)):
        index.remove(member)
    buckets = (index._runs, index._parents, index._batches, index._tags, index._all, index._places)
    assert not any(buckets)


def test_who_is_not_concerned_is_not_looked_at() -> None:
    """Cost follows the number of matches, not of subscriptions."""
    index: Index[int] = Index()
    for member in range(1_000):
        index.add(member, selection(run_id=f"run{member}"))
        index.add(1_000 + member, selection(tags=(f"tag{member}", "common")))
    group = a_group(a_run(id="run7", tags=("tag7", "common")))
    assert len(index.candidates(group)) <= 3


def test_a_seal_concerns_the_followers_of_its_batch() -> None:
    index: Index[str] = Index()
    index.add("batch", selection(batch_id="b1"))
    index.add("all", selection())
    seal = a_change(a_run(id="b1"), kind=ChangeKind.SEALED)
    assert index.candidates(Group((seal,), None)) == ["batch"]


def test_a_job_run_concerns_its_followers_by_itself_and_by_its_children() -> None:
    index: Index[str] = Index()
    index.add("job", selection(job_run_id="r1"))
    assert index.candidates(a_group(a_run(id="r1"))) == ["job"]
    assert index.candidates(a_group(a_run(id="r2", parent_run_id="r1"))) == ["job"]
    assert index.candidates(a_group(a_run(id="r2", parent_run_id="r3"))) == []
