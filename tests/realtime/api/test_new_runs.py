"""New runs over HTTP: what is answered, and which fields do not fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from store.model import WIRE_FIELDS
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_new_run_is_answered_whole_with_a_token_that_reads_it(api: Caller) -> None:
    """The page that shows the run needs nothing else."""
    response = await api.post(
        "/v1/runs", {"taskIdentifier": "send", "payload": {"to": [1, "ü", None]}, "tags": ["u:7"]}
    )
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    run = response.json()
    assert list(run) == list(WIRE_FIELDS.values())
    assert (run["version"], run["status"], run["payload"]) == (1, "QUEUED", {"to": [1, "ü", None]})
    assert run["createdAt"].endswith("Z")
    assert len(run["createdAt"]) == len("2026-01-01T00:00:00.000000Z")
    claims = jwt.decode(response.headers["runstream-token"], options={"verify_signature": False})
    assert claims["scopes"] == [f"read:runs:{run['id']}"]
    assert claims["exp"] - claims["iat"] == 24 * 3600
    reader = api.with_token(response.headers["runstream-token"])
    assert (await reader.get(f"/v1/runs/{run['id']}")).json() == run
    assert_problem(await reader.patch(f"/v1/runs/{run['id']}", {}), 403, "forbidden")
    other = await api.run()
    assert_problem(await reader.get(f"/v1/runs/{other['id']}"), 404, "not_found")


async def test_a_second_create_with_the_same_idempotency_key_returns_the_first_run(
    api: Caller,
) -> None:
    """Also with another payload: the key is what is meant. The token comes again."""
    first = await api.run(idempotencyKey="k-1", payload=1)
    again = await api.post(
        "/v1/runs", {"taskIdentifier": "send-invoice", "idempotencyKey": "k-1", "payload": 2}
    )
    assert again.status_code == 200
    assert again.json() == first
    assert "runstream-token" in again.headers
    other = await api.post("/v1/runs", {"taskIdentifier": "other", "idempotencyKey": "k-1"})
    assert other.status_code == 201


async def test_delay_and_delay_until_make_a_delayed_run(api: Caller) -> None:
    """The one counts from now, the other names the time, in any zone."""
    run = await api.run(delay=3600)
    assert run["status"] == "DELAYED"
    until = datetime.fromisoformat(run["delayedUntil"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < until < timedelta(minutes=61)
    run = await api.run(delayUntil="2999-01-01T02:00:00+02:00")
    assert run["delayedUntil"] == "2999-01-01T00:00:00.000000Z"


async def test_work_that_has_begun_already_begins_as_executing(api: Caller) -> None:
    """Who reports a job is not told to queue it."""
    run = await api.run(status="EXECUTING")
    assert (run["status"], run["attempt"]) == ("EXECUTING", 1)


@pytest.mark.parametrize(
    "fields, path",
    [
        ({"taskIdentifier": 7}, "taskIdentifier"),
        ({"taskIdentifier": ""}, "taskIdentifier"),
        ({"taskIdentifier": None}, "taskIdentifier"),
        ({"taskIdentifier": "a\nb"}, "taskIdentifier"),
        ({"unknown": 1}, "unknown"),
        ({"task_identifier": "x"}, "task_identifier"),
        ({"tags": "a"}, "tags"),
        ({"tags": ["a", 1]}, "tags.1"),
        ({"tags": ["x" * 129]}, "tags.0"),
        ({"tags": [""]}, "tags.0"),
        ({"tags": ["a\tb"]}, "tags.0"),
        ({"tags": ["a\0b"]}, "tags.0"),
        ({"tags": [str(n) for n in range(11)]}, "tags"),
        ({"metadata": []}, "metadata"),
        ({"metadata": None}, "metadata"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 1.5}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": 10**30}, "ttl"),
        ({"maxDuration": "1"}, "maxDuration"),
        ({"delay": -1}, "delay"),
        ({"delay": 1e300}, "delay"),
        ({"delay": 1, "delayUntil": "2999-01-01T00:00:00Z"}, "delay"),
        ({"delayUntil": "tomorrow"}, "delayUntil"),
        ({"delayUntil": "2999-01-01T00:00:00"}, "delayUntil"),
        ({"delayUntil": "0001-01-01T00:00:00+23:59"}, "delayUntil"),
        ({"delayUntil": "9999-12-31T23:59:59-23:59"}, "delayUntil"),
        ({"delayUntil": 1893456000}, "delayUntil"),
        ({"isTest": "yes"}, "isTest"),
        ({"status": "COMPLETED"}, "status"),
        ({"status": "queued"}, "status"),
        ({"idempotencyKey": ""}, "idempotencyKey"),
        ({"idempotencyKey": "x" * 2_000}, "idempotencyKey"),
        ({"payload": {"deep": "a\0b"}}, "payload.deep"),
        ({"payload": {"a\0": 1}}, "payload"),
        ({"payload": 2**64}, "payload"),
        ({"batchId": "batch_unknown"}, "batchId"),
        ({"parentRunId": "run_unknown"}, "parentRunId"),
        ({"batchId": "\0"}, "batchId"),
    ],
)
async def test_a_field_that_does_not_fit_is_named(
    api: Caller, fields: dict[str, Any], path: str
) -> None:
    """Whoever made the request finds the place without reading ours."""
    response = await api.post("/v1/runs", {"taskIdentifier": "send"} | fields)
    problem = assert_problem(response, 422, "unprocessable")
    assert problem["errors"][0]["path"].startswith(path), problem
    assert problem["errors"][0]["message"]


async def test_all_fields_that_do_not_fit_are_named_at_once(api: Caller) -> None:
    """One round trip for three mistakes."""
    response = await api.post("/v1/runs", {"tags": 1, "ttl": "x", "colour": "red"})
    problem = assert_problem(response, 422, "unprocessable")
    paths = {error["path"] for error in problem["errors"]}
    assert paths == {"taskIdentifier", "tags", "ttl", "colour"}


async def test_values_over_their_limit_are_too_large_and_make_no_run(api: Caller) -> None:
    """The limits count compact UTF-8, whatever the request's own spelling."""
    before = (await api.get("/v1/runs", params={"task": "big"})).json()["data"]
    # 3 MB of payload is a string of so many characters and two quotes.
    fits = "ü" * ((3_000_000 - 2) // 2)
    run = await api.run("big", payload=fits)
    assert (await api.get(f"/v1/runs/{run['id']}")).json()["payload"] == fits
    for fields in (
        {"payload": fits + "x"},
        {"metadata": {"m": "x" * 256_000}},
        {"payload": "x" * 12_000_000},
    ):
        response = await api.post("/v1/runs", {"taskIdentifier": "big", **fields})
        assert_problem(response, 413, "payload_too_large")
    after = (await api.get("/v1/runs", params={"task": "big"})).json()["data"]
    assert len(after) == len(before) + 1
