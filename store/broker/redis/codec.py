"""Hints as bytes: a header that can be looked at alone, and MessagePack."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from store.broker import Hint

HEADER: Final = struct.Struct("<8sQ")
"""The publisher's id, and the number of this message on its channel. Outside the MessagePack, so
that a process need not decode what it published itself."""

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Hint])


def encode(hint: Hint, limit: int) -> bytes | None:
    """The hint whole if it fits in the limit, else without its payload, else its ids only; None if
    not even those can be.

    Whoever shows a run after its creation knows its payload, or reads it: it never changes.
    JSON knows numbers and texts that MessagePack does not (integers beyond 64 bits, half a
    surrogate pair): such a hint goes out as its ids too, since the fetch can read them.
    """
    try:
        whole = _encoder.encode(hint)
        if len(whole) <= limit:
            return whole
        run = hint.run
        if run is not None and run.has_payload and run.version > 1:
            lean = msgspec.structs.replace(run, payload=None, has_payload=False)
            whole = _encoder.encode(msgspec.structs.replace(hint, run=lean))
            if len(whole) <= limit:
                return whole
    except (
        msgspec.EncodeError,
        OverflowError,
        UnicodeError,
        RecursionError,
        ValueError,
        TypeError,
    ):
        pass
    try:
        slim = Hint(msgspec.structs.replace(hint.change, changed={}), run=None, whole=False)
        ids = _encoder.encode(slim)
    except (msgspec.EncodeError, OverflowError, UnicodeError, ValueError, TypeError):
        return None
    return ids if len(ids) <= limit else None


def pack(hints: Sequence[bytes], limit: int) -> Iterator[tuple[bytes, int]]:
    """Bodies of messages, each with how many hints it holds; one at least, then up to the limit."""
    waiting: list[msgspec.Raw] = []
    size = 0
    for hint in hints:
        if waiting and size + len(hint) > limit:
            yield _encoder.encode(waiting), len(waiting)
            waiting, size = [], 0
        waiting.append(msgspec.Raw(hint))
        size += len(hint)
    if waiting:
        yield _encoder.encode(waiting), len(waiting)


def unpack(body: bytes | memoryview) -> list[Hint]:
    """The hints of a body; raises msgspec.MsgspecError for what `pack` did not make."""
    return _decoder.decode(body)
