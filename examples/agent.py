"""An agent that thinks aloud: its words stream into the run, and whoever looks reads along.

    python examples/agent.py "why is the sky blue"

and open the run on the server's page. The words here are made up; put your model's stream in
the place of `words_of`.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

from runstream import Runstream, Task

answer_question = Task("answer-question", payload=str, output=str)

STEPS = ("reading the question", "looking things up", "writing the answer")


async def words_of(question: str) -> AsyncIterator[str]:
    """The answer, a word at a time, as a model gives it."""
    text = (
        f"You ask {question}. Light is scattered by what is smaller than its waves, blue more "
        "than red; so from everywhere above you a little blue comes down, and the red goes on."
    )
    for word in text.split():
        await asyncio.sleep(0.05)
        yield word


async def answer(client: Runstream, question: str) -> str:
    async with client.report(answer_question, question, tags=["agent"]) as run:
        print("run", await run.created())
        for n, step in enumerate(STEPS):
            run.metadata.set("step", step)
            run.metadata.set("progress", n / len(STEPS))
            await asyncio.sleep(0.3)
        text = ""
        async for word in words_of(question):
            text += f"{word} "
            # What is said in quick succession is sent together: this does not wait.
            run.metadata.set("text", text)
        run.metadata.set("progress", 1)
        run.output = text.strip()
        return run.output


async def main() -> None:
    url = os.environ.get("RUNSTREAM_URL", "http://localhost:8080")
    question = " ".join(sys.argv[1:]) or "why the sky is blue"
    async with Runstream(url, api_key=os.environ.get("RUNSTREAM_API_KEY")) as client:
        print(await answer(client, question))


if __name__ == "__main__":
    asyncio.run(main())
