"""What browsers are told, and what nobody is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from realtime.api import RESOURCES
from tests.security.serving import KEY, Serving, serving

PAGE = "https://app.example.com"
EVIL = "https://evil.example.com"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("narrow"), allowed_origins=(PAGE,)) as made:
        yield made


async def test_the_page_runs_nothing_but_its_own(served: Serving) -> None:
    """Metadata that a job wrote is shown on it, and must not become part of it."""
    async with served.caller(None) as caller:
        for path in ("/", "/dash/dash.js"):
            headers = (await caller.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"


async def test_no_answer_sets_a_cookie_names_the_server_or_is_stored(served: Serving) -> None:
    """Every resource, with and without a key."""
    for token in (None, "x", KEY):
        async with served.caller(token) as caller:
            for resource in RESOURCES:
                for method in ("GET", "OPTIONS", "DELETE"):
                    path = resource.path.replace("{", "").replace("}", "")
                    response = await caller.call(method, path)
                    headers = response.headers
                    assert not {"set-cookie", "server", "x-powered-by"} & headers.keys()
                    assert headers["x-content-type-options"] == "nosniff", path
                    if method == "GET" and path.startswith("/v1"):
                        assert headers["cache-control"] == "no-store", (path, response)


async def test_refusals_have_the_same_headers(
    served: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are answers too: of a server without a key to other pages, and to what asks before."""
    with serving(tmp_path, api_key=None) as free:
        for headers in ({"Origin": EVIL}, {"Host": "evil.example.com"}):
            async with free.caller(None) as caller:
                for method, path in (("GET", "/v1/runs"), ("GET", "/"), ("OPTIONS", "/v1/runs")):
                    response = await caller.call(method, path, headers=headers)
                    assert response.status_code == 403
                    assert response.headers["content-type"] == "application/problem+json"
                    assert response.headers["x-content-type-options"] == "nosniff"
                    assert response.headers["cache-control"] == "no-store"
                    assert "access-control-allow-origin" not in response.headers
                    if "Origin" in headers:
                        assert response.headers["vary"] == "Origin"
        with pytest.raises(InvalidStatus) as refused:
            async with free.reader(None, headers={"Origin": EVIL}):
                pass
        assert refused.value.response.headers["X-Content-Type-Options"] == "nosniff"
        assert refused.value.response.headers["Cache-Control"] == "no-store"
        assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x"}
    async with served.caller(None) as caller:
        response = await caller.call("OPTIONS", "/v1/runs", headers={"Origin": PAGE, **ask})
        assert response.status_code == 204
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["access-control-max-age"]


async def test_cookies_are_nothing(served: Serving) -> None:
    """What a browser sends by itself proves nothing."""
    async with served.caller(None) as caller:
        for name in ("token", "authorization", "session"):
            response = await caller.get("/v1/runs", headers={"Cookie": f"{name}={KEY}"})
            assert response.status_code == 401


async def test_a_token_in_the_url_is_nothing(served: Serving) -> None:
    """URLs end up in logs, histories and referrers."""
    async with served.caller(None) as caller:
        for name in ("token", "access_token", "key", "api_key", "authorization"):
            assert (await caller.get(f"/v1/runs?{name}={KEY}")).status_code == 401
    async with await served.sse(f"/v1/realtime/runs?token={KEY}", None) as stream:
        assert stream.status == 401


async def test_pages_of_other_origins_open_no_websocket(narrow: Serving) -> None:
    """A browser asks nobody before it does; ours and those that are allowed may."""
    own = f"http://127.0.0.1:{narrow.port}"
    for origin in (PAGE, own, None):
        headers = {} if origin is None else {"Origin": origin}
        async with narrow.reader(headers=headers) as reader:
            assert (await reader.next())["type"] == "welcome"
    for origin in (EVIL, "null", PAGE + ".evil.com", PAGE.upper(), "http://app.example.com"):
        with pytest.raises(InvalidStatus, match="403"):
            async with narrow.reader(headers={"Origin": origin}):
                pass


async def test_cors_lets_the_allowed_read_and_nobody_else(narrow: Serving, served: Serving) -> None:
    """Without credentials: there are no cookies that could be sent along."""
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x"}
    for server, origin, allow in ((narrow, PAGE, PAGE), (narrow, EVIL, None), (served, EVIL, "*")):
        async with server.caller() as caller:
            for response in (
                await caller.get("/v1/runs", headers={"Origin": origin}),
                await caller.call("OPTIONS", "/v1/runs", headers={"Origin": origin, **ask}),
                await caller.get("/v1/nothing", headers={"Origin": origin}),
            ):
                assert response.headers.get("access-control-allow-origin") == allow
                assert "access-control-allow-credentials" not in response.headers
                assert "origin" in response.headers["vary"].lower()
            got = await caller.get("/v1/runs", headers={"Origin": origin})
            exposed = got.headers.get("access-control-expose-headers", "")
            assert ("Runstream-Token" in exposed and "Retry-After" in exposed) is bool(allow)


async def test_a_stream_of_events_has_the_same_rules(narrow: Serving) -> None:
    """It is HTTP too, though it takes another way."""
    for origin, allowed in ((PAGE, True), (EVIL, False)):
        async with await narrow.sse("/v1/realtime/runs", headers={"Origin": origin}) as stream:
            assert ("access-control-allow-origin" in stream.head) is allowed
            assert "x-content-type-options: nosniff" in stream.head
            assert "cache-control: no-store" in stream.head
            assert "\r\nserver:" not in stream.head


async def test_only_a_trusted_proxy_says_who_calls(tmp_path: Path) -> None:
    """Else everybody could be everybody: limits go by the address."""
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    for name, trusted in (("trusted", ("127.0.0.1",)), ("other", ("203.0.113.1",)), ("none", ())):
        folder = tmp_path / name
        folder.mkdir()
        with serving(folder, trusted_proxies=trusted, connections_per_address=9) as made:
            async with made.reader(headers=forwarded) as reader:
                await reader.until("welcome")
                held = dict(made.runtime.hub._admission._of_address._held)
        assert held == {"203.0.113.7" if name == "trusted" else "127.0.0.1": 1}
