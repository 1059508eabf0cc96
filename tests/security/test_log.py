"""What peers send stays what it is in the log: no line of theirs, no command to a terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import Callable

from realtime.serve import Lines
from tests.processes import API_KEY, Server
from tests.security.traffic import TEXT, frame, handshake, request

FORGED = "2026-01-01 00:00:00,000 CRITICAL forged"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
TRICKS = (
    "\n",
    "\r\n",
    "\r",
    "\x1b[2J",
    "\x1b]0;x\x07",
    "\x9b31m",
    "\x00",
    "\x7f",
    "\x08",
    "\u2028",
)


async def say(server: Server, data: bytes) -> None:
    """Sends it, and reads for as long as something comes at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        async with asyncio.timeout(0.3):
            while await reader.read(65_536):
                pass
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()


async def test_nobody_writes_lines_or_colours_into_the_log(
    sqlite_url: str, start_server: Callable[..., Server]
) -> None:
    """A server that logs all that it can, and everything of a request that could be logged."""
    server = await asyncio.to_thread(
        start_server, sqlite_url,
        args=("--log-level", "debug", "--access-log", "--trusted-proxies", "127.0.0.1"),
    )  # fmt: skip
    said = []
    for trick in TRICKS:
        text = f"a{trick}{FORGED}"
        raw = text.encode("utf-8").replace(b" ", b"\xa0")
        quoted = "".join(f"%{byte:02x}" for byte in text.encode())
        body = json.dumps(
            {"taskIdentifier": text, "tags": [text], "idempotencyKey": text, text: 1}
        ).encode()
        fine = json.dumps({"taskIdentifier": text, "payload": text}).encode()
        said += [
            request("GET", f"/v1/{quoted}?tag={quoted}"),
            request("GET", f"/v1/runs/{quoted}"),
            request("GET", f"/v1/realtime/runs?tag={quoted}"),
            request("POST", "/v1/runs", body),
            request("POST", "/v1/runs", fine),
            b"GET /v1/" + raw + b"?" + raw + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            raw + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            request("GET", "/v1/runs", head=b"X-Forwarded-For: " + raw + b"\r\n"),
            request("GET", "/v1/runs", head=b"X-Forwarded-For: 1.2.3.4" + trick.encode() + b"\r\n"),
            request(
                "GET", "/v1/runs", head=b"User-Agent: " + raw + b"\r\nOrigin: " + raw + b"\r\n"
            ),
            request("GET", "/v1/runs", head=b"Authorization: Bearer " + raw + b"\r\n"),
            request("GET", "/v1/runs", head=b"Idempotency-Key: " + raw + b"\r\n"),
            handshake(path=f"/v1/realtime?{quoted}"),
            handshake(path=f"/v1/{quoted}"),
            handshake(b"X-Forwarded-For: " + raw + b"\r\n"),
            handshake(b"Sec-WebSocket-Protocol: " + raw + b"\r\n"),
            handshake(b"Sec-WebSocket-Extensions: " + raw + b"\r\n"),
            handshake() + frame(TEXT, json.dumps({"type": text}).encode()),
            handshake() + frame(TEXT, json.dumps({"type": "ping", text: text}).encode()),
            handshake() + frame(TEXT, raw),
        ]
    said = [one.replace(b"a-key-for-the-tests-0123456789", API_KEY.encode()) for one in said]
    at_once = asyncio.Semaphore(20)

    async def one_of(data: bytes) -> None:
        async with at_once:
            await say(server, data)

    await asyncio.gather(*map(one_of, said))
    await asyncio.to_thread(server.stop)
    log = server.log_file.read_bytes().decode()
    assert "GET /v1/" in log, "it was to log all that it can"
    for char in log:
        assert char == "\n" or char.isprintable(), (
            char,
            log[max(0, log.index(char) - 300) :][:600],
        )
    own = [line for line in log.split("\n") if not LINE.match(line)]
    assert not [line for line in own if "forged" in line]
    assert "Traceback" not in log
    assert not [line for line in log.split("\n") if line.startswith(FORGED[:20])]


def test_a_traceback_holds_no_lines_of_its_own() -> None:
    """An error's text may be a peer's."""
    try:
        raise ValueError(f"a\n{FORGED}\r\x1b[2J")
    except ValueError:
        error = sys.exc_info()
    lines = Lines("%(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "it failed\n", (), error)
    first, *rest = lines.format(record).split("\n")
    assert first == "ERROR it failed"
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
