"""The header Idempotency-Key: a command that is repeated with it is done once."""

from __future__ import annotations

import asyncio

import pytest

from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_command_repeated_with_its_key_gets_its_first_answer(api: Caller) -> None:
    """A client whose answer got lost may simply ask again."""
    run = await api.run(status="EXECUTING", metadata={"n": 0})
    steps = {"operations": [{"op": "increment", "path": "n", "value": 1}]}
    key = {"Idempotency-Key": f"once-{run['id']}"}
    path = f"/v1/runs/{run['id']}/metadata"
    first = await api.post(path, steps, headers=key)
    await api.update(run, metadata={"other": True})
    again = await api.post(path, steps, headers=key)
    assert again.json() == first.json()
    assert (await api.get(f"/v1/runs/{run['id']}")).json()["metadata"] == {"n": 1, "other": True}


async def test_a_create_repeated_with_its_key_makes_one_run(api: Caller) -> None:
    """The answer is the first one, its status too."""
    body = {"taskIdentifier": "once"}
    key = {"Idempotency-Key": new_id("once")}
    first = await api.post("/v1/runs", body, headers=key)
    again = await api.post("/v1/runs", body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()


async def test_many_at_once_with_one_key_make_one_run(api: Caller) -> None:
    """That is how a client with a short timeout behaves."""
    body = {"taskIdentifier": "race"}
    key = {"Idempotency-Key": new_id("race")}
    answers = await asyncio.gather(*(api.post("/v1/runs", body, headers=key) for _ in range(10)))
    assert {response.status_code for response in answers} == {201}
    assert len({response.json()["id"] for response in answers}) == 1


async def test_a_key_does_not_stand_for_another_request(api: Caller) -> None:
    """Else a mistake of the client would be answered with somebody else's success."""
    key = {"Idempotency-Key": new_id("key")}
    await api.post("/v1/runs", {"taskIdentifier": "a"}, headers=key)
    response = await api.post("/v1/runs", {"taskIdentifier": "b"}, headers=key)
    problem = assert_problem(response, 422, "unprocessable")
    assert problem["errors"][0]["path"] == "Idempotency-Key"


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_that_cannot_be_one_is_a_bad_request(api: Caller, key: str) -> None:
    """Cutting it would make two keys one."""
    response = await api.post("/v1/runs", {"taskIdentifier": "a"}, headers={"Idempotency-Key": key})
    assert_problem(response, 400, "bad_request")
