"""HTTP calls about job runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from realtime.api.paging import opaque
from store.model import WIRE_FIELDS, new_id
from tests.realtime.api.calling import Caller, assert_problem
from tests.realtime.api.jobbing import a_job, a_job_run, advance, got, made

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_job_run_goes_from_step_to_step(api: Caller) -> None:
    job = await a_job(api, "fetch", "build")
    response = await api.post(
        "/v1/job-runs", {"jobId": job["id"], "payload": {"n": 1}, "tags": ["nightly"]}
    )
    assert response.status_code == 201
    assert "runstream-token" in response.headers
    begun = response.json()
    assert begun["status"] == "PENDING"
    assert begun["jobConfigJsonSnapshot"] == job["config"]
    assert begun["id"] == begun["run"]["id"]
    assert begun["run"]["taskIdentifier"] == begun["jobId"] == job["id"]
    assert list(begun["run"]) == list(WIRE_FIELDS.values())
    assert begun["run"]["workflowId"] is None
    (step,) = begun["workflowRuns"]
    assert (step["status"], step["position"], step["payload"]) == ("QUEUED", 0, {"n": 1})
    assert step["parentRunId"] == begun["id"]

    order = job["config"]["workflowExecutionOrder"]
    listed = await got(api, "/v1/workflow-runs", jobRunId=begun["id"])
    assert listed["workflowRuns"] == [
        step,
        {"workflowId": order[1], "position": 1, "status": None, "id": None},
    ]
    assert (await advance(api, begun, "EXECUTING"))["status"] == "IN_PROGRESS"
    second = await advance(api, begun, "COMPLETED")
    assert [one["status"] for one in second["workflowRuns"]] == ["COMPLETED", "QUEUED"]
    done = await advance(api, begun, "EXECUTING", "COMPLETED")
    assert done["status"] == "COMPLETED"
    assert done["finishedAt"] == done["run"]["finishedAt"] is not None
    assert done["startedAt"] == done["run"]["startedAt"] is not None


async def test_cancel_ends_the_job_run_and_the_step_that_lives(api: Caller) -> None:
    begun = await a_job_run(api)
    canceled = await api.post(f"/v1/job-runs/{begun['id']}/cancel")
    assert canceled.status_code == 200
    assert canceled.json()["status"] == "FAILED"
    assert canceled.json()["run"]["status"] == "CANCELED"
    assert [one["status"] for one in canceled.json()["workflowRuns"]] == ["CANCELED"]
    assert (await api.post(f"/v1/job-runs/{begun['id']}/cancel")).status_code == 200
    done = await a_job_run(api, "one")
    await advance(api, done, "EXECUTING", "COMPLETED")
    problem = assert_problem(await api.post(f"/v1/job-runs/{done['id']}/cancel"), 409, "conflict")
    assert problem["run"]["status"] == "COMPLETED"


async def test_a_cancel_asked_again_gets_its_first_answer_also_if_the_job_run_is_gone(
    api: Caller,
) -> None:
    """Whoever has not heard of the first cannot know what has happened since.

    Taken out: the job run in the command's outcome; it was told as it stood by then, or 404.
    """
    begun = await a_job_run(api)
    path, key = f"/v1/job-runs/{begun['id']}", {"Idempotency-Key": f"cancel {begun['id']}"}
    first = await api.post(f"{path}/cancel", headers=key)
    assert (first.status_code, first.json()["status"]) == (200, "FAILED")
    assert first.json() == await got(api, path)
    tagged = await api.patch(f"/v1/runs/{begun['id']}", {"addTags": ["later"]})
    assert tagged.status_code == 200
    for _ in range(2):
        again = await api.post(f"{path}/cancel", headers=key)
        assert (again.status_code, again.json()) == (200, first.json())
        await api.delete(path)
    assert_problem(await api.post(f"{path}/cancel"), 404, "not_found")


async def test_only_a_job_run_is_canceled_as_one(api: Caller) -> None:
    run = await made(api, "/v1/runs", {"taskIdentifier": "t"})
    assert_problem(await api.post(f"/v1/job-runs/{run['id']}/cancel"), 404, "not_found")
    assert (await got(api, f"/v1/runs/{run['id']}"))["status"] == "QUEUED"


async def test_the_calls_about_runs_know_a_job_run(api: Caller) -> None:
    begun = await a_job_run(api)
    refused = await api.patch(f"/v1/runs/{begun['id']}", {"status": "EXECUTING"})
    assert_problem(refused, 409, "conflict")
    canceled = await api.post(f"/v1/runs/{begun['id']}/cancel")
    assert canceled.json()["status"] == "CANCELED"
    assert (await got(api, f"/v1/job-runs/{begun['id']}"))["workflowRuns"][0][
        "status"
    ] == "CANCELED"
    again = await api.post(f"/v1/runs/{begun['id']}/replay")
    assert again.status_code == 201
    replayed = await got(api, f"/v1/job-runs/{again.json()['id']}")
    assert replayed["jobConfigJsonSnapshot"] == begun["jobConfigJsonSnapshot"]
    assert len(replayed["workflowRuns"]) == 1
    step = begun["workflowRuns"][0]
    assert_problem(await api.delete(f"/v1/runs/{step['id']}"), 409, "conflict")
    assert (await api.delete(f"/v1/runs/{begun['id']}")).status_code == 204
    for path in (f"/v1/runs/{step['id']}", f"/v1/job-runs/{begun['id']}"):
        assert_problem(await api.get(path), 404, "not_found")


async def test_replay_takes_the_snapshot_or_the_job_of_today(api: Caller) -> None:
    old = await a_job_run(api, "fetch", "build", payload=[1], tags=["t"])
    workflow = await made(api, "/v1/workflows", {"name": "new", "taskIdentifier": "new"})
    config = {"workflowExecutionOrder": [workflow["id"]]}
    await api.call("PUT", f"/v1/jobs/{old['jobId']}", json={"name": "x", "config": config})
    path = f"/v1/job-runs/{old['id']}/replay"
    same = await made(api, path, {})
    assert same["id"] != old["id"]
    assert same["jobConfigJsonSnapshot"] == old["jobConfigJsonSnapshot"]
    assert (same["run"]["payload"], same["run"]["tags"]) == ([1], ["t"])
    today = await made(api, path, {"from": "current"})
    assert today["jobConfigJsonSnapshot"] == config
    assert today["workflowRuns"][0]["taskIdentifier"] == "new"
    assert_problem(await api.post(path, {"from": "yesterday"}), 422, "unprocessable")


async def test_a_replay_is_done_once_also_if_the_old_job_run_is_gone(api: Caller) -> None:
    old = await a_job_run(api)
    assert (await api.post(f"/v1/job-runs/{old['id']}/cancel")).status_code == 200
    path, key = f"/v1/job-runs/{old['id']}/replay", {"Idempotency-Key": f"replay {old['id']}"}
    first = await api.post(path, headers=key)
    assert first.status_code == 201
    assert (await api.delete(f"/v1/job-runs/{old['id']}")).status_code == 204
    again = await api.post(path, headers=key)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert_problem(await api.post(path), 404, "not_found")


async def test_job_runs_are_listed_with_filters_and_pages(api: Caller) -> None:
    job = await a_job(api, "one")
    made_ = [
        await made(api, "/v1/job-runs", {"jobId": job["id"], "tags": [f"n{i % 2}"]})
        for i in range(4)
    ]
    ids = [one["id"] for one in made_]
    await advance(api, made_[0], "EXECUTING", "COMPLETED")
    await advance(api, made_[1], "EXECUTING", "CRASHED")
    await advance(api, made_[2], "EXECUTING")

    async def listed(**query: Any) -> list[str]:
        page = await got(api, "/v1/job-runs", jobId=job["id"], **query)
        return [one["id"] for one in page["data"]]

    assert await listed() == ids[::-1]
    assert await listed(status="PENDING") == [ids[3]]
    assert await listed(status="IN_PROGRESS") == [ids[2]]
    assert await listed(status=["COMPLETED", "FAILED"]) == [ids[1], ids[0]]
    assert await listed(tag="n0") == [ids[2], ids[0]]
    assert await listed(createdAfter=made_[1]["createdAt"]) == [ids[3], ids[2]]
    page = await got(api, "/v1/job-runs", jobId=job["id"], limit=3)
    assert len(page["data"]) == 3
    assert await listed(after=page["next"]) == [ids[0]]
    for query in ({"status": "DONE"}, {"after": "x"}, {"colour": "red"}):
        assert_problem(await api.get("/v1/job-runs", params=query), 400, "bad_request")


ZONELESS = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)


async def test_a_place_in_a_list_that_no_page_gave_out_is_refused_or_leads_nowhere(
    api: Caller,
) -> None:
    """A cursor can be made up: no text of it may be the server's fault.

    Taken out: the zone of the time; SQLite's reads failed of a time without one.
    """
    job_run = await a_job_run(api)
    lists = ("/v1/runs", "/v1/job-runs")
    places: list[tuple[str, Any]] = [
        (path, [when, number])
        for path in lists
        for when in (ZONELESS, datetime(1, 1, 1, tzinfo=UTC), 5, "soon")
        for number in (5, 0, -1, 2**63, 2**64 - 1)
    ]
    places += [(path, [datetime(9999, 12, 31, tzinfo=UTC), 2**63 - 1]) for path in lists]
    timeline = f"/v1/job-runs/{job_run['id']}/timeline"
    for when in (ZONELESS, datetime(1, 1, 1, tzinfo=UTC)):
        places.append((timeline, [when, 0, 0, 0]))
    for path in ("/v1/workflows", "/v1/jobs", "/v1/webhooks"):
        places += [(path, "\0"), (path, "x" * 700), (path, 7)]
    for path, place in places:
        response = await api.get(path, params={"after": opaque(place)})
        assert response.status_code in (200, 400), (path, place, response.text)
        if isinstance(place, list) and place[0] == ZONELESS:
            assert_problem(response, 400, "bad_request")


async def test_the_timeline_says_what_happened_and_how_long_it_took(api: Caller) -> None:
    begun = await a_job_run(api)
    await advance(api, begun, "EXECUTING", "COMPLETED")
    step = (await advance(api, begun, "EXECUTING"))["workflowRuns"][1]
    await api.update(step, status="FAILED", error={"name": "Boom", "message": "disk full"})
    told = await got(api, f"/v1/job-runs/{begun['id']}/timeline")
    assert told["status"] == "FAILED"
    assert [(one["position"], one["changed"].get("status")) for one in told["data"]] == [
        (None, "QUEUED"), (0, "QUEUED"), (0, "EXECUTING"), (None, "EXECUTING"), (0, "COMPLETED"),
        (1, "QUEUED"), (1, "EXECUTING"), (1, "FAILED"), (None, "FAILED"),
    ]  # fmt: skip
    times = [one["sinceStartMs"] for one in told["data"]]
    assert times == sorted(times)
    assert told["data"][4]["lastedMs"] is not None
    assert [one["status"] for one in told["steps"]] == ["COMPLETED", "FAILED"]
    assert told["steps"][1]["error"]["message"] == "disk full"
    pages: list[dict[str, Any]] = []
    after = None
    for _ in range(20):
        query = {"limit": 2} | ({} if after is None else {"after": after})
        page = await got(api, f"/v1/job-runs/{begun['id']}/timeline", **query)
        pages += page["data"]
        after = page["next"]
        if after is None:
            break
    assert [(p["runId"], p["version"]) for p in pages] == [
        (p["runId"], p["version"]) for p in told["data"]
    ]


async def test_what_is_no_job_run_is_not_found(api: Caller) -> None:
    run = await api.run()
    for id in (run["id"], new_id("run"), "run_x", "job_x"):
        for path in (f"/v1/job-runs/{id}", f"/v1/job-runs/{id}/timeline"):
            assert_problem(await api.get(path), 404, "not_found")
        assert_problem(await api.post(f"/v1/job-runs/{id}/cancel"), 404, "not_found")
        listed = await api.get("/v1/workflow-runs", params={"jobRunId": id})
        assert_problem(listed, 404, "not_found")
    assert_problem(await api.get("/v1/workflow-runs"), 400, "bad_request")


async def test_tokens_read_what_they_cover_of_a_job_run(api: Caller) -> None:
    """A scope for a job run covers its workflow runs; one for a tag only what has it."""
    job = await a_job(api, "fetch")
    response = await api.post("/v1/job-runs", {"jobId": job["id"], "tags": ["user:7"]})
    begun = response.json()
    other = await a_job_run(api)
    maker = api.with_token(response.headers["runstream-token"])
    assert await got(maker, f"/v1/job-runs/{begun['id']}") == begun
    step = begun["workflowRuns"][0]["id"]
    assert (await got(maker, f"/v1/runs/{step}"))["id"] == step
    assert len((await got(maker, f"/v1/job-runs/{begun['id']}/timeline"))["data"]) == 2
    for path in (f"/v1/job-runs/{other['id']}", f"/v1/job-runs/{other['id']}/timeline"):
        assert_problem(await maker.get(path), 404, "not_found")
    tagged = await api.a_token("read:tags:user:7")
    assert [one["id"] for one in (await got(tagged, "/v1/job-runs", tag="user:7"))["data"]] == [
        begun["id"]
    ]
    assert (await got(tagged, f"/v1/job-runs/{begun['id']}"))["workflowRuns"] == []
    assert len((await got(tagged, f"/v1/job-runs/{begun['id']}/timeline"))["data"]) == 1
    for path in ("/v1/job-runs", "/v1/jobs", "/v1/workflows"):
        assert_problem(await tagged.get(path), 403, "forbidden")
    for who in (maker, tagged):
        assert_problem(
            await who.post("/v1/job-runs", {"jobId": job["id"]}), 403, "forbidden"
        )  # fmt: skip
        assert_problem(await who.post(f"/v1/job-runs/{begun['id']}/cancel"), 403, "forbidden")
    trigger = await api.a_token(f"trigger:tasks:{job['id']}")
    assert (await trigger.post("/v1/job-runs", {"jobId": job["id"]})).status_code == 201
    assert_problem(await trigger.post("/v1/job-runs", {"jobId": job["id"]}), 401, "unauthorized")


async def test_the_calls_stand_in_the_openapi_document(api: Caller) -> None:
    paths = (await got(api, "/openapi.json"))["paths"]
    assert {"/v1/workflows", "/v1/jobs", "/v1/job-runs", "/v1/runs/claim"} <= paths.keys()
    (required,) = paths["/v1/workflow-runs"]["get"]["parameters"]
    assert (required["name"], required["required"]) == ("jobRunId", True)
