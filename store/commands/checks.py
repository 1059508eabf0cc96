"""The shape of what is asked: looked at once, where it enters the store."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Final

from msgspec import UNSET

from store.commands.asked import (
    ClaimRun,
    Command,
    CreateBatch,
    CreateRun,
    DeleteRun,
    FireTimer,
    Limits,
    MutateMetadata,
    NewRun,
    SealBatch,
    UpdateRun,
)
from store.errors import Invalid, NotFound, TooLarge
from store.jsonvalue import MAX_INTEGER, check_json, is_text, json_size
from store.metadata import MetadataOp, MetadataOperation
from store.model import RunStatus

MAX_SECONDS: Final = 2**31 - 1
"""The longest ttl, maxDuration and heartbeatTimeout: what a database's integer holds."""

MAX_ATTEMPTS: Final = 1_000
MAX_LEASE_S: Final = 24 * 3600

AFTERTIME: Final = timedelta(hours=24)
"""How long after its end a run's tags and metadata may still be changed."""

_ID_CHARS: Final = 128
_TASK_CHARS: Final = 256
_KEY_CHARS: Final = 512
_BIRTHS: Final = frozenset(
    {
        RunStatus.QUEUED,
        RunStatus.EXECUTING,
        RunStatus.WAITING_FOR_DEPLOY,
        RunStatus.DELAYED,
    }
)


def check(command: Command, limits: Limits) -> None:
    """Looks at a command's shape, whatever the runs are that it is about.

    To be called once for each command, before `create` or `apply`, which rely on it. Raises
    Invalid or TooLarge with the path in the command as it is on the wire, and NotFound for an id
    that cannot be one.
    """
    match command:
        case CreateRun(new=new):
            check_new_run(new, limits)
        case UpdateRun():
            check_update(command, limits)
        case MutateMetadata(run_id=run_id, operations=operations):
            _check_run_id(run_id)
            check_operations(operations, limits)
        case ClaimRun(run_id=run_id, worker=worker, lease_s=lease_s):
            _check_run_id(run_id)
            check_claim(worker, lease_s)
        case DeleteRun(run_id=run_id) | FireTimer(run_id=run_id):
            _check_run_id(run_id)
        case SealBatch(batch_id=batch_id):
            if not is_id(batch_id):
                raise NotFound("batch", batch_id)
        case CreateBatch():
            pass


def check_new_run(new: NewRun, limits: Limits) -> None:
    """Looks at what is said of a run that is to be made; see `check`."""
    check_words("taskIdentifier", new.task_identifier, _TASK_CHARS)
    _check_tags("tags", new.tags, limits)
    if len(set(new.tags)) > limits.tags:
        raise Invalid("tags", f"a run has at most {limits.tags} tags")
    if new.idempotency_key is not None:
        check_words("idempotencyKey", new.idempotency_key, _KEY_CHARS)
    for path, seconds in (
        ("ttl", new.ttl),
        ("maxDuration", new.max_duration),
        ("heartbeatTimeout", new.heartbeat_timeout),
    ):
        if seconds is not None and not (type(seconds) is int and 1 <= seconds <= MAX_SECONDS):
            raise Invalid(path, f"must be whole seconds, from 1 to {MAX_SECONDS}")
    if not (type(new.max_attempts) is int and 1 <= new.max_attempts <= MAX_ATTEMPTS):
        raise Invalid("maxAttempts", f"must be a whole number from 1 to {MAX_ATTEMPTS}")
    for path, id in (("batchId", new.batch_id), ("parentRunId", new.parent_run_id)):
        if id is not None and not is_id(id):
            raise Invalid(path, "is no id")
    if new.status is not None and new.status not in _BIRTHS:
        raise Invalid("status", f"a run cannot begin as {new.status}")
    if new.delay_until is not None:
        _check_time("delayUntil", new.delay_until)
        if new.delay is not None:
            raise Invalid("delay", "does not go together with delayUntil")
    if new.delay is not None and not (
        type(new.delay) in (int, float) and 0 <= new.delay <= MAX_SECONDS
    ):
        raise Invalid("delay", f"must be seconds, from 0 to {MAX_SECONDS}")
    _check_delay(new.status, new.delay_until is not None or new.delay is not None)
    _check_object("metadata", new.metadata, limits.nesting)
    check_size("metadata", new.metadata, limits.metadata_bytes)
    check_json(new.payload, "payload", limits.nesting)
    check_size("payload", new.payload, limits.payload_bytes)


def check_update(command: UpdateRun, limits: Limits) -> None:
    """Looks at what is asked of a run; see `check`."""
    _check_run_id(command.run_id)
    if command.if_version is not None and type(command.if_version) is not int:
        raise Invalid("ifVersion", "must be an integer")
    if command.if_attempt is not None and type(command.if_attempt) is not int:
        raise Invalid("ifAttempt", "must be an integer")
    delay_until = None if command.delay_until is UNSET else command.delay_until
    if delay_until is not None:
        _check_time("delayUntil", delay_until)
    _check_delay(None if command.status is UNSET else command.status, delay_until is not None)
    _check_tags("addTags", command.add_tags, limits)
    _check_tags("removeTags", command.remove_tags, limits)
    both = set(command.add_tags).intersection(command.remove_tags)
    if both:
        raise Invalid("removeTags", f"{min(both)!r} cannot be added and removed at once")
    for path, cost in (
        ("costInCents", command.cost_in_cents),
        ("baseCostInCents", command.base_cost_in_cents),
    ):
        if cost is not UNSET:
            _check_cost(path, cost)
    if command.metadata is not UNSET:
        _check_object("metadata", command.metadata, limits.nesting)
    if command.error is not UNSET and command.error is not None:
        _check_error(command.error)
        check_size("error", command.error, limits.output_bytes)
    if command.output is not UNSET:
        check_json(command.output, "output", limits.nesting)
        check_size("output", command.output, limits.output_bytes)


def check_claim(worker: str, lease_s: int) -> None:
    """Looks at who claims a run and for how long; see `check`."""
    check_words("worker", worker, _TASK_CHARS)
    if not (type(lease_s) is int and 1 <= lease_s <= MAX_LEASE_S):
        raise Invalid("leaseS", f"must be whole seconds, from 1 to {MAX_LEASE_S}")


def check_operations(operations: tuple[MetadataOperation, ...], limits: Limits) -> None:
    """Looks at the steps of a change of metadata; see `check`.

    A path has 1 to `nesting` keys, none of them empty; delete takes no value, every other step
    needs one; what increment adds is a finite number.
    """
    if len(operations) > limits.operations:
        raise Invalid("operations", f"has more than {limits.operations} steps")
    for number, operation in enumerate(operations):
        place = f"operations.{number}"
        op, value = operation.op, operation.value
        keys = operation.path.split(".")
        if not is_text(operation.path) or not all(keys):
            raise Invalid(f"{place}.path", "must be keys of whole characters joined by single dots")
        # The value lies in as many objects as the path has keys, and in the list it is appended
        # to: so no step makes a tree that a reader could not take.
        room = limits.nesting - len(keys) - (op is MetadataOp.APPEND)
        if room < 0:
            raise Invalid(f"{place}.path", f"leads deeper than {limits.nesting}")
        if op is MetadataOp.DELETE:
            if value is not UNSET:
                raise Invalid(f"{place}.value", "delete takes no value")
            continue
        if value is UNSET:
            raise Invalid(f"{place}.value", f"{op} needs a value")
        if op is MetadataOp.INCREMENT and type(value) not in (int, float):
            raise Invalid(f"{place}.value", "must be a number")
        check_json(value, f"{place}.value", room)


def is_id(text: str) -> bool:
    """Whether the text can be an id at all: what cannot is not worth asking a database for,
    and PostgreSQL would refuse some of it with an error of its own."""
    return 1 <= len(text) <= _ID_CHARS and text.isascii() and text.isprintable()


def _check_run_id(run_id: str) -> None:
    if not is_id(run_id):
        raise NotFound("run", run_id)


def check_words(path: str, text: str, chars: int) -> None:
    if not 1 <= len(text) <= chars:
        raise Invalid(path, f"must have 1 to {chars} characters")
    # What is printable holds none of it; the rest, such as wide spaces, is looked at closely.
    if not text.isprintable() and (
        not is_text(text) or any(unicodedata.category(char) == "Cc" for char in text)
    ):
        raise Invalid(path, "must not hold control characters")


def _check_tags(path: str, tags: tuple[str, ...], limits: Limits) -> None:
    for number, tag in enumerate(tags):
        check_words(f"{path}.{number}", tag, limits.tag_chars)


def _check_time(path: str, at: datetime) -> None:
    try:
        year = at.astimezone(UTC).year
    except OverflowError:
        year = 0
    # Below 1970 it is a mistake, such as another language's zero time.
    if at.tzinfo is None or year < 1970:
        raise Invalid(path, "must be a time between 1970 and 9999 with its offset from UTC")


def _check_delay(status: RunStatus | None, is_delayed: bool) -> None:
    if status is RunStatus.DELAYED and not is_delayed:
        raise Invalid("delayUntil", "a DELAYED run needs the time it waits for")
    if is_delayed and status not in (None, RunStatus.DELAYED):
        raise Invalid("status", f"{status} does not go with a delay")


def _check_cost(path: str, cost: float) -> None:
    # A whole number may be too large to become a float at all.
    whole = type(cost) is int and cost <= MAX_INTEGER
    if not (whole or (type(cost) is float and isfinite(cost))) or cost < 0:
        raise Invalid(path, "must be a finite number, 0 or more")


def _check_object(path: str, value: dict[str, Any], nesting: int) -> None:
    if type(value) is not dict:
        raise Invalid(path, "must be an object")
    check_json(value, path, nesting)


def _check_error(error: dict[str, Any]) -> None:
    for key in ("name", "message"):
        if key not in error:
            raise Invalid(f"error.{key}", "is missing")
    for key, text in error.items():
        if key not in ("name", "message", "stack"):
            raise Invalid("error", "has name, message and stack, and nothing else")
        if not isinstance(text, str) or not is_text(text):
            raise Invalid(f"error.{key}", "must be text without NUL")


def check_size(path: str, value: Any, limit: int) -> None:
    size = json_size(value)
    if size > limit:
        raise TooLarge(path, size, limit)
