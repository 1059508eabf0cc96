"""What a connection or a request took is given back as it ends, not when a collector comes by.

The collector is told to look seldom, since it looks at everything (`realtime.serve.calm_gc`): of
connections that have lived for a while, a busy server would keep a hundred thousand dead ones.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Iterator
from typing import Final, TypeAlias

import pytest

from tests.realtime.serving import until
from tests.security.serving import LONG_S, Serving, serving
from tests.security.traffic import CLOSE, PING, TEXT, frame, handshake, request

HELD: Final = {
    "httptools.parser.parser.HttpRequestParser",
    "realtime.direct.DirectTransport",
    "realtime.frames.answer.OneWrite",
    "realtime.frames.http.HttpProtocol",
    "realtime.frames.inbox.Inbox",
    "realtime.frames.link.Link",
    "realtime.frames.websocket.FramesProtocol",
    "realtime.hub.connection.Connection",
    "realtime.mailbox.Mailbox",
    "realtime.session.Session",
    "uvicorn.protocols.http.httptools_impl.RequestResponseCycle",
    "uvloop.loop.TCPTransport",
    "websockets.http11.Request",
    "websockets.server.ServerProtocol",
    "websockets.streams.StreamReader",
}
"""What most of a connection's memory is in."""

TIMES: Final = 5

Steps: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""What is said, and what is waited for after that."""

ASK: Final = {"type": "subscribeToRunsWithTag", "id": 1, "tag": "given-back"}
LIVE: Final[Steps] = (
    (handshake(), b"welcome"),
    (frame(TEXT, json.dumps(ASK).encode()), b'"type":"live"'),
)
CLOSING: Final = (frame(CLOSE, b"\x03\xe8"), b"\x88\x02\x03\xe8")
CREATE: Final = request(
    "POST", "/v1/runs", b'{"taskIdentifier":"t"}', b"Content-Type: application/json\r\n"
)
READ: Final = request("GET", "/v1/runs?limit=1")
STREAM: Final = request("GET", "/v1/realtime/runs?tag=given-back")
LAST: Final = request("GET", "/healthz", head=b"Connection: close\r\n")
DEFLATE: Final = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"

CASES: Final[dict[str, Steps]] = {
    "a stream that its client closes": (*LIVE, CLOSING),
    "a stream whose client is gone": LIVE,
    "a compressed stream": ((handshake(DEFLATE), b"permessage-deflate"), CLOSING),
    "a stream that is closed by the server": (*LIVE, (frame(TEXT, b"[]"), b"not an object")),
    "a stream that breaks the rules": (*LIVE, (frame(PING, b"x" * 126), b"too long")),
    "a stream with a wrong key": ((handshake(token="wrong"), b"\x88"),),
    "a handshake that is refused": ((handshake(b"Sec-WebSocket-Key: x\r\n"), b" 400 "),),
    "a stream of server-sent events": ((STREAM, b"event: live"),),
    "requests that are done": ((CREATE + READ + LAST, b'"status":"ok"'),),
    "requests on a connection that stays": ((CREATE, b'"taskIdentifier"'), (READ, b'"data":')),
    "a request that is none": ((b"GET\r\n\r\n", b" 400 "),),
    "a request whose body does not come": ((CREATE[:-3], b""),),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("served"), deflate=True) as served:
        yield served


@pytest.fixture
def collector_is_away() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> Counter[str]:
    """How many of them there are in this process."""
    kinds = Counter(map(type, gc.get_objects()))
    names = {f"{kind.__module__}.{kind.__qualname__}": n for kind, n in kinds.items()}
    return Counter({name: n for name, n in names.items() if name in HELD})


@pytest.mark.parametrize("case", CASES)
async def test_nothing_is_left_of(case: str, served: Serving, collector_is_away: None) -> None:
    """Without the collector: each was held by itself, by way of a parser, a link or an error."""
    await spoken(served, CASES[case])  # what is made once and kept
    await rests(served)
    gc.collect()
    before = held()
    for _ in range(TIMES):
        await spoken(served, CASES[case])
    await rests(served)
    left = held() - before
    await until(lambda: not (held() - before), f"an end of {dict(left)}")


async def rests(served: Serving) -> None:
    """Until the server has heard that all of them are gone."""
    state = served.server.server_state
    await until(lambda: not state.connections and not state.tasks, "an end of all")


async def spoken(served: Serving, steps: Steps) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        for said, awaited in steps:
            writer.write(said)
            got = b""
            async with asyncio.timeout(LONG_S):
                while awaited not in got:
                    part = await reader.read(65_536)
                    assert part, got
                    got += part
    finally:
        writer.transport.abort()
