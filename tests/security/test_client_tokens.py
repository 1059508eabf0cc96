"""The Python client with tokens that are over soon, against a real server."""

from __future__ import annotations

import asyncio

import pytest

from runstream import RunStatus, Runstream, Unauthorized
from store.model import new_id
from tests.security.serving import KEY, Serving

LIFE_S = 2


async def test_a_client_outlives_its_tokens_and_misses_nothing(served: Serving) -> None:
    """Its provider is asked before each token's end, or after: the stream goes on."""
    asked: list[str] = []
    async with served.caller() as owner, Runstream(served.url, api_key=KEY) as writer:
        run = await writer.trigger("short-lived")

        async def provide() -> str:
            token = await owner.a_token(f"read:runs:{run.id}", expiresIn=LIFE_S)
            asked.append(token)
            return token

        async with Runstream(served.url, token=provide) as reader:
            versions = []
            async with asyncio.timeout(30):
                async for state in reader.subscribe_to_run(run.id):
                    versions.append(state.version)
                    if len(asked) < 3:
                        await asyncio.sleep(0.05)
                        await writer.runs.update(run.id, metadata={"n": len(versions)})
                    elif state.status == "QUEUED":
                        await writer.runs.update(run.id, status=RunStatus.EXECUTING)
                        await writer.runs.update(run.id, status=RunStatus.COMPLETED)
    assert len(asked) >= 3
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert len(set(asked)) == len(asked)


async def test_a_revoked_token_is_replaced_by_a_fresh_one(served: Serving) -> None:
    """4401 on an open connection, for another reason than time."""
    ids: list[str] = []
    async with served.caller() as owner, Runstream(served.url, api_key=KEY) as writer:
        run = await writer.trigger("revoked")

        async def provide() -> str:
            made = await owner.made("/v1/tokens", {"scopes": [f"read:runs:{run.id}"]})
            ids.append(made["id"])
            token: str = made["token"]
            return token

        async with Runstream(served.url, token=provide) as reader:
            async with asyncio.timeout(30), reader.subscribe_to_run(run.id) as stream:
                await anext(stream)
                await owner.call("DELETE", f"/v1/tokens/{ids[0]}")
                while len(ids) < 2:
                    await asyncio.sleep(0.01)
                await writer.runs.update(run.id, status=RunStatus.EXECUTING)
                assert (await anext(stream)).status == "EXECUTING"


async def test_a_token_that_nobody_replaces_raises(served: Serving) -> None:
    """A typed error, out of the iterator; never a hang."""
    async with served.caller() as owner:
        run = await owner.made("/v1/runs", {"taskIdentifier": "t"})
        token = await owner.a_token(f"read:runs:{run['id']}", expiresIn=1)
        async with Runstream(served.url, api_key=token) as reader:
            async with asyncio.timeout(30):
                with pytest.raises(Unauthorized):
                    async for _ in reader.subscribe_to_run(run["id"]):
                        pass


@pytest.mark.parametrize("says", ["the same wrong one", "an error", "nothing"])
async def test_a_provider_that_does_not_help_raises(served: Serving, says: str) -> None:
    """Whatever it does; it is not asked for ever."""
    asked = 0

    async def provide() -> str:
        nonlocal asked
        asked += 1
        if says == "an error":
            raise ValueError("no idea")
        return "rsk_" + "x" * 40 if says == "the same wrong one" else ""

    async with Runstream(served.url, token=provide) as reader:
        async with asyncio.timeout(30):
            with pytest.raises(Unauthorized):
                async for _ in reader.subscribe_to_run(new_id("run")):
                    pass
            with pytest.raises(Unauthorized):
                await reader.runs.get(new_id("run"))
    assert asked < 20
