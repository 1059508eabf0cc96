"""The websockets library's own `broadcast`.

    python -m bench.peers.websockets_broadcast PORT

`/publish` takes what is to be sent to all who are connected to `/`.
"""

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve

readers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    if connection.request.path == "/publish":
        async for message in connection:
            assert isinstance(message, str)
            for line in message.split("\n"):
                broadcast(readers, line)
        return
    readers.add(connection)
    await connection.send("ready")
    try:
        await connection.wait_closed()
    finally:
        readers.discard(connection)


async def main() -> None:
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
