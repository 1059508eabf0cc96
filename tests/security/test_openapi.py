"""What /openapi.json says is what the server does, also for requests that nobody would write."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from realtime.api import RESOURCES
from tests.security.serving import KEY, Serving


@pytest.fixture(scope="session")
def described(served: Serving) -> Any:
    """The document, as the server gives it out."""
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


FEW = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OPERATIONS = [(method, resource.path) for resource in RESOURCES for method in resource.methods]


@pytest.mark.parametrize("method, path", OPERATIONS)
def test_every_operation_keeps_to_its_description(
    served: Serving, described: Any, method: str, path: str
) -> None:
    """No 500, no answer that is not described, and nothing changed by a refusal."""

    @FEW
    @given(case=described[path][method].as_strategy())
    def holds(case: Any) -> None:
        if path == "/v1/runs/claim" and isinstance(case.body, dict):
            case.body.pop("waitS", None)  # it may ask to wait for a minute, and then it would
        before = _runs(served)
        response = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=20)
        case.validate_response(response, checks=CHECKS)
        if 400 <= response.status_code < 500:
            assert _runs(served) == before

    holds()


def _runs(served: Serving) -> tuple[int, int]:
    with contextlib.closing(sqlite3.connect(served.file)) as database:
        found: tuple[int, int] = database.execute(
            "SELECT count(*), coalesce(sum(version), 0) FROM runs"
        ).fetchone()
        return found
