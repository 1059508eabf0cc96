"""The HTTP half of docs/protocol.md."""

import asyncio
import re
from typing import Any

import httpx2
import pytest

from tests.conformance.calling import becomes, create, patch, problem, read

Http = httpx2.AsyncClient
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
RUN_FIELDS = {
    "id", "version", "number", "taskIdentifier", "status", "payload", "output", "error",
    "metadata", "tags", "batchId", "parentRunId", "rootRunId", "depth", "attempt",
    "idempotencyKey", "createdAt", "updatedAt", "queuedAt", "startedAt", "finishedAt",
    "delayedUntil", "expiredAt", "ttl", "maxDuration", "heartbeatTimeout", "workflowId",
    "position", "durationMs", "costInCents", "baseCostInCents", "isTest",
}  # fmt: skip


async def test_a_created_run_has_every_field(http: Http, tag: str) -> None:
    answer = await http.post(
        "/v1/runs",
        json={
            "taskIdentifier": "send-invoice",
            "payload": {"n": [1, 2.5, None, "ü"]},
            "tags": [tag, "b"],
            "metadata": {"progress": 0},
            "ttl": 3600,
            "maxDuration": 60,
            "heartbeatTimeout": 30,
            "isTest": True,
        },
    )
    assert answer.status_code == 201
    run = answer.json()
    assert run.keys() >= RUN_FIELDS
    assert run["id"].startswith("run_")
    assert (run["version"], run["status"], run["attempt"], run["depth"]) == (1, "QUEUED", 0, 0)
    assert run["payload"] == {"n": [1, 2.5, None, "ü"]}
    assert run["tags"] == [tag, "b"]
    assert run["metadata"] == {"progress": 0}
    assert (run["ttl"], run["maxDuration"], run["heartbeatTimeout"]) == (3600, 60, 30)
    assert run["isTest"] is True
    for name in ("createdAt", "updatedAt", "queuedAt"):
        assert TIME.fullmatch(run[name])
    assert run["output"] is run["error"] is run["startedAt"] is run["finishedAt"] is None
    assert (await http.get(f"/v1/runs/{run['id']}")).json() == run


async def test_creating_a_run_gives_a_token_that_reads_it_and_writes_nothing(
    http: Http, target: Any
) -> None:
    answer = await http.post("/v1/runs", json={"taskIdentifier": "t"})
    run, token = answer.json(), answer.headers["runstream-token"]
    async with httpx2.AsyncClient(
        base_url=target.url, headers={"Authorization": f"Bearer {token}"}
    ) as reader:
        assert (await reader.get(f"/v1/runs/{run['id']}")).json() == run
        refused = await reader.patch(f"/v1/runs/{run['id']}", json={"status": "EXECUTING"})
        assert refused.status_code in (403, 404)
        other = await create(http)
        assert (await reader.get(f"/v1/runs/{other['id']}")).status_code == 404


async def test_a_token_is_needed(http: Http, target: Any) -> None:
    async with httpx2.AsyncClient(base_url=target.url) as nobody:
        problem(await nobody.get("/v1/runs"), 401, "unauthorized")
        wrong = {"Authorization": "Bearer not-a-key-0123456789"}
        problem(await nobody.get("/v1/runs", headers=wrong), 401, "unauthorized")


async def test_the_idempotency_key_of_a_run_finds_the_first_one(http: Http, tag: str) -> None:
    body = {"taskIdentifier": "t", "idempotencyKey": tag, "payload": 1}
    first = await http.post("/v1/runs", json=body)
    again = await http.post("/v1/runs", json={**body, "payload": 2})
    other = await http.post("/v1/runs", json={**body, "taskIdentifier": "u"})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert again.json() == first.json()
    assert "runstream-token" in again.headers
    assert other.json()["id"] != first.json()["id"]


async def test_the_idempotency_key_header_returns_the_first_answer(http: Http, tag: str) -> None:
    run = await create(http)
    command = {"metadata": {"n": 1}}
    key = {"Idempotency-Key": tag}
    first = await http.patch(f"/v1/runs/{run['id']}", json=command, headers=key)
    await patch(http, run, metadata={"n": 2})
    again = await http.patch(f"/v1/runs/{run['id']}", json=command, headers=key)
    assert again.status_code == 200
    assert again.json() == first.json()
    assert (await http.get(f"/v1/runs/{run['id']}")).json()["metadata"] == {"n": 2}
    make = await http.post(
        "/v1/runs", json={"taskIdentifier": "t"}, headers={"Idempotency-Key": tag + "c"}
    )
    made = await http.post(
        "/v1/runs", json={"taskIdentifier": "t"}, headers={"Idempotency-Key": tag + "c"}
    )
    assert make.json() == made.json()


async def test_a_run_goes_through_its_life(http: Http) -> None:
    run = await create(http)
    run = await patch(http, run, status="EXECUTING")
    assert (run["version"], run["attempt"]) == (2, 1)
    assert TIME.fullmatch(run["startedAt"])
    run = await patch(http, run, status="FROZEN")
    run = await patch(http, run, status="EXECUTING")
    assert run["attempt"] == 1
    run = await patch(http, run, status="REATTEMPTING")
    run = await patch(http, run, status="EXECUTING")
    assert run["attempt"] == 2
    run = await patch(http, run, status="COMPLETED", output={"total": 99}, costInCents=1.5)
    assert (run["version"], run["output"], run["costInCents"]) == (7, {"total": 99}, 1.5)
    assert TIME.fullmatch(run["finishedAt"])
    refused = await http.patch(f"/v1/runs/{run['id']}", json={"status": "EXECUTING"})
    assert problem(refused, 409, "conflict")["run"] == run


async def test_a_transition_to_the_present_status_with_equal_fields_changes_nothing(
    http: Http,
) -> None:
    run = await create(http, status="EXECUTING")
    done = await patch(http, run, status="COMPLETED", output=[1])
    assert await patch(http, run, status="COMPLETED", output=[1]) == done
    await patch(http, run, 409, status="COMPLETED", output=[2])


async def test_work_that_has_begun_is_created_executing(http: Http) -> None:
    run = await create(http, status="EXECUTING")
    assert (run["status"], run["attempt"], run["version"]) == ("EXECUTING", 1, 1)


async def test_if_version_guards_a_change(http: Http) -> None:
    run = await create(http)
    run = await patch(http, run, metadata={"a": 1}, ifVersion=1)
    answer = await http.patch(f"/v1/runs/{run['id']}", json={"metadata": {"a": 2}, "ifVersion": 1})
    assert problem(answer, 409, "conflict")["run"]["version"] == 2


async def test_metadata_is_a_merge_patch(http: Http) -> None:
    run = await create(http, metadata={"a": {"b": 1, "c": 2}, "d": 3})
    run = await patch(http, run, metadata={"a": {"b": None, "x": [1]}, "d": None})
    assert run["metadata"] == {"a": {"c": 2, "x": [1]}}


async def test_metadata_operations(http: Http) -> None:
    run = await create(http)
    answer = await http.post(
        f"/v1/runs/{run['id']}/metadata",
        json={
            "operations": [
                {"op": "set", "path": "a.b", "value": {"x": 1}},
                {"op": "append", "path": "log", "value": "one"},
                {"op": "append", "path": "log", "value": "two"},
                {"op": "remove", "path": "log", "value": "one"},
                {"op": "increment", "path": "count", "value": 2},
                {"op": "delete", "path": "a.b.x"},
            ]
        },
    )
    assert answer.status_code == 200
    assert answer.json()["metadata"] == {"a": {"b": {}}, "log": ["two"], "count": 2}


async def test_metadata_of_the_parent_and_of_the_root(http: Http) -> None:
    root = await create(http)
    child = await create(http, parentRunId=root["id"])
    grandchild = await create(http, parentRunId=child["id"])
    assert (child["depth"], child["rootRunId"]) == (1, root["id"])
    assert (grandchild["depth"], grandchild["rootRunId"]) == (2, root["id"])
    for target in ("parent", "root"):
        answer = await http.post(
            f"/v1/runs/{grandchild['id']}/metadata",
            json={
                "operations": [{"op": "increment", "path": target, "value": 1}],
                "target": target,
            },
        )
        assert answer.json()["id"] == grandchild["id"]
    assert (await http.get(f"/v1/runs/{child['id']}")).json()["metadata"] == {"parent": 1}
    assert (await http.get(f"/v1/runs/{root['id']}")).json()["metadata"] == {"root": 1}


async def test_tags_are_added_and_removed(http: Http, tag: str) -> None:
    run = await create(http, tags=["a", "b"])
    run = await patch(http, run, addTags=[tag, "a"], removeTags=["b"])
    assert run["tags"] == ["a", tag]
    same = await patch(http, run, addTags=["a"])
    assert same["version"] == run["version"]


async def test_a_delayed_run_can_be_moved_and_only_that(http: Http) -> None:
    run = await create(http, delayUntil="2099-01-01T00:00:00Z")
    assert (run["status"], run["delayedUntil"]) == ("DELAYED", "2099-01-01T00:00:00.000000Z")
    run = await patch(http, run, delayUntil="2098-01-01T00:00:00+02:00")
    assert run["delayedUntil"] == "2097-12-31T22:00:00.000000Z"
    run = await patch(http, run, status="QUEUED")
    await patch(http, run, 409, delayUntil="2099-01-01T00:00:00Z")
    await patch(http, run, 422, status="DELAYED")
    run = await patch(http, run, status="DELAYED", delayUntil="2099-01-01T00:00:00Z")
    assert (await create(http, delay=3600))["status"] == "DELAYED"


async def test_the_server_moves_runs_whose_time_has_come(http: Http) -> None:
    delayed = await create(http, delay=1)
    expiring = await create(http, ttl=1)
    long = await create(http, status="EXECUTING", maxDuration=1)
    silent = await create(http, status="EXECUTING", heartbeatTimeout=1)

    await becomes(http, delayed, "QUEUED")
    expired = await becomes(http, expiring, "EXPIRED")
    assert TIME.fullmatch(expired["expiredAt"])
    assert TIME.fullmatch(expired["finishedAt"])
    await becomes(http, long, "TIMED_OUT")
    await becomes(http, silent, "CRASHED")


async def test_heartbeats_keep_a_run_alive(http: Http) -> None:
    """While one that promised them too, and sends none, is found out."""
    silent = await create(http, status="EXECUTING", heartbeatTimeout=2)
    run = await create(http, status="EXECUTING", heartbeatTimeout=2)
    async with asyncio.timeout(30):
        while (await read(http, silent))["status"] != "CRASHED":
            answer = await http.post(f"/v1/runs/{run['id']}/heartbeat")
            assert (answer.status_code, answer.json()) == (200, {})
            await asyncio.sleep(0.05)
    now = await read(http, run)
    assert (now["status"], now["version"]) == ("EXECUTING", 1)


async def test_cancel_replay_delete(http: Http) -> None:
    run = await create(http, payload={"p": 1}, tags=["keep"])
    problem(await http.delete(f"/v1/runs/{run['id']}"), 409, "conflict")
    canceled = await http.post(f"/v1/runs/{run['id']}/cancel")
    assert (canceled.status_code, canceled.json()["status"]) == (200, "CANCELED")
    assert (await http.post(f"/v1/runs/{run['id']}/cancel")).json() == canceled.json()
    again = await http.post(f"/v1/runs/{run['id']}/replay")
    assert again.status_code == 201
    new = again.json()
    assert new["id"] != run["id"]
    assert (new["payload"], new["status"], new["batchId"]) == ({"p": 1}, "QUEUED", None)
    gone = await http.delete(f"/v1/runs/{run['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    problem(await http.get(f"/v1/runs/{run['id']}"), 404, "not_found")
    problem(await http.delete(f"/v1/runs/{run['id']}"), 404, "not_found")


async def test_lists_filter_and_page(http: Http, tag: str) -> None:
    runs = [await create(http, tags=[tag, f"n:{i % 2}"], isTest=i == 0) for i in range(5)]
    await patch(http, runs[0], status="EXECUTING")

    async def ids(**query: Any) -> list[str]:
        answer = await http.get("/v1/runs", params={"tag": [tag], **query})
        assert answer.status_code == 200, answer.text
        return [run["id"] for run in answer.json()["data"]]

    newest_first = [run["id"] for run in reversed(runs)]
    assert await ids() == newest_first
    assert await ids(status="EXECUTING") == [runs[0]["id"]]
    assert await ids(status=["EXECUTING", "QUEUED"]) == newest_first
    assert await ids(tag=[tag, "n:0"]) == [runs[4]["id"], runs[2]["id"], runs[0]["id"]]
    assert await ids(isTest="true") == [runs[0]["id"]]
    assert await ids(task=["t", "other"]) == newest_first
    assert await ids(task="other") == []
    assert await ids(createdAfter=runs[2]["createdAt"]) == newest_first[:2]
    assert await ids(createdBefore=runs[2]["createdAt"]) == newest_first[3:]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await http.get("/v1/runs", params={"tag": tag, "limit": "2", **after})).json()
        found += [run["id"] for run in page["data"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == newest_first


async def test_history_tells_each_version(http: Http) -> None:
    run = await create(http, payload={"secret": 1})
    await patch(http, run, status="EXECUTING")
    await patch(http, run, metadata={"progress": 0.5})
    last = await patch(http, run, status="COMPLETED", output=7)
    page = (await http.get(f"/v1/runs/{run['id']}/changes")).json()
    assert [change["version"] for change in page["data"]] == [1, 2, 3, 4]
    assert page["next"] is None
    first, *_, final = page["data"]
    assert "payload" not in first["changed"]
    assert first["changed"]["status"] == "QUEUED"
    assert first["at"] == run["updatedAt"]
    assert final["at"] == last["updatedAt"]
    assert page["data"][2]["changed"] == {"metadata": {"progress": 0.5}}
    assert (final["changed"]["status"], final["changed"]["output"]) == ("COMPLETED", 7)
    some = (await http.get(f"/v1/runs/{run['id']}/changes?afterVersion=1&limit=2")).json()
    assert [change["version"] for change in some["data"]] == [2, 3]
    rest = await http.get(f"/v1/runs/{run['id']}/changes?afterVersion={some['next']}")
    assert [change["version"] for change in rest.json()["data"]] == [4]


async def test_bulk_commands_stand_or_fall_alone(http: Http) -> None:
    run = await create(http)
    answer = await http.post(
        "/v1/runs/bulk",
        json={
            "commands": [
                {"create": {"taskIdentifier": "b"}},
                {"update": {"runId": run["id"], "status": "EXECUTING"}},
                {"update": {"runId": run["id"], "status": "QUEUED"}},
                {"update": {"runId": "run_none", "status": "QUEUED"}},
                {"update": {"runId": run["id"], "metadata": {"n": 1}}},
                {"create": {"taskIdentifier": ""}},
            ]
        },
    )
    assert answer.status_code == 200, answer.text
    made, executing, refused, missing, noted, wrong = answer.json()["results"]
    assert made["run"]["taskIdentifier"] == "b"
    assert (executing["run"]["status"], executing["run"]["version"]) == ("EXECUTING", 2)
    assert executing["run"]["metadata"] == {}
    assert refused["error"]["code"] == "conflict"
    assert missing["error"]["code"] == "not_found"
    assert (noted["run"]["metadata"], noted["run"]["version"]) == ({"n": 1}, 3)
    assert wrong["error"]["code"] == "unprocessable"


async def test_batches(http: Http) -> None:
    answer = await http.post(
        "/v1/batches", json={"items": [{"taskIdentifier": "b", "payload": i} for i in range(3)]}
    )
    assert answer.status_code == 201, answer.text
    batch, runs = answer.json()["batch"], answer.json()["runs"]
    assert [run["payload"] for run in runs] == [0, 1, 2]
    assert {run["batchId"] for run in runs} == {batch["id"]}
    assert (batch["size"], batch["final"], batch["counts"]) == (3, 0, {"QUEUED": 3})
    assert TIME.fullmatch(batch["sealedAt"])
    assert batch["completedAt"] is None
    refused = await http.post(
        f"/v1/batches/{batch['id']}/items", json={"items": [{"taskIdentifier": "b"}]}
    )
    problem(refused, 409, "conflict")
    sealed = await http.post("/v1/runs", json={"taskIdentifier": "b", "batchId": batch["id"]})
    problem(sealed, 409, "conflict")
    for run in runs:
        await patch(http, run, status="CANCELED")
    now = (await http.get(f"/v1/batches/{batch['id']}")).json()
    assert (now["final"], now["counts"]) == (3, {"CANCELED": 3})
    assert TIME.fullmatch(now["completedAt"])
    assert (await http.post(f"/v1/batches/{batch['id']}/seal")).json() == now


async def test_an_open_batch_takes_runs_until_it_is_sealed(http: Http) -> None:
    batch = (await http.post("/v1/batches", json={})).json()["batch"]
    assert (batch["sealedAt"], batch["size"]) == (None, 0)
    added = await http.post(
        f"/v1/batches/{batch['id']}/items", json={"items": [{"taskIdentifier": "b"}]}
    )
    assert (added.status_code, len(added.json()["runs"])) == (200, 1)
    await create(http, batchId=batch["id"])
    sealed = await http.post(f"/v1/batches/{batch['id']}/seal")
    assert (sealed.status_code, sealed.json()["size"]) == (200, 2)


@pytest.mark.parametrize(
    "body, status, code",
    [
        (b"{", 400, "bad_request"),
        (b'{"taskIdentifier": "\xff"}', 400, "bad_request"),
        (b"[]", 422, "unprocessable"),
        (b"{}", 422, "unprocessable"),
        (b'{"taskIdentifier": 1}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "unknown": 1}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "payload": "\\u0000"}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "tags": ["a\\nb"]}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "tags": [""]}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "tags": ["' + b"x" * 129 + b'"]}', 422, "unprocessable"),
        (
            b'{"taskIdentifier": "t", "tags": ['
            + b",".join(b'"%d"' % i for i in range(11))
            + b"]}",
            422,
            "unprocessable",
        ),
        (b'{"taskIdentifier": "t", "ttl": 1e30}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "ttl": -1}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "status": "COMPLETED"}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "status": "NONE"}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "delayUntil": "soon"}', 422, "unprocessable"),
        (b'{"taskIdentifier": "t", "metadata": []}', 422, "unprocessable"),
        (
            b'{"taskIdentifier": "t", "payload": ' + b"[" * 65 + b"]" * 65 + b"}",
            422,
            "unprocessable",
        ),
        (
            b'{"taskIdentifier": "t", "payload": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            422,
            "unprocessable",
        ),
        (
            b'{"taskIdentifier": "t", "payload": "' + b"x" * 3_000_001 + b'"}',
            413,
            "payload_too_large",
        ),
        (
            b'{"taskIdentifier": "t", "metadata": {"a": "' + b"x" * 256_001 + b'"}}',
            413,
            "payload_too_large",
        ),
    ],
)
async def test_a_wrong_body_gets_its_error_and_the_server_serves_on(
    http: Http, body: bytes, status: int, code: str
) -> None:
    told = problem(await http.post("/v1/runs", content=body), status, code)
    if status == 422:
        assert all({"path", "message"} <= error.keys() for error in told["errors"])
        assert told["errors"]
    assert (await http.get("/healthz")).status_code == 200


async def test_wrong_queries_ids_and_paths(http: Http) -> None:
    problem(await http.get("/v1/runs?limit=0"), 400, "bad_request")
    problem(await http.get("/v1/runs?limit=1001"), 400, "bad_request")
    problem(await http.get("/v1/runs?status=NONE"), 400, "bad_request")
    problem(await http.get("/v1/runs?nonsense=1"), 400, "bad_request")
    problem(await http.get("/v1/runs?after=nonsense"), 400, "bad_request")
    problem(await http.get("/v1/runs/run_none"), 404, "not_found")
    problem(await http.get("/v1/runs/%00"), 404, "not_found")
    problem(await http.get("/v1/batches/batch_none"), 404, "not_found")
    problem(await http.get("/v1/nothing"), 404, "not_found")


async def test_health_and_documents(http: Http) -> None:
    assert (await http.get("/healthz")).status_code == 200
    ready = await http.get("/readyz")
    assert ready.status_code == 200
    assert isinstance(ready.json(), dict)
    assert "# TYPE" in (await http.get("/metrics")).text
    assert (await http.get("/openapi.json")).json()["openapi"].startswith("3.")
    assert (await http.get("/asyncapi.json")).json()["asyncapi"].startswith("3.")
    assert (await http.get("/")).headers["content-type"].startswith("text/html")


async def test_tokens_are_made_and_revoked(http: Http, target: Any, tag: str) -> None:
    run = await create(http, tags=[tag], payload={"p": 1})
    made = await http.post(
        "/v1/tokens", json={"scopes": [f"read:tags:{tag}"], "expiresIn": 60, "skip": ["payload"]}
    )
    assert made.status_code == 201, made.text
    token = made.json()
    assert TIME.fullmatch(token["expiresAt"])
    async with httpx2.AsyncClient(
        base_url=target.url, headers={"Authorization": f"Bearer {token['token']}"}
    ) as reader:
        seen = (await reader.get(f"/v1/runs/{run['id']}")).json()
        assert "payload" not in seen
        assert seen["tags"] == [tag]
        problem(await reader.post("/v1/runs", json={"taskIdentifier": "t"}), 403, "forbidden")
        assert (await http.delete(f"/v1/tokens/{token['id']}")).status_code in (200, 204)
        async with asyncio.timeout(20):
            while (await reader.get(f"/v1/runs/{run['id']}")).status_code != 401:
                await asyncio.sleep(0.05)
