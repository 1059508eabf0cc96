"""The WebSocket half of docs/protocol.md."""

import json
from typing import Any

import httpx2
import pytest

from tests.conformance.calling import changing, create, patch
from tests.conformance.conftest import Dial, Socket
from tests.conformance.test_http import RUN_FIELDS, TIME

Http = httpx2.AsyncClient
ALWAYS = {"id", "version", "status", "taskIdentifier", "updatedAt"}


async def test_welcome_comes_first_and_says_who_serves(dial: Dial) -> None:
    async with dial(welcome=False) as socket:
        welcome = await socket.next()
        assert socket.connection.subprotocol == "runstream.v1"
    assert welcome["type"] == "welcome"
    assert welcome["connectionId"]
    assert welcome["heartbeatS"] > 0
    assert welcome["expiresAt"] is None
    assert welcome["limits"] == {"subscriptions": 1000, "messageBytes": 65536}
    assert "server" in welcome


async def test_a_token_may_come_as_the_first_message(dial: Dial, target: Any) -> None:
    async with dial(key=None) as socket:
        await socket.send(type="authenticate", token=target.key)
        assert (await socket.next())["type"] == "welcome"
        await socket.send(type="authenticate", token=target.key)
        assert (await socket.next())["type"] == "authenticated"


@pytest.mark.parametrize("how", ["header", "message"])
async def test_a_wrong_token_closes_with_4401(dial: Dial, how: str) -> None:
    async with dial(key="wrong-key-0123456789" if how == "header" else None, welcome=False) as s:
        if how == "message":
            await s.send(type="authenticate", token="wrong-key-0123456789")
        assert await s.closed() == 4401


@pytest.mark.parametrize(
    "text", ["{", "[]", "1", '{"type": "nonsense"}', '{"id": 1}', '{"type": 7}', "", "\n"]
)
async def test_what_is_no_message_closes_with_4400(dial: Dial, text: str) -> None:
    async with dial() as socket:
        await socket.connection.send(text)
        assert await socket.closed() == 4400


@pytest.mark.parametrize(
    "message",
    [
        {"type": "subscribeToRun", "id": 1},
        {"type": "subscribeToRun", "id": "1", "runId": "run_x"},
        {"type": "subscribeToRun", "id": 1, "runId": "run_x", "unknown": 1},
        {"type": "subscribeToRun", "id": 1, "runId": "run_x", "tasks": ["t"]},
        {"type": "subscribeToRunsWithTag", "id": 1},
        {"type": "subscribeToRunsWithTag", "id": 1, "tags": []},
        {"type": "subscribeToRunsWithTag", "id": 1, "tags": ["a"], "tag": "b"},
        {"type": "subscribeToRunsWithTag", "id": 1, "tags": ["a"], "match": "some"},
        {"type": "subscribeToRuns", "id": 1, "statuses": ["NONE"]},
        {"type": "subscribeToRuns", "id": 1, "skip": ["status"]},
        {"type": "subscribeToRuns", "id": 1, "skip": ["nonsense"]},
        {"type": "subscribeToRuns", "id": 1, "limit": 0},
        {"type": "subscribeToRuns", "id": 1, "limit": 10001},
        {"type": "subscribeToRuns", "id": 1, "createdAfter": "yesterday"},
        {"type": "subscribeToRuns", "id": 1, "delivery": "some"},
        {"type": "subscribeToRuns", "id": 1, "cursor": "nonsense"},
    ],
)
async def test_a_message_that_does_not_fit_is_an_error_and_the_connection_stays(
    dial: Dial, message: dict[str, Any]
) -> None:
    async with dial() as socket:
        await socket.send(**message)
        error = await socket.until("error")
        assert error["code"] == "bad_request"
        assert error["message"]
        await socket.send(type="ping", data={"n": 1})
        assert (await socket.until("pong"))["data"] == {"n": 1}


async def test_a_runs_stream_shows_each_version_and_ends(dial: Dial, http: Http) -> None:
    run = await create(http, payload={"p": 1})
    async with dial() as socket:
        assert await socket.join(type="subscribeToRun", id=1, runId=run["id"]) == [run]
        live = socket.seen[-1]
        assert live["resumed"] is False
        assert live["truncated"] is False
        assert isinstance(live["cursor"], str)
        executing = await patch(http, run, status="EXECUTING")
        change = await socket.change()
        assert (change["ids"], change["kind"]) == ([1], "change")
        assert change["run"].keys() >= ALWAYS | {"attempt", "startedAt"}
        assert "payload" not in change["run"]
        assert {**run, **change["run"]} == executing
        done = await patch(http, run, status="COMPLETED", output=[1])
        change = await socket.change()
        assert {**executing, **change["run"]} == done
        assert await socket.until("end") == {"type": "end", "id": 1, "reason": "completed"}


async def test_a_final_run_gives_snapshot_live_end(dial: Dial, http: Http) -> None:
    run = await create(http)
    run = await patch(http, run, status="CANCELED")
    async with dial() as socket:
        assert await socket.join(type="subscribeToRun", id=5, runId=run["id"]) == [run]
        assert await socket.next() == {"type": "end", "id": 5, "reason": "completed"}


async def test_with_stop_on_completion_false_it_stays(dial: Dial, http: Http) -> None:
    run = await create(http)
    async with dial() as socket:
        await socket.join(type="subscribeToRun", id=1, runId=run["id"], stopOnCompletion=False)
        await patch(http, run, status="CANCELED")
        await patch(http, run, addTags=["late"])
        assert (await socket.change())["run"]["status"] == "CANCELED"
        assert (await socket.change())["run"]["tags"] == ["late"]
        assert (await http.delete(f"/v1/runs/{run['id']}")).status_code == 204
        assert (await socket.until("end"))["reason"] == "deleted"


async def test_a_run_that_is_not_there(dial: Dial) -> None:
    async with dial() as socket:
        await socket.send(type="subscribeToRun", id=3, runId="run_none")
        error = await socket.next()
        assert (error["type"], error["id"], error["code"]) == ("error", 3, "not_found")
        assert await socket.next() == {"type": "end", "id": 3, "reason": "not_found"}


async def test_an_id_in_use_is_a_conflict_and_the_first_stays(dial: Dial, http: Http) -> None:
    run = await create(http)
    async with dial() as socket:
        await socket.join(type="subscribeToRun", id=1, runId=run["id"])
        await socket.send(type="subscribeToRuns", id=1)
        assert (await socket.until("error", id=1))["code"] == "conflict"
        await patch(http, run, metadata={"n": 1})
        assert (await socket.change())["run"]["metadata"] == {"n": 1}


async def test_unsubscribe_ends_and_frees_the_id(dial: Dial, http: Http) -> None:
    run = await create(http)
    async with dial() as socket:
        await socket.join(type="subscribeToRun", id=1, runId=run["id"])
        await socket.send(type="unsubscribe", id=1)
        assert (await socket.until("end"))["reason"] == "unsubscribed"
        assert await socket.join(type="subscribeToRun", id=1, runId=run["id"]) == [run]


async def test_runs_enter_and_leave_a_tags_stream(dial: Dial, http: Http, tag: str) -> None:
    inside = await create(http, tags=[tag])
    outside = await create(http, payload={"big": 1})
    async with dial() as socket:
        assert await socket.join(type="subscribeToRunsWithTag", id=1, tags=[tag]) == [inside]
        entered = await patch(http, outside, addTags=[tag])
        change = await socket.change()
        assert (change["kind"], change["run"]) == ("enter", entered)
        left = await patch(http, outside, removeTags=[tag])
        change = await socket.change()
        assert change["kind"] == "leave"
        assert change["run"].keys() == ALWAYS
        assert change["run"]["version"] == left["version"]
        new = await create(http, tags=[tag])
        change = await socket.change()
        assert (change["kind"], change["run"]) == ("enter", new)
        await patch(http, new, status="CANCELED")
        await socket.change(kind="change")
        await http.delete(f"/v1/runs/{new['id']}")
        gone = await socket.change()
        assert (gone["kind"], gone["run"]["id"]) == ("leave", new["id"])


async def test_tags_match_all_or_any(dial: Dial, http: Http, tag: str) -> None:
    one, two = f"{tag}:1", f"{tag}:2"
    first = await create(http, tags=[one])
    both = await create(http, tags=[one, two])
    async with dial() as socket:
        assert await socket.join(type="subscribeToRunsWithTag", id=1, tags=[one, two]) == [both]
        assert await socket.join(
            type="subscribeToRunsWithTag", id=2, tags=[one, two], match="any"
        ) == [both, first]
        await patch(http, first, addTags=[two])
        kinds: dict[int, str] = {}
        while len(kinds) < 2:
            change = await socket.change()
            kinds |= dict.fromkeys(change["ids"], change["kind"])
        assert kinds == {1: "enter", 2: "change"}


async def test_filters_make_runs_enter_and_leave(dial: Dial, http: Http, tag: str) -> None:
    async with dial() as socket:
        await socket.join(
            type="subscribeToRunsWithTag", id=1, tag=tag, statuses=["EXECUTING"], tasks=["t"]
        )
        run = await create(http, tags=[tag])
        await create(http, tags=[tag], taskIdentifier="other", status="EXECUTING")
        run = await patch(http, run, status="EXECUTING")
        change = await socket.change()
        assert (change["kind"], change["run"]) == ("enter", run)
        await patch(http, run, status="COMPLETED")
        change = await socket.change()
        assert (change["kind"], change["run"]["status"]) == ("leave", "COMPLETED")


async def test_skipped_fields_are_never_sent(dial: Dial, http: Http, tag: str) -> None:
    run = await create(http, tags=[tag], payload=1)
    async with dial() as socket:
        [shown] = await socket.join(
            type="subscribeToRunsWithTag", id=1, tag=tag, skip=["payload", "metadata"]
        )
        assert shown.keys() >= RUN_FIELDS - {"payload", "metadata"}
        assert not {"payload", "metadata"} & shown.keys()
        await patch(http, run, metadata={"n": 1})
        change = await socket.change()
        assert change["run"].keys() == ALWAYS
        assert change["run"]["version"] == 2


async def test_without_a_snapshot_only_what_comes_is_shown(
    dial: Dial, http: Http, tag: str
) -> None:
    run = await create(http, tags=[tag])
    async with dial() as socket:
        assert await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag, snapshot=False) == []
        await patch(http, run, metadata={"n": 1})
        assert (await socket.change())["kind"] == "change"


async def test_a_snapshot_beyond_its_limit_is_truncated(dial: Dial, http: Http, tag: str) -> None:
    runs = [await create(http, tags=[tag]) for _ in range(3)]
    async with dial() as socket:
        shown = await socket.join(type="subscribeToRunsWithTag", id=1, tag=tag, limit=2)
        assert shown == [runs[2], runs[1]]
        assert socket.seen[-1]["truncated"] is True


async def test_one_change_names_all_subscriptions_that_get_the_same(
    dial: Dial, http: Http, tag: str
) -> None:
    run = await create(http, tags=[tag])
    async with dial() as socket:
        await socket.join(type="subscribeToRun", id=1, runId=run["id"])
        await socket.join(type="subscribeToRunsWithTag", id=2, tag=tag)
        await patch(http, run, metadata={"n": 1})
        got: list[int] = []
        while len(got) < 2:
            got += (await socket.change())["ids"]
        assert sorted(got) == [1, 2]


async def test_a_batch_tells_its_progress_and_ends(dial: Dial, http: Http) -> None:
    made = await http.post("/v1/batches", json={"items": [{"taskIdentifier": "b"}] * 3})
    batch, runs = made.json()["batch"], made.json()["runs"]
    async with dial() as socket:
        shown = await socket.join(type="subscribeToBatch", id=1, batchId=batch["id"])
        assert {run["id"] for run in shown} == {run["id"] for run in runs}
        for run in runs:
            await patch(http, run, status="EXECUTING")
            await patch(http, run, status="COMPLETED")
        end = await socket.until("end")
        assert end["reason"] == "completed"
        told = [message["batch"] for message in socket.seen if message["type"] == "batch"]
        assert told[0]["final"] < 3
        assert (told[-1]["final"], told[-1]["counts"]) == (3, {"COMPLETED": 3})
        assert TIME.fullmatch(told[-1]["completedAt"])
        finals = [m for m in socket.seen if m["type"] == "change"]
        assert sum(m["run"]["status"] == "COMPLETED" for m in finals) == 3


async def test_an_open_batch_ends_only_when_it_is_sealed(dial: Dial, http: Http) -> None:
    batch = (await http.post("/v1/batches", json={})).json()["batch"]
    async with dial() as socket:
        assert await socket.join(type="subscribeToBatch", id=1, batchId=batch["id"]) == []
        run = await create(http, batchId=batch["id"])
        assert (await socket.change())["kind"] == "enter"
        await patch(http, run, status="CANCELED")
        assert (await socket.change())["run"]["status"] == "CANCELED"
        await http.post(f"/v1/batches/{batch['id']}/seal")
        assert (await socket.until("end"))["reason"] == "completed"


async def resume(dial: Dial, cursor: str, **wish: Any) -> tuple[list[dict[str, Any]], Socket]:
    async with dial() as socket:
        await socket.send(id=1, cursor=cursor, **wish)
        shown: list[dict[str, Any]] = []
        while True:
            message = await socket.next()
            shown.append(message)
            if message["type"] in ("live", "error"):
                return shown, socket


async def test_a_cursor_goes_on_where_it_was(dial: Dial, http: Http, tag: str) -> None:
    run = await create(http, tags=[tag])
    wish = {"type": "subscribeToRunsWithTag", "tags": [tag]}
    async with dial() as socket:
        await socket.join(id=1, **wish)
        cursor = socket.seen[-1]["cursor"]
    await patch(http, run, status="EXECUTING")
    await patch(http, run, metadata={"n": 1})
    new = await create(http, tags=[tag], payload=[1])
    came_and_went = await create(http, tags=[tag])
    await patch(http, came_and_went, removeTags=[tag])
    (*shown, live), _ = await resume(dial, cursor, **wish)
    assert live["resumed"] is True
    assert all(message["type"] == "change" for message in shown)
    of_run = [m["run"]["version"] for m in shown if m["run"]["id"] == run["id"]]
    assert of_run == [2, 3]
    assert [m["run"] for m in shown if m["run"]["id"] == new["id"]] == [new]
    assert not [m for m in shown if m["run"]["id"] == came_and_went["id"] and m["kind"] != "leave"]


async def test_a_cursor_fits_only_its_own_wish(dial: Dial, http: Http, tag: str) -> None:
    async with dial() as socket:
        await socket.join(type="subscribeToRunsWithTag", id=1, tags=[tag])
        cursor = socket.seen[-1]["cursor"]
    for other in (
        {"tags": [tag, "x"]},
        {"tags": [tag], "tasks": ["t"]},
        {"tags": [tag], "skip": ["payload"]},
    ):
        shown, _ = await resume(dial, cursor, type="subscribeToRunsWithTag", **other)
        assert shown[-1]["type"] == "error"
        assert shown[-1]["code"] == "bad_request"


async def test_checkpoints_come_while_changes_flow_and_can_be_gone_on_from(
    dial: Dial, http: Http, tag: str
) -> None:
    run = await create(http, tags=[tag])
    wish = {"type": "subscribeToRunsWithTag", "tags": [tag]}
    async with dial() as socket:
        await socket.join(id=1, **wish)
        async with changing(http, run):
            mark = await socket.until("checkpoint")
        covered = max(m["run"]["version"] for m in socket.seen if m["type"] == "change")
    now = (await http.get(f"/v1/runs/{run['id']}")).json()
    (*shown, live), _ = await resume(dial, mark["cursor"], **wish)
    assert live["resumed"] is True
    versions = [m["run"]["version"] for m in shown]
    # The last change may have been under way when `now` was read.
    assert versions == list(range(versions[0], versions[-1] + 1)) if versions else True
    assert not versions or versions[0] <= covered + 1
    assert max([covered, *versions]) >= now["version"]


async def test_a_silent_stream_gets_heartbeats_with_a_cursor(dial: Dial, http: Http) -> None:
    run = await create(http)
    async with dial() as socket:
        await socket.join(type="subscribeToRun", id=1, runId=run["id"])
        beat = await socket.until("heartbeat")
        assert TIME.fullmatch(beat["at"])
        (live,), _ = await resume(dial, beat["cursor"], type="subscribeToRun", runId=run["id"])
        assert live["resumed"] is True


async def test_latest_shows_the_newest_state(dial: Dial, http: Http) -> None:
    run = await create(http)
    async with dial() as socket:
        await socket.join(type="subscribeToRun", id=1, runId=run["id"], delivery="latest")
        await patch(http, run, status="EXECUTING")
        for step in range(20):
            await patch(http, run, metadata={"step": step})
        done = await patch(http, run, status="COMPLETED")
        await socket.until("end")
        changes = [m["run"] for m in socket.seen if m["type"] == "change"]
        versions = [change["version"] for change in changes]
        assert versions == sorted(set(versions))
        state = dict(run)
        for change in changes:
            state |= change
        assert state == done


async def test_several_messages_may_share_one_frame(dial: Dial, http: Http) -> None:
    run = await create(http)
    lines = [
        {"type": "subscribeToRun", "id": 1, "runId": run["id"]},
        {"type": "ping"},
        {"type": "unsubscribe", "id": 1},
    ]
    async with dial() as socket:
        await socket.connection.send("\n".join(map(json.dumps, lines)))
        await socket.until("pong")
        while (await socket.until("end"))["reason"] != "unsubscribed":
            pass


async def test_a_message_that_is_too_long_closes_with_1009(dial: Dial) -> None:
    async with dial() as socket:
        await socket.connection.send(json.dumps({"type": "ping", "data": "x" * 70_000}))
        assert await socket.closed() == 1009


async def test_a_token_that_covers_nothing_of_it_is_forbidden(
    dial: Dial, http: Http, tag: str
) -> None:
    run = await create(http, tags=[tag])
    made = await http.post("/v1/tokens", json={"scopes": [f"read:tags:{tag}"]})
    async with dial(key=made.json()["token"]) as socket:
        await socket.send(type="subscribeToRuns", id=1)
        assert (await socket.until("error", id=1))["code"] == "forbidden"
        assert await socket.join(type="subscribeToRunsWithTag", id=2, tags=[tag]) == [run]
        assert await socket.join(type="subscribeToRun", id=3, runId=run["id"]) == [run]
        await patch(http, run, removeTags=[tag])
        ends: dict[int, str] = {}
        while 3 not in ends:
            message = await socket.next()
            if message["type"] == "end":
                ends[message["id"]] = message["reason"]
        assert ends[3] == "forbidden"


async def test_a_tokens_end_ends_its_streams(dial: Dial, http: Http, tag: str) -> None:
    made = await http.post("/v1/tokens", json={"scopes": [f"read:tags:{tag}"]})
    async with dial(key=made.json()["token"]) as socket:
        await socket.join(type="subscribeToRunsWithTag", id=1, tags=[tag])
        await http.delete(f"/v1/tokens/{made.json()['id']}")
        assert (await socket.until("end", id=1))["reason"] == "token_revoked"
        assert await socket.closed() == 4401
