"""The mailbox, against a model that is slow and plain."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime import protocol
from realtime.errors import MailboxFull
from realtime.mailbox import Mailbox
from realtime.protocol import Fields, Kind


class Owner:
    """Counts how often it was woken; may take something out when it is pressed."""

    def __init__(self) -> None:
        self.woken = 0
        self.relief: Callable[[], None] = lambda: None

    def owed(self) -> None:
        self.woken += 1

    def pressed(self) -> None:
        self.relief()


def a_mailbox(max_bytes: int = 1_000_000) -> Mailbox:
    return Mailbox(Owner(), max_bytes)


def fields(version: int, **more: int) -> Fields:
    said = {"id": b'"r"', "version": b"%d" % version, "status": b'"QUEUED"'}
    return said | {name: b"%d" % value for name, value in more.items()}


def put_latest(mailbox: Mailbox, id: int, run: str, kind: Kind, version: int, **more: int) -> None:
    said = fields(version, **more)
    line = protocol.change([id], kind, protocol.run_object(said))
    mailbox.put_latest(id, run, kind, said, line)


def taken(mailbox: Mailbox) -> list[dict[str, Any]]:
    found = []
    while lines := mailbox.take():
        found += [json.loads(line) for line in lines]
    assert mailbox.size == 0
    assert not mailbox
    return found


# ---------------------------------------------------------------------------------- conflation


@pytest.mark.parametrize(
    "first, then, becomes",
    [
        (Kind.ENTER, Kind.CHANGE, Kind.ENTER),
        (Kind.CHANGE, Kind.CHANGE, Kind.CHANGE),
        (Kind.ENTER, Kind.LEAVE, Kind.LEAVE),
        (Kind.CHANGE, Kind.LEAVE, Kind.LEAVE),
        (Kind.LEAVE, Kind.ENTER, Kind.ENTER),
        (Kind.LEAVE, Kind.LEAVE, Kind.LEAVE),
        (Kind.CHANGE, Kind.ENTER, Kind.ENTER),
    ],
)
def test_under_pressure_two_states_of_a_run_become_one(
    first: Kind, then: Kind, becomes: Kind
) -> None:
    mailbox = a_mailbox()
    put_latest(mailbox, 1, "r", first, 1, attempt=1)
    put_latest(mailbox, 1, "r", then, 2, durationMs=2)
    [message] = taken(mailbox)
    assert (message["kind"], message["run"]["version"]) == (becomes, 2)
    if then is Kind.CHANGE:
        assert message["run"]["attempt"] == 1
    assert message["run"]["durationMs"] == 2


def test_the_newer_state_takes_the_place_of_the_older() -> None:
    """A checkpoint that stands between covers the older one: what it says must stay true."""
    mailbox = a_mailbox()
    put_latest(mailbox, 1, "r", Kind.CHANGE, 1)
    mailbox.put_checkpoint(protocol.checkpoint("c"))
    put_latest(mailbox, 1, "s", Kind.CHANGE, 1)
    put_latest(mailbox, 1, "r", Kind.CHANGE, 2)
    assert [message["type"] for message in taken(mailbox)] == ["change", "checkpoint", "change"]


def test_nothing_merges_across_a_reset_or_a_live() -> None:
    """Before it the client forgets; what is told after it must not come before."""
    mailbox = a_mailbox()
    put_latest(mailbox, 1, "r", Kind.CHANGE, 1)
    put_latest(mailbox, 2, "r", Kind.CHANGE, 1)
    mailbox.part(1)
    mailbox.put(protocol.reset(1, protocol.ResetReason.EPOCH))
    put_latest(mailbox, 1, "r", Kind.ENTER, 2)
    put_latest(mailbox, 2, "r", Kind.CHANGE, 2)
    said = [(message["type"], message.get("ids")) for message in taken(mailbox)]
    assert said == [("change", [1]), ("change", [2]), ("reset", None), ("change", [1])]


def test_what_is_the_same_for_several_is_said_once() -> None:
    mailbox = a_mailbox()
    said = fields(1)
    line = protocol.change([0], Kind.CHANGE, protocol.run_object(said))
    for id in (3, 1, 2):
        mailbox.put_latest(id, "r", Kind.CHANGE, said, line)
    [message] = taken(mailbox)
    assert message["ids"] == [3, 1, 2]


KINDS = st.sampled_from(Kind)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("latest"), st.integers(1, 2), st.sampled_from("rs"), KINDS),
        st.tuples(st.just("every"), st.integers(1, 2)),
        st.tuples(st.just("page"), st.integers(1, 2)),
        st.tuples(st.just("part"), st.integers(1, 2)),
        st.tuples(st.just("checkpoint")),
        st.tuples(st.just("take")),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_is_put_in_comes_out_in_order_and_merged_by_the_rules(
    steps: list[tuple[Any, ...]],
) -> None:
    mailbox = a_mailbox()
    model: list[dict[str, Any]] = []
    barrier: dict[int, int] = {}
    out: list[dict[str, Any]] = []
    for n, step in enumerate(steps):
        match step:
            case ("latest", id, run, kind):
                put_latest(mailbox, id, run, kind, n, attempt=n)
                old = next(
                    (
                        entry
                        for entry in reversed(model)
                        if entry.get("key") == (id, run) and entry["n"] >= barrier.get(id, 0)
                    ),
                    None,
                )
                if old is None or (kind is Kind.CHANGE and old["kind"] is Kind.LEAVE):
                    model.append({"key": (id, run), "n": n, "kind": kind, "version": n})
                else:
                    if kind is not Kind.CHANGE:
                        old["kind"] = kind
                    old["version"] = n
            case ("every", id):
                mailbox.put(protocol.end(id, protocol.EndReason.COMPLETED))
                model.append({"type": "end", "n": n})
            case ("page", id):
                mailbox.put_page(protocol.snapshot(id, []))
                model.append({"type": "snapshot", "n": n})
            case ("part", id):
                mailbox.part(id)
                barrier[id] = n
            case ("checkpoint",):
                mailbox.put_checkpoint(protocol.checkpoint(str(n)))
                if model and model[-1].get("type") == "checkpoint":
                    model[-1]["cursor"] = str(n)
                else:
                    model.append({"type": "checkpoint", "cursor": str(n), "n": n})
            case ("take",):
                out += [json.loads(line) for line in mailbox.take(60)]
                # What is taken is taken from the front.
                expect(out, model)
                del model[: len(out)]
                out = []
    expect(taken(mailbox), model)
    assert mailbox.pages == 0


def expect(out: list[dict[str, Any]], model: list[dict[str, Any]]) -> None:
    for message, entry in zip(out, model, strict=False):
        if "key" in entry:
            assert (message["kind"], message["run"]["version"], message["ids"]) == (
                entry["kind"],
                entry["version"],
                [entry["key"][0]],
            )
        else:
            assert message["type"] == entry["type"]
            assert message.get("cursor") == entry.get("cursor")


# --------------------------------------------------------------------------------------- bounds


def test_it_is_full_at_its_bound_and_not_before() -> None:
    """What bounds the memory of a connection is this and nothing else."""
    mailbox = a_mailbox(100)
    mailbox.put(b"x" * 60)
    mailbox.put(b"x" * 40)
    with pytest.raises(MailboxFull):
        mailbox.put(b"x")
    assert mailbox.size == 100


def test_a_merged_state_counts_as_what_it_has_become() -> None:
    mailbox = a_mailbox(500)
    for n in range(4):
        put_latest(mailbox, 1, f"r{n}", Kind.CHANGE, n)
    size = mailbox.size
    put_latest(mailbox, 1, "r0", Kind.CHANGE, 5, attempt=10**20)
    assert mailbox.size > size
    with pytest.raises(MailboxFull):
        put_latest(mailbox, 1, "r1", Kind.CHANGE, 6, attempt=10**300)


def test_a_busy_run_of_latest_never_fills_it() -> None:
    mailbox = a_mailbox(500)
    for n in range(1_000):
        put_latest(mailbox, 1, "r", Kind.CHANGE, n)
    assert len(mailbox) == 1


def test_one_line_longer_than_the_bound_is_let_in_alone() -> None:
    """A run with a large payload is nobody's fault; a reader that keeps up must get it."""
    mailbox = a_mailbox(100)
    mailbox.put(b"x" * 1_000)
    with pytest.raises(MailboxFull):
        mailbox.put(b"x")
    assert mailbox.take() == [b"x" * 1_000]


def test_pages_do_not_count() -> None:
    mailbox = a_mailbox(100)
    for _ in range(10):
        mailbox.put_page(b"x" * 90)
    mailbox.put(b"y" * 90)
    assert (mailbox.size, mailbox.pages) == (90, 10)


def test_before_it_is_full_its_owner_may_take_something_out() -> None:
    """A burst within one turn of the loop is no slow reader: the socket had no chance yet."""
    mailbox = a_mailbox(100)
    owner = mailbox.owner
    assert isinstance(owner, Owner)

    def relief() -> None:
        mailbox.take()

    owner.relief = relief
    for _ in range(50):
        mailbox.put(b"x" * 30)
    assert mailbox.size <= 100


def test_its_owner_is_woken_once_for_all_that_waits() -> None:
    mailbox = a_mailbox()
    for _ in range(5):
        mailbox.put(b"x")
    mailbox.take()
    mailbox.put(b"x")
    owner = mailbox.owner
    assert isinstance(owner, Owner)
    assert owner.woken == 2


def test_messages_hold_about_as_much_as_they_may() -> None:
    mailbox = a_mailbox()
    for size in (10, 20, 30, 100, 5):
        mailbox.put(b"x" * size)
    assert [len(line) for line in mailbox.take(35)] == [10, 20]
    assert [len(line) for line in mailbox.take(35)] == [30]
    assert [len(line) for line in mailbox.take(35)] == [100]


def test_what_waits_too_long_is_overdue_however_much_goes_on_behind_it() -> None:
    """Age is that of the oldest entry: a reader that takes a little all the time is not late."""
    mailbox = a_mailbox()
    now = 0.0
    for _ in range(100):
        mailbox.put(b"x")
        mailbox.put(b"y")
        assert not mailbox.is_overdue(now, 5.0)
        mailbox.take(3)
        now += 1.0
    mailbox.put(b"x")
    assert not mailbox.is_overdue(now, 5.0)
    assert not mailbox.is_overdue(now + 5.0, 5.0)
    assert mailbox.is_overdue(now + 5.1, 5.0)
    mailbox.clear()
    assert not mailbox.is_overdue(now + 100.0, 5.0)


def test_a_closed_one_takes_nothing() -> None:
    mailbox = a_mailbox()
    mailbox.put(b"x")
    mailbox.close()
    mailbox.put(b"x")
    mailbox.put_page(b"x")
    mailbox.put_checkpoint(b"x")
    put_latest(mailbox, 1, "r", Kind.CHANGE, 1)
    assert not mailbox.take()
