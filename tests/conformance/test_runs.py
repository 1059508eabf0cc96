"""What the lifecycle and the clock do to a run, paging, and repeated commands."""

import asyncio
from datetime import datetime
from typing import Any

import httpx2

from tests.conformance.calling import (
    becomes,
    create,
    elapsed_ms,
    grows_older,
    patch,
    problem,
)

Http = httpx2.AsyncClient


async def test_a_ttl_counts_from_when_the_run_was_queued_last(http: Http) -> None:
    """One that was queued as the other's time ran out has its own before it."""
    expiring, delayed, again = await asyncio.gather(
        create(http, ttl=1), create(http, delay=1, ttl=1), create(http, status="EXECUTING", ttl=1)
    )
    await becomes(http, expiring, "EXPIRED")
    await patch(http, again, status="REATTEMPTING")
    queued = await patch(http, again, status="QUEUED")
    expired, expired_later = await asyncio.gather(
        becomes(http, again, "EXPIRED"), becomes(http, delayed, "EXPIRED")
    )
    assert expired["queuedAt"] == queued["queuedAt"]
    for run in (expired, expired_later):
        waited = datetime.fromisoformat(run["expiredAt"]) - datetime.fromisoformat(run["queuedAt"])
        assert waited.total_seconds() >= 1
    assert expired_later["queuedAt"] >= delayed["delayedUntil"]


async def test_time_spent_frozen_is_not_time_spent_executing(http: Http) -> None:
    run = await create(http, status="EXECUTING")
    frozen = await patch(http, run, status="FROZEN")
    assert (await grows_older(http, frozen, 100))["durationMs"] == frozen["durationMs"]
    thawed = await patch(http, run, status="EXECUTING")
    assert thawed["durationMs"] == frozen["durationMs"]
    assert (thawed["attempt"], thawed["startedAt"]) == (1, run["startedAt"])
    await grows_older(http, thawed, 50)
    done = await patch(http, run, status="COMPLETED")
    # In whole milliseconds, of each of the two spells.
    executed = elapsed_ms(run, frozen) + elapsed_ms(thawed, done)
    assert abs(done["durationMs"] - executed) <= 2


async def test_a_run_that_is_over_takes_tags_and_metadata_and_nothing_else(http: Http) -> None:
    run = await create(http, status="EXECUTING")
    done = await patch(http, run, status="COMPLETED", output=1)
    assert (await patch(http, run, addTags=["late"]))["version"] == done["version"] + 1
    assert (await patch(http, run, metadata={"late": 1}))["version"] == done["version"] + 2
    for field in ({"costInCents": 5}, {"output": 2}, {"error": {"name": "E", "message": "m"}}):
        await patch(http, run, 409, **field)
    now = (await http.get(f"/v1/runs/{run['id']}")).json()
    assert (now["output"], now["finishedAt"]) == (1, done["finishedAt"])


async def test_every_final_status_may_be_asked_for_and_sets_finished_at(http: Http) -> None:
    for status in ("EXPIRED",):
        run = await create(http)
        done = await patch(http, run, status=status)
        assert done["finishedAt"]
        assert done["expiredAt"]
    error = {"name": "Error", "message": "no"}
    for status in ("FAILED", "CRASHED", "INTERRUPTED", "SYSTEM_FAILURE", "TIMED_OUT", "CANCELED"):
        run = await create(http, status="EXECUTING")
        done = await patch(http, run, status=status, error=error)
        assert done["finishedAt"]
        assert done["error"].items() >= error.items()


async def test_time_bounds_and_repeated_parameters_of_a_list(http: Http, tag: str) -> None:
    runs = [await create(http, tags=[tag], taskIdentifier=f"t{i}") for i in range(4)]

    async def found(query: str) -> list[str]:
        page = (await http.get(f"/v1/runs?tag={tag}&{query}")).json()
        assert page["next"] is None
        return [run["taskIdentifier"] for run in page["data"]]

    times = [run["createdAt"] for run in runs]
    assert await found(f"createdAfter={times[0]}&createdBefore={times[3]}") == ["t2", "t1"]
    assert await found("task=t3&task=t1") == ["t3", "t1"]
    assert await found("limit=4") == ["t3", "t2", "t1", "t0"]
    problem(await http.get("/v1/runs?task=a&limit=1&limit=2"), 400, "bad_request")
    problem(await http.get("/v1/runs?createdAfter=yesterday"), 400, "bad_request")
    problem(await http.get("/v1/runs?isTest=perhaps"), 400, "bad_request")


async def test_history_pages_end_with_null(http: Http) -> None:
    run = await create(http)
    for n in range(3):
        await patch(http, run, metadata={"n": n})
    path = f"/v1/runs/{run['id']}/changes"
    for query, versions, next_ in (
        ("limit=4", [1, 2, 3, 4], None),
        ("limit=3", [1, 2, 3], 3),
        ("afterVersion=3&limit=1", [4], None),
        ("afterVersion=4", [], None),
        ("afterVersion=99", [], None),
    ):
        page = (await http.get(f"{path}?{query}")).json()
        assert ([each["version"] for each in page["data"]], page["next"]) == (versions, next_)
    problem(await http.get(f"{path}?afterVersion=-1"), 400, "bad_request")
    problem(await http.get(f"{path}?limit=0"), 400, "bad_request")


async def test_every_command_may_be_repeated_with_its_key(http: Http, tag: str) -> None:
    run = await create(http)
    batch = (await http.post("/v1/batches", json={})).json()["batch"]
    item = {"taskIdentifier": "t"}
    metadata = {"operations": [{"op": "increment", "path": "n", "value": 1}]}
    commands: list[tuple[str, str, Any]] = [
        ("POST", "/v1/runs", item),
        ("POST", f"/v1/runs/{run['id']}/metadata", metadata),
        ("PATCH", f"/v1/runs/{run['id']}", {"status": "EXECUTING"}),
        ("POST", f"/v1/runs/{run['id']}/cancel", None),
        ("POST", f"/v1/runs/{run['id']}/replay", None),
        ("POST", "/v1/runs/bulk", {"commands": [{"create": item}]}),
        ("POST", "/v1/batches", {"items": [item]}),
        ("POST", f"/v1/batches/{batch['id']}/items", {"items": [item]}),
        ("POST", f"/v1/batches/{batch['id']}/seal", None),
        ("DELETE", f"/v1/runs/{run['id']}", None),
    ]
    for n, (method, path, body) in enumerate(commands):
        key = {"Idempotency-Key": f"{tag}:{n}"}
        first = await http.request(method, path, json=body, headers=key)
        again = await http.request(method, path, json=body, headers=key)
        assert first.is_success, first.text
        assert (path, again.content) == (path, first.content)
        assert again.is_success
    other = await http.post(
        "/v1/runs", json={**item, "ttl": 5}, headers={"Idempotency-Key": tag + ":0"}
    )
    assert other.status_code in (409, 422)


async def test_a_refused_command_leaves_no_trace(http: Http) -> None:
    run = await create(http)
    await patch(http, run, 409, status="COMPLETED", metadata={"n": 1}, addTags=["x"])
    await patch(http, run, 422, metadata={"n": 1}, addTags=["\n"])
    await patch(http, run, 422, nonsense=1)
    assert (await http.get(f"/v1/runs/{run['id']}")).json() == run
