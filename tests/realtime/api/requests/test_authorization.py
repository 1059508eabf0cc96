"""The header by which a caller is known."""

from __future__ import annotations

import pytest

from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer x", "Basic a2V5", "x", "", "Bearer a.b.c", "bearer\t",
               "Bearer " + "x" * 5_000],
)  # fmt: skip
async def test_without_a_good_key_nothing_is_told(api: Caller, header: str) -> None:
    """Neither whether there is such a run nor what was wrong with the body."""
    for method, path in (("GET", "/v1/runs"), ("GET", "/v1/runs/x"), ("POST", "/v1/runs")):
        response = await api.with_token(None).call(
            method, path, headers={"Authorization": header}, content=b"{"
        )
        assert_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    assert_problem(await api.with_token(None).get("/v1/runs"), 401, "unauthorized")


async def test_two_authorization_headers_are_none(api: Caller) -> None:
    """A proxy and the application might each believe another one."""
    headers = [("Authorization", f"Bearer {api.token}"), ("Authorization", "Bearer x")]
    response = await api.client.get("/v1/runs", headers=headers)
    assert_problem(response, 401, "unauthorized")


async def test_the_scheme_is_read_in_any_case(api: Caller) -> None:
    """As RFC 9110 has it."""
    response = await api.with_token(None).get(
        "/v1/runs", headers={"Authorization": f"bEaReR  {api.token}"}
    )
    assert response.status_code == 200
