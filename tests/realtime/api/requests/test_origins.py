"""Which pages may call, with a key and without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.realtime.api.calling import Caller, assert_problem, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def open_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caller]:
    """A server without any key."""
    folder = tmp_path_factory.mktemp("open")
    async with serving(f"sqlite:///{folder / 'runstream.db'}", api_key=None) as caller:
        yield caller


PREFLIGHT = {
    "Origin": "https://app.example",
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
}


async def test_with_a_key_pages_of_any_origin_may_call_without_credentials(api: Caller) -> None:
    """No browser sends a key by itself, so a page that has one was given it."""
    response = await api.with_token(None).call("OPTIONS", "/v1/runs/x", headers=PREFLIGHT)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "*"
    assert "PATCH" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower()
    assert {"authorization", "content-type", "idempotency-key"} <= set(allowed.split(", "))
    assert "access-control-allow-credentials" not in response.headers
    for answer in (
        await api.get("/v1/runs", headers={"Origin": "https://app.example"}),
        await api.with_token("x").get("/v1/runs", headers={"Origin": "null"}),
        await api.get("/nothing", headers={"Origin": "https://app.example"}),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Runstream-Token" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]


async def test_a_setting_narrows_the_origins(sqlite_url: str) -> None:
    """Others get no leave from the browser."""
    origin = "https://app.example"
    async with serving(sqlite_url, allowed_origins=(origin,)) as api:
        response = await api.get("/v1/runs", headers={"Origin": origin})
        assert response.headers["access-control-allow-origin"] == origin
        for other in ("https://evil.example", "null", "https://app.example.evil.example"):
            response = await api.get("/v1/runs", headers={"Origin": other})
            assert "access-control-allow-origin" not in response.headers
            response = await api.call("OPTIONS", "/v1/runs", headers=PREFLIGHT | {"Origin": other})
            assert "access-control-allow-origin" not in response.headers


async def test_without_a_key_everybody_on_this_machine_may_do_everything(
    open_api: Caller,
) -> None:
    """A key of another server does no harm; a token restricts its bearer all the same."""
    run = await open_api.run()
    assert (await open_api.get(f"/v1/runs/{run['id']}")).status_code == 200
    assert (await open_api.with_token("a-key-from-elsewhere").get("/v1/runs")).status_code == 200
    reader = await open_api.a_token("read:tags:a")
    assert_problem(await reader.get("/v1/runs"), 403, "forbidden")
    assert_problem(await open_api.with_token("a.b.c").get("/v1/runs"), 401, "unauthorized")


@pytest.mark.parametrize(
    "host, good",
    [
        ("localhost", True),
        ("localhost:1", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("app.localhost:8080", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1", False),
        ("0.0.0.0:8080", False),
        ("[::ffff:10.0.0.1]", False),
        ("", False),
    ],
)
async def test_without_a_key_a_foreign_host_is_refused(
    open_api: Caller, host: str, good: bool
) -> None:
    """A page may point a name of its own at 127.0.0.1, and is then of the same origin."""
    for path in ("/v1/runs", "/", "/metrics"):
        response = await open_api.get(path, headers={"Host": host})
        if good:
            assert response.status_code == 200
        else:
            assert_problem(response, 403, "forbidden")


@pytest.mark.parametrize(
    "origin, good",
    [
        ("http://localhost:5173", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:3000", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("null", False),
        ("file://", False),
        ("http://[evil", False),
        ("", False),
    ],
)
async def test_without_a_key_a_foreign_origin_is_refused(
    open_api: Caller, origin: str, good: bool
) -> None:
    """Any page in this user's browser could call otherwise."""
    response = await open_api.post("/v1/runs", {"taskIdentifier": "x"}, headers={"Origin": origin})
    preflight = await open_api.call("OPTIONS", "/v1/runs", headers=PREFLIGHT | {"Origin": origin})
    if good:
        assert response.status_code == 201
        assert response.headers["access-control-allow-origin"] == origin
        assert preflight.status_code == 204
    else:
        assert_problem(response, 403, "forbidden")
        assert_problem(preflight, 403, "forbidden")
        assert "access-control-allow-origin" not in response.headers


async def test_without_a_key_callers_from_elsewhere_are_refused(open_api: Caller) -> None:
    """Should another server be put in front that listens on every address."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/v1/runs", "raw_path": b"/v1/runs",
        "query_string": b"", "headers": [(b"host", b"localhost")], "client": ("10.0.0.1", 1),
        "scheme": "http", "http_version": "1.1", "root_path": "", "server": None,
    }  # fmt: skip
    transport: Any = open_api.client._transport
    await transport.app(scope, receive, send)
    assert sent[0]["status"] == 403
