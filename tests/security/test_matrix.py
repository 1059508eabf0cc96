"""Every scope against every stream, resource and verb: allowed and refused, both looked at."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from realtime.api import RESOURCES
from store.model import new_id
from tests.security.matrix import CALLS, OWN, SCOPES, STREAMS, YES, Ask, Who, table
from tests.security.serving import KEY, LONG_S, Caller, Serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "what only those may read who are granted it"


@dataclass
class World:
    """A project with one of each kind, tokens for everybody, and another project beside it."""

    serving: Serving
    names: dict[str, str]
    tokens: dict[Who, str | None]
    readable: dict[Who, set[str]]

    def fill(self, value: Any) -> Any:
        """The value with the world's ids and tags in it."""
        if isinstance(value, str):
            return re.sub(r"\{(\w+)\}", lambda name: self.names[name[1]], value)
        if isinstance(value, list):
            return [self.fill(each) for each in value]
        if isinstance(value, dict):
            return {name: self.fill(each) for name, each in value.items()}
        return value

    def runs_in(self, text: str) -> set[str]:
        """Which of the world's runs are named in it."""
        runs = ("run", "other", "job_run", "step")
        return {name for name in runs if self.names[name] in text}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(served: Serving) -> AsyncIterator[World]:
    async with served.caller() as caller:
        names = await _make(caller)
        tokens: dict[Who, str | None] = {
            Who.NOBODY: None,
            Who.KEY: KEY,
            Who.READER: await served.a_key("default", read_only=True),
            Who.STRANGER: await served.a_key("elsewhere"),
        }
        made = World(served, names, tokens, {})
        for who, scope in SCOPES.items():
            tokens[who] = await caller.a_token(made.fill(scope))
        everything = {"run", "other", "job_run", "step"}
        made.readable = {who: {"run"} for who in (Who.RUN, Who.TAG, Who.BATCH, Who.TASK)}
        made.readable |= dict.fromkeys((Who.KEY, Who.READER, Who.ALL), everything)
        made.readable |= {who: set() for who in (Who.NOBODY, Who.TRIGGER, Who.STRANGER)}
        made.readable[Who.JOB_RUN] = {"job_run", "step"}
        yield made


async def _make(caller: Caller) -> dict[str, str]:
    names = {
        "tag": "user:7",
        "other_tag": "user:8",
        "task": "mail",
        "no_run": new_id("run"),
    }
    webhook = {"url": "http://127.0.0.1:9/x", "events": ["run.created"], "tasks": ["other"]}
    for name in ("webhook", "spare_webhook"):
        names[name] = (await caller.made("/v1/webhooks", webhook))["id"]
    payload = {"payload": SECRET, "status": "EXECUTING"}
    mine = {"taskIdentifier": "mail", "tags": ["user:7"], **payload}
    other = {"taskIdentifier": "other", "tags": ["user:8"], **payload}
    for batch, run, body in (("batch", "run", mine), ("other_batch", "other", other)):
        both = await caller.made("/v1/batches", {"items": [body]})
        names[batch], names[run] = both["batch"]["id"], both["runs"][0]["id"]
    names["open_batch"] = (await caller.made("/v1/batches", {}))["batch"]["id"]
    names["spare"] = (await caller.made("/v1/runs", {"taskIdentifier": "spare"}))["id"]
    step = {"name": "w", "taskIdentifier": "step"}
    for name in ("workflow", "spare_workflow"):
        names[name] = (await caller.made("/v1/workflows", step))["id"]
    job = {"name": "j", "config": {"workflowExecutionOrder": [names["workflow"]]}}
    for name in ("job", "spare_job"):
        names[name] = (await caller.made("/v1/jobs", job))["id"]
    begin = {"jobId": names["job"], "payload": SECRET}
    begun = await caller.made("/v1/job-runs", begin)
    names["job_run"], names["step"] = begun["id"], begun["workflowRuns"][0]["id"]
    names["spare_job_run"] = (await caller.made("/v1/job-runs", begin))["id"]
    for name in ("artifact", "spare_artifact"):
        path = f"/v1/runs/{names['run']}/artifacts?name={name}"
        names[name] = (await caller.made(path, content=SECRET.encode()))["id"]
    token = await caller.made("/v1/tokens", {"scopes": ["read:runs"]})
    names["spare_token"] = token["id"]
    async with asyncio.timeout(LONG_S):
        path = f"/v1/webhooks/{names['webhook']}/deliveries"
        while not (found := (await caller.get(path)).json()["data"]):
            await asyncio.sleep(0.02)
    names["delivery"] = found[0]["id"]
    return names


# ----------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("who", Who)
async def test_streams_over_websocket(world: World, who: Who) -> None:
    """Each is asked for on one connection, one after the other."""
    async with world.serving.reader(world.tokens[who]) as reader:
        if who is Who.NOBODY:
            await reader.say({"id": 1, **world.fill(STREAMS[0].subscribe)})
            assert await reader.closed() == 4401
            assert SECRET not in json.dumps(reader.seen)
            return
        for id, ask in enumerate(STREAMS, start=1):
            begin = len(reader.seen)
            await reader.say({"id": id, **world.fill(ask.subscribe)})
            got = await reader.next()
            while not (got["type"] in ("live", "error") and got.get("id") == id):
                got = await reader.next()
            seen = json.dumps(reader.seen[begin:])
            answer = ask.answer(who)
            if got["type"] == "live":
                assert answer in (YES, OWN), (ask.said, answer)
                _look_at(world, ask, who, seen)
            else:
                code = {"403": "forbidden", "404": "not_found"}.get(answer)
                assert got["code"] == code, (ask.said, got)
                assert SECRET not in seen
            await reader.say({"type": "unsubscribe", "id": id}, {"type": "ping", "data": id})
            await reader.until("pong", data=id)


@pytest.mark.parametrize("who", Who)
async def test_streams_as_server_sent_events(world: World, who: Who) -> None:
    """The same answers, as HTTP says them."""
    for ask in STREAMS:
        path = world.fill(ask.path)
        async with await world.serving.sse(path, world.tokens[who]) as response:
            answer = ask.answer(who)
            if answer not in (YES, OWN):
                assert response.status == int(answer), (ask.said, response.status)
                assert SECRET not in json.dumps(await response.problem())
                continue
            assert response.status == 200, (ask.said, response.status)
            seen = ""
            while (event := await response.event()).get("event") != "live":
                seen += event.get("data", "")
            _look_at(world, ask, who, seen)


def _look_at(world: World, ask: Ask, who: Who, seen: str) -> None:
    """What was shown: nothing that is not granted, and something if it is."""
    runs = world.runs_in(seen)
    assert runs <= world.readable[who], (ask.said, runs)
    about_both = ask.said in ("all of both tags", "another tag, of the task")
    assert bool(runs) is (ask.answer(who) == YES and not about_both), (ask.said, runs)


# -------------------------------------------------------------------------------------------- HTTP


async def test_the_table_names_everything_that_can_be_called() -> None:
    """A new resource has no access rules until it stands in the table."""
    named = {(ask.method, re.sub(r"\{\w+\}", "*", ask.path.partition("?")[0])) for ask in CALLS}
    there = {
        (method, re.sub(r"\{\w+\}", "*", resource.path))
        for resource in RESOURCES
        for method in resource.methods
    }
    assert named == there
    streams = {re.sub(r"\{\w+\}", "*", ask.path.partition("?")[0]) for ask in STREAMS}
    assert streams == {
        f"/v1/realtime/{what}" for what in ("runs", "runs/*", "batches/*", "job-runs/*")
    }


@pytest.mark.parametrize("ask", CALLS, ids=lambda ask: f"{ask.method} {ask.said}")
async def test_calls(world: World, ask: Ask) -> None:
    """Who may not, goes first: then there is still something to refuse."""
    before = _all_there_is(world.serving)
    for who in sorted(Who, key=lambda who: ask.answer(who) == YES):
        async with world.serving.caller(world.tokens[who]) as caller:
            how: dict[str, Any] = {}
            if isinstance(ask.body, str):
                how["content"] = ask.body.encode()
            elif ask.body is not None:
                how["json"] = world.fill(ask.body)
            response = await caller.call(ask.method, world.fill(ask.path), **how)
        answer = ask.answer(who)
        if answer not in (YES, OWN):
            assert response.status_code == int(answer), (who, response.text)
            _is_bare(response)
            assert _all_there_is(world.serving) == before, who
            continue
        assert response.status_code < 300, (who, response.text)
        if answer == OWN:
            assert SECRET not in response.text
            assert _all_there_is(world.serving) == before, who
        elif ask.method == "GET" and ask.path.startswith("/v1"):
            assert world.runs_in(response.text) <= world.readable[who]


def _is_bare(response: httpx2.Response) -> None:
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert SECRET not in response.text
    assert "runstream-token" not in response.headers
    assert ("www-authenticate" in response.headers) is (response.status_code == 401)


def _all_there_is(serving: Serving) -> list[Any]:
    """Each row of the project that a call could have made or changed."""
    tables = ["runs", "batches", "workflows", "jobs", "revoked_tokens", "used_tokens"]
    what = [f"* FROM {name}" for name in tables] + [
        "id, url, events, tags, tasks FROM webhooks",
        "name FROM (SELECT * FROM artifacts WHERE cleaned_at IS NULL)",
    ]
    with contextlib.closing(sqlite3.connect(serving.file)) as database:
        return [
            database.execute(f"SELECT {each} WHERE project = 'default'").fetchall() for each in what
        ]


async def test_what_may_not_be_read_looks_as_if_it_were_not_there(world: World) -> None:
    """Word for word: else a token tells which ids exist."""
    async with world.serving.caller(world.tokens[Who.TAG]) as caller:
        for what in ("", "/changes", "/artifacts"):
            hidden = await caller.get(f"/v1/runs/{world.names['other']}{what}")
            absent = await caller.get(f"/v1/runs/{world.names['no_run']}{what}")
            assert (hidden.status_code, hidden.text) == (absent.status_code, absent.text)
            assert hidden.headers.raw == absent.headers.raw
    async with world.serving.reader(world.tokens[Who.TAG]) as reader:
        said = []
        for id, name in enumerate(("other", "no_run"), start=1):
            await reader.say({"type": "subscribeToRun", "id": id, "runId": world.names[name]})
            error = await reader.until("error", id=id)
            said.append({key: value for key, value in error.items() if key != "id"})
    assert said[0] == said[1]


async def test_the_page_shows_the_table() -> None:
    """docs/security.md is what people read; this table is what is tried out."""
    page = Path(__file__).parents[2] / "docs" / "security.md"
    assert table() in page.read_text(encoding="utf-8"), table()
