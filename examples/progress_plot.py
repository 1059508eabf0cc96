"""Progress as a plot that grows while the work is done, in the way of a notebook.

    python examples/progress_plot.py            # a few made-up jobs, to have something to see
    python examples/progress_plot.py batch_…    # a batch of yours

and open progress.svg in a browser: the file is written anew as the runs change. Needs nothing
but the client. Each part is a cell; in a notebook run them all, and `await main()` at the end.
"""

# %% What is followed
import asyncio
import os
import random
import sys
import time
from html import escape
from pathlib import Path

from runstream import NewRun, Run, RunStatus, Runstream

URL = os.environ.get("RUNSTREAM_URL", "http://localhost:8080")
KEY = os.environ.get("RUNSTREAM_API_KEY")
PLOT = Path("progress.svg").absolute()

# Of each run: how far it was, and when; and the run as it stands.
points: dict[str, list[tuple[float, float]]] = {}
latest: dict[str, Run] = {}


async def follow(client: Runstream, batch_id: str) -> None:
    """Notes each change, until all runs of the batch are final."""
    drawn = 0.0
    async for run in client.subscribe_to_batch(batch_id):
        latest[run.id] = run
        progress = run.metadata.get("progress")
        if isinstance(progress, int | float):
            points.setdefault(run.id, []).append((run.updated_at.timestamp(), progress))
        if time.monotonic() - drawn > 0.2:  # a few pictures a second are enough
            drawn = time.monotonic()
            draw()
    draw()


# %% The plot
WIDTH, HEIGHT, LEFT, TOP = 640, 320, 48, 24
COLOURS = ("#0969da", "#8250df", "#bf8700", "#1b7c83", "#cf222e", "#57606a")


def draw() -> None:
    """Writes the plot; in one step, so that nobody reads half of it."""
    new = PLOT.with_suffix(".new")
    new.write_text(plot(), encoding="utf-8")
    new.replace(PLOT)


def plot() -> str:
    """All curves as SVG: seconds to the right, progress upwards."""
    times = [at for line in points.values() for at, _ in line]
    begin, end = min(times, default=0.0), max(times, default=0.0)
    span = max(1.0, end - begin)
    width, height = WIDTH - LEFT - 160, HEIGHT - 2 * TOP

    def place(at: float, progress: float) -> str:
        x = LEFT + (at - begin) / span * width
        y = TOP + (1 - min(1.0, max(0.0, progress))) * height
        return f"{x:.1f},{y:.1f}"

    parts = []
    for part in (0, 25, 50, 75, 100):
        y = TOP + (1 - part / 100) * height
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{y}" y2="{y}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{part} %</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">0 s</text>')
    parts.append(f'<text x="{LEFT + width}" y="{HEIGHT - 6}" text-anchor="end">{span:.1f} s</text>')
    for n, (run_id, line) in enumerate(points.items()):
        run, colour = latest[run_id], COLOURS[n % len(COLOURS)]
        dashes = ' stroke-dasharray="4 4"' if run.is_failed else ""
        places = " ".join(place(at, progress) for at, progress in line)
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        if n < 16:
            name = escape(f"{run.task_identifier[:20]} {run.status}")
            parts.append(
                f'<text x="{LEFT + width + 10}" y="{TOP + 14 * n + 8}" fill="{colour}">{name}</text>'
            )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11" fill="#1f2328">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


# %% Something to see: put your own jobs in its place
async def some_work(client: Runstream) -> str:
    """Begins a batch of made-up jobs, one of which fails: the batch's id."""
    tasks = ("encode-video", "build-index", "send-letters", "train-model")
    made = await client.batches.create([NewRun(task, status=RunStatus.EXECUTING) for task in tasks])
    for run in made.runs:
        jobs.add(asyncio.create_task(one_job(client, run)))
    return made.batch.id


jobs: set[asyncio.Task[None]] = set()


async def one_job(client: Runstream, run: Run) -> None:
    steps = random.randint(8, 20)
    fails = run.task_identifier == "train-model"
    for step in range(steps + 1):
        await asyncio.sleep(random.uniform(0.02, 0.2))
        if fails and step > steps * 0.7:
            error = {"name": "NotANumber", "message": "the loss is nan"}
            await client.runs.update(run.id, status=RunStatus.FAILED, error=error)
            return
        await client.runs.update(run.id, metadata={"progress": step / steps})
    await client.runs.update(run.id, status=RunStatus.COMPLETED)


# %% All of it
async def main(batch_id: str | None = None) -> None:
    async with Runstream(URL, api_key=KEY) as client:
        batch_id = batch_id or await some_work(client)
        print(f"{batch_id}: open {PLOT.as_uri()}, and reload it as it grows", flush=True)
        await follow(client, batch_id)
        await asyncio.gather(*jobs)
    for run in latest.values():
        print(f"{run.task_identifier:14} {run.status:10} {len(points.get(run.id, ()))} points")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
