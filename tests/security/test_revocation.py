"""What was granted ends on every gateway, with Redis or without it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from websockets.asyncio.client import connect

from realtime.auth import key_hash, new_key
from store.access import Access
from store.engine import open_database
from tests.processes import API_KEY, Server
from tests.realtime.serving import Reader, Response
from tests.servers import Valkey


@asynccontextmanager
async def reader(server: Server, token: str) -> AsyncIterator[Reader]:
    url = server.url.replace("http", "ws") + "/v1/realtime"
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        yield Reader(socket)


async def sse(server: Server, path: str, token: str) -> Response:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    writer.write(head.encode())
    return Response((await reader.readuntil(b"\r\n\r\n")).decode(), reader, writer)


async def test_what_is_revoked_ends_on_every_gateway_also_without_redis(
    postgres_url: str, valkey: Valkey, start_server: Callable[..., Server]
) -> None:
    """Revocations are read from the database: a hint could be lost. And what a grant covers is
    looked at with each change, wherever that change was made and however it was heard of."""
    one, other = await asyncio.gather(
        *(asyncio.to_thread(start_server, postgres_url, valkey.url) for _ in range(2))
    )
    key = new_key()
    database = await open_database(postgres_url)
    access = Access(database)
    stored = await access.create_key("default", "ci", key_hash(key), read_only=False)
    tag = secrets.token_hex(6)
    async with httpx2.AsyncClient(
        base_url=one.url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=30
    ) as client:

        async def posted(path: str, body: dict[str, Any]) -> Any:
            answer = await client.post(path, json=body)
            assert answer.status_code < 300, answer.text
            return answer.json()

        run = await posted("/v1/runs", {"taskIdentifier": "t", "tags": [tag]})
        token = await posted("/v1/tokens", {"scopes": [f"read:tags:{tag}"]})
        kept = await posted("/v1/tokens", {"scopes": [f"read:tags:{tag}"]})
        await asyncio.to_thread(valkey.stop)

        async with (
            reader(one, token["token"]) as here,
            reader(other, token["token"]) as there,
            reader(other, key) as with_key,
            reader(other, kept["token"]) as good,
            await sse(other, f"/v1/realtime/runs?tag={tag}", token["token"]) as events,
        ):
            readers = (here, there, with_key, good)
            for each in readers:
                await each.say(
                    {"type": "subscribeToRunsWithTag", "id": 1, "tag": tag},
                    {"type": "subscribeToRun", "id": 2, "runId": run["id"]},
                )
                for _ in range(2):
                    await each.until("live")
            await events.until("live")

            deleted = await client.delete(f"/v1/tokens/{token['id']}")
            assert deleted.status_code == 204
            await access.revoke_key(stored.id)
            await database.close()
            for each in (here, there, with_key):
                for _ in range(2):
                    assert (await each.until("end"))["reason"] == "token_revoked"
                assert await each.closed() == 4401
            assert (await events.until("end"))["reason"] == "token_revoked"
            await events.ended()
            for server, secret in ((one, token["token"]), (other, token["token"]), (other, key)):
                headers = {"Authorization": f"Bearer {secret}"}
                async with httpx2.AsyncClient(base_url=server.url, headers=headers) as stranger:
                    assert (await stranger.get("/v1/runs")).status_code == 401

            # A token that still stands: a run that comes in is shown, one that its scope no
            # longer covers goes, and nothing is told of it but that.
            more = await posted("/v1/runs", {"taskIdentifier": "t", "tags": [tag]})
            assert (await good.until("change", kind="enter"))["run"]["id"] == more["id"]
            patch = {"removeTags": [tag], "metadata": {"secret": "x"}}
            assert (await client.patch(f"/v1/runs/{run['id']}", json=patch)).status_code == 200
            left = 0
            while left < 2:
                message = await good.next()
                assert "secret" not in str(message)
                if message["type"] == "change":
                    assert message["kind"] == "leave"
                    left += len(message["ids"])
            assert (await good.until("end"))["reason"] == "forbidden"
