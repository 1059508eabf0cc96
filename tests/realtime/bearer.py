"""Somebody with a key or a token, who calls a server over HTTP."""

from __future__ import annotations

from typing import Any

import httpx2


class Bearer:
    """Sends its key or token along with each call, unless the call has another."""

    def __init__(self, client: httpx2.AsyncClient, token: str | None) -> None:
        self.client = client
        self.token = token

    async def call(self, method: str, path: str, **how: Any) -> httpx2.Response:
        headers = dict(how.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return await self.client.request(method, path, headers=headers, **how)

    async def get(self, path: str, **how: Any) -> httpx2.Response:
        return await self.call("GET", path, **how)

    async def post(self, path: str, json: Any = None, **how: Any) -> httpx2.Response:
        if json is not None:
            how["json"] = json
        return await self.call("POST", path, **how)
