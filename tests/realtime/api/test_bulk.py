"""Many commands in one call over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
