"""Runs, their status, and the types that tasks give them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from clients.python.tests.builders import a_run
from runstream import DecodeError, RunStatus, Task, values
from runstream.merging import merged, whole


@dataclass
class Request:
    order_id: int
    at: datetime | None = None


class Invoice(pydantic.BaseModel):
    total: float
    due: datetime | None = None


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    due: datetime


class Aliased(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


class Line(msgspec.Struct):
    sku: str
    n: int = 1


class Row(TypedDict):
    sku: str


@pytest.mark.parametrize("status", RunStatus)
def test_a_final_status_is_exactly_one_of_success_failed_and_canceled(status: RunStatus) -> None:
    kinds = [status.is_success, status.is_failed, status.is_canceled]
    assert sum(kinds) == int(status.is_final)
    stands = [status.is_queued, status.is_executing, status.is_waiting, status.is_final]
    assert sum(stands) == 1
    run = whole(a_run(status=status.value))
    assert [run.is_success, run.is_failed, run.is_canceled, run.is_final] == [
        *kinds,
        status.is_final,
    ]


@pytest.mark.parametrize(
    "kind, json, value",
    [
        (Request, {"order_id": 1}, Request(1)),
        (Invoice, {"total": 9}, Invoice(total=9)),
        (Strict, {"due": "2026-03-01T00:00:00Z"}, Strict(due=datetime(2026, 3, 1, tzinfo=UTC))),
        (Aliased, {"orderId": 1}, Aliased(orderId=1)),
        (Line, {"sku": "a"}, Line("a")),
        (list[Line], [{"sku": "a"}], [Line("a")]),
        (list[Invoice], [{"total": 1}], [Invoice(total=1)]),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (Row, {"sku": "a"}, {"sku": "a"}),
        (int, 3, 3),
        (Any, {"x": [1]}, {"x": [1]}),
    ],
)
def test_payload_and_output_have_the_types_of_the_task(kind: Any, json: Any, value: Any) -> None:
    task: Task[Any, Any] = Task("send-invoice", payload=kind, output=kind)
    run = task.read(whole(a_run(payload=json, output=json)))
    assert run.payload == value
    assert run.output == value
    assert type(run.payload) is type(value)
    assert (
        task.read(whole(a_run(payload=msgspec.json.decode(values.encode(value))))).payload == value
    )


@pytest.mark.parametrize("kind", [Request, Invoice, int])
def test_a_value_that_does_not_fit_is_told_with_its_run_and_field(kind: Any) -> None:
    task: Task[Any, Any] = Task("send-invoice", payload=kind, output=kind)
    with pytest.raises(DecodeError, match="payload of run run_1") as caught:
        task.read(whole(a_run(payload={"order_id": "x", "total": []})))
    assert (caught.value.run_id, caught.value.field) == ("run_1", "payload")


def test_a_run_of_another_task_is_told() -> None:
    with pytest.raises(DecodeError, match="of send-invoice, not of refund"):
        Task("refund").read(whole(a_run()))


def test_what_has_not_changed_is_not_read_again() -> None:
    task = Task("send-invoice", payload=Request, output=Invoice)
    first = whole(a_run())
    typed = task.read(first)
    second = merged(first, {"version": 2, "output": {"total": 1}})
    again = task.read(second, (first, typed))
    assert again.payload is typed.payload
    assert again.output == Invoice(total=1)


def test_an_unknown_status_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="status of run run_1"):
        merged(whole(a_run()), {"status": "RUNNING"})


def test_a_value_that_is_no_json_is_refused_where_it_is_given() -> None:
    with pytest.raises(TypeError):
        values.encode({"a": object()})


def test_times_are_aware() -> None:
    run = whole(a_run(startedAt="2026-03-01T12:00:00.000001Z"))
    assert run.started_at == datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
    run = merged(run, {"finishedAt": "2026-03-01T12:00:00.000002Z"})
    assert run.finished_at is not None
    assert run.finished_at.tzinfo is not None
