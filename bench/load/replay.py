"""A server that says what was recorded of a real one: `python -m bench.load.replay FOLDER`.

Prints its port. Each connection is told the head when it has subscribed, and the rest as fast as it
reads. The frames are made before; to send them is all that is done then.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from websockets.utils import accept_key


def frame(message: bytes) -> bytes:
    """A WebSocket text frame of a server."""
    size = len(message)
    if size < 126:
        return b"\x81" + bytes([size]) + message
    if size < 2**16:
        return b"\x81\x7e" + struct.pack("!H", size) + message
    return b"\x81\x7f" + struct.pack("!Q", size) + message


def write(folder: Path, head: Sequence[bytes], rest: Sequence[bytes]) -> None:
    """What is to be replayed: the messages that answer the subscription, and those that follow."""
    (folder / "head").write_bytes(b"".join(map(frame, head)))
    (folder / "rest").write_bytes(b"".join(map(frame, rest)))


def serve(connection: socket.socket, head: bytes, rest: bytes) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += connection.recv(65_536)
        found = re.search(rb"(?i)sec-websocket-key: *(\S+)", asked)
        if found is None:
            return
        accepted = accept_key(found[1].decode()).encode()
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: runstream.v1\r\nSec-WebSocket-Accept: " + accepted
            + b"\r\n\r\n"
        )  # fmt: skip
        try:
            connection.recv(65_536)  # The subscription; what it says is known.
            connection.sendall(head)
            connection.sendall(rest)
            while connection.recv(65_536):
                pass
        except OSError:
            pass  # The client has gone.


def main(folder: Path) -> None:
    head, rest = (folder / "head").read_bytes(), (folder / "rest").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, head, rest), daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
