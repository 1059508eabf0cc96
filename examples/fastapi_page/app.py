"""A page for signed-in users, each of whom sees their own runs: `python examples/fastapi_page/app.py`.

The server's key stays here. The page gets a token that reads the runs of its user, and nothing
else; the browser client asks for the next one by itself before it ends.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.responses import FileResponse, PlainTextResponse

from runstream import Runstream

URL = os.environ.get("RUNSTREAM_URL", "http://localhost:8080")
KEY = os.environ.get("RUNSTREAM_API_KEY")
PAGE = Path(__file__).with_name("page.html")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Runstream(URL, api_key=KEY) as client, asyncio.TaskGroup() as jobs:
        app.state.client, app.state.jobs = client, jobs
        yield


app = FastAPI(lifespan=lifespan)


async def signed_in() -> str:
    """Who is looking; here would be your session."""
    return "user:7"


User = Annotated[str, Depends(signed_in)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@app.get("/runstream")
async def where(user: User) -> dict[str, str]:
    return {"url": URL, "tag": user}


@app.get("/runstream-token")
async def token(user: User) -> PlainTextResponse:
    made = await app.state.client.tokens.create([f"read:tags:{user}"], expires_in_s=900)
    return PlainTextResponse(made.token, headers={"Cache-Control": "no-store"})


@app.post("/reports", status_code=202)
async def begin_report(user: User) -> dict[str, Any]:
    app.state.jobs.create_task(make_report(app.state.client, user))
    return {}


async def make_report(client: Runstream, user: str) -> None:
    """The job, in this process for the example's sake."""
    async with client.report("make-report", {"pages": 20}, tags=[user]) as run:
        for page in range(1, 21):
            await asyncio.sleep(0.1)
            run.metadata.set("progress", page / 20)
            run.metadata.set("message", f"page {page} of 20")
        run.output = {"pages": 20}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
