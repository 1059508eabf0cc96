"""How an HTTP call is carried out: who calls, what is asked, and what is answered."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from realtime.api import problems
from realtime.api.bodies import NoBody, NoQuery
from realtime.api.problems import Problem
from realtime.api.requests import idempotency_key, parse, parse_query, read_body
from realtime.auth import Authority, Forbidden, Grant
from realtime.limits import RequestLimits
from realtime.settings import Settings
from store.artifacts import Artifacts
from store.claims import Claims
from store.commands import Command, Done, Limits, Submission
from store.errors import StoreError
from store.jobs.definitions import Definitions
from store.jobs.runs import JobRuns
from store.model import Batch, Change, ListKey, Run, RunQuery, encodable, wire_run
from store.once import Key
from store.webhooks import Webhooks

T = TypeVar("T")

log = logging.getLogger(__name__)

_PREFIXES: Final = {
    "run": "run_",
    "batch": "batch_",
    "token": "tok_",
    "workflow": "wf_",
    "job": "job_",
    "artifact": "art_",
    "webhook": "wh_",
    "delivery": "msg_",
}
_ID: Final = re.compile(r"[a-z]+_[0-9a-hjkmnp-tv-z]{26}")


class Store(Protocol):
    """What the HTTP side needs of the run store."""

    @property
    def limits(self) -> Limits: ...

    @property
    def definitions(self) -> Definitions: ...

    @property
    def job_runs(self) -> JobRuns: ...

    @property
    def claims(self) -> Claims: ...

    @property
    def webhooks(self) -> Webhooks: ...

    @property
    def artifacts(self) -> Artifacts: ...

    async def execute(self, submission: Submission) -> list[Done | StoreError]: ...

    async def get_run(self, project: str, run_id: str) -> Run: ...

    async def list_runs(self, query: RunQuery) -> tuple[list[Run], ListKey | None]: ...

    async def history(
        self, project: str, run_id: str, after_version: int, limit: int
    ) -> tuple[list[Change], int | None]: ...

    async def get_batch(self, project: str, batch_id: str) -> Batch: ...

    async def heartbeat(self, project: str, run_id: str, attempt: int | None = None) -> None: ...


class RequestMetrics(Protocol):
    """Who counts the requests."""

    def http_request(self, route: str, method: str, status: int, seconds: float) -> None: ...


class Health(Protocol):
    """What a process knows of its own parts."""

    @property
    def draining(self) -> bool: ...

    @property
    def broker(self) -> str:
        """`ok` or `degraded`."""
        ...

    async def check_database(self) -> None:
        """Raises Unavailable if it cannot be read."""
        ...

    def metrics_text(self) -> bytes: ...


@dataclass(frozen=True)
class Services:
    """What the calls work with."""

    store: Store
    authority: Authority
    settings: Settings
    metrics: RequestMetrics
    health: Health
    limits: RequestLimits = field(default_factory=RequestLimits)


SMALL: Final = 65_536
"""The longest body where there is next to nothing to say."""


@dataclass(frozen=True)
class Call:
    """One HTTP call by somebody whose key or token was good."""

    request: Request
    services: Services
    grant: Grant

    @property
    def store(self) -> Store:
        return self.services.store

    @property
    def project(self) -> str:
        return self.grant.project

    def id(self, what: str, name: str = "id") -> str:
        """The id in the path. Raises 404 for one that is none of ours."""
        id: str = self.request.path_params[name]
        if not self.is_id(what, id):
            raise problems.not_found(what)
        return id

    @staticmethod
    def is_id(what: str, id: str) -> bool:
        """Whether the text can be such an id."""
        return id.startswith(_PREFIXES[what]) and _ID.fullmatch(id) is not None

    def query(self, type_: type[T]) -> T:
        return parse_query(self.request, type_)

    async def raw_body(self, limit: int) -> bytes:
        """The body's bytes. Raises 413 for more than `limit` or than any call takes."""
        limits = self.services.limits
        return await read_body(
            self.request,
            min(limit, self.services.settings.body_bytes),
            limits.bodies,
            limits.body_patience_s,
        )

    def parse(self, raw: bytes, type_: type[T]) -> T:
        """The body as that type; an empty one counts as an empty object."""
        return parse(raw, type_)

    async def no_body(self) -> None:
        """Reads the body of a call that takes none: nothing, or an empty object."""
        self.parse(await self.raw_body(SMALL), NoBody)

    def writer(self) -> None:
        """Goes no further for somebody who may only read."""
        if not self.grant.may_write:
            raise Forbidden("this needs an API key with full rights")

    def key(self, raw: bytes = b"") -> Key | None:
        """The `Idempotency-Key` that came with the body `raw`, and what it came with."""
        key = idempotency_key(self.request.scope)
        if key is None:
            return None
        url = self.request.url
        said = f"{self.request.method}\n{url.path}\n{url.query}\n".encode()
        return Key(self.project, key, hashlib.sha256(said + raw).hexdigest())

    async def execute(
        self, *commands: Command, raw: bytes = b"", atomic: bool = False
    ) -> list[Done | StoreError]:
        """Has the commands carried out; `raw` is the body they came in."""
        key = self.key(raw)
        return await self.store.execute(
            Submission(
                project=self.project,
                commands=commands,
                atomic=atomic,
                key=None if key is None else key.key,
                fingerprint="" if key is None else key.fingerprint,
            )
        )

    async def execute_one(self, command: Command, raw: bytes = b"") -> Done:
        """Has one command carried out. Raises the StoreError that refuses it."""
        outcome = (await self.execute(command, raw=raw))[0]
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome


Handle = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one resource, with what /openapi.json says of it."""

    name: str
    summary: str
    handle: Handle
    answers: Mapping[int, Any]
    """Status to the answer's type; None is an empty one."""
    body: Any = None
    query: type[Any] = NoQuery
    problems: tuple[int, ...] = ()
    """Statuses of problems besides those that every call may have."""
    gives_token: bool = False
    is_command: bool = False
    is_public: bool = False
    """Whoever asks is answered, without a key."""


@dataclass(frozen=True)
class Resource:
    """One path and what may be done there."""

    path: str
    tag: str
    methods: Mapping[str, Operation] = field(default_factory=dict)

    def route(self, services: Services) -> Route:
        return Route(self.path, _Endpoint(self, services), name=self.path)


class Resources:
    """The ASGI application of all resources, past the router's: that asks one route after the
    other, and wraps each call."""

    def __init__(self, resources: Sequence[Resource], services: Services) -> None:
        """The more particular path comes first, as for the router."""
        self._exact: dict[str, _Endpoint] = {}
        self._patterns: dict[int, list[tuple[tuple[str, ...], _Endpoint]]] = {}
        for resource in resources:
            endpoint = _Endpoint(resource, services)
            parts = tuple(resource.path.split("/"))
            if "{" in resource.path:
                self._patterns.setdefault(len(parts), []).append((parts, endpoint))
            else:
                self._exact[resource.path] = endpoint

    def find(self, scope: Scope) -> _Endpoint | None:
        """Who answers at the scope's path; its `path_params` are set. None: nobody here."""
        path: str = scope["path"]
        if scope.get("root_path"):
            return None  # the router knows how to read these
        found = self._exact.get(path)
        if found is not None:
            scope["path_params"] = {}
            return found
        given = path.split("/")
        for parts, endpoint in self._patterns.get(len(given), ()):
            values = {}
            for part, value in zip(parts, given, strict=True):
                if part.startswith("{"):
                    if not value:
                        break
                    values[part[1:-1]] = value
                elif part != value:
                    break
            else:
                scope["path_params"] = values
                return endpoint
        return None


class _Endpoint:
    """The ASGI application of one resource."""

    def __init__(self, resource: Resource, services: Services) -> None:
        self._resource = resource
        self._services = services
        methods = set(resource.methods) | {"OPTIONS"}
        if "GET" in methods:
            methods.add("HEAD")
        self._allow = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        began = time.perf_counter()
        response = await self._answer(request)
        if response is None:
            return
        if request.method == "HEAD":
            response.body = b""  # Content-Length stays that of the GET
        await response(scope, receive, send)
        self._services.metrics.http_request(
            self._resource.path,
            request.method if request.method in _METHODS else "other",
            response.status_code,
            time.perf_counter() - began,
        )

    async def _answer(self, request: Request) -> Response | None:
        skip: frozenset[str] = frozenset()
        try:
            method = "GET" if request.method == "HEAD" else request.method
            if method == "OPTIONS":
                return Response(status_code=204, headers={"Allow": self._allow})
            operation = self._resource.methods.get(method)
            if operation is None:
                raise Problem(
                    "method_not_allowed",
                    f"{self._resource.path} takes {self._allow}",
                    headers={"Allow": self._allow},
                )
            grant = _NOBODY
            scope = request.scope
            if not operation.is_public:
                client = scope.get("client")
                grant = await self._services.authority.grant(
                    bearer(scope), client[0] if client else None
                )
                self._services.limits.request(key_id=grant.key_id, token_id=grant.token_id)
            skip = grant.skip
            if operation.query is NoQuery and not operation.is_public and scope["query_string"]:
                parse_query(request, NoQuery)
            if operation.is_command:
                idempotency_key(scope)  # one that is none is refused in any case
            return await operation.handle(Call(request, self._services, grant))
        except ClientDisconnect:
            return None
        except Exception as error:
            return answer_to(error, skip)


_NOBODY: Final = Grant(project="")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def bearer(scope: Scope) -> str | None:
    """The key or token of the request, None if it brought none."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        # Something was sent, and it was no key: that is not the same as nothing.
        return ""
    bare: str = token.strip()
    return bare


def answer_to(error: Exception, skip: frozenset[str] = frozenset()) -> Response:
    """The answer to whoever ran into the error; what nobody foresaw is logged, not told."""
    problem = problems.of(error)
    if problem is None:
        id = secrets.token_hex(6)
        log.error("request %s failed", id, exc_info=error)
        problem = Problem("internal", f"something went wrong here; the log has it under {id}")
    return problem.response(skip)


_encoder = msgspec.json.Encoder()


class Json(Response):
    """An answer of JSON, which nobody is to keep."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int, token: str | None) -> None:
        # As Response makes it, which looks at each header again each time.
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"cache-control", b"no-store")]
        if token is not None:
            self.raw_headers.append((b"runstream-token", token.encode("latin-1")))
        self.raw_headers.append((b"content-length", b"%d" % len(body)))
        self.raw_headers.append((b"content-type", b"application/json"))


def answer(value: Any, status: int = 200, *, token: str | None = None) -> Response:
    """The value as JSON."""
    return Json(_encoder.encode(value), status, token)


def shown(run: Run, grant: Grant) -> Any:
    """The run as this caller may see it, to be encoded as JSON."""
    return wire_run(run, grant.skip) if grant.skip else encodable(run)


def run_of(done: Done) -> Run:
    """The run of an outcome that has one."""
    assert done.run is not None
    return done.run
