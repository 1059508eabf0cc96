"""A session: messages in, effects out, without a socket and without a clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.mailbox import Mailbox
from realtime.protocol import CloseCode, EndReason, ErrorCode, ResetReason, decode
from realtime.session import (
    Authentication,
    Close,
    Effect,
    Join,
    Leave,
    Member,
    Moment,
    Recheck,
    Rejoin,
    Session,
    SessionSettings,
    State,
)
from store.model import Cursor, Horizon
from tests.builders import json_values
from tests.doubles import FakeGrant

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HORIZON = Horizon(5, 5)


def at(seconds: float) -> Moment:
    return Moment(1_000.0 + seconds, BEGAN + timedelta(seconds=seconds))


class Peer:
    """A client's end of a session."""

    def __init__(self, grant: FakeGrant | None = None, **settings: Any) -> None:
        self.mailbox = Mailbox(self)
        how = SessionSettings(**settings)
        self.session = Session("conn_1", self.mailbox, how, at(0))
        if grant is not None:
            self.session.granted(grant, at(0))
            assert self.heard() == ["welcome"]

    def owed(self) -> None:
        pass

    def pressed(self) -> None:
        pass

    def say(self, seconds: float = 0, /, **fields: Any) -> list[Effect]:
        effects: list[Effect] = []
        for message in decode(json.dumps(fields)):
            effects += self.session.receive(message, at(seconds))
        return effects

    def subscribe(self, id: int = 1, **fields: Any) -> Member:
        [effect] = self.say(type="subscribeToRunsWithTag", id=id, **({"tag": "a"} | fields))
        assert isinstance(effect, Join)
        return effect.subscription

    def live(self, id: int = 1, **fields: Any) -> Member:
        member = self.subscribe(id, **fields)
        self.session.live(member, "e", HORIZON, resumed=False, truncated=False)
        assert self.heard() == ["live"]
        return member

    def read(self) -> list[dict[str, Any]]:
        found = []
        while lines := self.mailbox.take():
            found += [json.loads(line) for line in lines]
        return found

    def heard(self) -> list[str]:
        return [
            message["type"]
            + (f" {said}" if (said := message.get("code") or message.get("reason")) else "")
            for message in self.read()
        ]


FULL = FakeGrant()


def closed(effects: list[Effect]) -> CloseCode | None:
    return next((effect.code for effect in effects if isinstance(effect, Close)), None)


# ------------------------------------------------------------------------------- authentication


def test_a_token_is_looked_up_and_then_welcomed() -> None:
    peer = Peer()
    assert peer.say(type="authenticate", token="t") == [Authentication("t")]
    assert not peer.heard()
    peer.session.granted(FULL, at(1))
    [welcome] = peer.read()
    assert welcome["limits"] == {"subscriptions": 1_000, "messageBytes": 65_536}


@pytest.mark.parametrize(
    "message", ['{"type":"ping"}', '{"type":"subscribeToRuns","id":1}', '{"type":"ping","x":1}']
)
def test_nothing_is_answered_before_the_token(message: str) -> None:
    peer = Peer()
    [decoded] = decode(message)
    effects = peer.session.receive(decoded, at(0))
    assert closed(effects) == CloseCode.UNAUTHENTICATED
    assert peer.heard() == ["error unauthorized"]


def test_without_a_token_it_is_closed_after_ten_seconds() -> None:
    peer = Peer()
    assert not peer.session.tick(at(9.9))
    assert closed(peer.session.tick(at(10))) == CloseCode.UNAUTHENTICATED
    assert not peer.session.tick(at(11))


def test_a_wrong_token_closes() -> None:
    assert closed(Peer().session.refused("no")) == CloseCode.UNAUTHENTICATED


def test_a_token_that_was_over_when_it_came_closes() -> None:
    peer = Peer()
    effects = peer.session.granted(FakeGrant(expires_at=at(1).wall), at(2))
    assert closed(effects) == CloseCode.UNAUTHENTICATED


def test_another_projects_token_closes() -> None:
    peer = Peer(FULL)
    effects = peer.session.granted(FakeGrant(project="other"), at(1))
    assert closed(effects) == CloseCode.FORBIDDEN


def test_a_fresh_token_takes_the_place_of_the_old() -> None:
    peer = Peer(FakeGrant(expires_at=at(5).wall))
    peer.live()
    assert not peer.session.granted(FakeGrant(expires_at=at(50).wall), at(4))
    assert peer.heard() == ["authenticated"]
    assert not peer.session.tick(at(6))


def test_what_a_fresh_token_does_not_cover_ends() -> None:
    peer = Peer(FULL)
    kept, lost = peer.live(1, tag="a"), peer.live(2, tag="b")
    effects = peer.session.granted(FakeGrant(tags=frozenset("a")), at(1))
    assert effects == [Leave(lost)]
    assert peer.heard() == ["authenticated", "end forbidden"]
    assert list(peer.session.subscriptions.values()) == [kept]


def test_a_run_is_looked_at_again_under_a_fresh_token() -> None:
    """Whether a token for a tag covers a run depends on the run's tags."""
    peer = Peer(FULL)
    [joined] = peer.say(type="subscribeToRun", id=1, runId="r1")
    assert isinstance(joined, Join)
    effects = peer.session.granted(FakeGrant(tags=frozenset("a")), at(1))
    assert effects == [Recheck(joined.subscription)]


def test_a_fresh_token_that_forces_other_fields_out_resets_all() -> None:
    """What was shown before holds fields that must no longer be there."""
    peer = Peer(FULL)
    member = peer.live()
    effects = peer.session.granted(FakeGrant(skip=frozenset({"payload"})), at(1))
    assert effects == [Rejoin(member)]
    assert peer.heard() == ["authenticated", "reset token"]
    assert member.wish.hidden == {"payload"}


def test_a_token_that_ends_ends_its_streams_and_drops_what_was_undelivered() -> None:
    peer = Peer(FakeGrant(expires_at=at(5).wall))
    peer.live(1)
    peer.subscribe(2, tag="b")
    peer.mailbox.put(b'{"type":"change"}')
    effects = peer.session.tick(at(5))
    assert closed(effects) == CloseCode.UNAUTHENTICATED
    # The second has not heard its `live`, and before that no such end is said.
    assert peer.heard() == ["end token_expired"]
    assert len(effects) == 3


def test_a_revoked_token_ends_its_streams() -> None:
    peer = Peer(FULL)
    peer.live()
    effects = peer.session.lose_grant(EndReason.TOKEN_REVOKED)
    assert closed(effects) == CloseCode.UNAUTHENTICATED
    assert peer.heard() == ["end token_revoked"]


# -------------------------------------------------------------------------------- subscriptions


def test_an_id_in_use_is_refused_and_the_first_stays() -> None:
    peer = Peer(FULL)
    first = peer.live()
    assert not peer.say(type="subscribeToRuns", id=1)
    assert peer.heard() == ["error conflict"]
    assert peer.session.holds(first)


def test_an_id_may_be_used_again_after_its_end() -> None:
    peer = Peer(FULL)
    first = peer.live()
    assert peer.say(type="unsubscribe", id=1) == [Leave(first)]
    assert peer.heard() == ["end unsubscribed"]
    second = peer.live()
    assert not peer.session.holds(first)
    assert peer.session.holds(second)
    assert not peer.session.end(first, EndReason.COMPLETED)
    assert not peer.heard()


def test_who_unsubscribes_from_nothing_is_told_so() -> None:
    peer = Peer(FULL)
    assert not peer.say(type="unsubscribe", id=9)
    assert peer.heard() == ["error not_found"]


def test_subscriptions_have_a_limit() -> None:
    peer = Peer(FULL, subscriptions=2)
    peer.live(1)
    peer.live(2)
    assert not peer.say(type="subscribeToRuns", id=3)
    assert peer.heard() == ["error too_many_requests"]
    peer.say(type="unsubscribe", id=1)
    assert peer.heard() == ["end unsubscribed"]
    peer.live(3)


def test_what_the_token_does_not_cover_is_refused_and_the_connection_stays() -> None:
    peer = Peer(FakeGrant(tags=frozenset("a")))
    assert not peer.say(type="subscribeToRuns", id=1)
    assert peer.heard() == ["error forbidden"]
    peer.live(1)


def test_a_bad_cursor_is_refused() -> None:
    peer = Peer(FULL)
    peer.say(type="subscribeToRuns", id=1, cursor="%%%")
    peer.say(type="subscribeToRuns", id=1, cursor=Cursor("e", HORIZON, (1,)).encode())
    assert peer.heard() == ["error bad_request"] * 2


def test_the_cursor_of_live_continues_the_subscription() -> None:
    peer = Peer(FULL)
    member = peer.subscribe(skip=["payload"])
    peer.session.live(member, "e", HORIZON, resumed=False, truncated=True)
    [live] = peer.read()
    again = Peer(FULL).subscribe(skip=["payload"], cursor=live["cursor"])
    assert again.cursor is not None
    assert (again.cursor.epoch, again.cursor.horizon) == ("e", HORIZON)


def test_a_checkpoint_continues_every_live_subscription_and_no_other() -> None:
    """Those that still join keep the cursor that they had."""
    peer = Peer(FULL)
    peer.live(1, tag="a")
    peer.live(2, tag="b")
    peer.subscribe(3, tag="c")
    cursor = peer.session.cursor_for("e", HORIZON).encode()
    other = Peer(FULL)
    other.subscribe(1, tag="a", cursor=cursor)
    other.subscribe(2, tag="b", cursor=cursor)
    assert not other.say(type="subscribeToRunsWithTag", id=3, tag="c", cursor=cursor)
    assert other.heard() == ["error bad_request"]


def test_a_reset_begins_again_from_a_snapshot() -> None:
    peer = Peer(FULL)
    member = peer.live()
    member.shown = {"r": 3}
    assert peer.session.reset(member, ResetReason.EPOCH) == [Rejoin(member)]
    assert peer.heard() == ["reset epoch"]
    assert (member.is_live, member.cursor, member.snapshot, member.shown) == (False, None, True, {})


def test_what_the_store_refuses_is_an_error_and_if_it_is_not_there_an_end() -> None:
    peer = Peer(FULL)
    peer.session.deny(peer.subscribe(1), ErrorCode.NOT_FOUND, "no")
    assert peer.heard() == ["error not_found", "end not_found"]
    peer.session.deny(peer.subscribe(1), ErrorCode.FORBIDDEN, "no")
    assert peer.heard() == ["error forbidden"]
    assert not peer.session.subscriptions


# --------------------------------------------------------------------------------- the connection


def test_a_ping_is_answered_with_its_data() -> None:
    peer = Peer(FULL)
    peer.say(type="ping")
    peer.say(type="ping", data=None)
    peer.say(type="ping", data=[1])
    assert [message.get("data", "none") for message in peer.read()] == ["none", None, [1]]


def test_a_bad_message_closes_and_a_bad_field_does_not() -> None:
    peer = Peer(FULL)
    assert not peer.say(type="ping", more=1)
    assert peer.heard() == ["error bad_request"]
    assert closed(peer.say(type="nonsense")) == CloseCode.BAD_MESSAGE
    assert not peer.say(type="ping")


def test_a_heartbeat_is_due_when_nothing_was_sent() -> None:
    peer = Peer(FULL)
    assert not peer.session.heartbeat_is_due(at(14))
    assert peer.session.heartbeat_is_due(at(15))
    peer.session.sent(at(10).monotonic)
    assert not peer.session.heartbeat_is_due(at(24))
    peer.mailbox.put(b"{}")
    assert not peer.session.heartbeat_is_due(at(60))


def test_checkpoints_come_while_changes_flow_and_not_too_often() -> None:
    peer = Peer(FULL)
    peer.live()
    session = peer.session
    assert not session.checkpoint_is_due(at(100))
    peer.mailbox.put(b'{"type":"change"}')
    assert session.checkpoint_is_due(at(100))
    session.checkpoint("c", at(100))
    peer.mailbox.put(b'{"type":"change"}')
    assert not session.checkpoint_is_due(at(104))
    assert session.checkpoint_is_due(at(105))
    session.heartbeat("c", at(105))
    assert not session.checkpoint_is_due(at(200))


def test_who_is_sent_away_is_closed_in_time_and_delivered_to_until_then() -> None:
    peer = Peer(FULL)
    member = peer.live()
    peer.session.send_away(500, "draining", at(1))
    assert peer.heard() == ["reconnect draining"]
    assert not peer.session.tick(at(1.4))
    assert peer.session.holds(member)
    assert closed(peer.session.tick(at(1.5))) == CloseCode.RESTARTING


def test_stale_and_fresh_are_said_once_each() -> None:
    peer = Peer(FULL)
    for stale in (False, True, True, False, False):
        peer.session.mark_stale(stale)
    assert peer.heard() == ["stale", "fresh"]


def test_a_lost_connection_leaves_nothing_behind() -> None:
    peer = Peer(FULL)
    members = [peer.live(1), peer.live(2)]
    assert peer.session.gone() == [Leave(member) for member in members]
    assert peer.session.state is State.CLOSED
    assert not peer.say(type="ping")


MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["subscribeToRuns", "subscribeToRun", "subscribeToBatch"])},
        optional={
            "id": st.integers(0, 4) | json_values(2),
            "runId": st.sampled_from(["r1", "r2"]) | json_values(2),
            "batchId": st.sampled_from(["b1"]) | json_values(2),
            "delivery": st.sampled_from(["every", "latest"]) | json_values(2),
            "cursor": st.text(max_size=20) | json_values(2),
            "limit": st.integers(-5, 20_000),
        },
    ),
    st.fixed_dictionaries({"type": st.just("unsubscribe"), "id": st.integers(0, 4)}),
    st.fixed_dictionaries({"type": st.just("ping")}, optional={"data": json_values(3)}),
    st.fixed_dictionaries({"type": st.just("authenticate")}, optional={"token": json_values(1)}),
)


@given(st.lists(MESSAGES, max_size=30), st.booleans())
def test_no_sequence_of_messages_breaks_a_session(
    messages: list[dict[str, Any]], begins_open: bool
) -> None:
    """Whatever comes: each subscription joins once and leaves once, and nothing follows a close."""
    peer = Peer(FULL if begins_open else None, subscriptions=3)
    alive: set[Member] = set()
    over = False
    for message in messages:
        effects = peer.say(**message)
        assert not (over and effects)
        for effect in effects:
            match effect:
                case Join(member):
                    assert member not in alive
                    alive.add(member)
                case Leave(member):
                    alive.remove(member)
                case Close():
                    over = True
                case Authentication():
                    peer.session.granted(FULL, at(1))
        assert alive == set(peer.session.subscriptions.values())
        assert len(alive) <= 3
        for line in peer.read():
            assert line["type"] in {"welcome", "authenticated", "error", "end", "pong"}
