"""From the bytes of a client to its messages, and what is refused of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from realtime.protocol.asked import TYPES, AnySubscribe, ClientMessage
from realtime.protocol.words import ID_MAX, NESTING_MAX, CloseCode


class Refusal(NamedTuple):
    """A message that was not understood: an error, or with `close` the end of the connection."""

    detail: str
    id: int | None = None
    close: CloseCode | None = None


_decoder: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(ClientMessage)


def decode(data: str | bytes) -> list[ClientMessage | Refusal]:
    """The protocol messages in one WebSocket message, one a line; never raises.

    What comes after a refusal that closes is not read.
    """
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError:
            return [_not_a_message("not UTF-8")]
    messages: list[ClientMessage | Refusal] = []
    for line in data.split(b"\n"):
        message = _decode_line(line)
        messages.append(message)
        if isinstance(message, Refusal) and message.close is not None:
            break
    return messages


def _decode_line(line: bytes) -> ClientMessage | Refusal:
    try:
        if line.count(b"[") + line.count(b"{") > NESTING_MAX and _too_deep(line):
            return _refusal(line, f"JSON may nest {NESTING_MAX} deep")
        return _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _refusal(line, in_terms_of_json(str(error)))


def _refusal(line: bytes, detail: str) -> Refusal:
    """What to answer to a line that does not fit: that depends on how far it can be read."""
    try:
        # The standard library reads what the strict decoder stops at, such as 1e400.
        value = json.loads(line, parse_constant=_no_constant, parse_int=_bounded_int)
    except (ValueError, RecursionError):
        return _not_a_message("not JSON")
    if not isinstance(value, dict):
        return _not_a_message("not an object")
    type_ = value.get("type")
    if not isinstance(type_, str) or type_ not in TYPES:
        return _not_a_message("no known type")
    id_ = value.get("id")
    known = type(id_) is int and 0 <= id_ <= ID_MAX
    return Refusal(f"{type_}: {detail}", id_ if known else None)


_TIME: Final = "Expected a time like 2026-01-31T12:00:00Z"
_TERMS: Final = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "datetime": "time",
    "dict": "object",
    "list": "array",
    "None": "null",
}


def in_terms_of_json(detail: str) -> str:
    """What msgspec says does not fit, in the words of whoever wrote JSON."""
    if detail.startswith("Invalid enum value"):
        return detail.replace("enum value", "value")
    if detail.startswith(("Invalid RFC3339", "Expected `datetime` with")):
        return _TIME + detail[place:] if (place := detail.find(" - at ")) >= 0 else _TIME
    if not detail.startswith("Expected"):
        return detail
    # Types stand between backquotes, as does a place: that begins with a $.
    return re.sub(
        r"`([a-z| A-Z]+)`", lambda found: re.sub(r"\w+", _term, found.group()), detail, count=2
    )


def _term(found: re.Match[str]) -> str:
    return _TERMS.get(found.group(), found.group())


def _not_a_message(detail: str) -> Refusal:
    return Refusal(detail, None, CloseCode.BAD_MESSAGE)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _bounded_int(digits: str) -> int | float:
    # Making an integer of very many digits takes very long, and nobody asks for its value.
    return int(digits) if len(digits) <= 20 else float("inf")


def _too_deep(line: bytes) -> bool:
    """Whether the brackets nest deeper than the limit, those in strings not counted."""
    depth, in_string, escaped = 0, False, False
    for byte in line:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > NESTING_MAX:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def convert(fields: Mapping[str, Any]) -> AnySubscribe:
    """A subscription out of fields that came otherwise than as JSON, with `type` among them.

    Numbers, booleans and times may be text. Raises ValueError where `decode` would refuse.
    """
    try:
        found: AnySubscribe = msgspec.convert(dict(fields), AnySubscribe, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(in_terms_of_json(str(error))) from None
    return found
