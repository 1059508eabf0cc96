"""Reads a request: its body with a bound, its query strictly, both into typed values."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Final, TypeVar, cast, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.types import Scope

from realtime.api.problems import FieldError, Problem, bad_request, too_large, unprocessable
from realtime.limits import PATIENCE_S, Bodies, paced
from realtime.protocol import in_terms_of_json

T = TypeVar("T")

AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its offset from UTC, as RFC 3339 has it."""

_PLACE: Final = re.compile(r" - at `\$(.*)`$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_ERRORS_MAX: Final = 20
_SHOWN_CHARS: Final = 200
_DEEP: Final = "nested too deep"


BODY: Final = "runstream.body"
"""The ASGI extension that gives a body which has come whole, under our own HTTP protocol."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which is given in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


async def read_body(
    request: Request, limit: int, bodies: Bodies, patience_s: float = PATIENCE_S
) -> bytes:
    """The body, of which never much more than `limit` is held. Raises 413 beyond, 408 for one
    that hardly comes, and TooMany if all together send too much just now."""
    length = header(request.scope, b"content-length") or ""
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large(limit)
    whole = request.scope.get("extensions", {}).get(BODY)
    body: bytes | None = None if whole is None else whole()
    if body is not None:
        # It is here already, and nobody has to be waited for.
        bodies.hold(len(body))
        bodies.let_go(len(body))
        if len(body) > limit:
            raise too_large(limit)
        return body
    chunks: list[bytes] = []
    size = 0
    try:
        # What the header says proves nothing, and a chunked body has none.
        async for chunk in paced(request.stream(), patience_s=patience_s):
            bodies.hold(len(chunk))
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        bodies.let_go(size)


def parse_json(body: bytes) -> Any:
    """Any JSON value. Raises 400 for what is none, 422 for what no program should have to read."""
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError as error:  # a number that nothing holds
        raise unprocessable([field_error(error)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise bad_request(f"the body is not JSON: {_shown(said)}") from None
    except RecursionError:
        raise unprocessable([FieldError("", _DEEP)]) from None


def parse(raw: bytes, type_: type[T]) -> T:
    """The JSON as that type; nothing at all counts as an empty object. Raises as `parse_json`
    and `fit`, in that order."""
    try:
        value: T = decoder(cast(Any, type_)).decode(raw or b"{}")
        return value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # In two steps, all that is wrong with it is found.
        return fit(parse_json(raw) if raw else {}, type_)


@cache
def decoder(type_: Any) -> msgspec.json.Decoder[Any]:
    """What reads JSON straight into the type."""
    return msgspec.json.Decoder(type_)


def fit(value: Any, type_: type[T], *, path: str = "", lax: bool = False) -> T:
    """The value as that type. Raises 422 with each field that does not fit, below `path`."""
    try:
        return msgspec.convert(value, type_, strict=not lax)
    except msgspec.ValidationError as error:
        raise unprocessable(_all_errors(value, type_, path, error, lax)) from None
    except RecursionError:
        raise unprocessable([FieldError(path, _DEEP)]) from None


def field_error(error: msgspec.ValidationError, below: str = "") -> FieldError:
    """What msgspec says, with the place apart."""
    message = in_terms_of_json(str(error))
    found = _PLACE.search(message)
    path = ""
    if found:
        message = message[: found.start()]
        path = found.group(1).replace("[", ".").replace("]", "").strip(".")
    for pattern, said in ((_UNKNOWN, "is not known here"), (_MISSING, "is missing")):
        if name := pattern.match(message):
            path = f"{path}.{name.group(1)}".strip(".")
            message = said
    path = f"{below}.{path}".strip(".")
    return FieldError(_shown(path), _shown(message.replace("`", "")))


def _all_errors(
    value: Any, type_: type[Any], path: str, first: msgspec.ValidationError, lax: bool
) -> list[FieldError]:
    """The errors of an object's fields, each looked at alone; msgspec stops at the first."""
    found = [field_error(first, path)]
    if not isinstance(value, dict) or not issubclass(type_, msgspec.Struct):
        return found
    hints = get_type_hints(type_, include_extras=True)
    fields = {each.encode_name: each for each in msgspec.structs.fields(type_)}
    for name, each in fields.items():
        below = f"{path}.{name}".strip(".")
        if name in value:
            try:
                msgspec.convert(value[name], hints[each.name], strict=not lax)
            except msgspec.ValidationError as error:
                found.append(field_error(error, below))
        elif each.required:
            found.append(FieldError(below, "is missing"))
    found.extend(
        FieldError(_shown(f"{path}.{name}".strip(".")), "is not known here")
        for name in value
        if name not in fields
    )
    return list(dict.fromkeys(found))[:_ERRORS_MAX]


def parse_query(request: Request, type_: type[T]) -> T:
    """The query as a struct. Raises 400: for an unknown parameter, for one that stands twice
    where it means something once, and for a value that does not fit."""
    raw: bytes = request.scope.get("query_string", b"")
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=1_000,
        )
    except ValueError:
        raise bad_request("the query is not a list of name=value in UTF-8") from None
    parameters = _parameters(type_)  # type: ignore[arg-type]  # a type is hashable
    values: dict[str, Any] = {}
    for name, value in pairs:
        kinds = parameters.get(name)
        if kinds is None:
            raise bad_request(f"there is no query parameter {_shown(name)!r}")
        if "\0" in value:
            raise bad_request(f"{name}: must not hold NUL")
        if list in kinds:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise bad_request(f"{name}: is given twice")
        else:
            values[name] = _plain(name, value, kinds)
    try:
        return fit(values, type_, lax=True)
    except Problem as problem:
        raise bad_request(problem.detail) from None


@cache
def _parameters(type_: type[Any]) -> dict[str, frozenset[Any]]:
    """Each parameter of a query with the types that its value may have."""
    hints = get_type_hints(type_)
    return {
        each.encode_name: frozenset(
            get_origin(kind) or kind for kind in (get_args(hints[each.name]) or [hints[each.name]])
        )
        if get_origin(hints[each.name]) is not list
        else frozenset({list})
        for each in msgspec.structs.fields(type_)
    }


def _plain(name: str, value: str, kinds: frozenset[Any]) -> Any:
    """The text of one parameter, or what msgspec's lax reading would take for another."""
    if datetime in kinds:
        # Who forgets to escape the + of a time's offset has sent a space.
        spaced = re.sub(r"^(\d{4}-\d\d-\d\dT[\d:.]+) (\d\d:\d\d)$", r"\1+\2", value)
        try:
            return msgspec.convert(spaced, AwareTime).astimezone(UTC)
        except (msgspec.ValidationError, OverflowError):
            raise bad_request(f"{name}: must be a time like 2026-01-31T12:00:00Z") from None
    if str not in kinds and value.strip().lower() == "null":
        raise bad_request(f"{name}: must not be null")
    return value


def idempotency_key(scope: Scope) -> str | None:
    """The `Idempotency-Key` of a command. Raises 400 for one that cannot be one."""
    key = header(scope, b"idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise bad_request("Idempotency-Key: 1 to 255 printable ASCII characters")
    return key


def _shown(text: str) -> str:
    """Text out of a request, fit to stand in an answer."""
    return text[:_SHOWN_CHARS].encode(errors="backslashreplace").decode()
