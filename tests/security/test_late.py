"""Who comes in while the server goes away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path

import pytest

from tests.realtime.serving import LONG_S
from tests.security.serving import serving
from tests.security.traffic import CLOSE, TEXT, frame, handshake


@pytest.mark.parametrize("pause_s", [0.0, 0.01, 0.05, 0.1])
async def test_no_close_that_was_foreseen_comes_without_a_reconnect(
    tmp_path: Path, pause_s: float
) -> None:
    """At the instant when a drain ends too: a client would else take it for a crash, and all of
    them would be back at once."""
    with serving(tmp_path, drain_s=0.2) as served:
        over, connected = threading.Event(), threading.Event()
        drain = served.runtime.drain

        async def drain_and_wait(deadline_s: float) -> None:
            await drain(deadline_s)
            over.set()
            connected.wait(LONG_S)  # nothing else is done meanwhile
            if pause_s:
                await asyncio.sleep(pause_s)

        served.runtime.drain = drain_and_wait  # type: ignore[method-assign]
        served.server.should_exit = True
        await asyncio.to_thread(over.wait, LONG_S)
        sockets = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(5)]
        for _, writer in sockets:
            writer.write(handshake() + frame(TEXT, b'{"type":"ping"}'))
            await writer.drain()
        connected.set()
        for reader, writer in sockets:
            got = b""
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(LONG_S):
                    while part := await reader.read(65_536):
                        got += part
                        if bytes([0x80 | CLOSE]) in part[-200:]:
                            writer.write(frame(CLOSE, b"\x03\xf4"))
            writer.close()
            if got:
                assert b" 503 " in got or b'"type":"reconnect"' in got, got
