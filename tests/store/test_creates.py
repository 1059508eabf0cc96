"""Creates: a new run at version 1, and what does not fit one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from store.commands import MAX_SECONDS, check, create
from store.errors import Invalid, TooLarge
from store.lifecycle import FINAL
from store.model import RunStatus, wire_run
from tests.builders import AT, PROJECT, a_create, a_run, seconds
from tests.store.applying import LATER, LIMITS, SMALL, created, updated

DELAYED, QUEUED = RunStatus.DELAYED, RunStatus.QUEUED
EXECUTING, COMPLETED = RunStatus.EXECUTING, RunStatus.COMPLETED


def test_a_new_run_is_what_was_asked_for_at_version_1() -> None:
    command = a_create(run_id="run_1", idempotency_key="k", batch_id="batch_1", is_test=True)
    run, _ = create(command, number=3, parent=None, at=AT, limits=LIMITS)
    new = command.new
    assert (run.id, run.project, run.version, run.number) == ("run_1", PROJECT, 1, 3)
    assert (run.status, run.queued_at, run.attempt) == (QUEUED, AT, 0)
    assert run.created_at == run.updated_at == AT
    for name in (
        "task_identifier",
        "payload",
        "metadata",
        "tags",
        "idempotency_key",
        "batch_id",
        "ttl",
        "max_duration",
        "heartbeat_timeout",
        "is_test",
    ):
        assert getattr(run, name) == getattr(new, name)


def test_version_1_tells_every_field_but_the_payload_and_what_each_change_says_itself() -> None:
    run, changed = create(a_create(), number=3, parent=None, at=AT, limits=LIMITS)
    assert changed == wire_run(run, frozenset({"payload", "version", "updatedAt"}))


@pytest.mark.parametrize(
    "asked,delay,status",
    [
        (None, None, QUEUED),
        (None, 60, DELAYED),
        (None, 0, QUEUED),
        (None, -60, QUEUED),
        (QUEUED, None, QUEUED),
        (EXECUTING, None, EXECUTING),
        (RunStatus.WAITING_FOR_DEPLOY, None, RunStatus.WAITING_FOR_DEPLOY),
        (DELAYED, 60, DELAYED),
        (DELAYED, -60, DELAYED),
    ],
)
def test_a_run_begins_as_asked_or_by_its_delay(
    asked: RunStatus | None, delay: int | None, status: RunStatus
) -> None:
    delay_until = None if delay is None else AT + seconds(delay)
    run = created(status=asked, delay_until=delay_until)
    assert run.status is status
    assert run.delayed_until == delay_until
    assert run.queued_at == (AT if status in (QUEUED, EXECUTING) else None)


def test_work_that_has_begun_already_is_in_its_first_attempt() -> None:
    """It was queued and started at once: so its waiting time is 0, and not unknown."""
    run = created(status=EXECUTING)
    assert (run.attempt, run.queued_at, run.started_at, run.executing_since) == (1, AT, AT, AT)
    after, _ = updated(run, AT + seconds(2), status=COMPLETED)
    assert after.duration_ms == 2_000


def test_a_relative_delay_counts_from_the_writers_moment() -> None:
    """A gateway whose clock is ahead or behind must not make it longer or shorter."""
    run = created(delay=90)
    assert (run.status, run.delayed_until) == (DELAYED, AT + seconds(90))
    assert created(delay=0).status is QUEUED
    assert created(delay=0.5, status=DELAYED).delayed_until == AT + timedelta(seconds=0.5)


def test_a_delay_is_kept_in_utc() -> None:
    berlin = timezone(timedelta(hours=1))
    run = created(delay_until=(AT + seconds(60)).astimezone(berlin))
    moved, _ = updated(run, delay_until=(AT + seconds(90)).astimezone(berlin))
    for version, until in ((run, AT + seconds(60)), (moved, AT + seconds(90))):
        assert repr(version.delayed_until) == repr(until)


def test_a_child_knows_its_root_and_depth() -> None:
    root = a_run(id="run_root")
    child = created(parent=root, parent_run_id=root.id)
    grandchild = created(parent=child, parent_run_id=child.id)
    assert (child.parent_run_id, child.root_run_id, child.depth) == (root.id, root.id, 1)
    assert (grandchild.parent_run_id, grandchild.root_run_id, grandchild.depth) == (
        child.id,
        root.id,
        2,
    )
    assert (root.root_run_id, root.depth) == (None, 0)


def test_tags_are_kept_once_in_their_order() -> None:
    assert created(tags=("b", "a", "b", "c", "a")).tags == ("b", "a", "c")


@pytest.mark.parametrize(
    "fields,path",
    [
        ({"task_identifier": ""}, "taskIdentifier"),
        ({"task_identifier": "t" * 257}, "taskIdentifier"),
        ({"task_identifier": "a\nb"}, "taskIdentifier"),
        ({"task_identifier": "a\x9fb"}, "taskIdentifier"),
        ({"task_identifier": "\ud800"}, "taskIdentifier"),
        ({"tags": ("ok", "")}, "tags.1"),
        ({"tags": ("a\x00",)}, "tags.0"),
        ({"tags": ("a\x7f",)}, "tags.0"),
        ({"tags": ("a\u0085",)}, "tags.0"),
        ({"tags": ("t" * 129,)}, "tags.0"),
        ({"tags": tuple("abcdefghijk")}, "tags"),
        ({"idempotency_key": ""}, "idempotencyKey"),
        ({"idempotency_key": "k" * 513}, "idempotencyKey"),
        ({"idempotency_key": "a\0"}, "idempotencyKey"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1}, "ttl"),
        ({"ttl": 2**31}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": 1.5}, "ttl"),
        ({"max_duration": 0}, "maxDuration"),
        ({"heartbeat_timeout": 10**5_000}, "heartbeatTimeout"),
        ({"batch_id": "a b\0"}, "batchId"),
        ({"parent_run_id": ""}, "parentRunId"),
        ({"parent_run_id": "r" * 129}, "parentRunId"),
        ({"status": DELAYED}, "delayUntil"),
        ({"status": EXECUTING, "delay_until": LATER}, "status"),
        ({"status": QUEUED, "delay_until": LATER}, "status"),
        ({"status": EXECUTING, "delay": 1}, "status"),
        ({"delay": 1, "delay_until": LATER}, "delay"),
        ({"delay": -1}, "delay"),
        ({"delay": 2**31}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": True}, "delay"),
        ({"status": RunStatus.WAITING_FOR_DEPLOY, "delay_until": LATER}, "status"),
        *(({"status": s}, "status") for s in FINAL),
        ({"status": RunStatus.FROZEN}, "status"),
        ({"status": RunStatus.REATTEMPTING}, "status"),
        ({"delay_until": datetime(1, 1, 1, tzinfo=UTC)}, "delayUntil"),
        ({"delay_until": datetime(2030, 1, 1)}, "delayUntil"),  # noqa: DTZ001 -- refused for that
        (
            {"delay_until": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))},
            "delayUntil",
        ),
        ({"payload": {"items": [{"name": "a\0"}]}}, "payload.items.0.name"),
        ({"payload": 2**64}, "payload"),
        ({"metadata": {"at": float("nan")}}, "metadata.at"),
        ({"metadata": []}, "metadata"),
    ],
)
def test_a_new_run_that_does_not_fit_is_refused_and_the_place_named(
    fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check(a_create(**fields), LIMITS)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "fields",
    [
        {"task_identifier": "t" * 256, "idempotency_key": "k" * 512},
        {"tags": ("ä:\u00a0\u3000x ", "t" * 128, "\U0001f600" * 128)},
        {"tags": ("a",) * 50},
        {"ttl": 1, "max_duration": MAX_SECONDS, "heartbeat_timeout": MAX_SECONDS},
        {"delay_until": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)},
        {"payload": None},
        {"payload": "", "metadata": {}},
    ],
)
def test_a_new_run_at_its_limits_is_taken(fields: dict[str, Any]) -> None:
    check(a_create(**fields), LIMITS)
    created(**fields)


@pytest.mark.parametrize(
    "fields,path,size",
    [
        ({"payload": "x" * 19}, "payload", 21),
        ({"payload": "ä" * 10}, "payload", 22),
        ({"payload": None, "metadata": {"k": "x" * 20}}, "metadata", 28),
    ],
)
def test_sizes_are_bytes_of_compact_json(fields: dict[str, Any], path: str, size: int) -> None:
    values = {"tags": (), "metadata": {}} | fields
    with pytest.raises(TooLarge) as refused:
        check(a_create(**values), SMALL)
    assert (refused.value.path, refused.value.size, refused.value.limit) == (path, size, 20)
    check(a_create(tags=(), metadata={}, payload="x" * 18), SMALL)
