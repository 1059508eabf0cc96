"""HTTP calls about webhooks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem
from tests.realtime.serving import until
from tests.receiving import Receiver, answering, in_turn

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def a_webhook(api: Caller, receiver: Receiver, **fields: Any) -> dict[str, Any]:
    body = {"url": receiver.url(), "events": ["*"], "tasks": [new_id("task")], **fields}
    response = await api.post("/v1/webhooks", body)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def deliveries(api: Caller, webhook: dict[str, Any], *statuses: str) -> list[dict[str, Any]]:
    """The webhook's deliveries, once so many have these statuses, newest first."""
    async with asyncio.timeout(20):
        while True:
            found = (await api.get(f"/v1/webhooks/{webhook['id']}/deliveries")).json()["data"]
            if [one["status"] for one in found] == list(statuses):
                return list(found)
            await asyncio.sleep(0.01)


async def test_a_webhooks_secret_is_shown_once(api: Caller, receiver: Receiver) -> None:
    made = await a_webhook(api, receiver, tags=["a"])
    path = f"/v1/webhooks/{made['id']}"
    assert made["secret"].startswith("whsec_")
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert (await api.get(path)).json() == shown
    assert (await api.get("/v1/webhooks", params={"limit": 1})).json()["data"] == [shown]
    assert (shown["paused"], shown["pausedReason"], shown["tags"]) == (False, None, ["a"])
    changed = await api.patch(path, {"events": ["run.failed"], "tags": None})
    assert changed.json()["events"] == ["run.failed"]
    assert changed.json()["tags"] is None
    assert "secret" not in changed.json()
    rotated = await api.patch(path, {"rotateSecret": True, "secretOverlapS": 60})
    assert rotated.json()["secret"] != made["secret"]
    paused = (await api.patch(path, {"paused": True})).json()
    assert paused["paused"] is True
    assert paused["pausedReason"] == "paused by its owner"
    assert (await api.patch(path, {"paused": False})).json()["paused"] is False
    assert (await api.delete(path)).status_code == 204
    assert_problem(await api.get(path), 404, "not_found")


async def test_what_was_sent_is_listed_and_can_be_sent_again(
    api: Caller, receiver: Receiver
) -> None:
    receiver.behaviour["/"] = in_turn(answering(500, "not today"), answering(200, "thanks"))
    made = await a_webhook(api, receiver, events=["run.created"])
    run = await api.run(made["tasks"][0])
    await until(lambda: receiver.messages)
    (first,) = await deliveries(api, made, "pending")
    while not first["attempts"]:
        (first,) = await deliveries(api, made, "pending")
    (attempt,) = first["attempts"]
    assert (attempt["status"], attempt["response"]) == (500, "not today")
    assert attempt["durationMs"] >= 0
    assert first["nextAttemptAt"] > attempt["at"]
    assert json.loads(first["request"]["body"])["data"]["id"] == run["id"]
    path = f"/v1/webhooks/{made['id']}/deliveries/{first['id']}"
    assert (await api.get(path)).json()["id"] == first["id"]
    again = await api.post(f"{path}/retry")
    assert again.status_code == 200
    assert again.json()["id"] == first["id"]
    (done,) = await deliveries(api, made, "delivered")
    assert [one["response"] for one in done["attempts"]] == ["not today", "thanks"]
    assert {message.id for message in receiver.messages} == {first["id"]}
    assert all(message.is_signed_with(made["secret"]) for message in receiver.messages)
    for unknown in (
        path.replace(first["id"], new_id("msg")),
        f"/v1/webhooks/{new_id('wh')}/deliveries/{first['id']}",
    ):
        assert_problem(await api.get(unknown), 404, "not_found")
        assert_problem(await api.post(f"{unknown}/retry"), 404, "not_found")


@pytest.mark.parametrize(
    "body,where",
    [
        ({"events": ["*"]}, "url"),
        ({"url": "https://example.com/"}, "events"),
        ({"url": "https://example.com/", "events": []}, "events"),
        ({"url": "https://example.com/", "events": ["run.exploded"]}, "events.0"),
        ({"url": "http://169.254.169.254/latest", "events": ["*"]}, "url"),
        ({"url": "http://[fe80::1]/", "events": ["*"]}, "url"),
        ({"url": "http://10.0.0.1/", "events": ["*"]}, "url"),
        ({"url": "ftp://example.com/", "events": ["*"]}, "url"),
        ({"url": "https://example.com/", "events": ["*"], "tags": [7]}, "tags.0"),
        ({"url": "https://example.com/", "events": ["*"], "colour": 7}, "colour"),
    ],
)
async def test_what_no_webhook_can_be_is_said_with_its_place(
    api: Caller, body: dict[str, Any], where: str
) -> None:
    problem = assert_problem(await api.post("/v1/webhooks", body), 422, "unprocessable")
    assert where in [error["path"] for error in problem["errors"]]


async def test_webhooks_are_a_matter_for_keys(api: Caller, receiver: Receiver) -> None:
    """What is sent to one are whole runs: a token would learn more than it grants."""
    made = await a_webhook(api, receiver)
    token = await api.a_token("read:runs")
    path = f"/v1/webhooks/{made['id']}"
    for call in (
        token.get("/v1/webhooks"), token.get(path), token.get(f"{path}/deliveries"),
        token.post("/v1/webhooks", {"url": receiver.url(), "events": ["*"]}),
        token.patch(path, {"paused": True}), token.delete(path),
    ):  # fmt: skip
        assert_problem(await call, 403, "forbidden")


async def test_a_repeated_create_makes_one_webhook(api: Caller, receiver: Receiver) -> None:
    key = {"Idempotency-Key": new_id("key")}
    body = {"url": receiver.url(), "events": ["*"]}
    first = await api.post("/v1/webhooks", body, headers=key)
    assert (await api.post("/v1/webhooks", body, headers=key)).json() == first.json()
    assert (await api.delete(f"/v1/webhooks/{first.json()['id']}")).status_code == 204
