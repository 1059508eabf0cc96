"""One run over HTTP: how it is changed, replayed and deleted, and its history."""

from __future__ import annotations

from typing import Any

import pytest

from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
