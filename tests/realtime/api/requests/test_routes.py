"""Paths and methods: what there is, and what is said where there is nothing."""

from __future__ import annotations

import pytest

from tests.realtime.api.calling import A_RUN, Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/runs/", "/V1/runs", "/v1/nothing", "/v1/runs/a/b/c", "/v1//runs",
             "/v2/runs", "/favicon.ico", "/v1/runs%2f", "/../etc/passwd", "/v1/realtime/"],
)  # fmt: skip
async def test_there_is_nothing_at_other_paths(api: Caller, path: str) -> None:
    """And it is said in the form that all problems have."""
    assert_problem(await api.get(path), 404, "not_found")


async def test_where_a_websocket_is_taken_a_plain_request_is_told_so(api: Caller) -> None:
    """A browser or `curl` may come by."""
    response = await api.get("/v1/realtime")
    assert "WebSocket" in assert_problem(response, 400, "bad_request")["detail"]
    assert response.headers["upgrade"] == "websocket"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_streams_of_events_are_read_and_nothing_else(api: Caller, method: str) -> None:
    """In the form that all problems have."""
    response = await api.call(method, "/v1/realtime/runs")
    assert_problem(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("PUT", "/v1/runs", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/v1/runs/x", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("GET", "/v1/runs/bulk", "OPTIONS, POST"),
        ("DELETE", "/healthz", "GET, HEAD, OPTIONS"),
        ("BREW", "/v1/batches", "OPTIONS, POST"),
    ],
)
async def test_another_method_is_told_which_there_are(
    api: Caller, method: str, path: str, allow: str
) -> None:
    """Of the whole path, not of the first route that matched."""
    response = await api.call(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow
    response = await api.call("OPTIONS", path)
    assert (response.status_code, response.headers["allow"]) == (204, allow)


async def test_head_is_get_without_the_body(api: Caller) -> None:
    """With the same headers, the length too."""
    run = await api.run()
    get = await api.get(f"/v1/runs/{run['id']}")
    head = await api.call("HEAD", f"/v1/runs/{run['id']}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(
    "method, path",
    [("POST", "/v1/runs?x=1"), ("GET", "/v1/runs/run_00000000000000000000000000?limit=1")],
)
async def test_a_query_where_none_is_known_is_a_bad_request(
    api: Caller, method: str, path: str
) -> None:
    """It was meant for something, and would have no effect."""
    assert_problem(await api.call(method, path, content=A_RUN), 400, "bad_request")
