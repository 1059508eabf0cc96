"""The codec: what is taken from clients, and how messages are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime import protocol
from realtime.protocol import (
    CloseCode,
    EndReason,
    ErrorCode,
    Kind,
    Refusal,
    ResetReason,
    SubscribeToRunsWithTag,
    convert,
    decode,
)
from store.lifecycle import FINAL
from store.model import WIRE_FIELDS, Batch, Match, RunStatus, wire_run
from tests.builders import AT, a_change, a_run, json_values, seconds

WIRE = Path(__file__).parents[1] / "wire"
CLIENT = json.loads((WIRE / "client.json").read_text())
REFUSED = json.loads((WIRE / "refused.json").read_text())
SERVER = json.loads((WIRE / "server.json").read_text())

LATER = {"cursor_malformed", "run_not_found"}
"""What the codec can't tell: the session and the store do."""


def name(example: dict[str, Any]) -> str:
    found: str = example["name"]
    return found


@pytest.mark.parametrize("example", CLIENT, ids=name)
def test_every_golden_message_of_a_client_is_taken(example: dict[str, Any]) -> None:
    [message] = decode(json.dumps(example["message"]))
    assert not isinstance(message, Refusal)


@pytest.mark.parametrize("example", REFUSED, ids=name)
def test_every_golden_refusal_is_refused(example: dict[str, Any]) -> None:
    if example["name"] in LATER:
        return
    refusal = decode(example["text"])[0]
    assert isinstance(refusal, Refusal)
    outcome = "error bad_request" if refusal.close is None else f"close {refusal.close}"
    assert outcome == example["outcome"]


def test_a_refusal_names_the_subscription_that_it_is_about() -> None:
    """Else a client with a hundred subscriptions would not know which of them it got wrong."""
    [refusal] = decode('{"type":"subscribeToRuns","id":7,"limit":0}')
    assert isinstance(refusal, Refusal)
    assert refusal.id == 7
    for id in ("-1", "9007199254740993", "1.5", '"7"', "true", "null", "1" * 5_000):
        [refusal] = decode(f'{{"type":"subscribeToRuns","id":{id},"limit":0}}')
        assert isinstance(refusal, Refusal)
        assert refusal.id is None


def test_several_messages_stand_in_one_one_a_line() -> None:
    messages = decode('{"type":"ping","data":1}\n{"type":"ping","data":2}')
    assert [message.data for message in messages] == [1, 2]  # type: ignore[union-attr]


def test_nothing_is_read_after_what_closes_the_connection() -> None:
    messages = decode('{"type":"ping"}\nnonsense\n{"type":"ping"}')
    assert len(messages) == 2
    assert isinstance(messages[1], Refusal)


def nested(depth: int) -> str:
    return f'{{"type":"ping","data":{"[" * (depth - 1)}{"]" * (depth - 1)}}}'


def test_json_may_nest_64_deep() -> None:
    """Whoever walks a value must know how deep it can go."""
    assert not isinstance(decode(nested(64))[0], Refusal)
    refusal = decode(nested(65))[0]
    assert isinstance(refusal, Refusal)
    assert refusal.close is None
    assert isinstance(decode(nested(30_000))[0], Refusal)


def test_brackets_in_text_do_not_nest() -> None:
    text = "[" * 100 + '\\"' + "{" * 100
    assert not isinstance(decode(f'{{"type":"ping","data":"{text}"}}')[0], Refusal)


@pytest.mark.parametrize(
    "data",
    [b"\xff", b'{"type":"ping","data":"\xff"}', "\ud800", '{"type":"ping","data":"\ud800"}'],
)
def test_what_is_no_utf8_closes(data: str | bytes) -> None:
    refusal = decode(data)[0]
    assert isinstance(refusal, Refusal)
    assert refusal.close == CloseCode.BAD_MESSAGE


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, "1" * 20_000, "0." + "0" * 9_000])
def test_huge_numbers_are_no_trouble(number: str) -> None:
    """Making an integer of many digits takes very long, and a float may have no room for it."""
    decode(f'{{"type":"ping","data":{number}}}')
    refusal = decode(f'{{"type":"subscribeToRuns","id":1,"limit":{number}}}')[0]
    assert isinstance(refusal, Refusal)


@pytest.mark.parametrize("field", ["runId", "tag", "batchId", "jobRunId"])
@pytest.mark.parametrize("text", ["a\u0000b", "a\u0007", "a\u0085", "", "x" * 300])
def test_names_have_no_control_characters_and_an_end(field: str, text: str) -> None:
    type_ = {
        "runId": "subscribeToRun",
        "tag": "subscribeToRunsWithTag",
        "batchId": "subscribeToBatch",
        "jobRunId": "subscribeToJobRun",
    }[field]
    refusal = decode(json.dumps({"type": type_, "id": 1, field: text}))[0]
    assert isinstance(refusal, Refusal)
    assert refusal.close is None


def test_the_same_tags_are_the_same_wish_however_they_are_written() -> None:
    """Else a cursor of one would be refused for the other."""
    asked = [
        SubscribeToRunsWithTag(id=1, tags=["b", "a", "b"]),
        SubscribeToRunsWithTag(id=2, tags=["a", "b"]),
    ]
    assert asked[0].selection("p") == asked[1].selection("p")
    one = SubscribeToRunsWithTag(id=3, tags=["a"], match=Match.ANY)
    assert one.selection("p") == SubscribeToRunsWithTag(id=4, tag="a").selection("p")


def test_numbers_and_booleans_may_come_as_text_where_all_is_text() -> None:
    found = convert({"type": "subscribeToRuns", "id": 1, "limit": "5", "isTest": "true"})
    assert (found.snapshot_limit, found.selection("p").filter.is_test) == (5, True)
    with pytest.raises(ValueError, match="limit"):
        convert({"type": "subscribeToRuns", "id": 1, "limit": "0"})


@given(st.one_of(st.text(), st.binary(), json_values().map(json.dumps)))
def test_no_message_breaks_the_codec(data: str | bytes) -> None:
    assert decode(data)


TYPES = st.sampled_from([*protocol.TYPES, "nonsense"])
NAMES = st.sampled_from(
    ["id", "runId", "tag", "tags", "skip", "limit", "cursor", "data", "token", "x", "createdAfter"]
)


@given(TYPES, st.dictionaries(NAMES, json_values(4), max_size=5))
def test_no_fields_break_the_codec(type_: str, fields: dict[str, Any]) -> None:
    for message in decode(json.dumps({"type": type_, **fields})):
        if isinstance(message, Refusal) and type_ in protocol.TYPES:
            assert message.close is None


# -------------------------------------------------------------------------------------- writing


def read(line: bytes) -> dict[str, Any]:
    assert b"\n" not in line
    found: dict[str, Any] = json.loads(line)
    assert protocol.type_of(line) == found["type"]
    return found


def shape(message: dict[str, Any]) -> set[str]:
    return set(message)


def test_every_message_has_the_fields_of_its_golden_example() -> None:
    """Clients are written against the examples, so what is sent must be as they are."""
    run = a_run()
    whole = protocol.run_object(protocol.whole_run(run))
    batch = protocol.batch_object(
        Batch(
            id="batch_1",
            project="p",
            created_at=AT,
            sealed_at=None,
            counts={RunStatus.QUEUED: 1},
            last_finished_at=None,
        ),
        FINAL,
    )
    written = [
        protocol.welcome(
            connection_id="conn_1",
            heartbeat_s=15.0,
            server="s",
            expires_at=AT,
            subscriptions=1,
            message_bytes=2,
        ),
        protocol.authenticated(None),
        protocol.snapshot(1, [whole, whole]),
        protocol.live(1, "c", resumed=False, truncated=True),
        protocol.change((1, 2), Kind.ENTER, whole),
        protocol.batch(1, batch),
        protocol.checkpoint("c"),
        protocol.reset(1, ResetReason.EPOCH),
        protocol.end(1, EndReason.TOKEN_EXPIRED),
        protocol.error(1, ErrorCode.FORBIDDEN, "no"),
        protocol.reconnect(5, "draining"),
        protocol.STALE,
        protocol.FRESH,
        protocol.heartbeat(AT, "c"),
        protocol.pong({"a": 1}),
    ]
    golden: dict[str, list[set[str]]] = {}
    for example in SERVER:
        golden.setdefault(example["message"]["type"], []).append(shape(example["message"]))
    for line in written:
        message = read(line)
        assert shape(message) in golden[message["type"]], message
    assert {read(line)["type"] for line in written} == set(golden) - {"somethingNew"}


def test_a_whole_run_is_what_http_answers_with() -> None:
    run = a_run(payload={"ü": [1, None]})
    fields = protocol.whole_run(run)
    assert json.loads(protocol.run_object(fields)) == json.loads(msgspec.json.encode(wire_run(run)))
    assert list(fields) == list(WIRE_FIELDS.values())


def test_a_payload_that_is_at_hand_is_put_in() -> None:
    run = a_run(payload=None, has_payload=False)
    fields = protocol.whole_run(run, b'{"n":1}')
    assert json.loads(protocol.run_object(fields))["payload"] == {"n": 1}


def test_a_change_says_what_changed_and_the_five_that_are_always_said() -> None:
    run = a_run(status=RunStatus.EXECUTING)
    change = a_change(run, changed={"status": "EXECUTING", "startedAt": None, "unheard": 1})
    fields = protocol.changed_run(run, change, RunStatus.EXECUTING)
    assert set(fields) == {
        "id", "version", "status", "taskIdentifier", "updatedAt", "startedAt",
    }  # fmt: skip
    assert set(protocol.without(fields, frozenset({"startedAt"}))) == set(fields) - {"startedAt"}


@given(json_values())
def test_any_value_becomes_one_line_that_says_the_same(value: Any) -> None:
    line = protocol.encode_value(value)
    assert b"\n" not in line
    assert json.loads(line) == value


def test_a_broken_text_does_not_break_the_stream() -> None:
    assert json.loads(protocol.encode_value("a\ud800")) == "a\ud800"


def test_a_batch_is_complete_at_the_later_of_its_seal_and_its_last_end() -> None:
    batch = Batch(
        id="b",
        project="p",
        created_at=AT,
        sealed_at=AT + seconds(5),
        counts={RunStatus.COMPLETED: 2, RunStatus.FAILED: 1, RunStatus.QUEUED: 0},
        last_finished_at=AT + seconds(3),
    )
    found = json.loads(protocol.batch_object(batch, FINAL))
    assert found["completedAt"] == found["sealedAt"]
    assert (found["size"], found["final"]) == (3, 3)
    assert found["counts"] == {"COMPLETED": 2, "FAILED": 1}
    open_ = msgspec.structs.replace(batch, sealed_at=None)
    assert json.loads(protocol.batch_object(open_, FINAL))["completedAt"] is None


def test_refusals_speak_of_json_and_not_of_python() -> None:
    """Clients are written in many languages."""
    for line, said in (
        ('{"type":"subscribeToRun","id":"x","runId":1}', "Expected `integer`, got `string`"),
        ('{"type":"subscribeToRuns","id":1,"isTest":3}', "Expected `boolean"),
        ('{"type":"subscribeToRuns","id":1,"createdAfter":"x"}', "Expected a time like 2026"),
        ('{"type":"subscribeToRuns","id":1,"int":3}', "unknown field `int`"),
    ):
        (refusal,) = decode(line)
        assert isinstance(refusal, Refusal)
        assert said in refusal.detail
