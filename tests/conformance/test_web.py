"""What browsers and other programs of the web ask: CORS, HEAD, OPTIONS, encodings."""

import asyncio
from typing import Any

import httpx2

from tests.conformance.calling import create, problem

Http = httpx2.AsyncClient


async def test_a_page_of_any_origin_may_call_and_read_the_token(http: Http) -> None:
    asked = await http.options(
        "/v1/runs",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert asked.is_success
    assert asked.headers["access-control-allow-origin"] == "*"
    allowed = asked.headers["access-control-allow-headers"].lower()
    for name in ("authorization", "content-type", "idempotency-key", "last-event-id"):
        assert name in allowed
    for method in ("GET", "POST", "PATCH", "PUT", "DELETE"):
        assert method in asked.headers["access-control-allow-methods"]
    made = await http.post(
        "/v1/runs", json={"taskIdentifier": "t"}, headers={"Origin": "https://app.example"}
    )
    assert made.headers["access-control-allow-origin"] == "*"
    assert "runstream-token" in made.headers["access-control-expose-headers"].lower()
    assert "access-control-allow-credentials" not in made.headers
    missing = await http.get("/v1/runs/run_none", headers={"Origin": "https://app.example"})
    assert missing.headers["access-control-allow-origin"] == "*"


async def test_a_stream_may_be_read_by_a_page_of_any_origin(http: Http) -> None:
    run = await create(http)
    path = f"/v1/realtime/runs/{run['id']}"
    headers = {"Origin": "https://app.example"}
    async with http.stream("GET", path, headers=headers) as answer:
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_head_is_get_without_the_body_and_options_says_what_there_is(http: Http) -> None:
    run = await create(http)
    path = f"/v1/runs/{run['id']}"
    got, head = await http.get(path), await http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    options = await http.options(path)
    assert options.is_success
    assert {"GET", "PATCH", "DELETE"} <= set(options.headers["allow"].split(", "))
    refused = await http.put(path, json={})
    assert refused.status_code == 405
    assert refused.headers["content-type"].startswith("application/problem+json")


async def test_head_of_a_stream_is_answered_and_over(http: Http) -> None:
    run = await create(http)
    async with asyncio.timeout(10):
        head = await http.head(f"/v1/realtime/runs/{run['id']}")
    assert head.content == b""


async def test_nothing_is_compressed_that_nobody_can_read_piece_by_piece(http: Http) -> None:
    """A stream that is gathered until it is worth compressing comes late."""
    run = await create(http)
    headers = {"Accept-Encoding": "gzip"}
    async with http.stream("GET", f"/v1/realtime/runs/{run['id']}", headers=headers) as answer:
        assert "content-encoding" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"


async def test_a_path_that_is_not_there_is_not_found_for_any_method(http: Http) -> None:
    for method in ("GET", "POST", "DELETE"):
        problem(await http.request(method, "/v1/nothing"), 404, "not_found")


async def test_a_request_whose_scheme_is_no_bearer_is_nobodys(target: Any) -> None:
    async with httpx2.AsyncClient(base_url=target.url) as http:
        for header in ("Basic abc", "Bearer", f"Bearer {target.key}x", target.key):
            answer = await http.get("/v1/runs", headers={"Authorization": header})
            problem(answer, 401, "unauthorized")
        problem(await http.get(f"/v1/runs?token={target.key}"), 401, "unauthorized")
