"""Streams at their edges: cursors, windows, options that meet, several wishes at once."""

import asyncio
import json
from typing import Any

import httpx2

from tests.conformance.calling import changing, create, patch, problem
from tests.conformance.conftest import Dial
from tests.conformance.test_sse import stream
from tests.conformance.test_websocket import resume

Http = httpx2.AsyncClient


async def test_too_many_subscriptions_are_refused_and_the_others_stay(
    dial: Dial, http: Http
) -> None:
    run = await create(http)
    async with dial() as socket:
        lines = [
            json.dumps({"type": "subscribeToRun", "id": id, "runId": run["id"], "snapshot": False})
            for id in range(1, 1002)
        ]
        for start in range(0, len(lines), 500):
            await socket.connection.send("\n".join(lines[start : start + 500]))
        error = await socket.until("error")
        assert (error["id"], error["code"]) == (1001, "too_many_requests")
        await socket.send(type="unsubscribe", id=7)
        await socket.until("end", id=7)
        await socket.join(type="subscribeToRun", id=1001, runId=run["id"])


async def test_an_unknown_id_is_no_subscription(dial: Dial) -> None:
    async with dial() as socket:
        await socket.send(type="unsubscribe", id=9)
        error = await socket.until("error")
        assert (error["id"], error["code"]) == (9, "not_found")
        await socket.send(type="ping")
        assert await socket.until("pong") == {"type": "pong"}


async def test_a_checkpoint_holds_for_every_live_subscription_and_for_no_other(
    dial: Dial, http: Http, tag: str
) -> None:
    run = await create(http, tags=[tag])
    wishes: list[dict[str, Any]] = [
        {"type": "subscribeToRun", "runId": run["id"]},
        {"type": "subscribeToRunsWithTag", "tags": [tag], "skip": ["output"]},
        {"type": "subscribeToRuns", "tasks": ["t"], "isTest": False},
    ]
    async with dial() as socket:
        for id, wish in enumerate(wishes, 1):
            await socket.join(id=id, **wish)
        # A heartbeat's cursor is as a checkpoint's, and comes sooner.
        cursor = (await socket.until("heartbeat"))["cursor"]
    changed = await patch(http, run, metadata={"n": 1})
    for wish in wishes:
        (*shown, live), _ = await resume(dial, cursor, **wish)
        assert live["resumed"] is True
        versions = [m["run"]["version"] for m in shown if m["run"]["id"] == run["id"]]
        assert versions == [changed["version"]]
    shown, _ = await resume(dial, cursor, type="subscribeToRuns", tasks=["u"])
    assert shown[-1]["code"] == "bad_request"


async def test_filters_and_skip_name_the_same_wish_in_any_order(
    dial: Dial, http: Http, tag: str
) -> None:
    async with dial() as socket:
        await socket.join(
            type="subscribeToRunsWithTag", id=1, tags=[tag, "b"], skip=["output", "error"]
        )
        cursor = socket.seen[-1]["cursor"]
    shown, _ = await resume(
        dial, cursor, type="subscribeToRunsWithTag", tags=["b", tag], skip=["error", "output"],
        delivery="latest", limit=7,
    )  # fmt: skip
    assert shown[-1]["resumed"] is True


async def test_a_final_run_is_resumed_to_its_end(dial: Dial, http: Http) -> None:
    run = await create(http)
    wish = {"type": "subscribeToRun", "runId": run["id"]}
    async with dial() as socket:
        await socket.join(id=1, **wish)
        cursor = socket.seen[-1]["cursor"]
    await patch(http, run, status="EXECUTING")
    await patch(http, run, status="COMPLETED")
    async with dial() as socket:
        await socket.send(id=1, cursor=cursor, **wish)
        await socket.until("end")
        told = [m for m in socket.seen if m["type"] in ("change", "live", "end")]
        assert [m["type"] for m in told] == ["change", "change", "live", "end"]
        assert [m["run"]["version"] for m in told[:2]] == [2, 3]


async def test_a_connection_lost_between_live_and_end_is_told_the_end_by_the_next(
    dial: Dial, http: Http
) -> None:
    """And nothing that came after the end."""
    run = await create(http)
    await patch(http, run, status="CANCELED")
    wish = {"type": "subscribeToRun", "runId": run["id"]}
    async with dial() as socket:
        await socket.join(id=1, **wish)
        cursor = socket.seen[-1]["cursor"]
    for _ in range(2):
        async with dial() as socket:
            await socket.send(id=1, cursor=cursor, **wish)
            await socket.until("end")
            types = [m["type"] for m in socket.seen if m["type"] not in ("welcome", "heartbeat")]
            assert types == ["live", "end"]
        await patch(http, run, addTags=["late"])


async def test_latest_shows_entering_and_leaving_too(dial: Dial, http: Http, tag: str) -> None:
    run = await create(http)
    async with dial() as socket:
        await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag, delivery="latest")
        entered = await patch(http, run, addTags=[tag])
        assert (await socket.change())["run"] == entered
        left = await patch(http, run, removeTags=[tag])
        change = await socket.change()
        assert (change["kind"], change["run"]["version"]) == ("leave", left["version"])


async def test_a_change_of_a_run_beyond_a_truncated_snapshot_comes_as_a_change(
    dial: Dial, http: Http, tag: str
) -> None:
    old = await create(http, tags=[tag])
    new = await create(http, tags=[tag])
    async with dial() as socket:
        assert await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag, limit=1) == [new]
        changed = await patch(http, old, metadata={"n": 1})
        change = await socket.change()
        assert (change["kind"], change["run"]["id"]) == ("change", old["id"])
        assert (await http.get(f"/v1/runs/{old['id']}")).json() == changed


async def test_without_a_snapshot_a_stream_still_ends(dial: Dial, http: Http) -> None:
    run = await create(http)
    over = await create(http)
    await patch(http, over, status="CANCELED")
    async with dial() as socket:
        for id, runs in ((1, run), (2, over)):
            shown = await socket.join(
                type="subscribeToRun", id=id, runId=runs["id"], snapshot=False
            )
            assert shown == []
        assert (await socket.until("end"))["id"] == 2
        await patch(http, run, status="CANCELED")
        assert (await socket.change())["run"]["status"] == "CANCELED"
        assert (await socket.until("end"))["id"] == 1


async def test_only_runs_made_after_a_time_are_shown(dial: Dial, http: Http, tag: str) -> None:
    """The bound itself is not among them."""
    first = await create(http, tags=[tag])
    second = await create(http, tags=[tag], isTest=True)
    after = {"type": "subscribeToRunsWithTag", "tag": tag, "createdAfter": first["createdAt"]}
    async with dial() as socket:
        assert await socket.join(id=1, **after) == [second]
        assert await socket.join(id=2, **after, isTest=False) == []
        await patch(http, first, metadata={"n": 1})
        changed = await patch(http, second, metadata={"n": 1})
        change = await socket.change()
        assert (change["ids"], change["run"]["id"]) == ([1], changed["id"])


async def test_each_kind_has_a_message_of_its_own(dial: Dial, http: Http, tag: str) -> None:
    run = await create(http, tags=[tag])
    async with dial() as socket:
        await socket.join(type="subscribeToRun", id=1, runId=run["id"])
        await socket.join(type="subscribeToRunsWithTag", id=2, tag=tag, statuses=["EXECUTING"])
        await socket.join(type="subscribeToRunsWithTag", id=3, tag=tag, statuses=["QUEUED"])
        await patch(http, run, status="EXECUTING")
        told: dict[tuple[int, ...], dict[str, Any]] = {}
        while len(told) < 3:
            change = await socket.change()
            told[tuple(change["ids"])] = change
        assert {ids: change["kind"] for ids, change in told.items()} == {
            (1,): "change",
            (2,): "enter",
            (3,): "leave",
        }


async def test_nothing_comes_for_an_id_after_its_end(dial: Dial, http: Http, tag: str) -> None:
    run = await create(http, tags=[tag])
    async with dial() as socket:
        await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag)
        writing = [asyncio.ensure_future(patch(http, run, metadata={"n": n})) for n in range(20)]
        await socket.change()
        await socket.send(type="unsubscribe", id=1)
        await socket.until("end", id=1)
        await asyncio.gather(*writing)
        await socket.send(type="ping", data="done")
        while (message := await socket.next())["type"] != "pong":
            assert 1 not in message.get("ids", ()), message
            assert message.get("id") != 1


async def test_malformed_cursors_are_bad_requests(dial: Dial, http: Http, tag: str) -> None:
    async with dial() as socket:
        await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag)
        good = socket.seen[-1]["cursor"]
        for id, cursor in enumerate((good[:-3], good + "A", "", "ü", "x" * 5_000), 2):
            await socket.send(type="subscribeToRunsWithTag", id=id, tag=tag, cursor=cursor)
            message = await socket.next()
            while message["type"] == "heartbeat":
                message = await socket.next()
            assert message["type"] == "error", (cursor, message)
            assert message["code"] == "bad_request"


async def test_bytes_are_no_message(dial: Dial) -> None:
    async with dial() as socket:
        await socket.connection.send(b'{"type": "ping"}')
        assert await socket.closed() == 4400


async def test_a_silent_stream_of_events_is_kept_alive_by_comments(http: Http) -> None:
    run = await create(http)
    async with stream(http, f"/v1/realtime/runs/{run['id']}") as events:
        await events.until("live")
        async with asyncio.timeout(15):
            async for line in events._lines:
                if line.startswith(":"):
                    break


async def test_events_carry_a_checkpoint_every_second_to_go_on_from(http: Http, tag: str) -> None:
    run = await create(http, tags=[tag])
    path = f"/v1/realtime/runs?tag={tag}&match=all&delivery=latest"
    async with stream(http, path) as events:
        await events.until("live")
        async with changing(http, run), asyncio.timeout(5):
            mark = await events.until("checkpoint")
    assert mark.id is not None
    assert mark.id == mark.data["cursor"]
    now = (await http.get(f"/v1/runs/{run['id']}")).json()
    final = await patch(http, now, metadata={"step": "last"})
    async with stream(http, path, **{"Last-Event-ID": mark.id}) as events:
        state: dict[str, Any] = {}
        while (event := await events.next()).type != "live":
            assert event.type == "change"
            state |= event.data["run"]
        assert event.data["resumed"] is True
        assert (state["version"], state["metadata"]) == (final["version"], {"step": "last"})


async def test_options_of_events_that_do_not_fit_are_problems(http: Http, tag: str) -> None:
    run = await create(http)
    for query in (
        "limit=10001", "delivery=some", "match=any", "skip=status", "stopOnCompletion=perhaps",
        "tag=", "snapshot=2", "createdAfter=soon", "delivery=every&delivery=latest", "id=2",
        "type=ping", "statuses=NONE", "isTest=perhaps",
    ):  # fmt: skip
        problem(await http.get(f"/v1/realtime/runs?{query}"), 400, "bad_request")
    problem(await http.get(f"/v1/realtime/runs/{run['id']}?tasks=t"), 400, "bad_request")
    problem(await http.get("/v1/realtime/batches/batch_none"), 404, "not_found")
    problem(await http.get("/v1/realtime/job-runs/run_none"), 404, "not_found")


async def test_options_of_events_work_as_on_a_socket(http: Http, tag: str) -> None:
    run = await create(http, tags=[tag])
    done = await patch(http, run, status="CANCELED")
    path = f"/v1/realtime/runs/{run['id']}?stopOnCompletion=false&snapshot=false"
    async with stream(http, path) as events:
        assert (await events.next()).type == "live"
        await patch(http, done, addTags=["late"])
        assert "late" in (await events.until("change")).data["run"]["tags"]
    path = f"/v1/realtime/runs?tag={tag}&createdAfter={run['createdAt']}&isTest=false"
    async with stream(http, path) as events:
        assert (await events.next()).type == "live"


async def told_on_resume(dial: Dial, cursor: str, **wish: Any) -> list[tuple[str, Any]]:
    """What a resume is told to the end: types, with what else tells them apart."""
    async with dial() as socket:
        await socket.send(id=1, cursor=cursor, **wish)
        end = await socket.until("end")
        return [
            (m["type"], m.get("kind") or m.get("reason"))
            for m in (*socket.seen[1:-1], end)
            if m["type"] != "heartbeat"
        ]


async def test_a_run_that_was_deleted_meanwhile_is_said_so(dial: Dial, http: Http) -> None:
    """After its final change, if that was not told either."""
    run = await create(http)
    wish: dict[str, Any] = {"type": "subscribeToRun", "runId": run["id"]}
    async with dial() as socket:
        await socket.join(id=1, **wish)
        before = socket.seen[-1]["cursor"]
        await socket.join(id=2, stopOnCompletion=False, **wish)
    await patch(http, run, status="CANCELED")
    async with dial() as socket:
        await socket.join(id=1, stopOnCompletion=False, **wish)
        after = socket.seen[-1]["cursor"]
    await http.delete(f"/v1/runs/{run['id']}")
    completed = [("change", "change"), ("live", None), ("end", "completed")]
    assert await told_on_resume(dial, before, **wish) == completed
    deleted = [("change", "leave"), ("live", None), ("end", "deleted")]
    assert await told_on_resume(dial, after, stopOnCompletion=False, **wish) == deleted


async def test_a_batchs_end_is_told_to_whoever_lost_the_connection_before(
    dial: Dial, http: Http
) -> None:
    made = await http.post("/v1/batches", json={"items": [{"taskIdentifier": "b"}]})
    [run], batch = made.json()["runs"], made.json()["batch"]
    wish = {"type": "subscribeToBatch", "batchId": batch["id"]}
    async with dial() as socket:
        await socket.join(id=1, **wish)
        before = socket.seen[-1]["cursor"]
    await patch(http, run, status="CANCELED")
    async with dial() as socket:
        await socket.join(id=1, **wish)
        after = socket.seen[-1]["cursor"]
    over = [("live", None), ("batch", None), ("end", "completed")]
    assert await told_on_resume(dial, before, **wish) == [("change", "change"), *over]
    assert await told_on_resume(dial, after, **wish) == over


async def test_a_run_that_is_no_job_run_is_not_found_as_one(dial: Dial, http: Http) -> None:
    """Its stream would look like a job run's and never show a step."""
    run = (await http.post("/v1/runs", json={"taskIdentifier": "t"})).json()
    assert (await http.get(f"/v1/job-runs/{run['id']}")).status_code == 404
    async with dial() as socket:
        await socket.send(type="subscribeToJobRun", id=1, jobRunId=run["id"])
        error = await socket.until("error")
        assert (error["id"], error["code"]) == (1, "not_found")
        assert (await socket.until("end"))["reason"] == "not_found"
    stream = await http.get(f"/v1/realtime/job-runs/{run['id']}")
    assert (stream.status_code, stream.json()["code"]) == (404, "not_found")


async def test_a_job_runs_end_is_told_to_whoever_lost_the_connection_before(
    dial: Dial, http: Http
) -> None:
    workflow = (await http.post("/v1/workflows", json={"name": "w", "taskIdentifier": "w"})).json()
    config = {"workflowExecutionOrder": [workflow["id"]]}
    job = (await http.post("/v1/jobs", json={"name": "j", "config": config})).json()
    job_run = (await http.post("/v1/job-runs", json={"jobId": job["id"]})).json()
    wish = {"type": "subscribeToJobRun", "jobRunId": job_run["id"]}
    async with dial() as socket:
        await socket.join(id=1, **wish)
        before = socket.seen[-1]["cursor"]
    [step] = job_run["workflowRuns"]
    await patch(http, step, status="EXECUTING")
    await patch(http, step, status="COMPLETED")
    async with dial() as socket:
        shown = await socket.join(id=1, **wish)
        assert {run["status"] for run in shown} == {"COMPLETED"}
        after = socket.seen[-1]["cursor"]
    told = await told_on_resume(dial, before, **wish)
    assert told[-2:] == [("live", None), ("end", "completed")]
    assert told[:-2] == [("change", "change")] * 4
    assert await told_on_resume(dial, after, **wish) == told[-2:]
