"""Lists of runs over HTTP: pages, filters, and queries that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
