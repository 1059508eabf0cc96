"""What a subscription tells, one value for each thing: `async for change in subscription.changes()`."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from runstream.models import Batch

RunT_co = TypeVar("RunT_co", covariant=True)


class Entered(msgspec.Struct, Generic[RunT_co], frozen=True):
    """A run has come to match: it was in the snapshot, was made, or came to fit the filters."""

    run: RunT_co


class Changed(msgspec.Struct, Generic[RunT_co], frozen=True):
    """A run that matches is one version on; several under `delivery="latest"`."""

    run: RunT_co


class Left(msgspec.Struct, Generic[RunT_co], frozen=True):
    """A run no longer matches, or was deleted.

    `run` is it as it was last seen, with the status and the version by which it left. Where
    more than 20,000 match, older ones that are final come without payload, output, error,
    metadata and tags, and beyond 40,000 they are not told.
    """

    run: RunT_co


class BatchProgress(msgspec.Struct, frozen=True):
    """How far the batch is; several that nobody has read yet become one."""

    batch: Batch


class Live(msgspec.Struct, frozen=True):
    """The snapshot, or what was missed, has been told; from here changes come as they happen.

    Comes again after each lost connection, then `resumed`, and after each `Reset`.
    `truncated`: there were more runs than the snapshot's `limit`.
    """

    resumed: bool
    truncated: bool


class Reset(msgspec.Struct, frozen=True):
    """What you have can't be continued from; all runs are told anew as `Entered`.

    Between here and the next `Live`, forget what you hold of versions. Runs that are
    there no longer come as `Left` just before it; if it is `truncated`, only when the
    server says so, since they may be among those that the snapshot had no room for.
    """

    reason: str


Change = Entered[RunT_co] | Changed[RunT_co] | Left[RunT_co] | BatchProgress | Live | Reset
