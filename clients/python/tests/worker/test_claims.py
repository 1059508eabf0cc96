"""When a worker claims, and when it tries again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from clients.python.tests.builders import a_leave, live
from clients.python.tests.scripted import Answer, Asked, ScriptedServer, problem, until
from clients.python.tests.worker.functions import SEND, Order, send
from clients.python.tests.worker.shop import CLAIM, Shop, told_of, working
from runstream import Runstream, State, Worker, executes


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
