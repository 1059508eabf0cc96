"""Our protocol class: frames as the specification has them, and no waiting for the stalled."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.frames import Frame, Opcode

from realtime.frames import FramesProtocol
from realtime.hub.packing import Packing, text_frame
from tests.realtime.serving import serving, until
from tests.realtime.test_gateway import Stalled


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 300_000])
def test_a_frame_is_as_the_library_writes_it(size: int) -> None:
    message = b"x" * size
    assert text_frame(message) == Frame(Opcode.TEXT, message).serialize(mask=False)


def test_the_same_lines_are_packed_once() -> None:
    """That is what makes a thousand readers cost little more than one."""
    packing = Packing()
    lines = [b"one", b"two"]
    assert packing.frame(lines) is packing.frame(list(lines))
    assert packing.message(lines) is packing.message(tuple(lines))
    assert packing.message(lines) == b"one\ntwo"
    assert packing.message([lines[0]]) is lines[0]


async def test_a_reader_that_answers_no_ping_is_dropped_with_what_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvicorn closes it, and then waits for its full buffer for ever."""
    make = FramesProtocol.__init__

    def hurried(self: FramesProtocol, *args: object, **how: object) -> None:
        make(self, *args, **how)
        self.close_timeout = 0.1

    monkeypatch.setattr(FramesProtocol, "__init__", hurried)
    async with serving(ws_ping_interval=0.1, ws_ping_timeout=0.2) as gateway:
        gateway.store.create("run_1")
        stalled = Stalled(gateway.port)
        await stalled.connect()
        await until(lambda: any(p.index for p in gateway.hub.projects.values()))
        for _ in range(100):
            gateway.store.update("run_1", metadata={"pad": "x" * 5_000})
        await until(lambda: not gateway.hub.connections)
        stalled.socket.close()


async def test_compression_may_be_on() -> None:
    """A finished frame is not compressed, which a peer that could read compressed ones allows."""
    async with serving(ws_per_message_deflate=True) as gateway:
        gateway.store.create("run_1")
        async with gateway.reader(compression="deflate") as reader:
            assert reader.socket.protocol.extensions
            await reader.say({"type": "ping", "data": "x" * 1_000})
            assert (await reader.until("pong"))["data"] == "x" * 1_000


async def test_a_close_handshake_is_answered_both_ways() -> None:
    async with serving() as gateway:
        async with gateway.reader() as reader:
            await reader.until("welcome")
            await asyncio.wait_for(reader.socket.close(1000, "bye"), 10)
            assert reader.socket.close_code == 1000
        async with gateway.reader() as reader:
            await reader.socket.send(json.dumps({"type": "nonsense"}))
            assert await reader.closed() == 4400
            assert reader.socket.close_reason
        await until(lambda: not gateway.hub.connections)
