"""A fresh token on a connection that lives: what it does not cover is shown no more."""

from __future__ import annotations

from tests.doubles import FakeGrant, of_type
from tests.realtime.hub.setting import protocol_line, setting
from tests.realtime.serving import until
from tests.realtime.watching import turns

GRANTS = FakeGrant(tags=frozenset("a")), FakeGrant(tags=frozenset("b"))
"""Of the first token and of the next: the run's tag, and another."""


async def test_a_fresh_token_is_held_against_the_run_as_soon_as_the_store_can_be_read() -> None:
    """The run may never change again.

    Taken out: the second try; the stream stayed, under a token that does not cover it.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect({"type": "subscribeToRun", "runId": "r"}, grants=GRANTS)
        (connection,) = s.hub.connections
        s.store.away = True
        await connection.received(protocol_line({"type": "authenticate", "token": "another"}))
        await until(lambda: "authenticated" in outlet.types())
        await turns(50)  # the first look fails
        s.store.away = False
        await until(lambda: "end" in outlet.types(), "end")
        assert of_type(outlet.said(), "end")[0]["reason"] == "forbidden"


async def test_history_that_waits_its_turn_is_shown_under_the_token_of_that_moment() -> None:
    """And what that does not cover is refused. The next token may cover it again, and whoever went
    live unshown would be told changes of a run that it does not have.

    Taken out: the second look, what the token before it covered came after `authenticated`; the
    refusal, `live` came without a snapshot.
    """
    async with setting() as s:
        s.store.create("r", tags=["a"])
        outlet = await s.connect(grants=GRANTS)
        (connection,) = s.hub.connections
        await until(lambda: "welcome" in outlet.types())
        outlet.writable = False
        for id in (1, 2):
            asked = {"type": "subscribeToRun", "runId": "r", "id": id}
            await connection.received(protocol_line(asked))
        # A page of one of them waits for the socket, and one of the other for its turn.
        await until(lambda: connection.mailbox.pages)
        await until(lambda: s.store.reads.count("snapshot") == 1)
        await turns(50)
        await connection.received(protocol_line({"type": "authenticate", "token": "another"}))
        outlet.writable = True
        connection.writable()
        await until(lambda: {"end", "error"} <= set(outlet.types()), "both are over")
        told = [each for each in outlet.said() if each["type"] != "welcome"]
        types = [each["type"] for each in told]
        assert types == ["snapshot", "authenticated", "live", "error", "end"]
        refused = told[types.index("error")]
        assert (refused["code"], refused["id"]) == ("forbidden", 2)
