"""What a hostile peer puts on the wire: real traffic, taken apart and bent, from a seed."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Final

KEY: Final = "a-key-for-the-tests-0123456789"
AUTHORIZED: Final = b"Authorization: Bearer " + KEY.encode() + b"\r\n"

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

NO_RUN: Final = "run_00000000000000000000000000"


@dataclass(frozen=True)
class Talk:
    """All that one connection says, and how it goes."""

    kind: str
    opening: bytes
    """Is said first, in order, and its answer awaited: only then the server takes what follows."""
    parts: tuple[bytes, ...]
    """Each is written alone."""
    pause_s: float
    """After each part."""
    leaves: str
    """`closed`, `aborted` (a reset), `half` (no more is written, all is read), `unread`."""


def talk(seed: int, number: int) -> Talk:
    """The talk of that number: the same again for the same seed."""
    random = Random(f"{seed}:{number}")
    kind = random.choice(list(KINDS))
    data = KINDS[kind](random)
    if random.random() < 0.3:
        data = bent(random, data)
    return Talk(
        kind,
        _opening(random) if kind == "open sockets" else b"",
        tuple(torn(random, data)),
        random.choice((0.0, 0.0, 0.0, 0.001, 0.02)),
        random.choice(("closed", "closed", "aborted", "half", "unread")),
    )


def torn(random: Random, data: bytes) -> list[bytes]:
    """The bytes in parts: mostly in one, or few, at times in very many."""
    most = random.choice((1, 1, 2, 4, 16, 64))
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(most - 1))
    edges = [0, *cuts, len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


MAGIC: Final = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\r\n", b"\n", b"\r\n\r\n", b" ", b":", b",", b"%00",
    b"%2e%2e/", b"\xc0\xaf", b"\xed\xa0\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"0" * 400, b"[" * 500, b'{"a":' * 200, b"1e999", b"-0", b"\\u0000", b"\\ud800",
    b"99999999999999999999", b"\x00\x00\x00\x00\x00\x00\x00\x00",
)  # fmt: skip


def bent(random: Random, data: bytes) -> bytes:
    """The bytes with some of them changed, taken out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        if not changed:
            break
        at = random.randrange(len(changed))
        size = random.choice((1, 1, 4, 40))
        match random.randrange(6):
            case 0:
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                changed[at : at + size] = random.randbytes(size)
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = random.choice(MAGIC)
            case 4:
                changed[at:at] = changed[at : at + size * 10]
            case _:
                del changed[at:]
    return bytes(changed)


# ------------------------------------------------------------------------------------------- HTTP


def request(
    method: str, path: str, body: bytes | None = None, head: bytes = b"", *, version: str = "1.1"
) -> bytes:
    """A whole request, in order."""
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    first = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n".encode()
    return first + AUTHORIZED + length + head + b"\r\n" + (body or b"")


def value(random: Random, depth: int = 3) -> Any:
    """Some JSON, with what programs trip over."""
    match random.randrange(10 if depth else 8):
        case 0:
            return None
        case 1:
            return random.choice((True, False))
        case 2:
            return random.choice((0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**70), 10**400))
        case 3:
            return random.choice((0.5, -0.0, 1e308, 5e-324))
        case 4 | 5:
            return random.choice(
                ("", "a", "x" * 300, "\0", "\ud800", "é", "COMPLETED", "QUEUED", NO_RUN, "'; --",
                 "2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-23:59", "\u202e", "a:b:c")
            )  # fmt: skip
        case 6 | 7:
            return random.randbytes(6).hex()
        case 8:
            return [value(random, depth - 1) for _ in range(random.randrange(4))]
        case _:
            return {str(value(random, 0)): value(random, depth - 1) for _ in range(3)}


RUN: Final = (
    "taskIdentifier", "payload", "tags", "metadata", "idempotencyKey", "delayUntil", "delay", "ttl",
    "maxDuration", "heartbeatTimeout", "isTest", "batchId", "parentRunId", "status", "maxAttempts",
)  # fmt: skip


def a_run(random: Random) -> dict[str, Any]:
    run: dict[str, Any] = {"taskIdentifier": "fuzzed", "tags": ["fuzzed"]}
    for _ in range(random.randrange(3)):
        run[random.choice(RUN)] = value(random)
    return run


CALLS: Final = (
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/"), ("GET", "/openapi.json"),
    ("GET", "/v1/runs?limit=3"), ("GET", "/v1/runs?tag=a&tag=b&status=QUEUED&after=x"),
    ("GET", f"/v1/runs/{NO_RUN}"), ("GET", f"/v1/runs/{NO_RUN}/changes"), ("HEAD", "/v1/runs"),
    ("OPTIONS", "/v1/runs"), ("DELETE", f"/v1/runs/{NO_RUN}"), ("GET", "/v1/realtime/runs?tag=a"),
    ("GET", f"/v1/realtime/runs/{NO_RUN}"), ("GET", "/client/runstream.js"), ("GET", "/v1/jobs"),
    ("GET", "/v1/webhooks"), ("GET", f"/v1/artifacts/art_{'0' * 26}/content"), ("TRACE", "/"),
    ("CONNECT", "localhost:1"), ("GET", "/dash/../../settings.py"), ("GET", "http://x/v1/runs"),
    ("GET", "*"), ("PATCH", f"/v1/runs/{NO_RUN}"), ("GET", "//v1//runs"), ("GET", "/v1/runs/%2e%2e"),
)  # fmt: skip
COMMANDS: Final = (
    ("POST", "/v1/runs"), ("POST", "/v1/runs/bulk"), ("POST", "/v1/batches"), ("POST", "/v1/jobs"),
    ("POST", "/v1/runs/claim"), ("POST", "/v1/tokens"), ("PATCH", f"/v1/runs/{NO_RUN}"),
    ("POST", "/v1/workflows"), ("POST", f"/v1/runs/{NO_RUN}/metadata"), ("POST", "/v1/job-runs"),
    ("POST", f"/v1/runs/{NO_RUN}/artifacts?name=x"), ("POST", f"/v1/runs/{NO_RUN}/heartbeat"),
)  # fmt: skip


def _call(random: Random) -> bytes:
    if random.random() < 0.5:
        method, path = random.choice(CALLS)
        return request(method, path)
    method, path = random.choice(COMMANDS)
    body: Any = a_run(random)
    match path:
        case "/v1/runs/bulk":
            body = {"commands": [{"create": a_run(random)}, value(random)]}
        case "/v1/batches":
            body = {"items": [a_run(random), a_run(random)]}
        case "/v1/runs/claim":
            body = {"tasks": ["nobody's"], "worker": "w", "leaseS": 5, "waitS": 0.1}
        case _ if random.random() < 0.3:
            body = value(random)
    return request(method, path, json.dumps(body).encode())


def _pipelined(random: Random) -> bytes:
    return b"".join(_call(random) for _ in range(random.choice((2, 3, 30))))


LENGTHS: Final = (
    b"+5", b"-1", b"0x5", b"5 5", b"5, 5", b"5,6", b"", b"1e3", b"5\x0b", b"99999999999999999999",
    b"18446744073709551616", b"000005", b"\xd9\xa5",
)  # fmt: skip
CODINGS: Final = (
    b"chunked", b"Chunked", b" chunked", b"chunked, identity", b"identity, chunked", b"gzip, chunked",
    b"chunked, chunked", b"\x0bchunked", b"xchunked", b"chunked\x00", b'"chunked"', b"identity",
)  # fmt: skip


def _smuggled(random: Random) -> bytes:
    """Two ways to say how long a body is, so that two readers could see two requests."""
    inner = b"GET /v1/runs?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked = b"5\r\nhello\r\n0\r\n\r\n"
    coding = b"Transfer-Encoding: " + random.choice(CODINGS) + b"\r\n"
    length = b"Content-Length: " + random.choice((*LENGTHS, b"5")) + b"\r\n"
    spaced = random.choice(
        (b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\r\n chunked\r\n",
         b"X: y\nTransfer-Encoding: chunked\r\n", b" Transfer-Encoding: chunked\r\n",
         b"Transfer_Encoding: chunked\r\n", b"X: y\rTransfer-Encoding: chunked\r\n")
    )  # fmt: skip
    head = random.choice(
        (coding + length, length + coding, length + length, coding, spaced + length)
    )
    start = b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\n" + AUTHORIZED + head + b"\r\n"
    return start + random.choice((chunked, b"hello", b"0\r\n\r\n", b"")) + inner


def _chunks(random: Random) -> bytes:
    """A body in chunks that lie about themselves."""
    sizes = (
        b"5", b"0005", b"5;x=y", b"5;" + b"x" * 20_000, b"-5", b"ffffffffffffffff", b"7fffffff",
        b"", b"g", b"5 ", b"\x005", b"5\n", b"1" * 30, b"0x5", b"4", b"6",
    )  # fmt: skip
    body = b"".join(
        random.choice(sizes) + b"\r\n" + b'"abc"' + random.choice((b"\r\n", b"\r\n", b"\n", b""))
        for _ in range(random.randrange(1, 5))
    )
    trailers = (b"", b"0\r\n\r\n", b"0\r\nX-T: y\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 300 + b"\r\n")
    return request(
        "POST", "/v1/runs", head=b"Transfer-Encoding: chunked\r\n"
    ) + body + random.choice(trailers)  # fmt: skip


def _heads(random: Random) -> bytes:
    """Heads that are too long, too many, or no heads."""
    head = random.choice(
        (
            b"X-Long: " + b"x" * random.choice((7_000, 70_000, 200_000)) + b"\r\n",
            b"X: y\r\n" * random.choice((100, 200, 5_000)),
            b"x" * 70_000 + b": y\r\n",
            b"Cookie: " + b"a=b; " * 2_000 + b"\r\n",
            b"Expect: 100-continue\r\nContent-Length: 10\r\n",
            b"Upgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
            b"Origin: null\r\nAccess-Control-Request-Method: PUT\r\n",
            b"Range: bytes=0-,1-,2-," + b"3-," * 500 + b"\r\n",
            b"X-Forwarded-For: " + b"1.2.3.4, " * 500 + b"\r\n",
            b"Last-Event-ID: " + random.randbytes(40).hex().encode() + b"\r\n",
            b"Authorization: Bearer " + b"a." * 20_000 + b"\r\n",
            b"Idempotency-Key: " + b"k" * 300 + b"\r\n",
            b"Host: a\r\nHost: b\r\n",
            b": empty\r\n\0: nul\r\nx\r\n",
        )
    )
    method, path = random.choice(CALLS)
    if random.random() < 0.1:
        path = "/" + "x" * random.choice((10_000, 100_000))
    return request(
        method, path, head=head, version=random.choice(("1.1", "1.1", "1.0", "0.9", "2.0"))
    )


OTHERS: Final = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 300,
    b"*1\r\n$4\r\nPING\r\n", b"SSH-2.0-x\r\n", b"GET /\r\n\r\n", b"\r\n" * 500, b"\0" * 500,
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"EHLO x\r\n", b"GET", b"{}\n" * 100,
)  # fmt: skip


def _other(random: Random) -> bytes:
    """Another protocol, or none."""
    if random.random() < 0.5:
        return random.choice(OTHERS)
    return random.randbytes(random.choice((1, 10, 500, 5_000)))


# -------------------------------------------------------------------------------------- WebSocket


def handshake(head: bytes = b"", *, token: str | None = KEY, path: str = "/v1/realtime") -> bytes:
    """A handshake in order."""
    authorized = b"" if token is None else b"Authorization: Bearer " + token.encode() + b"\r\n"
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        + b"Sec-WebSocket-Protocol: runstream.v1\r\n"
        + authorized
        + head
        + b"\r\n"
    )


def frame(
    opcode: int,
    data: bytes,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    says: int | None = None,
    wide: int = 0,
) -> bytes:
    """A frame. `says` is the length that it claims, `wide` the least bytes to write it with."""
    length = len(data) if says is None else says
    first = (0x80 if fin else 0) | (reserved << 4) | opcode
    mask = 0x80 if masked else 0
    if length < 126 and not wide:
        head = struct.pack("!BB", first, mask | length)
    elif length < 2**16 and wide < 8:
        head = struct.pack("!BBH", first, mask | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask | 127, length)
    if not masked:
        return head + data
    key = b"\x21\x42\x63\x84"
    whole = len(data)
    stream = (key * (whole // 4 + 1))[:whole]
    xored = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return head + key + xored.to_bytes(whole, "big")


def deflated(data: bytes) -> bytes:
    """As permessage-deflate has it."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


ASKS: Final = (
    "subscribeToRun", "subscribeToRunsWithTag", "subscribeToBatch", "subscribeToJobRun",
    "subscribeToRuns",
)  # fmt: skip
OPTIONS: Final = (
    "cursor", "delivery", "skip", "stopOnCompletion", "snapshot", "tasks", "statuses",
    "createdAfter", "isTest", "limit", "match", "tags", "tag", "runId", "batchId", "x",
)  # fmt: skip


def message(random: Random) -> str:
    """A message of the protocol, in order or nearly."""
    said: Any
    match random.randrange(8):
        case 0:
            said = {"type": "ping", "data": value(random)}
        case 1:
            said = {"type": "authenticate", "token": random.choice((KEY, "wrong", "a.b.c", ""))}
        case 2:
            said = {"type": "unsubscribe", "id": random.choice((1, 2, 0, 2**60))}
        case 3:
            said = value(random)
        case _:
            said = {"type": random.choice(ASKS), "id": random.choice((1, 2, 3, 4, 5, -1, 2**63))}
            match said["type"]:
                case "subscribeToRun":
                    said["runId"] = NO_RUN
                case "subscribeToRunsWithTag":
                    said["tags"] = ["fuzzed"]
                case "subscribeToBatch":
                    said["batchId"] = f"batch_{'0' * 26}"
                case "subscribeToJobRun":
                    said["jobRunId"] = NO_RUN
            if random.random() < 0.3:
                said[random.choice(OPTIONS)] = value(random)
            if random.random() < 0.5:
                said["limit"] = 3
    return json.dumps(said)


def _frames(random: Random) -> bytes:
    """Frames that are in order or not, one by one."""
    text = "\n".join(message(random) for _ in range(random.choice((1, 1, 3)))).encode()
    match random.randrange(13):
        case 0 | 1 | 2:
            return frame(TEXT, text)
        case 3:
            third = len(text) // 3
            parts = [text[:third], text[third : 2 * third], text[2 * third :]]
            between = random.choice(
                (b"", frame(PING, b"between"), frame(TEXT, b"{}"), frame(CLOSE, b""))
            )
            return (
                frame(TEXT, parts[0], fin=False) + between + frame(0, parts[1], fin=False)
                + between + frame(0, parts[2])
            )  # fmt: skip
        case 4:
            return frame(
                random.choice((PING, PONG)), random.randbytes(random.choice((0, 125, 126, 500)))
            )
        case 5:
            code = random.choice((*range(998, 1017), 0, 2999, 3000, 4000, 4999, 5000, 65_535))
            reason = random.choice((b"", b"bye", b"\xff\xfe", b"x" * 123, b"x" * 124))
            return frame(CLOSE, random.choice((struct.pack("!H", code) + reason, b"\x03", b"")))
        case 6:
            return frame(TEXT, text, masked=False)
        case 7:
            return frame(random.randrange(16), text, reserved=random.randrange(8))
        case 8:
            says = random.choice((0, 1, 125, 126, 65_535, 65_536, 65_537, 2**31, 2**63 - 1, 2**63))
            return frame(TEXT, text, says=says, wide=random.choice((0, 2, 8)))
        case 9:
            return frame(random.choice((TEXT, PING)), text[:100], fin=False, wide=8)
        case 10:
            return frame(
                TEXT, random.choice((b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"))
            )
        case 11:
            squeezed = random.choice(
                (deflated(text), deflated(b" " * 3_000_000), random.randbytes(90))
            )
            return frame(TEXT, squeezed, reserved=4)
        case _:
            return frame(
                random.choice((BINARY, 0)), random.randbytes(random.choice((0, 9, 70_000)))
            )


def _opening(random: Random) -> bytes:
    """A handshake in order, if not always by who may."""
    head = random.choice(
        (
            b"", b"", b"",
            b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
        )
    )  # fmt: skip
    token = random.choice((KEY, KEY, KEY, None, "wrong"))
    return handshake(head, token=token)


def _open_socket(random: Random) -> bytes:
    """What is said on a WebSocket that is open."""
    return b"".join(_frames(random) for _ in range(random.choice((1, 2, 5, 12))))


def _socket(random: Random) -> bytes:
    """A WebSocket whose frames don't wait for the answer to its handshake."""
    return _opening(random) + _open_socket(random)


def _handshakes(random: Random) -> bytes:
    """A handshake that is not in order."""
    head = random.choice(
        (
            b"Sec-WebSocket-Version: 12\r\n", b"Sec-WebSocket-Key: short\r\n",
            b"Sec-WebSocket-Protocol: " + b"a, " * 3_000 + b"b\r\n",
            b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n",
            b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=8\r\n",
            b"Sec-WebSocket-Extensions: " + b"x; y=z, " * 900 + b"w\r\n",
            b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Origin: http://x\r\n",
            b"Upgrade: h2c\r\n", b"Connection: close\r\n", b"Cookie: \xff\xfe\r\n",
            b"Sec-WebSocket-Protocol: \xff\r\n", b"X: " + b"y" * 9_000 + b"\r\n",
        )
    )  # fmt: skip
    whole = handshake(
        head, path=random.choice(("/v1/realtime", "/v1/realtime", "/", "/v1/runs", "/\xff"))
    )
    if random.random() < 0.3:
        whole = whole.replace(*random.choice(
            ((b"GET", b"POST"), (b"HTTP/1.1", b"HTTP/1.0"), (b"Host: localhost\r\n", b""),
             (b"Upgrade: websocket", b"Upgrade: WebSocket, h2c"), (b"Version: 13", b"Version: x"))
        ))  # fmt: skip
    before = _call(random) if random.random() < 0.2 else b""
    return before + whole + _frames(random)


KINDS: Final = {
    "call": _call,
    "pipelined": _pipelined,
    "smuggled": _smuggled,
    "chunks": _chunks,
    "heads": _heads,
    "other": _other,
    "socket": _socket,
    "open sockets": _open_socket,
    "handshakes": _handshakes,
}
