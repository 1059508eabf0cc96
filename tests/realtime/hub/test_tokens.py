"""A fresh token on a connection that lives: what it does not cover is shown no more."""

from __future__ import annotations

import asyncio

import pytest

from realtime.auth.grants import Grant
from store.model import RunStatus
from tests.doubles import FakeGrant, FakeStore, RecordingOutlet, of_type
from tests.realtime.hub.setting import ANOTHER_TOKEN, Held, setting
from tests.realtime.serving import until
from tests.realtime.watching import turns

GRANTS = FakeGrant(tags=frozenset("a")), FakeGrant(tags=frozenset("b"))
"""Of the first token and of the next: the run's tag, and another."""
RUN = {"type": "subscribeToRun", "runId": "r"}


async def test_a_fresh_token_is_held_against_the_run_as_soon_as_the_store_can_be_read() -> None:
    """The run may never change again.

    Taken out: the second try; the stream stayed, under a token that does not cover it.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect(RUN, grants=GRANTS)
        s.store.away = True
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: "authenticated" in outlet.types())
        await turns(50)  # the first look fails
        s.store.away = False
        await until(lambda: "end" in outlet.types(), "end")
        assert of_type(outlet.said(), "end")[0]["reason"] == "forbidden"


async def test_history_that_waits_its_turn_is_shown_under_the_token_of_that_moment() -> None:
    """And what that does not cover is refused. The next token may cover it again, and whoever went
    live unshown would be told changes of a run that it does not have.

    Taken out: the look at the token when it was its turn, what the one before covered came after
    `authenticated`; the second read, `live` came without a snapshot.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect(grants=GRANTS)
        (connection,) = s.hub.connections
        await until(lambda: "welcome" in outlet.types())
        outlet.writable = False
        for id in (1, 2):
            await s.ask(outlet, RUN | {"id": id})
        # A page of one of them waits for the socket, and one of the other for its turn.
        await until(lambda: connection.mailbox.pages)
        await until(lambda: s.store.reads.count("snapshot") == 1)
        await turns(50)
        await s.ask(outlet, ANOTHER_TOKEN)
        outlet.writable = True
        connection.writable()
        await until(lambda: {"end", "error"} <= set(outlet.types()), "both are over")
        told = [each for each in outlet.said() if each["type"] != "welcome"]
        of_the_first = [each["type"] for each in told if each.get("id") != 2]
        assert of_the_first == ["snapshot", "authenticated", "live", "end"]
        of_the_second = [(each["type"], each.get("code")) for each in told if each.get("id") == 2]
        assert of_the_second == [("error", "forbidden")]


# ------------------------------------------------------------------------- one run, and its states


async def test_a_page_that_waits_its_turn_is_not_held_against_a_token_that_came_after_it() -> None:
    """It shows the run as it was under the token before: as it is, the next one covers it. Each
    token covered the run all the time, and its stream was refused.

    Taken out: the second read for a page whose token was replaced; an `error` for the second.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect(grants=GRANTS)
        connection = s.connection(outlet)
        await until(lambda: "welcome" in outlet.types())
        outlet.writable = False
        for id in (1, 2):
            await s.ask(outlet, RUN | {"id": id})
        await until(lambda: connection.mailbox.pages)
        await turns(50)
        s.store.update("r", tags=["a", "b"])
        await s.ask(outlet, ANOTHER_TOKEN)
        outlet.writable = True
        connection.writable()
        await until(lambda: outlet.types().count("live") + outlet.types().count("error") == 2)
        assert "error" not in outlet.types()
        s.store.update("r", metadata={"n": 1})
        await until(lambda: told_of(outlet, version=3) == {1, 2}, "both go on")
        assert "end" not in outlet.types()


async def test_a_page_that_is_being_read_is_not_held_against_a_token_that_came_after_it() -> None:
    """As above, of a page that has not come from the store yet.

    Taken out: the second read for a page whose token was replaced; an `error` and no snapshot.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        page = Held(s.store, "snapshot")
        outlet = await s.connect(RUN, live=False, grants=GRANTS)
        await page.reached.wait()
        s.store.update("r", tags=["a", "b"])
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: "authenticated" in outlet.types())
        page.let_go()
        await until(lambda: {"live", "error"} & set(outlet.types()))
        assert "error" not in outlet.types()
        s.store.update("r", metadata={"n": 1})
        await until(lambda: told_of(outlet, version=3) == {1}, "it goes on")
        assert "end" not in outlet.types()


async def test_a_late_hint_of_what_the_token_before_covered_ends_no_stream() -> None:
    """It tells of the run as it was under that token; as it is, this one covers it.

    Taken out: the look into the store before a stream ends that the token never fitted; `end` with
    `forbidden`.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect(RUN, grants=GRANTS)
        await s.settled()
        s.broker.at_once = False
        s.store.update("r", metadata={"n": 1})
        s.store.update("r", tags=["a", "b"])
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: "authenticated" in outlet.types())
        s.store.update("r", metadata={"n": 2})
        while s.broker.waiting:
            s.broker.deliver(0)
        await until(lambda: told_of(outlet, version=4) or "end" in outlet.types())
        assert "end" not in outlet.types()


def told_of(outlet: RecordingOutlet, *, version: int) -> set[int]:
    """The subscriptions that were told a change to that version."""
    changes = of_type(outlet.said(), "change")
    return {id for each in changes if each["run"]["version"] == version for id in each["ids"]}


async def test_what_only_the_next_token_covers_takes_no_place_before_it_is_there() -> None:
    """Under `latest` the newer change takes the place of the older one, and that is before
    `authenticated`: whoever reads in order was shown what the token of that place does not cover.

    Taken out: `mailbox.part` where the wish is made anew; a run with the tag b alone came before
    `authenticated`.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect(RUN | {"delivery": "latest"}, grants=GRANTS)
        connection = s.connection(outlet)
        await s.settled()
        outlet.writable = False
        s.store.update("r", tags=["a", "b"])
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: connection.session.grant is GRANTS[1])
        s.store.update("r", tags=["b"])
        await turns(50)
        outlet.writable = True
        connection.writable()
        await until(lambda: told_of(outlet, version=3))
        said = [each for each in outlet.said() if each["type"] in ("change", "authenticated")]
        told = [each["run"]["tags"] if each["type"] == "change" else "token" for each in said]
        assert told == [["a", "b"], "token", ["b"]]


async def test_a_run_of_which_the_final_state_can_not_be_shown_is_deleted_and_not_completed() -> (
    None
):
    """It would enter with the next token, and is gone before its payload was read. Whoever is told
    `completed` has seen what came of the run, or takes what it saw last for it.

    Taken out: the other reason of a run that is gone; `completed`, after QUEUED.
    """
    async with setting(payload_cache_bytes=0) as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect(RUN, grants=GRANTS)
        await s.settled()
        s.store.held = asyncio.Event()
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: "authenticated" in outlet.types())
        s.store.update("r", tags=["b"], status=RunStatus.COMPLETED)
        s.store.write(lambda tx: tx.delete("r"))
        s.store.held.set()
        await until(lambda: "end" in outlet.types())
        assert of_type(outlet.said(), "end")[0]["reason"] == "deleted"


# -------------------------------------------------------------------------- a job run's children

KEY = Grant(project="default", full=True, key_id="k")
OF_THE_JOB_RUN = Grant(project="default", scopes=frozenset({"read:runs:job"}), token_id="t")
"""It covers the steps, and no other child."""
ALSO_OF_A_TASK = Grant(
    project="default", scopes=frozenset({"read:runs:job", "read:tasks:child"}), token_id="u"
)
JOB_RUN = {"type": "subscribeToJobRun", "jobRunId": "job"}


def make_job_run(store: FakeStore) -> None:
    """With a step, and a child that is none."""
    store.create("job", task_identifier="job_1")
    store.create("step", parent_run_id="job", workflow_id="wf_1", position=0)
    store.create("child", parent_run_id="job", task_identifier="child")


def shown_anew(outlet: RecordingOutlet) -> set[str]:
    """What it was shown since its stream has started again for another token."""
    said = outlet.said()
    (reset,) = (each for each in said if each["type"] == "reset")
    assert reset["reason"] == "token"
    snapshots = of_type(said[said.index(reset) :], "snapshot")
    return {run["id"] for each in snapshots for run in each["runs"]}


async def test_a_token_that_covers_fewer_children_of_a_job_run_starts_its_stream_again() -> None:
    """There is no change by which the others would leave: the client held them for ever, as they
    were under the token before.

    Taken out: the reset of a job run's stream for another sight; neither `reset` nor anything of
    the child came.
    """
    async with setting() as s:
        make_job_run(s.store)
        outlet = await s.connect(JOB_RUN, grants=[KEY, OF_THE_JOB_RUN])
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: outlet.types().count("live") == 2, "it starts again")
        assert shown_anew(outlet) == {"job", "step"}


@pytest.mark.parametrize("wider", [KEY, ALSO_OF_A_TASK], ids=["key", "token"])
async def test_a_token_that_covers_more_children_of_a_job_run_starts_its_stream_again(
    wider: Grant,
) -> None:
    """Else the next change of such a child is one of a run that the client does not hold.

    Taken out: the reset of a job run's stream for another sight; the child was not shown.
    """
    async with setting() as s:
        make_job_run(s.store)
        outlet = await s.connect(JOB_RUN, grants=[OF_THE_JOB_RUN, wider])
        await s.ask(outlet, ANOTHER_TOKEN)
        await until(lambda: outlet.types().count("live") == 2, "it starts again")
        assert shown_anew(outlet) == {"job", "step", "child"}
