"""Webhooks without a network: what is told, to whom, signed how, sent where, tried when."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from store.model import ChangeKind, Facet, Horizon, RunStatus
from store.webhooks import signing
from store.webhooks.addresses import AddressPolicy
from store.webhooks.endpoints import rotated
from store.webhooks.schedule import (
    ASKED_MOST_S,
    TRIED_FOR,
    WAITS_S,
    next_try,
    retry_after_s,
)  # fmt: skip
from store.webhooks.values import PATTERNS, TYPES, Endpoint, Secret, may_complete_batch, told
from tests.builders import AT, PROJECT, a_change, a_group, a_run, seconds

QUEUED = RunStatus.QUEUED
EXECUTING = RunStatus.EXECUTING
COMPLETED = RunStatus.COMPLETED


def an_endpoint(*events: str, **over: object) -> Endpoint:
    values: dict[str, object] = {
        "id": "wh_1",
        "project": PROJECT,
        "url": "http://127.0.0.1/",
        "events": events,
        "tags": None,
        "tasks": None,
        "secrets": (Secret(secret=signing.new_secret()),),
        "epoch": "e",
        "horizon": Horizon(1, 1),
        "created_at": AT,
        "updated_at": AT,
    }
    return Endpoint(**(values | over))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- what is told


def test_every_status_has_its_event() -> None:
    assert {"run.created", "batch.completed", "job_run.failed"} < set(TYPES)
    assert {f"run.{status.lower()}" for status in RunStatus} < set(TYPES)
    assert {"*", "run.*", "job_run.*", "batch.*"} < PATTERNS


def test_a_transition_is_told_and_another_change_is_not() -> None:
    run = a_run(status=EXECUTING, version=3)
    moved = a_change(run, changed={"status": "EXECUTING"})
    other = a_change(run, changed={"metadata": {}})
    group = a_group(run, befores=(None, Facet(QUEUED, ()), Facet(EXECUTING, ())))
    group = type(group)((moved, other), run)
    assert [one.change for one in told(group)] == [moved]
    assert told(group)[0].entries == [("run.executing",)]


def test_a_creation_is_told_once_as_what_was_asked_for() -> None:
    (one,) = told(a_group(a_run(version=1)))
    (entry,) = one.entries
    assert an_endpoint("run.*").wants(entry) == "run.created"
    assert an_endpoint("run.queued").wants(entry) == "run.queued"
    assert an_endpoint("run.completed").wants(entry) is None


@pytest.mark.parametrize(
    "status,event",
    [
        (EXECUTING, "job_run.started"),
        (COMPLETED, "job_run.completed"),
        (RunStatus.FAILED, "job_run.failed"),
        (RunStatus.CANCELED, "job_run.failed"),
        (QUEUED, None),
    ],
)
def test_a_job_run_is_told_as_a_run_and_as_a_job_run(status: RunStatus, event: str | None) -> None:
    run = a_run(status=status, job_id="job_1", version=2)
    group = a_group(run, befores=(Facet(QUEUED, ()),))
    group = type(group)((a_change(run, changed={"status": status}),), run)
    entries = [entry[0] for one in told(group) for entry in one.entries]
    assert entries == [f"run.{status.lower()}", *([event] if event else [])]


@pytest.mark.parametrize(
    "events,type,wanted",
    [
        (("*",), "batch.completed", True),
        (("run.*",), "run.failed", True),
        (("run.*",), "job_run.failed", False),
        (("job_run.*", "run.failed"), "run.failed", True),
        (("job_run.completed",), "job_run.failed", False),
    ],
)
def test_an_endpoint_gets_what_it_asked_for(
    events: tuple[str, ...], type: str, wanted: bool
) -> None:
    assert (an_endpoint(*events).wants([type]) == type) == wanted


def test_an_endpoint_may_ask_for_tags_and_tasks() -> None:
    run = a_run(tags=("a", "b"), task_identifier="t")
    assert an_endpoint("*", tags=("a",)).covers(run)
    assert an_endpoint("*", tags=("a", "b"), tasks=("t", "u")).covers(run)
    assert not an_endpoint("*", tags=("a", "c")).covers(run)
    assert not an_endpoint("*", tasks=("u",)).covers(run)
    assert an_endpoint("*").covers(None)
    assert not an_endpoint("*", tags=("a",)).covers(None)


def test_a_batch_may_be_complete_after_its_seal_and_after_the_end_of_a_run() -> None:
    seal = a_change(a_run(id="batch_1"), kind=ChangeKind.SEALED)
    assert may_complete_batch(type(a_group())((seal,), None)) == "batch_1"
    run = a_run(status=COMPLETED, batch_id="batch_2")
    ended = type(a_group())((a_change(run, changed={"status": "COMPLETED"}),), run)
    assert may_complete_batch(ended) == "batch_2"
    tagged = type(a_group())((a_change(run, changed={"tags": []}),), run)
    assert may_complete_batch(tagged) is None


# ---------------------------------------------------------------------------------- signatures


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_what_is_signed_is_taken_by_the_reference_implementation(text: str) -> None:
    secret, old = signing.new_secret(), signing.new_secret()
    now = int(datetime.now(UTC).timestamp())
    headers = dict(signing.headers([secret, old], "msg_1", now, text))
    for known in (secret, old):
        Webhook(known).verify(text, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.new_secret()).verify(text, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(text + " ", headers, json_parse=False)


def test_an_old_secret_signs_along_until_its_time_is_over() -> None:
    first = (Secret(secret=signing.new_secret()),)
    second = rotated(first, AT, 60)
    third = rotated(second, AT + seconds(30), 60)
    endpoint = an_endpoint("*", secrets=third)
    assert endpoint.keys(AT + seconds(31)) == [third[0].secret, second[0].secret, first[0].secret]
    assert endpoint.keys(AT + seconds(61)) == [third[0].secret, second[0].secret]
    assert endpoint.keys(AT + seconds(91)) == [third[0].secret]
    assert len(rotated(third, AT + seconds(3600), 60)) == 2


# ------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "text",
    ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "8.8.8.8"],
)
def test_the_public_internet_may_be_sent_to(text: str) -> None:
    assert AddressPolicy().refusal(ipaddress.ip_address(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254", "169.254.0.1", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "::",
        "224.0.0.1", "ff02::1", "255.255.255.255", "100.100.100.200", "fd00:ec2::254",
        "192.0.0.192", "240.0.0.1", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_some_addresses_are_never_sent_to(text: str) -> None:
    everything = AddressPolicy(loopback=True, private=True)
    assert everything.refusal(ipaddress.ip_address(text)) is not None


@pytest.mark.parametrize(
    "text,policy",
    [
        ("127.0.0.1", AddressPolicy(loopback=True)),
        ("127.8.9.1", AddressPolicy(loopback=True)),
        ("::1", AddressPolicy(loopback=True)),
        ("::ffff:127.0.0.1", AddressPolicy(loopback=True)),
        ("64:ff9b::7f00:1", AddressPolicy(loopback=True)),
        ("10.0.0.1", AddressPolicy(private=True)),
        ("172.16.5.4", AddressPolicy(private=True)),
        ("192.168.1.1", AddressPolicy(private=True)),
        ("100.64.0.1", AddressPolicy(private=True)),
        ("fd12::1", AddressPolicy(private=True)),
        ("::ffff:10.0.0.1", AddressPolicy(private=True)),
    ],
)
def test_some_addresses_are_sent_to_only_by_a_setting(text: str, policy: AddressPolicy) -> None:
    address = ipaddress.ip_address(text)
    assert AddressPolicy().refusal(address) is not None
    assert policy.refusal(address) is None


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com/", "file:///etc/passwd", "http://", "https:///x",
        "http://user:word@example.com/", "http://example.com/#x", "http://example.com/\n",
        "http://example.com:99999/", "http://[::1/", "http://exämple.com/", "http://a b/",
        "http://169.254.169.254/latest", "http://127.0.0.1/", "http://[::1]/", "http://10.1.2.3/",
        "http://[fe80::1%25eth0]/", "https://example.com/" + "x" * 2_100,
    ],
)  # fmt: skip
def test_what_no_endpoint_can_be_is_refused_at_once(url: str) -> None:
    assert AddressPolicy().check_url(url) is not None


@pytest.mark.parametrize("url", ["https://example.com/hooks?x=1", "http://example.com:8080"])
def test_a_name_is_looked_up_only_when_it_is_sent_to(url: str) -> None:
    assert AddressPolicy().check_url(url) is None


# -------------------------------------------------------------------------------------- retries


@given(st.floats(0, 1))
def test_the_waits_grow_and_the_last_try_is_after_a_day(chance: float) -> None:
    at = AT
    waits = []
    tries = 0
    while True:
        tries += 1
        following = next_try(tries, at, AT + TRIED_FOR, None, chance)
        if following is None:
            break
        waits.append((following - at).total_seconds())
        at = following
    assert at == AT + TRIED_FOR
    assert waits[:-1] == sorted(waits[:-1])
    assert waits[0] <= 6
    assert len(waits) <= len(WAITS_S) + 1


def test_what_a_receiver_asks_for_is_kept_up_to_a_bound() -> None:
    assert next_try(1, AT, AT + TRIED_FOR, 600.0, 0.0) == AT + seconds(600)
    assert next_try(1, AT, AT + TRIED_FOR, 1.0, 0.0) == AT + seconds(WAITS_S[0])
    assert next_try(1, AT, AT + TRIED_FOR, 1e9, 0.0) == AT + seconds(ASKED_MOST_S)
    assert next_try(3, AT, AT + seconds(10), 600.0, 0.0) == AT + seconds(10)


def test_retry_after_is_read_in_both_its_forms() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert retry_after_s("120") == 120.0
    assert retry_after_s(later, lambda: now) == 90.0
    assert retry_after_s(format_datetime(now - timedelta(seconds=9)), lambda: now) == 0.0
    for text in (None, "", "soon", "-5", "1.5", "²"):
        assert retry_after_s(text) is None
