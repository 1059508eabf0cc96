"""Who may read runs over HTTP, and who may change none."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.auth import key_hash, new_key
from store.model import ALWAYS_SENT, new_id
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
