"""Bytes that no library would send: the cases of RFC 9112 and RFC 6455, each over a raw socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.utils import accept_key

from realtime.frames import HttpProtocol
from tests.realtime.serving import LONG_S, until
from tests.security.serving import KEY, Serving, serving
from tests.security.traffic import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    deflated,
    frame,
    handshake,
    request,
)

CONT = 0x0
PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009


@pytest.fixture(scope="module")
def deflating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("deflating"), deflate=True) as made:
        yield made


# ------------------------------------------------------------------------------------------- HTTP


async def test_what_is_no_request_is_answered_with_a_problem_and_closed(served: Serving) -> None:
    """Errors are problem details everywhere, also where no request ever came to be."""
    for data in (
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: a\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        request("POST", "/v1/runs", head=b"Transfer-Encoding: chunked\r\n") + b"xyz\r\n",
    ):
        answer = await served.raw(data)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), (data, answer)
        assert b"content-type: application/problem+json" in head
        assert b"x-content-type-options: nosniff" in head
        assert b"cache-control: no-store" in head
        assert json.loads(body)["code"] == "bad_request"


async def test_a_head_too_long_is_answered_with_a_problem(served: Serving) -> None:
    for head in (b"X: " + b"y" * 200_000 + b"\r\n", b"X: y\r\n" * 500):
        answer = await served.raw(request("GET", "/healthz", head=head))
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 431


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
    ],
)
async def test_a_request_that_two_readers_would_read_differently_is_refused(
    served: Serving, head: bytes
) -> None:
    """Behind a proxy that reads it the other way, what follows would be somebody else's."""
    inner = b"GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    answer = await served.raw(request("POST", "/v1/runs", head=head) + b"0\r\n\r\n" + inner)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_command_before_rubbish_is_answered_for_itself(served: Serving) -> None:
    """An error says that nothing was changed: it must not be read as the command's answer."""
    body = b'{"taskIdentifier":"t"}'
    for rubbish in (b"\0\0\0\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000):
        answer = await served.raw(request("POST", "/v1/runs", body) + rubbish)
        assert answer.startswith(b"HTTP/1.1 201 "), answer[:300]
    # And then the rubbish has its own: whoever asked on a kept connection, just before the end of
    # the answer before was written, would else be cut off without a word.
    several = request("GET", "/healthz") * 3 + b"\0\0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(several)
    answer = await asyncio.wait_for(reader.read(), LONG_S)
    assert [part[:4] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200 "] * 3 + [b"400 "]
    writer.close()


async def test_what_follows_an_upgrade_to_what_is_not_spoken_is_answered(served: Serving) -> None:
    """The request is one of HTTP/1.1 like any other, with its body, and so is the next in its
    packet. Some libraries ask for HTTP/2 with all that they send: their bodies were lost, and who
    sent more at once waited for the answer until the connection was idle for too long."""
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    body = b'{"taskIdentifier":"t"}'
    whole = request("POST", "/v1/runs", body, head=h2c)
    chunked = request("POST", "/v1/runs", head=h2c + b"Transfer-Encoding: chunked\r\n")
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    asks = request("GET", "/healthz", head=h2c) + request("GET", "/v1/batches/none")
    data = asks * 2 + whole + chunked + asks + b"\0\0\r\n\r\n"
    expected = [b"200 ", b"404 "] * 2 + [b"201 ", b"201 ", b"200 ", b"404 ", b"400 "]
    for size in (len(data), 7):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), LONG_S)
        writer.close()
        assert [part[:4] for part in answer.split(b"HTTP/1.1 ")[1:]] == expected


async def test_an_upgrade_behind_a_request_without_its_answer_is_dropped(served: Serving) -> None:
    """The answer would come in between the frames."""
    answer = await served.raw(request("GET", "/v1/runs") + handshake())
    assert b" 101 " not in answer
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request("GET", "/healthz"))
    await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"}")
    writer.write(handshake())
    assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONG_S)
    writer.close()


async def test_who_asks_much_and_goes_leaves_no_trace_in_the_log(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Tracebacks that anybody can ask for fill disks, and hide those that matter."""
    state = served.server.server_state
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            before = state.total_requests
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(request("GET", "/v1/runs") * 30)
            await writer.drain()
            await until(lambda before=before: state.total_requests > before)  # type: ignore[misc]
            writer.transport.abort()
        await until(lambda: not state.connections, "all are gone")
        await until(lambda: not state.tasks, "all has ended")
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_connection_that_is_reset_leaves_nothing(served: Serving) -> None:
    """Not for the minute either that an idle one is kept: many could be reset in that."""

    def held() -> int:
        return sum(type(one) is HttpProtocol for one in gc.get_objects())

    for _ in range(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.write(request("GET", "/healthz"))
        await reader.readuntil(b"}")
        writer.transport.abort()
    await until(lambda: not served.server.server_state.connections, "all are gone")
    gc.collect()
    assert held() < 30


# -------------------------------------------------------------------------------------- handshake


async def _answer(served: Serving, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONG_S)
    finally:
        writer.close()


async def test_a_handshake_is_answered_as_rfc_6455_has_it(served: Serving) -> None:
    """Section 4.2.2: the key's digest; a subprotocol if it was offered; no unknown extension."""
    key = base64.b64encode(b"0123456789abcdef")
    asked = handshake(b"Sec-WebSocket-Extensions: x-unknown; a=b\r\n")
    answer = await _answer(served, asked.replace(b"dGhlIHNhbXBsZSBub25jZQ==", key))
    digest = accept_key(key.decode())
    lines = answer.lower().split(b"\r\n")
    assert lines[0] == b"http/1.1 101 switching protocols"
    assert b"Sec-WebSocket-Accept: " + digest.encode() in answer
    assert b"sec-websocket-protocol: runstream.v1" in lines
    assert b"sec-websocket-extensions" not in answer.lower()
    asked = handshake().replace(b"runstream.v1", b"another, one")
    assert b"sec-websocket-protocol" not in (await _answer(served, asked)).lower()
    # Names and tokens have no case, and lists may hold more.
    asked = handshake().replace(b"Upgrade: websocket", b"UPGRADE: WebSocket")
    asked = asked.replace(b"Connection: Upgrade", b"connection: keep-alive, upgrade")
    assert b" 101 " in await _answer(served, asked)


@pytest.mark.parametrize(
    "old, new, status",
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 12", 426),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 426),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ=", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"not base64!!", 400),
        (b"GET", b"POST", 405),
        (b"/v1/realtime", b"/v1/nothing", 403),
        (b"/v1/realtime", b"/v1/runs", 403),
    ],
)
async def test_a_handshake_that_is_none_is_refused(
    served: Serving, old: bytes, new: bytes, status: int
) -> None:
    """Section 4.2.1, and the server goes on."""
    answer = await _answer(served, handshake().replace(old, new))
    assert int(answer.split(b" ")[1]) == status
    if status == 426:
        assert b"sec-websocket-version: 13" in answer.lower()


# ----------------------------------------------------------------------------------------- frames


class Peer:
    """A WebSocket, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))

    def say(self, **message: Any) -> None:
        self.send(frame(TEXT, json.dumps(message).encode()))

    async def next(self) -> tuple[int, bytes]:
        """The next frame: its opcode and its data."""
        async with asyncio.timeout(LONG_S):
            first, second = await self._reader.readexactly(2)
            assert first & 0x70 in (0, 0x40)
            assert second < 128, "a server masks nothing"
            length = second
            if second == 126:
                (length,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif second == 127:
                (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
            return first & 0x0F, await self._reader.readexactly(length)

    async def until(self, opcode: int) -> bytes:
        """The data of the next frame of that kind."""
        while True:
            got, data = await self.next()
            if got == opcode:
                return data

    async def pong(self, data: Any) -> None:
        """The protocol's own answer, which shows that a message was understood."""
        while json.loads((await self.until(TEXT)).split(b"\n")[-1]) != {
            "type": "pong",
            "data": data,
        }:
            pass

    async def closed(self, *, answers: bool = True) -> int | None:
        """The code that it is closed with, after which the connection ends; None without one."""
        data = await self.until(CLOSE)
        if answers:
            self.send(frame(CLOSE, data))
        rest = await asyncio.wait_for(self._reader.read(), LONG_S)
        assert rest == b"", "nothing comes after a close"
        return int.from_bytes(data[:2], "big") if data else None


@asynccontextmanager
async def peer(served: Serving, head: bytes = b"") -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(handshake(head))
        assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LONG_S)
        made = Peer(reader, writer)
        assert b'"welcome"' in await made.until(TEXT)
        yield made
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


PING_MESSAGE = '{"type":"ping","data":"κόσμε \U0001f30d"}'.encode()
ANSWER = "κόσμε \U0001f30d"


@pytest.mark.parametrize("size", [1, 2, 5, len(PING_MESSAGE)])
async def test_a_message_may_come_in_any_parts(served: Serving, size: int) -> None:
    """Sections 5.4 and 5.6: between the bytes of a character too, with empty frames, with a ping."""
    parts = [PING_MESSAGE[at : at + size] for at in range(0, len(PING_MESSAGE), size)]
    async with peer(served) as one:
        one.send(frame(TEXT, b"", fin=False))
        for part in parts:
            one.send(frame(CONT, part, fin=False), frame(PING, b"x"))
        one.send(frame(CONT, b""))
        for _ in parts:
            # A control frame is answered while the message is still coming.
            assert await one.next() == (PONG, b"x")
        await one.pong(ANSWER)


async def test_pings_are_answered_with_their_data_and_pongs_are_let_be(served: Serving) -> None:
    """Sections 5.5.2 and 5.5.3."""
    async with peer(served) as one:
        for data in (b"", b"\x00\xff\xfe", b"x" * 125):
            one.send(frame(PONG, b"nobody asked"), frame(PING, data))
            assert await one.until(PONG) == data
        one.send(*[frame(PING, b"%d" % n) for n in range(20)])
        assert [await one.until(PONG) for _ in range(20)] == [b"%d" % n for n in range(20)]


async def test_a_length_may_be_written_in_any_width(served: Serving) -> None:
    """What section 5.2 asks of a sender harms nobody where it is not kept."""
    async with peer(served) as one:
        for wide in (0, 2, 8):
            one.send(frame(TEXT, PING_MESSAGE, wide=wide))
            with contextlib.suppress(asyncio.IncompleteReadError):
                await one.pong(ANSWER)


BROKEN = {
    "5.1 not masked": frame(TEXT, PING_MESSAGE, masked=False),
    "5.2 reserved bit 1": frame(TEXT, PING_MESSAGE, reserved=4),
    "5.2 reserved bit 2": frame(TEXT, PING_MESSAGE, reserved=2),
    "5.2 reserved bit 3": frame(PING, b"", reserved=1),
    "5.2 opcode 3": frame(3, b""),
    "5.2 opcode 7": frame(7, b"x"),
    "5.2 opcode 11": frame(11, b""),
    "5.2 opcode 15": frame(15, b"x"),
    "5.4 nothing to continue": frame(CONT, b"x"),
    "5.4 the end of nothing": frame(CONT, b"x", fin=False),
    "5.4 a text within a text": frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"),
    "5.4 bytes within a text": frame(TEXT, b"{", fin=False) + frame(BINARY, b"}"),
    "5.5 a long ping": frame(PING, b"x" * 126),
    "5.5 a long pong": frame(PONG, b"x" * 126),
    "5.5 a long close": frame(CLOSE, b"\x03\xe8" + b"x" * 124),
    "5.5 a ping in parts": frame(PING, b"x", fin=False),
    "5.5 a close in parts": frame(CLOSE, b"\x03\xe8", fin=False),
    "5.5.1 half a code": frame(CLOSE, b"\x03"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_frames_out_of_order_close_with_1002(served: Serving, case: str) -> None:
    """The section of RFC 6455, and what it forbids."""
    async with peer(served) as one:
        one.send(BROKEN[case])
        assert await one.closed() == PROTOCOL_ERROR


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b'{"type":"ping","data":"\xce"}'],
)
async def test_text_that_is_none_closes_with_1007_and_is_not_logged(
    served: Serving, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """Section 8.1; also where the wrong bytes come in two parts."""
    for frames in (
        [frame(TEXT, data)],
        [frame(TEXT, data[:-1], fin=False), frame(CONT, data[-1:])],
    ):
        async with peer(served) as one:
            one.send(*frames)
            assert await one.closed() == INVALID_DATA
    assert caplog.records == []


async def test_what_comes_with_text_that_is_none_is_not_answered(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a ping either: the last word is said, and to say more was an error in the log."""
    async with peer(served) as one:
        one.send(frame(TEXT, b"\xff"), frame(PING, b"still there?"), frame(TEXT, b"{}"))
        assert await one.closed() == INVALID_DATA
    assert caplog.records == []


@pytest.mark.parametrize(
    "code", [1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
async def test_a_close_is_answered_with_its_code(served: Serving, code: int) -> None:
    """Sections 5.5.1 and 7.4; what comes after it is nothing."""
    for reason in (b"", b"x" * 123, "κόσμε".encode()):
        async with peer(served) as one:
            one.send(frame(CLOSE, struct.pack("!H", code) + reason), frame(TEXT, b"{}"))
            assert await one.closed(answers=False) == code


async def test_a_close_without_a_code_is_answered_alike(served: Serving) -> None:
    async with peer(served) as one:
        one.send(frame(CLOSE, b""))
        assert await one.closed(answers=False) is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535])
async def test_codes_that_nobody_may_send_close_with_1002(served: Serving, code: int) -> None:
    """Section 7.4."""
    async with peer(served) as one:
        one.send(frame(CLOSE, struct.pack("!H", code)))
        assert await one.closed(answers=False) == PROTOCOL_ERROR


async def test_a_reason_that_is_no_text_closes_with_1007(served: Serving) -> None:
    async with peer(served) as one:
        one.send(frame(CLOSE, b"\x03\xe8\xff"))
        assert await one.closed() == INVALID_DATA


async def test_what_is_too_long_is_refused_before_it_has_come(served: Serving) -> None:
    """Section 10.4: by what it says that it will be, and all of its parts together."""
    async with peer(served) as one:
        one.send(frame(TEXT, b"", says=2**40))
        assert await one.closed() == TOO_BIG
    async with peer(served) as one:
        one.send(frame(TEXT, b" " * 3_000_000))
        assert await one.closed() == TOO_BIG, "what comes after the close does not reset it"
    async with peer(served) as one:
        one.send(frame(TEXT, b"", says=2**63))
        assert await one.closed() in (TOO_BIG, PROTOCOL_ERROR), "a length below zero"
    async with peer(served) as one:
        one.send(frame(TEXT, b" " * 40_000, fin=False), frame(CONT, b" " * 40_000, fin=False))
        assert await one.closed() == TOO_BIG
    async with peer(served) as one:
        one.send(frame(TEXT, PING_MESSAGE + b" " * (65_536 - len(PING_MESSAGE))))
        await one.pong(ANSWER)


async def test_bytes_close_with_4400(served: Serving) -> None:
    """Messages are text."""
    async with peer(served) as one:
        one.send(frame(BINARY, PING_MESSAGE))
        assert await one.closed() == 4400


# ------------------------------------------------------------------------------------ compression

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


async def test_compressed_messages_are_bounded_by_what_they_become(deflating: Serving) -> None:
    """RFC 7692: some bytes that become gigabytes must never be more than the limit in memory."""
    async with peer(deflating, OFFER) as one:
        one.send(frame(TEXT, deflated(PING_MESSAGE), reserved=4))
        assert (await one.until(TEXT)).strip(b"\0")
        one.send(frame(TEXT, deflated(b" " * 3_000_000), reserved=4))
        assert await one.closed() == TOO_BIG
    async with peer(deflating, OFFER) as one:
        half = deflated(b" " * 3_000_000)
        cut = len(half) // 2
        one.send(frame(TEXT, half[:cut], reserved=4, fin=False), frame(CONT, half[cut:]))
        assert await one.closed() == TOO_BIG


@pytest.mark.parametrize(
    "frames, code",
    [
        ([frame(TEXT, b"\xff" * 90, reserved=4)], PROTOCOL_ERROR),
        ([frame(TEXT, b"x", fin=False, reserved=4), frame(CONT, b"x", reserved=4)], PROTOCOL_ERROR),
        ([frame(PING, b"x", reserved=4)], PROTOCOL_ERROR),
        ([frame(TEXT, deflated(b"\xff\xff"), reserved=4)], INVALID_DATA),
    ],
    ids=["rubbish", "twice", "a ping", "no text"],
)
async def test_compressed_rubbish_closes(
    deflating: Serving, frames: list[bytes], code: int
) -> None:
    async with peer(deflating, OFFER) as one:
        one.send(*frames)
        assert await one.closed() == code
    async with deflating.reader(KEY, compression="deflate") as reader:
        await reader.until("welcome")
