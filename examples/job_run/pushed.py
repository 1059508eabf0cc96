"""Follows a job run: each change of it and of its steps is drawn as it happens.

python examples/job_run/pushed.py run_123
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from runstream import Run, Runstream

Draw = Callable[[dict[str, Run[Any, Any]]], None]


async def follow(url: str, key: str, job_run_id: str, draw: Draw) -> None:
    """Draws the job run and its steps, by their ids, with each change."""
    async with Runstream(url, api_key=key or None) as client:
        picture = {}
        async for run in client.subscribe_to_job_run(job_run_id):
            picture[run.id] = run
            draw(picture)


def show(picture: dict[str, Run[Any, Any]]) -> None:
    """The picture, on one line."""
    print(*(f"{run.task_identifier}: {run.status}" for run in picture.values()), sep=", ")


if __name__ == "__main__":
    asyncio.run(follow("http://127.0.0.1:8080", "", sys.argv[1], show))
