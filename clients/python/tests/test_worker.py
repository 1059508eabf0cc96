"""A worker against a scripted server: when it asks, what it tells, and when it stops."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from clients.python.tests.builders import a_leave, a_run, a_snapshot, an_enter, live, some_fields
from clients.python.tests.scripted import (
    Answer,
    Asked,
    ScriptedServer,
    Socket,
    problem,
    until,
)
from runstream import (
    Forbidden,
    Runstream,
    State,
    Task,
    Unauthorized,
    Work,
    Worker,
    current_run,
    executes,
)

CLAIM = "/v1/runs/claim"


@dataclass
class Order:
    order_id: int


SEND: Task[Order, dict[str, int]] = Task("send-invoice", payload=Order, output=dict)


class Shop:
    """The server's part: a queue of runs, and what becomes of those that were claimed."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.queue: list[dict[str, Any]] = []
        self.claims: list[Asked] = []
        self.told: dict[str, dict[str, Any]] = {}
        self.beats: list[tuple[str, Any]] = []
        self.given_back: list[str] = []
        self.has_lost: set[str] = set()
        server.on("POST", CLAIM, self.claim)
        server.on("POST", "/v1/runs/bulk", self.bulk)

    def put(self, run_id: str = "run_1", **fields: Any) -> dict[str, Any]:
        """Queues a run; the worker still has to be told."""
        run = a_run(run_id, **fields)
        self.queue.append(run)
        self.server.on("PATCH", f"/v1/runs/{run_id}", functools.partial(self.update, run_id))
        self.server.on("POST", f"/v1/runs/{run_id}/metadata", Answer(200, executing(run)))
        self.server.on("POST", f"/v1/runs/{run_id}/heartbeat", functools.partial(self.beat, run_id))
        return run

    def claim(self, asked: Asked) -> Answer:
        self.claims.append(asked)
        if not self.queue:
            return Answer(200, {"run": None})
        return Answer(200, {"run": executing(self.queue.pop(0))})

    def update(self, run_id: str, asked: Asked) -> Answer:
        if run_id in self.has_lost:
            return problem(409, "conflict", run=a_run(run_id, status="QUEUED", attempt=1))
        self.told[run_id] = asked.body
        return Answer(200, a_run(run_id, version=3, status=asked.body["status"], attempt=1))

    def beat(self, run_id: str, asked: Asked) -> Answer:
        self.beats.append((run_id, asked.body))
        return problem(409, "conflict") if run_id in self.has_lost else Answer(200, {})

    def bulk(self, asked: Asked) -> Answer:
        results = []
        for command in asked.body["commands"]:
            update = command["update"]
            assert update["ifAttempt"] == 1
            results.append({"run": a_run(update["runId"], status=update["status"], attempt=1)})
            if update["status"] == "QUEUED":
                self.given_back.append(update["runId"])
        return Answer(200, {"results": results})


def executing(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "version": 2, "status": "EXECUTING", "attempt": run["attempt"] + 1}


@pytest.fixture
def shop(server: ScriptedServer) -> Shop:
    return Shop(server)


@asynccontextmanager
async def working(worker: Worker, server: ScriptedServer) -> AsyncIterator[Socket]:
    """The worker in the background, woken by what the server says on its subscription."""
    entering = asyncio.create_task(worker.__aenter__())
    socket = await server.welcomed()
    subscribed = await socket.expect(
        "subscribeToRuns", tasks=["send-invoice"], statuses=["QUEUED"], delivery="latest"
    )
    assert "payload" in subscribed["skip"]
    await socket.send(a_snapshot(), live())
    await entering
    try:
        yield socket
    finally:
        await worker.__aexit__(None, None, None)


async def told_of(socket: Socket, run: dict[str, Any]) -> None:
    await socket.send(an_enter(run))


@executes(SEND)
async def send(order: Order) -> dict[str, int]:
    current_run().metadata.set("order", order.order_id)
    return {"sent": order.order_id}


async def test_a_run_is_executed_with_its_typed_payload_and_reported(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    async with working(Worker(client, [send], name="w1", lease_s=7), server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: shop.told)
    assert shop.told["run_1"] == {
        "status": "COMPLETED",
        "output": {"sent": 42},
        "ifAttempt": 1,
    }
    said = shop.claims[0].body
    assert said == {"tasks": ["send-invoice"], "worker": "w1", "leaseS": 7}
    (operations,) = await server.has_been_asked(1, "POST", "/v1/runs/run_1/metadata")
    assert operations.body["operations"] == [{"op": "set", "path": "order", "value": 42}]


async def test_nothing_is_asked_while_nothing_is_queued(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    """It is woken, and does not look: one claim for what it is told of, and one that ends it."""
    async with working(Worker(client, [send]), server) as socket:
        await server.has_been_asked(1, "POST", CLAIM)
        for n in (1, 2):
            run_id = f"run_{n}"
            await told_of(socket, shop.put(run_id))
            await until(lambda: run_id in shop.told)  # noqa: B023 - used at once
            await server.has_been_asked(1 + 2 * n, "POST", CLAIM)
            await socket.send(a_leave(2, run_id=run_id))
    # Of each run the metadata and the outcome are told.
    assert len(server.asked) == 5 + 2 * 2


async def test_a_run_that_was_missed_is_claimed_while_it_is_known_to_be_queued(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    """A claim finds nothing where others hold the run's row for a moment."""
    async with working(Worker(client, [send]), server) as socket:
        await server.has_been_asked(1, "POST", CLAIM)
        held = shop.put()
        shop.queue.clear()
        await told_of(socket, held)
        await server.has_been_asked(3, "POST", CLAIM)
        shop.queue.append(held)
        await until(lambda: shop.told)


async def test_no_more_is_claimed_than_there_is_room_for(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    at_once: list[int] = []
    running = 0
    go = asyncio.Event()

    @executes(SEND)
    async def counted(order: Order) -> dict[str, int]:
        nonlocal running
        running += 1
        at_once.append(running)
        await go.wait()
        running -= 1
        return {}

    runs = [shop.put(f"run_{n}") for n in range(5)]
    async with working(Worker(client, [counted], concurrency=2), server) as socket:
        for run in runs:
            await told_of(socket, run)
        await until(lambda: running == 2)
        assert len(shop.claims) == 2
        go.set()
        await until(lambda: len(shop.told) == 5)
    assert max(at_once) == 2


@pytest.mark.parametrize("payload", [{"order_id": "many"}, None, "x", {}])
async def test_a_payload_that_does_not_fit_fails_the_run_and_says_why(
    server: ScriptedServer, client: Runstream, shop: Shop, payload: Any
) -> None:
    async with working(Worker(client, [send]), server) as socket:
        await told_of(socket, shop.put(payload=payload))
        await until(lambda: shop.told)
    told = shop.told["run_1"]
    assert told["status"] == "FAILED"
    assert told["error"]["name"] == "DecodeError"
    assert told["error"]["message"].startswith("payload of run run_1 does not fit: ")


def raising(order: Order) -> dict[str, int]:
    raise ValueError("no such order")


async def cancelling(order: Order) -> dict[str, int]:
    raise asyncio.CancelledError


def unwritable(order: Order) -> Any:
    return {"thing": object()}


async def leaving(order: Order) -> dict[str, int]:
    raise SystemExit(3)


@pytest.mark.parametrize(
    "function, name, message",
    [
        (raising, "ValueError", "no such order"),
        (cancelling, "CancelledError", "it was cancelled"),
        (unwritable, "TypeError", "the output cannot be written as JSON: "),
        (leaving, "SystemExit", "3"),
    ],
)
async def test_a_function_that_fails_fails_its_run_and_nothing_else(
    server: ScriptedServer,
    client: Runstream,
    shop: Shop,
    function: Callable[[Order], Any],
    name: str,
    message: str,
) -> None:
    async with working(Worker(client, [Work(SEND, function)]), server) as socket:
        for n in (1, 2):
            await told_of(socket, shop.put(f"run_{n}"))
            await until(lambda: f"run_{n}" in shop.told)  # noqa: B023 - used at once
    for told in shop.told.values():
        assert (told["status"], told["error"]["name"]) == ("FAILED", name)
        assert told["error"]["message"].startswith(message)


async def test_a_function_that_is_not_async_has_a_thread_and_knows_its_run(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    @executes(SEND)
    def thread(order: Order) -> dict[str, int]:
        assert threading.current_thread() is not threading.main_thread()
        return {"sent": order.order_id, "of": int((current_run().id or "0")[-1])}

    async with working(Worker(client, [thread]), server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: shop.told)
    assert shop.told["run_1"]["output"] == {"sent": 42, "of": 1}


def test_work_is_called_like_its_function() -> None:
    """In a test of the function, say, which needs no server."""
    work = Work(SEND, unwritable)
    assert work(Order(1)).keys() == {"thing"}
    assert asyncio.run(send(Order(3))) == {"sent": 3}
    assert getattr(send, "__name__", None) == "send"
    assert Work(SEND, functools.partial(cancelling)).is_async


class Stuck:
    """A function that never ends, and notes that it was stopped."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, order: Order) -> dict[str, int]:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1
        return {}


async def has_none_to_tell(shop: Shop, worker: Worker) -> None:
    await until(lambda: not worker.running)
    assert not shop.told
    assert not shop.given_back
    assert worker.ended == {"stopped": 1}


async def test_a_lost_lease_stops_the_function_and_nothing_of_it_is_reported(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], lease_s=1)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: stuck.begun)
        shop.has_lost.add("run_1")
        await until(lambda: stuck.cancelled)
        assert set(map(str, shop.beats)) == {str(("run_1", {"attempt": 1}))}
        await has_none_to_tell(shop, worker)


async def test_a_lease_that_cannot_be_kept_counts_as_lost(
    server: ScriptedServer, client: Runstream, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is away for as long as the lease is: it may have given the run to another."""
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], lease_s=1)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: stuck.begun)
        server.on("POST", "/v1/runs/run_1/heartbeat", problem(503, "unavailable"))
        await until(lambda: stuck.cancelled)
        await has_none_to_tell(shop, worker)
    assert "no heartbeat for run run_1 was taken in time" in caplog.text


async def test_a_claim_whose_answer_was_lost_is_asked_for_again(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    """The server has given the run away: only the same key brings it back."""
    answers = iter([Answer(cut=True), problem(503, "outcome_unknown"), Answer(cut=True)])

    def claim(asked: Asked) -> Answer:
        if not shop.queue:
            return shop.claim(asked)
        answer = next(answers, None)
        if answer is None:
            return shop.claim(asked)
        shop.claims.append(asked)
        return answer

    server.on("POST", CLAIM, claim)
    async with working(Worker(client, [send]), server) as socket:
        await server.has_been_asked(1, "POST", CLAIM)
        await told_of(socket, shop.put())
        await until(lambda: shop.told)
    first, *tries = shop.claims[:5]
    assert len({asked.headers["idempotency-key"] for asked in tries[:4]}) == 1
    assert first.headers["idempotency-key"] != tries[0].headers["idempotency-key"]


async def test_a_run_whose_claim_took_long_is_asked_about_first(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    """By now its lease may be over, and the run another's."""
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], lease_s=1)

    async def slow(asked: Asked) -> Answer:
        if shop.queue:
            await asyncio.sleep(0.4)
        return shop.claim(asked)

    server.on("POST", CLAIM, slow)
    shop.has_lost.add("run_1")
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.ended)
        await has_none_to_tell(shop, worker)
    assert not stuck.begun


async def test_a_run_that_is_canceled_is_stopped_and_its_slot_is_free(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], concurrency=1, drain_s=0.01)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        subscribed = await socket.expect("subscribeToRun", runId="run_1")
        await socket.send(
            a_snapshot(executing(a_run()), id=subscribed["id"]), live(id=subscribed["id"])
        )
        change = {"type": "change", "ids": [subscribed["id"]], "kind": "change"}
        await socket.send({**change, "run": some_fields("run_1", 3, "CANCELED")})
        await until(lambda: stuck.cancelled)
        await has_none_to_tell(shop, worker)
        await told_of(socket, shop.put("run_2"))
        await until(lambda: stuck.begun == 2)


async def test_a_thread_is_told_to_stop_and_keeps_its_slot_until_it_has(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    ended = threading.Event()

    @executes(SEND)
    def long(order: Order) -> dict[str, int]:
        while not current_run().should_stop:
            threading.Event().wait(0.002)
        ended.set()
        return {}

    worker = Worker(client, [long], lease_s=1)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.running)
        shop.has_lost.add("run_1")
        await has_none_to_tell(shop, worker)
        assert ended.is_set()


async def test_what_runs_when_it_is_stopped_may_finish_and_nothing_more_is_claimed(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    go = asyncio.Event()

    @executes(SEND)
    async def waiting(order: Order) -> dict[str, int]:
        await go.wait()
        return {"sent": 1}

    worker = Worker(client, [waiting])
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.running)
        worker.stop()
        await told_of(socket, shop.put("run_2"))
        assert not shop.told
        go.set()
        await until(lambda: shop.told)
    assert shop.told["run_1"]["status"] == "COMPLETED"
    # A claim may have been on its way when it was stopped.
    assert shop.queue or shop.given_back == ["run_2"]
    assert "run_2" not in shop.told


@pytest.mark.parametrize("second", [True, False])
async def test_what_has_not_finished_in_time_is_stopped_and_queued_again(
    server: ScriptedServer, client: Runstream, shop: Shop, second: bool
) -> None:
    """When the time for it is over, or when it is told a second time."""
    stuck = Stuck()
    worker = Worker(client, [Work(SEND, stuck)], drain_s=60 if second else 0.01)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: stuck.begun)
        worker.stop()
        if second:
            worker.stop()
    assert stuck.cancelled == 1
    assert shop.given_back == ["run_1"]
    assert not shop.told
    assert worker.ended == {"released": 1}


async def test_a_thread_that_does_not_stop_does_not_keep_the_worker(
    server: ScriptedServer,
    client: Runstream,
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("runstream.worker.execution.STOP_S", 0.05)
    go = threading.Event()
    worker = Worker(client, [Work(SEND, lambda order: {"done": go.wait(20)})], drain_s=0.01)
    async with working(worker, server) as socket:
        await told_of(socket, shop.put())
        await until(lambda: worker.running)
    assert shop.given_back == ["run_1"]
    assert "does not stop: it is left" in caplog.text
    go.set()


async def test_cancelled_it_queues_again_what_runs(
    server: ScriptedServer, client: Runstream, shop: Shop
) -> None:
    stuck = Stuck()
    task = asyncio.create_task(Worker(client, [Work(SEND, stuck)]).run(handle_signals=False))
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(a_snapshot(), live())
    await told_of(socket, shop.put())
    await until(lambda: stuck.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stuck.cancelled == 1
    assert shop.given_back == ["run_1"]


async def ended(awaited: Awaitable[None]) -> None:
    async with asyncio.timeout(20):
        await awaited


async def test_a_wrong_key_is_said_at_once(client: Runstream, server: ScriptedServer) -> None:
    """And not hidden behind tries that will never work."""
    running = asyncio.create_task(Worker(client, [send]).run())
    socket = await server.socket()
    await socket.close(4401, "wrong")
    with pytest.raises(Unauthorized):
        await ended(running)


async def test_a_key_that_may_not_claim_is_said_at_once(
    client: Runstream, server: ScriptedServer
) -> None:
    server.on("POST", CLAIM, problem(403, "forbidden", "a read-only key"))
    running = asyncio.create_task(Worker(client, [send]).run())
    socket = await server.welcomed()
    await socket.receive()
    await socket.send(a_snapshot(), live())
    with pytest.raises(Forbidden, match="read-only"):
        await ended(running)


async def test_a_server_that_is_away_is_waited_for_and_a_log_says_so(
    client: Runstream,
    server: ScriptedServer,
    shop: Shop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "runstream"):
        async with working(Worker(client, [send]), server):
            await server.has_been_asked(1, "POST", CLAIM)
            await server.stop()
            await until(lambda: client.state in (State.WAITING, State.DIALING))
            shop.put()
            await server.start()
            # What was queued meanwhile: the subscription says that it is live again.
            socket = await server.welcomed()
            again = await socket.expect("subscribeToRuns")
            await socket.send(live("c2", id=again["id"], resumed=True))
            await until(lambda: shop.told)


async def test_a_claim_that_cannot_be_made_is_tried_again(
    client: Runstream, server: ScriptedServer, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "runstream"):
        async with working(Worker(client, [send]), server) as socket:
            await server.has_been_asked(1, "POST", CLAIM)
            left = iter([problem(429, "too_many_requests"), problem(429, "too_many_requests")])
            server.on("POST", CLAIM, lambda asked: next(left, None) or shop.claim(asked))
            await told_of(socket, shop.put())
            await until(lambda: shop.told)
    assert caplog.text.count("cannot claim, it tries again") == 1
    assert "can claim again" in caplog.text


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda client: Worker(client, []), "1 to 100 tasks"),
        (lambda client: Worker(client, [send, send]), "two functions execute send-invoice"),
        (lambda client: Worker(client, [send], concurrency=0), "one run at a time"),
        (lambda client: Worker(client, [send], lease_s=0), "whole seconds"),
        (lambda client: Worker(client, [raising]), "has no task"),  # type: ignore[list-item]
        (lambda client: Work("send", raising), "a Task is meant"),  # type: ignore[call-overload]
    ],
)
async def test_what_makes_no_sense_is_refused(
    client: Runstream, make: Callable[[Runstream], object], match: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        make(client)
