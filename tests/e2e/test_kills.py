"""kill -9 of server and worker in the middle of a job run: it ends as it should all the same.

No step is completed twice, each begins when the one before it ended, and streams and webhooks
tell all of it. These are some of the places; `make kills` takes every one, on both databases.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.kills import Case, Kill, StoppingServer, serving
from tests.e2e.points import BEFORE_COMMIT, COMMITTED, UNANSWERED

# One of each kind, on either database: each costs a second of a processor.
ON_SQLITE = (
    Kill(f"the job run's creation, {UNANSWERED}", "server"),
    Kill(f"the claim of step 1, {COMMITTED}", "worker"),
    Kill(f"the metadata of step 1, {BEFORE_COMMIT}", "server"),
    Kill(f"the completion of step 2, {UNANSWERED}", "server"),
    Kill("a webhook's claim, committed", "server"),
)

ON_POSTGRES = (
    Kill("step 1 is running", "worker"),
    Kill(f"a heartbeat of step 1, {BEFORE_COMMIT}", "server"),
    Kill(f"the completion of step 0, {COMMITTED}", "server"),
    Kill("step 2 is done, and not told", "worker"),
    Kill(f"a webhook's outcome, {BEFORE_COMMIT}", "server"),
)


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoppingServer]:
    with serving(request.param, request, tmp_path_factory) as server:
        yield server


@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kill", ON_SQLITE, ids=str)
async def test_a_job_run_on_sqlite_ends_as_it_should_wherever_one_is_killed(
    server: StoppingServer, kill: Kill
) -> None:
    """Taken out: the key of a command; there were two job runs.

    The end of a try's claim; what the killed server had been sending was never sent.
    """
    server.ensure()
    await Case(server, kill).play()


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
@pytest.mark.parametrize("kill", ON_POSTGRES, ids=str)
async def test_a_job_run_on_postgres_ends_as_it_should_wherever_one_is_killed(
    server: StoppingServer, kill: Kill
) -> None:
    """Taken out: the clock of a lease; the killed worker's step was executed by nobody else."""
    server.ensure()
    await Case(server, kill).play()
