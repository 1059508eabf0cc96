"""The HTTP API as an OpenAPI document, made of the same table that answers the calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from realtime import VERSION, protocol
from realtime.api import schema
from realtime.api.bodies import NoBody, NoQuery
from realtime.api.problems import ProblemBody
from realtime.api.routing import Operation, Resource

_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": schema.REF + "ProblemBody"}}}
_PATH_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Repeated within 24 h, the call returns its first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_TOKEN: Final = {
    "Runstream-Token": {
        "description": "A public access token that reads what was made, read-only, for 24 h.",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}
}


_STREAMS: Final[Mapping[str, type[Any]]] = {
    "/v1/realtime/runs/{id}": protocol.SubscribeToRun,
    "/v1/realtime/runs": protocol.SubscribeToRunsWithTag,
    "/v1/realtime/batches/{id}": protocol.SubscribeToBatch,
    "/v1/realtime/job-runs/{id}": protocol.SubscribeToJobRun,
}


def document(resources: Sequence[Resource]) -> dict[str, Any]:
    """The whole document."""
    types = _types(resources)
    queries = list(_STREAMS.values())
    schemas, named = schema.components([*types, *queries])
    made = dict(zip(types, schemas, strict=False))
    for asks in queries:
        del named[asks.__name__]  # its fields are parameters; what they refer to stays
    streams = {path: _stream(path, asks) for path, asks in _STREAMS.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runstream",
            "version": VERSION,
            "description": "Runs of background jobs: commands in over HTTP, changes out as they "
            "happen over WebSocket (`/asyncapi.json`) and server-sent events.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            resource.path: {
                method.lower(): _operation(resource, method, operation, made)
                for method, operation in resource.methods.items()
            }
            | _in_path(resource.path)
            for resource in resources
        }
        | streams,
        "components": {
            "schemas": named,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or a public access token.",
                }
            },
        },
        "security": [{"bearer": []}],
    }


def _stream(path: str, asks: type[Any]) -> dict[str, Any]:
    """A stream of server-sent events: its query is what its WebSocket message would have."""
    _, named = schema.components([asks])
    by_path = {"type", "id", "runId", "batchId", "jobRunId"}
    parameters = [
        {"name": name, "in": "query", "schema": _without_null(each)}
        for name, each in named[asks.__name__]["properties"].items()
        if name not in by_path
    ]
    parameters.append(
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Go on from that event.",
            "schema": {"type": "string"},
        }
    )
    operation = {
        "operationId": "stream" + asks.__name__.removeprefix("SubscribeTo"),
        "summary": "Changes as they happen, as server-sent events. "
        + (asks.__doc__ or "").strip().splitlines()[0],
        "tags": ["streams"],
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The messages of /asyncapi.json: `event` is the type, `id` a cursor",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            "204": {"description": "Last-Event-ID is of a stream that is over"},
        }
        | {str(status): _problem(status) for status in (400, 401, 403, 404, 429, 500, 503)},
    }
    return {"get": operation} | _in_path(path)


def _in_path(path: str) -> dict[str, Any]:
    """The parameters that stand in the path."""
    names = re.findall(r"\{(\w+)\}", path)
    return {"parameters": [_PATH_ID | {"name": name} for name in names]} if names else {}


def _types(resources: Sequence[Resource]) -> list[Any]:
    found: dict[Any, None] = {ProblemBody: None}
    for resource in resources:
        for operation in resource.methods.values():
            for type_ in (operation.body, *operation.answers.values()):
                if type_ is not None and not isinstance(type_, str):
                    found[type_] = None
    return list(found)


def _operation(
    resource: Resource, method: str, operation: Operation, made: Mapping[Any, dict[str, Any]]
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [resource.tag],
    }
    parameters = _query(operation.query)
    if operation.is_command:
        parameters.append(_IDEMPOTENCY_KEY)
    if parameters:
        said["parameters"] = parameters
    if isinstance(operation.body, str):
        content = {operation.body: {"schema": {"type": "string", "format": "binary"}}}
        said["requestBody"] = {"required": True, "content": content}
    elif operation.body is not None:
        said["requestBody"] = {
            "required": operation.body is not NoBody and _has_required(operation.body),
            "content": {"application/json": {"schema": made[operation.body]}},
        }
    if operation.is_public:
        said["security"] = []
    said["responses"] = {
        str(status): _answer(status, type_, operation, made)
        for status, type_ in operation.answers.items()
    } | {str(status): _problem(status) for status in _problems(operation)}
    return said


def _problems(operation: Operation) -> list[int]:
    if operation.is_public:
        return []
    statuses = {400, 401, 403, 429, 500, 503, *operation.problems}
    if operation.body is not None:
        statuses |= {408, 413, 422}
    if operation.is_command:
        statuses.add(422)  # the Idempotency-Key of another request
    return sorted(statuses)


def _problem(status: int) -> dict[str, Any]:
    said: dict[str, Any] = {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
    if status in (429, 503):
        said["headers"] = _RETRY_AFTER
    return said


def _answer(
    status: int, type_: Any, operation: Operation, made: Mapping[Any, dict[str, Any]]
) -> dict[str, Any]:
    said: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if isinstance(type_, str):
        said["content"] = {type_: {"schema": {"type": "string"}}}
    elif type_ is not None:
        said["content"] = {"application/json": {"schema": made[type_]}}
    if operation.gives_token:
        said["headers"] = _TOKEN
    return said


def _query(type_: type[Any]) -> list[dict[str, Any]]:
    if type_ is NoQuery:
        return []
    _, named = schema.components([type_])
    schema_ = named[type_.__name__]
    required = set(schema_.get("required", ()))
    return [
        {"name": name, "in": "query", "schema": _without_null(each)}
        | ({"required": True} if name in required else {})
        for name, each in schema_["properties"].items()
    ]


def _without_null(property: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or not; it is never null."""
    kept = {key: value for key, value in property.items() if (key, value) != ("default", None)}
    choices = [one for one in kept.pop("anyOf", []) if one != {"type": "null"}]
    return choices[0] | kept if choices else kept


def _has_required(type_: Any) -> bool:
    return any(each.required for each in msgspec.structs.fields(type_))
