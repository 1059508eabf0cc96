"""Runs over HTTP: what is asked, what is answered, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio

from realtime.auth import key_hash, new_key
from store.model import ALWAYS_SENT, WIRE_FIELDS, new_id
from tests.realtime.calling import Caller, assert_problem, serving_on

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["sqlite", "postgres"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with serving_on(request.param, request) as caller:
        yield caller


# ---------------------------------------------------------------------------------------- creating


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


# ---------------------------------------------------------------------------------------- changing


async def test_a_run_goes_its_way_and_each_answer_is_the_run(api: Caller) -> None:
    """Status, output, metadata as a merge patch, tags, cost."""
    run = await api.run(metadata={"a": {"x": 1, "y": 2}}, tags=["one"])
    run = await api.update(run, status="EXECUTING", metadata={"a": {"x": None}, "b": 3})
    assert (run["version"], run["metadata"]) == (2, {"a": {"y": 2}, "b": 3})
    run = await api.update(run, addTags=["two"], removeTags=["one"], costInCents=1.5)
    assert (run["tags"], run["costInCents"]) == (["two"], 1.5)
    run = await api.update(run, status="COMPLETED", output={"total": 99}, ifVersion=3)
    assert (run["version"], run["status"], run["output"]) == (4, "COMPLETED", {"total": 99})
    assert run["finishedAt"] is not None
    again = await api.update(run, status="COMPLETED", output={"total": 99})
    assert again["version"] == 4


async def test_a_refused_transition_is_a_conflict_with_the_run_as_it_stands(api: Caller) -> None:
    """The caller need not ask again."""
    run = await api.run()
    response = await api.patch(f"/v1/runs/{run['id']}", {"status": "COMPLETED"})
    assert assert_problem(response, 409, "conflict")["run"] == run
    response = await api.patch(f"/v1/runs/{run['id']}", {"metadata": {}, "ifVersion": 9})
    assert assert_problem(response, 409, "conflict")["run"] == run


async def test_a_null_output_is_a_value_and_no_output_is_none(api: Caller) -> None:
    """In a patch, what is left out stays; null is put there."""
    run = await api.run(status="EXECUTING")
    run = await api.update(run, output=5)
    run = await api.update(run, metadata={"x": 1})
    assert run["output"] == 5
    run = await api.update(run, output=None)
    assert run["output"] is None


@pytest.mark.parametrize(
    "fields, path",
    [
        ({"status": "DONE"}, "status"),
        ({"status": None}, "status"),
        ({"metadata": None}, "metadata"),
        ({"error": {"message": "no name"}}, "error"),
        ({"error": "it broke"}, "error"),
        ({"costInCents": "1"}, "costInCents"),
        ({"costInCents": -1}, "costInCents"),
        ({"ifVersion": "1"}, "ifVersion"),
        ({"payload": 1}, "payload"),
        ({"addTags": [None]}, "addTags.0"),
        ({"output": {"x": ["\0"]}}, "output"),
        ({"status": "DELAYED"}, "delayUntil"),
    ],
)
async def test_a_change_that_does_not_fit_changes_nothing(
    api: Caller, fields: dict[str, Any], path: str
) -> None:
    """The payload, for one, never changes."""
    run = await api.run()
    problem = assert_problem(await api.patch(f"/v1/runs/{run['id']}", fields), 422, "unprocessable")
    assert problem["errors"][0]["path"].startswith(path), problem
    assert (await api.get(f"/v1/runs/{run['id']}")).json() == run


async def test_metadata_operations_are_done_in_their_order(api: Caller) -> None:
    """What is missing is made."""
    run = await api.run(metadata={"log": ["a", "b", "a"]})
    response = await api.post(
        f"/v1/runs/{run['id']}/metadata",
        {
            "operations": [
                {"op": "set", "path": "progress.text", "value": "half"},
                {"op": "increment", "path": "progress.done", "value": 2},
                {"op": "append", "path": "seen", "value": {"x": 1}},
                {"op": "remove", "path": "log", "value": "a"},
                {"op": "delete", "path": "progress.text"},
            ]
        },
    )
    assert response.status_code == 200
    assert response.json()["metadata"] == {
        "progress": {"done": 2},
        "seen": [{"x": 1}],
        "log": ["b"],
    }


async def test_metadata_of_the_parent_is_changed_through_the_child(api: Caller) -> None:
    """The answer is the run in the URL, all the same."""
    parent = await api.run()
    child = await api.run(parentRunId=parent["id"])
    response = await api.post(
        f"/v1/runs/{child['id']}/metadata",
        {"operations": [{"op": "increment", "path": "n", "value": 1}], "target": "parent"},
    )
    assert response.json() == child
    assert (await api.get(f"/v1/runs/{parent['id']}")).json()["metadata"] == {"n": 1}


@pytest.mark.parametrize(
    "body",
    [{"operations": [{"op": "jump", "path": "a"}]}, {"operations": [{"op": "set", "path": ""}]},
     {"operations": [{"op": "set", "path": "a"}]}, {"operations": {}}, {}, {"operations": [7]},
     {"operations": [], "target": "sibling"},
     {"operations": [{"op": "increment", "path": "a", "value": "x"}]}],
)  # fmt: skip
async def test_operations_that_do_not_fit_are_refused(api: Caller, body: Any) -> None:
    """All of them or none are done."""
    run = await api.run()
    response = await api.post(f"/v1/runs/{run['id']}/metadata", body)
    assert_problem(response, 422, "unprocessable")
    assert (await api.get(f"/v1/runs/{run['id']}")).json()["version"] == 1


async def test_cancel_replay_and_heartbeat(api: Caller) -> None:
    """They take no body, or an empty object."""
    run = await api.run("job", payload={"p": 1}, tags=["t"], metadata={"m": 1}, maxDuration=60)
    beat = await api.post(f"/v1/runs/{run['id']}/heartbeat", {})
    assert (beat.status_code, beat.json()) == (200, {})
    response = await api.post(f"/v1/runs/{run['id']}/cancel")
    assert (response.status_code, response.json()["status"]) == (200, "CANCELED")
    response = await api.post(f"/v1/runs/{run['id']}/cancel")
    assert (response.status_code, response.json()["version"]) == (200, 2)
    response = await api.post(f"/v1/runs/{run['id']}/replay")
    new = response.json()
    assert response.status_code == 201
    assert "runstream-token" in response.headers
    assert new["id"] != run["id"]
    kept = ("taskIdentifier", "payload", "tags", "maxDuration")
    assert all(new[name] == run[name] for name in kept)
    assert (new["metadata"], new["status"], new["version"]) == ({}, "QUEUED", 1)
    response = await api.post(f"/v1/runs/{run['id']}/cancel", {"force": True})
    assert_problem(response, 422, "unprocessable")


async def test_a_replay_is_done_once_also_if_the_old_run_is_gone(api: Caller) -> None:
    """Whoever did not hear the answer asks again; meanwhile somebody may have tidied up."""
    run = await api.run("job", status="EXECUTING")
    await api.patch(f"/v1/runs/{run['id']}", {"status": "COMPLETED"})
    key = {"Idempotency-Key": f"replay {run['id']}"}
    first = await api.post(f"/v1/runs/{run['id']}/replay", headers=key)
    assert first.status_code == 201
    assert (await api.call("DELETE", f"/v1/runs/{run['id']}")).status_code == 204
    again = await api.post(f"/v1/runs/{run['id']}/replay", headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert "runstream-token" in again.headers
    for headers in ({}, {"Idempotency-Key": f"another {run['id']}"}):
        response = await api.post(f"/v1/runs/{run['id']}/replay", headers=headers)
        assert_problem(response, 404, "not_found")


async def test_a_replay_lies_outside_the_batch_and_has_no_parent(api: Caller) -> None:
    """A complete batch stays complete."""
    batch = (await api.post("/v1/batches", {"items": [{"taskIdentifier": "a"}]})).json()
    response = await api.post(f"/v1/runs/{batch['runs'][0]['id']}/replay")
    assert response.json()["batchId"] is None
    parent = await api.run()
    child = await api.run(parentRunId=parent["id"], idempotencyKey="only-once")
    replayed = (await api.post(f"/v1/runs/{child['id']}/replay")).json()
    assert (replayed["parentRunId"], replayed["rootRunId"], replayed["depth"]) == (None, None, 0)
    assert replayed["idempotencyKey"] is None


async def test_only_a_final_run_can_be_deleted(api: Caller) -> None:
    """And then it is gone."""
    run = await api.run()
    assert_problem(await api.delete(f"/v1/runs/{run['id']}"), 409, "conflict")
    await api.post(f"/v1/runs/{run['id']}/cancel")
    response = await api.delete(f"/v1/runs/{run['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert_problem(await api.get(f"/v1/runs/{run['id']}"), 404, "not_found")
    assert_problem(await api.delete(f"/v1/runs/{run['id']}"), 404, "not_found")


async def test_the_history_tells_each_version_once_and_in_order(api: Caller) -> None:
    """Version 1 leaves the payload out; a page's `next` goes on."""
    run = await api.run(payload="big", metadata={"n": 0})
    for n in range(1, 5):
        run = await api.update(run, metadata={"n": n})
    pages, after = [], 0
    while True:
        response = await api.get(
            f"/v1/runs/{run['id']}/changes", params={"afterVersion": after, "limit": 2}
        )
        page = response.json()
        pages += page["data"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [change["version"] for change in pages] == [1, 2, 3, 4, 5]
    assert "payload" not in pages[0]["changed"]
    assert pages[0]["changed"]["status"] == "QUEUED"
    assert pages[3]["changed"] == {"metadata": {"n": 3}}
    assert pages[4]["at"] == run["updatedAt"]


# ------------------------------------------------------------------------------------------- bulk


async def test_each_command_of_a_bulk_stands_or_falls_alone(api: Caller) -> None:
    """Also one that has no shape at all."""
    run = await api.run()
    response = await api.post(
        "/v1/runs/bulk",
        {
            "commands": [
                {"create": {"taskIdentifier": "a", "payload": 1}},
                {"update": {"runId": run["id"], "status": "EXECUTING"}},
                {"update": {"runId": run["id"], "status": "QUEUED"}},
                {"update": {"runId": new_id("run"), "status": "EXECUTING"}},
                {"update": {"runId": "\0", "status": "EXECUTING"}},
                {"create": {"taskIdentifier": "a", "tags": ["\n"]}},
                {"create": {}},
                {"create": {"taskIdentifier": "a"}, "update": {}},
                {"remove": {}},
                "create",
                None,
                {"update": {"runId": run["id"], "status": "COMPLETED", "output": 7}},
            ]
        },
    )
    assert response.status_code == 200
    results = response.json()["results"]
    kinds = [result["error"]["status"] if "error" in result else "run" for result in results]
    assert kinds == ["run", "run", 409, 404, 404, 422, 422, 422, 422, 422, 422, "run"]
    assert results[1]["run"]["version"] == 2
    assert results[2]["error"]["run"]["status"] == "EXECUTING"
    assert results[11]["run"]["version"] == 3
    assert results[6]["error"]["errors"][0]["path"] == "create.taskIdentifier"
    assert results[5]["error"]["errors"][0]["path"] == "create.tags.0"


@pytest.mark.parametrize("body", [{}, {"commands": 1}, {"commands": [], "x": 1}, [], "x"])
async def test_a_bulk_that_is_none_is_refused_whole(api: Caller, body: Any) -> None:
    """There is nothing in it to answer one by one."""
    assert_problem(await api.post("/v1/runs/bulk", body), 422, "unprocessable")


async def test_a_bulk_has_a_bound(api: Caller) -> None:
    """1,000 are taken, one more is not, and none of those is done."""
    create = {"create": {"taskIdentifier": "many"}}
    response = await api.post("/v1/runs/bulk", {"commands": [create] * 1_000})
    assert len(response.json()["results"]) == 1_000
    response = await api.post("/v1/runs/bulk", {"commands": [create] * 1_001})
    assert_problem(response, 422, "unprocessable")


# ------------------------------------------------------------------------------- idempotency header


async def test_a_command_repeated_with_its_key_gets_its_first_answer(api: Caller) -> None:
    """A client whose answer got lost may simply ask again."""
    run = await api.run(status="EXECUTING", metadata={"n": 0})
    steps = {"operations": [{"op": "increment", "path": "n", "value": 1}]}
    key = {"Idempotency-Key": f"once-{run['id']}"}
    path = f"/v1/runs/{run['id']}/metadata"
    first = await api.post(path, steps, headers=key)
    await api.update(run, metadata={"other": True})
    again = await api.post(path, steps, headers=key)
    assert again.json() == first.json()
    assert (await api.get(f"/v1/runs/{run['id']}")).json()["metadata"] == {"n": 1, "other": True}


async def test_a_create_repeated_with_its_key_makes_one_run(api: Caller) -> None:
    """The answer is the first one, its status too."""
    body = {"taskIdentifier": "once"}
    key = {"Idempotency-Key": new_id("once")}
    first = await api.post("/v1/runs", body, headers=key)
    again = await api.post("/v1/runs", body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()


async def test_many_at_once_with_one_key_make_one_run(api: Caller) -> None:
    """That is how a client with a short timeout behaves."""
    body = {"taskIdentifier": "race"}
    key = {"Idempotency-Key": new_id("race")}
    answers = await asyncio.gather(*(api.post("/v1/runs", body, headers=key) for _ in range(10)))
    assert {response.status_code for response in answers} == {201}
    assert len({response.json()["id"] for response in answers}) == 1


async def test_a_key_does_not_stand_for_another_request(api: Caller) -> None:
    """Else a mistake of the client would be answered with somebody else's success."""
    key = {"Idempotency-Key": new_id("key")}
    await api.post("/v1/runs", {"taskIdentifier": "a"}, headers=key)
    response = await api.post("/v1/runs", {"taskIdentifier": "b"}, headers=key)
    problem = assert_problem(response, 422, "unprocessable")
    assert problem["errors"][0]["path"] == "Idempotency-Key"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_that_cannot_be_one_is_a_bad_request(api: Caller, key: str) -> None:
    """Cutting it would make two keys one."""
    response = await api.post("/v1/runs", {"taskIdentifier": "a"}, headers={"Idempotency-Key": key})
    assert_problem(response, 400, "bad_request")


# ----------------------------------------------------------------------------------------- reading


async def test_lists_are_newest_first_and_go_on_where_a_page_ended(api: Caller) -> None:
    """Runs made meanwhile do not shift the pages."""
    made = [await api.run("page") for _ in range(5)]
    first = (await api.get("/v1/runs", params={"task": "page", "limit": 2})).json()
    await api.run("page")
    second = (
        await api.get("/v1/runs", params={"task": "page", "limit": 10, "after": first["next"]})
    ).json()
    seen = [run["id"] for run in first["data"] + second["data"]]
    assert seen == [run["id"] for run in reversed(made)]
    assert second["next"] is None


async def test_each_filter_of_a_list_filters(api: Caller) -> None:
    """Repeated statuses and tasks are either, repeated tags all."""
    tag = new_id("tag")
    batch = (await api.post("/v1/batches", {"sealed": False})).json()["batch"]
    one = await api.run("f1", tags=[tag, "x"], isTest=True)
    two = await api.run("f2", tags=[tag, "y"], batchId=batch["id"])
    three = await api.run("f3", tags=[tag, "x", "y"], parentRunId=one["id"], status="EXECUTING")

    async def found(**query: Any) -> set[str]:
        response = await api.get("/v1/runs", params={"tag": tag} | query)
        assert response.status_code == 200, response.text
        return {run["taskIdentifier"] for run in response.json()["data"]}

    assert await found() == {"f1", "f2", "f3"}
    assert await found(tag=[tag, "x"]) == {"f1", "f3"}
    assert await found(tag=[tag, "x", "y"]) == {"f3"}
    assert await found(status="EXECUTING") == {"f3"}
    assert await found(status=["EXECUTING", "QUEUED"]) == {"f1", "f2", "f3"}
    assert await found(task=["f1", "f2"]) == {"f1", "f2"}
    assert await found(batchId=batch["id"]) == {"f2"}
    assert await found(parentRunId=one["id"]) == {"f3"}
    assert await found(isTest="true") == {"f1"}
    assert await found(isTest="false") == {"f2", "f3"}
    assert await found(createdAfter=one["createdAt"]) == {"f2", "f3"}
    assert await found(createdBefore=three["createdAt"]) == {"f1", "f2"}
    assert await found(createdAfter=one["createdAt"], createdBefore=two["createdAt"]) == set()
    assert await found(batchId="nothing' OR 1=1 --") == set()


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=", "limit=1&limit=2", "limit=1.5", "limit=null",
     "status=DONE", "status=queued", "status=", "colour=red", "Tag=a", "after=x", "after=",
     "after=bjE_IQ", "isTest=maybe", "isTest=null", "isTest=true&isTest=true",
     "createdAfter=now", "createdAfter=1893456000", "createdAfter=2026-01-01T00:00:00",
     "createdAfter=0001-01-01T00:00:00%2B23:59", "tag=%00", "batchId=a%00", "tag=%ff",
     "tag=%ed%a0%80", "limit=" + "9" * 5_000, "batchId=a&batchId=b"],
)  # fmt: skip
async def test_a_query_that_does_not_fit_is_a_bad_request(api: Caller, query: str) -> None:
    """A filter that is dropped in silence shows runs that nobody asked for."""
    assert_problem(await api.get(f"/v1/runs?{query}"), 400, "bad_request")


async def test_a_time_whose_plus_was_not_escaped_is_understood(api: Caller) -> None:
    """`curl` sends it as it stands, and it arrives as a space."""
    response = await api.get("/v1/runs?createdAfter=2026-01-01T00:00:00+02:00")
    assert response.status_code == 200


@pytest.mark.parametrize(
    "id",
    ["run_unknown", "x", "run_" + "0" * 26, "RUN_" + "0" * 26, "run_" + "0" * 25 + "%00",
     "batch_" + "0" * 26, "..%2f..", "run_" + "%27" * 26, "%ff", "run_" + "0" * 3_000],
)  # fmt: skip
@pytest.mark.parametrize("what", ["", "/changes", "/cancel"])
async def test_an_id_that_is_not_ours_is_not_found(api: Caller, id: str, what: str) -> None:
    """Whatever stands there, and without asking the database."""
    method = "POST" if what == "/cancel" else "GET"
    assert_problem(await api.call(method, f"/v1/runs/{id}{what}"), 404, "not_found")


# ----------------------------------------------------------------------------------- who may read it


async def test_a_token_reads_what_its_scopes_cover_and_finds_nothing_else(api: Caller) -> None:
    """Not found and forbidden look alike, so ids cannot be probed."""
    tag = new_id("tag")
    run = await api.run("t1", tags=[tag])
    for scope in (f"read:runs:{run['id']}", f"read:tags:{tag}", "read:tasks:t1", "read:runs"):
        reader = await api.a_token(scope)
        assert (await reader.get(f"/v1/runs/{run['id']}")).json() == run
        assert (await reader.get(f"/v1/runs/{run['id']}/changes")).status_code == 200
    for scope in ("read:runs:run_x", "read:tags:other", "read:tasks:t", "trigger:tasks:t1"):
        reader = await api.a_token(scope)
        there = await reader.get(f"/v1/runs/{run['id']}")
        absent = await reader.get(f"/v1/runs/{new_id('run')}")
        assert assert_problem(there, 404, "not_found") == assert_problem(absent, 404, "not_found")
        assert_problem(await reader.get(f"/v1/runs/{run['id']}/changes"), 404, "not_found")


async def test_a_token_lists_only_what_it_was_given_for(api: Caller) -> None:
    """A list it may not ask for is forbidden, not empty."""
    tag, other = new_id("tag"), new_id("tag")
    await api.run("l1", tags=[tag])
    await api.run("l2", tags=[tag, other])
    reader = await api.a_token(f"read:tags:{tag}")
    assert len((await reader.get("/v1/runs", params={"tag": tag})).json()["data"]) == 2
    assert len((await reader.get("/v1/runs", params={"tag": [tag, other]})).json()["data"]) == 1
    assert_problem(await reader.get("/v1/runs"), 403, "forbidden")
    assert_problem(await reader.get("/v1/runs", params={"tag": other}), 403, "forbidden")
    by_task = await api.a_token("read:tasks:l1")
    assert len((await by_task.get("/v1/runs", params={"task": "l1"})).json()["data"]) == 1
    assert_problem(await by_task.get("/v1/runs", params={"task": ["l1", "l2"]}), 403, "forbidden")


async def test_skipped_fields_are_shown_nowhere(api: Caller) -> None:
    """Neither in a run nor in a list nor in its history."""
    run = await api.run("skip", payload="secret", metadata={"m": 1})
    run = await api.update(run, metadata={"m": 2}, addTags=["x"])
    reader = await api.a_token("read:runs", skip=["payload", "metadata"])
    seen = (await reader.get(f"/v1/runs/{run['id']}")).json()
    assert seen == {k: v for k, v in run.items() if k not in ("payload", "metadata")}
    listed = (await reader.get("/v1/runs", params={"task": "skip"})).json()["data"]
    assert listed == [seen]
    history = (await reader.get(f"/v1/runs/{run['id']}/changes")).json()["data"]
    assert all("metadata" not in change["changed"] for change in history)
    assert seen.keys() >= ALWAYS_SENT


async def test_a_token_by_tag_sees_the_history_only_while_the_tag_was_there(api: Caller) -> None:
    """What happened before the run was shared is not shared."""
    tag = new_id("tag")
    run = await api.run(metadata={"secret": 1})
    run = await api.update(run, metadata={"secret": None})
    run = await api.update(run, addTags=[tag])
    run = await api.update(run, metadata={"shown": 1})
    reader = await api.a_token(f"read:tags:{tag}")
    history = (await reader.get(f"/v1/runs/{run['id']}/changes")).json()["data"]
    assert [change["version"] for change in history] == [3, 4]


@pytest.mark.parametrize("grant", ["read-only key", "read:runs", "trigger:tasks:x"])
async def test_who_may_not_write_changes_nothing(api: Caller, grant: str) -> None:
    """Every call that changes something, with everything that reads."""
    if grant == "read-only key":
        key = new_key()
        access = api.runtime.access
        await access.create_key("default", "r", key_hash(key), read_only=True)
        reader = api.with_token(key)
    else:
        reader = await api.a_token(grant)
    run = await api.run()
    batch = (await api.post("/v1/batches", {})).json()["batch"]
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/v1/runs", {"taskIdentifier": "y"}),
        ("PATCH", f"/v1/runs/{run['id']}", {"status": "EXECUTING"}),
        ("DELETE", f"/v1/runs/{run['id']}", None),
        ("POST", f"/v1/runs/{run['id']}/metadata", {"operations": []}),
        ("POST", f"/v1/runs/{run['id']}/cancel", None),
        ("POST", f"/v1/runs/{run['id']}/replay", None),
        ("POST", f"/v1/runs/{run['id']}/heartbeat", None),
        ("POST", "/v1/runs/bulk", {"commands": []}),
        ("POST", "/v1/batches", {}),
        ("POST", f"/v1/batches/{batch['id']}/items", {"items": []}),
        ("POST", f"/v1/batches/{batch['id']}/seal", None),
        ("POST", "/v1/tokens", {"scopes": ["read:runs"]}),
        ("DELETE", f"/v1/tokens/{new_id('tok')}", None),
    ]
    for method, path, body in calls:
        response = await reader.call(method, path, **({} if body is None else {"json": body}))
        assert_problem(response, 403, "forbidden")
    assert (await api.get(f"/v1/runs/{run['id']}")).json() == run
