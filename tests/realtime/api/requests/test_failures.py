"""What a caller is told of a failure, and of the server: nothing of its inside."""

from __future__ import annotations

from typing import Any

import pytest

from store.errors import OutcomeUnknown, Unavailable
from tests.realtime.api.calling import Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_what_nobody_foresaw_is_logged_and_not_told(
    api: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the text of an error nor a place in our code leaves the server."""

    async def broken(*_: Any) -> Any:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(api.runtime.store, "get_run", broken)
    response = await api.get("/v1/runs/run_00000000000000000000000000")
    problem = assert_problem(response, 500, "internal")
    assert "secret" not in response.text
    assert "secret of the inside" in caplog.text
    assert problem["detail"].rsplit(" ", 1)[1] in caplog.text


@pytest.mark.parametrize(
    "error, code", [(Unavailable("away"), "unavailable"), (OutcomeUnknown("?"), "outcome_unknown")]
)
async def test_a_database_that_is_away_is_said_with_when_to_come_back(
    api: Caller, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    """Nothing was changed, or it is not known: the two are told apart."""

    async def away(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(api.runtime.store, "execute", away)
    response = await api.post("/v1/runs", {"taskIdentifier": "x"})
    assert_problem(response, 503, code)
    assert int(response.headers["retry-after"]) >= 1


async def test_no_banner_says_what_runs_here(api: Caller) -> None:
    """It helps only who looks for a version with a hole."""
    for path in ("/", "/v1/runs", "/nothing"):
        response = await api.get(path)
        assert not {"server", "x-powered-by"} & set(response.headers)
