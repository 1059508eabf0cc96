"""HTTP calls: how a refusal is raised, what is tried again, and with which token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from clients.python.tests.builders import RUN_PATH, a_run
from clients.python.tests.conftest import QUICK
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, problem
from runstream import (
    BadRequest,
    Conflict,
    ConnectionLost,
    FieldError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    ProtocolError,
    Refused,
    RunStatus,
    Runstream,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unprocessable,
    credentials,
    http,
)
from runstream.timing import seconds_to_wait


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BASE_DELAY_S", 0.001)


@pytest.mark.parametrize(
    "answer, error",
    [
        (problem(400, "bad_request"), BadRequest),
        (problem(401, "unauthorized"), Unauthorized),
        (problem(403, "forbidden"), Forbidden),
        (problem(404, "not_found"), NotFound),
        (problem(409, "conflict"), Conflict),
        (problem(413, "payload_too_large"), PayloadTooLarge),
        (problem(422, "unprocessable"), Unprocessable),
        (problem(429, "too_many_requests"), TooManyRequests),
        (problem(503, "unavailable"), Unavailable),
        (problem(418, "teapot"), Refused),
        (Answer(502, b"<html>bad gateway"), Unavailable),
        (Answer(200, b"<html>hello"), ProtocolError),
        (Answer(200, {"id": "run_1"}), ProtocolError),
    ],
)
async def test_each_refusal_is_raised_as_its_kind(
    server: ScriptedServer, client: Runstream, answer: Answer, error: type[Exception]
) -> None:
    server.on("GET", RUN_PATH, answer)
    with pytest.raises(error) as caught:
        await client.runs.get("run_1")
    assert type(caught.value) is error


async def test_errors_carry_their_facts(server: ScriptedServer, client: Runstream) -> None:
    server.on("PATCH", RUN_PATH, problem(409, "conflict", "no way back", run=a_run(version=7)))
    with pytest.raises(Conflict, match="no way back") as conflict:
        await client.runs.update("run_1", status=RunStatus.QUEUED)
    assert conflict.value.run is not None
    assert conflict.value.run.version == 7

    errors = [{"path": "tags[0]", "message": "too long"}]
    server.on("POST", "/v1/runs", problem(422, "unprocessable", errors=errors))
    with pytest.raises(Unprocessable) as unprocessable:
        await client.trigger("x")
    assert unprocessable.value.errors == (FieldError("tags[0]", "too long"),)

    server.on("GET", RUN_PATH, problem(429, "too_many_requests", retry_after=70))
    with pytest.raises(TooManyRequests) as limited:
        await client.runs.get("run_1")
    assert limited.value.retry_after == 70


async def test_a_read_is_tried_again(server: ScriptedServer, client: Runstream) -> None:
    cut, busy = Answer(cut=True), problem(503, "unavailable")
    server.on_each("GET", RUN_PATH, cut, busy, Answer(200, a_run()))
    assert (await client.runs.get("run_1")).version == 1
    assert len(server.asked) == 3
    assert "idempotency-key" not in server.asked[0].headers


async def test_a_command_is_tried_again_under_one_key(
    server: ScriptedServer, client: Runstream
) -> None:
    unknown = problem(503, "outcome_unknown")
    server.on_each("POST", "/v1/runs", Answer(cut=True), unknown, Answer(201, a_run()))
    assert (await client.trigger("x")).version == 1
    keys = {asked.headers["idempotency-key"] for asked in server.asked}
    assert len(server.asked) == 3
    assert len(keys) == 1
    await client.trigger("x")
    assert server.asked[-1].headers["idempotency-key"] not in keys


async def test_a_command_whose_answer_is_lost_says_so_with_its_key(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on("POST", f"{RUN_PATH}/cancel", Answer(cut=True))
    with pytest.raises(OutcomeUnknown) as unknown:
        await client.runs.cancel("run_1")
    key = unknown.value.command_key
    assert key is not None
    server.on("POST", f"{RUN_PATH}/cancel", Answer(200, a_run(status="CANCELED")))
    assert (await client.runs.cancel("run_1", command_key=key)).is_canceled
    assert {asked.headers["idempotency-key"] for asked in server.asked} == {key}


async def test_one_refused_after_one_lost_is_unknown_too(
    server: ScriptedServer, client: Runstream
) -> None:
    """The first try may have been the one that worked."""
    server.on_each("POST", f"{RUN_PATH}/cancel", Answer(cut=True), problem(503, "unavailable"))
    with pytest.raises(OutcomeUnknown):
        await client.runs.cancel("run_1")


async def test_a_server_that_is_not_there_is_a_lost_connection(
    server: ScriptedServer, client: Runstream
) -> None:
    await server.stop()
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        await client.trigger("x")
    await server.start()


@pytest.mark.parametrize("status, code", [(429, "too_many_requests"), (503, "unavailable")])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_server_that_asks_for_patience_gets_it(
    server: ScriptedServer, client: Runstream, method: str, status: int, code: str
) -> None:
    asked_at: list[float] = []

    def respond(_: Asked) -> Answer:
        asked_at.append(time.monotonic())
        busy = problem(status, code, retry_after=0.05)
        return busy if len(asked_at) == 1 else Answer(200, a_run())

    server.on("GET", RUN_PATH, respond)
    server.on("POST", f"{RUN_PATH}/cancel", respond)
    run = client.runs.get("run_1") if method == "GET" else client.runs.cancel("run_1")
    assert (await run).version == 1
    first, second = asked_at
    assert second - first >= 0.05


async def test_a_read_that_is_never_answered_ends_as_a_lost_connection(
    server: ScriptedServer,
) -> None:
    async def respond(_: Asked) -> Answer:
        await never.wait()
        return Answer(cut=True)

    never = asyncio.Event()
    server.on("GET", RUN_PATH, respond)
    async with Runstream(server.url, api_key="key-1", timeout_s=0.05, timing=QUICK) as client:
        with pytest.raises(ConnectionLost):
            await client.runs.get("run_1")
    never.set()


def test_patience_is_told_in_seconds_or_as_a_date() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert seconds_to_wait("7", now) == 7
    assert seconds_to_wait("Sun, 01 Mar 2026 12:00:30 GMT", now) == 30
    assert seconds_to_wait("Sun, 01 Mar 2026 11:00:00 GMT", now) == 0
    assert seconds_to_wait("-1", now) == 0
    for nothing in (None, "", "soon", "nan", "inf"):
        assert seconds_to_wait(nothing, now) is None


async def test_a_server_that_wants_long_patience_is_not_waited_for(
    server: ScriptedServer, client: Runstream
) -> None:
    server.on("GET", RUN_PATH, problem(503, "unavailable", retry_after=3600))
    with pytest.raises(Unavailable) as error:
        await client.runs.get("run_1")
    assert error.value.retry_after == 3600
    assert len(server.asked) == 1


async def silent() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def away() -> str:
    raise ConnectionRefusedError("not now")


@pytest.mark.parametrize("provider", [silent, away])
async def test_a_call_for_which_there_is_no_token_ends_with_an_error_of_ours(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, provider: Callable[[], Awaitable[str]]
) -> None:
    """Also for those who wait for the same token: each has waited once, and not in a row."""
    monkeypatch.setattr(credentials, "PATIENCE_S", 0.02)
    async with Runstream(server.url, token=provider, timing=QUICK) as client:
        calls = [client.runs.get("run_1") for _ in range(3)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [ConnectionLost] * 3
    assert server.asked == []


async def test_a_refused_token_is_replaced_once(server: ScriptedServer) -> None:
    tokens = ["old", "new"]

    async def provide() -> str:
        return tokens.pop(0)

    def respond(asked: Asked) -> Answer:
        good = asked.headers["authorization"] == "Bearer new"
        return Answer(200, a_run()) if good else problem(401, "unauthorized")

    server.on("GET", RUN_PATH, respond)
    async with Runstream(server.url, token=provide, timing=QUICK) as client:
        assert (await client.runs.get("run_1")).version == 1
        assert (await client.runs.get("run_1")).version == 1
    assert len(server.asked) == 3


async def test_a_secret_is_not_shown_where_it_is_printed(client: Runstream) -> None:
    assert "key-1" not in repr(client)
