"""Follows a job run the old way: it asks two endpoints every ten seconds until it is over.

python examples/job_run/polling.py run_123
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import httpx2

INTERVAL_S = 10.0

Draw = Callable[[dict[str, Any]], None]


def follow(url: str, key: str, job_run_id: str, draw: Draw) -> None:
    """Draws the job run and its steps, by their ids, as each look finds them."""
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as api:
        while True:
            job_run = api.get(f"/v1/job-runs/{job_run_id}").raise_for_status().json()
            steps = api.get("/v1/workflow-runs", params={"jobRunId": job_run_id})
            found = [job_run["run"], *steps.raise_for_status().json()["workflowRuns"]]
            draw({run["id"]: run for run in found if run["id"] is not None})
            if job_run["status"] in ("COMPLETED", "FAILED"):
                return
            time.sleep(INTERVAL_S)


def show(picture: dict[str, Any]) -> None:
    """The picture, on one line."""
    print(*(f"{run['taskIdentifier']}: {run['status']}" for run in picture.values()), sep=", ")


if __name__ == "__main__":
    follow("http://127.0.0.1:8080", "", sys.argv[1], show)
