"""That the log can't be read, and that it can again: each connection hears of both."""

from __future__ import annotations

from tests.doubles import RecordingOutlet
from tests.realtime.hub.setting import RUNS, setting
from tests.realtime.serving import until

RUN = {"type": "subscribeToRun", "runId": "r"}


def is_fresh(outlet: RecordingOutlet) -> bool:
    """Whether that is the last that it was told of the log."""
    return [each for each in outlet.types() if each in ("stale", "fresh")][-1] == "fresh"


async def test_who_was_refused_while_the_store_was_away_is_told_when_it_joins_that_it_is_back() -> (
    None
):
    """It had no subscription when the others were told; its page said `stale` for as long as it
    was open, over data that was not.

    Taken out: `mark_stale` of a project that is not stale, as it is joined; no `fresh` came.
    """
    async with setting(tail_s=0.02, join_s=0.3) as s:
        s.store.create("r")
        other = await s.connect(RUNS)
        s.store.away = True
        await until(lambda: "stale" in other.types())
        outlet = await s.connect(RUN, live=False)
        await until(lambda: "error" in outlet.types())
        s.store.away = False
        await until(lambda: is_fresh(other))
        await s.ask(outlet, RUN | {"id": 2})
        await until(lambda: "live" in outlet.types())
        await until(lambda: is_fresh(outlet), "fresh")


async def test_who_unsubscribed_while_the_store_was_away_is_told_when_it_joins_that_it_is_back() -> (
    None
):
    """As above, by its own doing.

    Taken out: the same; no `fresh` came.
    """
    async with setting(tail_s=0.02) as s:
        s.store.create("r")
        other = await s.connect(RUNS)
        outlet = await s.connect(RUN)
        s.store.away = True
        await until(lambda: "stale" in outlet.types())
        await s.ask(outlet, {"type": "unsubscribe", "id": 1})
        s.store.away = False
        await until(lambda: is_fresh(other))
        await s.ask(outlet, RUN | {"id": 2})
        await until(lambda: outlet.types().count("live") == 2)
        await until(lambda: is_fresh(outlet), "fresh")
