"""uvicorn and Starlette, a queue and a task for each socket: what one writes first.

    python -m bench.peers.plain_starlette PORT

`/publish` takes what is to be sent to all who are connected to `/`.
"""

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

queues: set[asyncio.Queue[str]] = set()


async def read(socket: WebSocket) -> None:
    await socket.accept()
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.add(queue)
    await socket.send_text("ready")
    try:
        while True:
            await socket.send_text(await queue.get())
    except WebSocketDisconnect:
        pass
    finally:
        queues.discard(queue)


async def publish(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket.iter_text():
        for line in message.split("\n"):
            for queue in queues:
                queue.put_nowait(line)


app = Starlette(routes=[WebSocketRoute("/", read), WebSocketRoute("/publish", publish)])

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
    )
