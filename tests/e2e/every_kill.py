"""Every place of a job run, and both who may be killed there: `make kills`, for minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.kills import EVERY, Case, Kill, StoppingServer, serving


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoppingServer]:
    with serving(request.param, request, tmp_path_factory) as server:
        yield server


@pytest.mark.parametrize("kill", EVERY, ids=str)
async def test_a_job_run_ends_as_it_should_wherever_one_is_killed(
    server: StoppingServer, kill: Kill
) -> None:
    server.ensure()
    await Case(server, kill).play()
