"""The golden messages of `tests/wire`, which the server and all clients read alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream import protocol
from runstream.errors import ProtocolError
from runstream.merging import FIELD_NAMES, merged, whole
from runstream.models import AnyRun

WIRE = Path(__file__).parents[3] / "tests" / "wire"


def golden(name: str) -> dict[str, dict[str, Any]]:
    entries = json.loads((WIRE / name).read_text(encoding="utf-8"))
    return {entry["name"]: entry["message"] for entry in entries}


SERVER = golden("server.json")
CLIENT = golden("client.json")
UNKNOWN = {"unknown_type"}
# What may be said in two ways, of which this client has one.
OTHER_WORDS = {
    "subscribe_to_runs_with_tag": {"tags": ["user:7"]},
    "subscribe_to_run_defaults_said": {},
}
DEFAULTS = {
    "delivery": "every",
    "skip": [],
    "stopOnCompletion": True,
    "snapshot": True,
    "match": "all",
}


def not_default(message: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in message.items() if value != DEFAULTS.get(field)}


@pytest.mark.parametrize("name", SERVER)
def test_each_message_of_the_server_is_read(name: str) -> None:
    (*messages,) = protocol.read(json.dumps(SERVER[name]).encode())
    if name in UNKNOWN:
        assert messages == []
        return
    (message,) = messages
    again = json.loads(msgspec.json.encode(message))
    sent = SERVER[name]
    assert again["type"] == sent["type"]
    for field, value in sent.items():
        if field not in ("runs", "batch", "futureField") and not field.endswith("At"):
            assert again[field] == value


def test_all_of_them_in_one_websocket_message_are_read_in_order() -> None:
    text = "\n".join(json.dumps(message) for message in SERVER.values()).encode()
    types = [json.loads(msgspec.json.encode(m))["type"] for m in protocol.read(text)]
    assert types == [m["type"] for name, m in SERVER.items() if name not in UNKNOWN]


def test_a_whole_run_is_read_field_by_field() -> None:
    sent = SERVER["snapshot_every_field"]["runs"][0]
    (message,) = protocol.read(json.dumps(SERVER["snapshot_every_field"]).encode())
    assert isinstance(message, protocol.Snapshot)
    run = message.runs[0]
    assert set(FIELD_NAMES.values()) == set(sent)
    for name, wire in FIELD_NAMES.items():
        value = getattr(run, name)
        if wire.endswith("At") or wire == "delayedUntil":
            if sent[wire] is not None:
                assert value.isoformat(timespec="microseconds") == sent[wire].replace("Z", "+00:00")
        else:
            assert value == sent[wire]
    assert whole(sent) == run


@pytest.mark.parametrize("name", [name for name in SERVER if name.startswith("change_")])
def test_a_change_is_merged_at_the_top_level(name: str) -> None:
    sent = SERVER[name]["run"]
    before = whole(SERVER["snapshot_every_field"]["runs"][0])
    after = merged(before, sent)
    changed = whole({**SERVER["snapshot_every_field"]["runs"][0], **sent})
    assert after == changed


@pytest.mark.parametrize("name", [name for name in CLIENT if name.startswith("subscribe")])
def test_each_subscription_can_be_written(name: str) -> None:
    expected = dict(CLIENT[name])
    kinds = {str(kind.__struct_config__.tag): kind for kind in protocol.Wish.__args__}
    if "tag" in expected:
        expected.pop("tag")
        expected |= OTHER_WORDS[name]
    fields = {**expected}
    wish = msgspec.convert(fields, kinds[expected.pop("type")])
    (text,) = protocol.write([wish], 65_536)
    written = json.loads(text)
    assert written.pop("type") == CLIENT[name]["type"]
    assert not_default(written) == not_default(expected)


def test_the_other_messages_can_be_written() -> None:
    messages: list[protocol.ClientMessage] = [
        protocol.Authenticate(CLIENT["authenticate"]["token"]),
        protocol.Unsubscribe(1),
        protocol.Ping(),
        protocol.Ping({"n": 1}),
    ]
    (text,) = protocol.write(messages, 65_536)
    expected = [CLIENT[name] for name in ("authenticate", "unsubscribe", "ping", "ping_data")]
    assert [json.loads(line) for line in text.split(b"\n")] == expected


def test_many_messages_are_divided_so_that_none_is_too_long() -> None:
    messages = [protocol.SubscribeToRun(id=n, run_id="r" * 50, cursor="c" * 100) for n in range(99)]
    texts = protocol.write(messages, 1000)
    assert all(len(text) <= 1000 for text in texts)
    ids = [json.loads(line)["id"] for text in texts for line in text.split(b"\n")]
    assert ids == list(range(99))


@pytest.mark.parametrize(
    "text", ["{", "[]", "1", "null", '{"id":1}', '{"type":"live","id":"x","cursor":"c"}']
)
def test_what_makes_no_sense_is_told(text: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.read(text.encode())


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_else_than_be_read_or_refused(text: bytes) -> None:
    try:
        protocol.read(text)
    except ProtocolError:
        pass


def test_a_run_is_written_as_it_was_read() -> None:
    sent = SERVER["snapshot_every_field"]["runs"][0]
    assert msgspec.json.decode(msgspec.json.encode(whole(sent)), type=AnyRun) == whole(sent)
