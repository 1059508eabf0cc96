"""One subscription as the session keeps it: what its subscriber was shown, and from where to go on."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from runstream import protocol
from runstream.changes import BatchProgress, Changed, Entered, Left, Live, Reset
from runstream.errors import DecodeError, NotFound, Refused, RunstreamError, StreamEnded, refusal
from runstream.inbox import Inbox
from runstream.merging import DEFAULTS, FIELD_NAMES, merged, whole
from runstream.models import AnyRun, Batch
from runstream.stats import Stats

MAX_HELD: Final = 20_000
"""Runs kept to merge changes into, before those that are final are let go.

Of those, as many are kept in mind, without what is large in them.
"""

_LARGE: Final = {
    name: DEFAULTS[name] for name in ("payload", "output", "error", "metadata", "tags")
}


class StreamState(StrEnum):
    """Where a subscription stands; `docs/client-session.md` has the table."""

    IDLE = "IDLE"
    JOINING = "JOINING"
    LIVE = "LIVE"
    PAUSED = "PAUSED"
    ENDED = "ENDED"


@dataclass(slots=True)
class _Wanted:
    """A run of which a change came while it is not held: asked for, with what came since."""

    changes: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    in_flight: bool = False


class Stream:
    """Takes the messages about one subscription and fills its inbox, in order and without repeats.

    A core: it does no I/O. What it needs done it shows: `wanted()` runs are to be fetched,
    `is_overfull` asks to be paused, `outcome` is why it is over.
    """

    def __init__(
        self, wish: protocol.Wish, inbox: Inbox, stats: Stats, *, max_held: int = MAX_HELD
    ) -> None:
        self.wish: Final = wish
        self.inbox: Final = inbox
        self.state = StreamState.IDLE
        self.id: int | None = None
        self.cursor = wish.cursor
        self.batch: Batch | None = None
        self.truncated = False
        self.was_live = False
        self.end_reason: str | None = None
        self.error: RunstreamError | None = None
        self.retry_at: float | None = None
        self.refusals = 0

        self._stats = stats
        self._max_held = max_held
        self._skipped = {
            name: DEFAULTS[name] for name in FIELD_NAMES if FIELD_NAMES[name] in wish.skip
        }
        self._held: dict[str, AnyRun] = {}
        # Final runs in the order they became so: the first to be let go.
        self._settled: deque[str] = deque()
        # Those that were, since the caller has them still and must hear if they leave.
        self._let_go: OrderedDict[str, AnyRun] = OrderedDict()
        # Versions of runs that left since the last cursor. Only what came after
        # that can be repeated to us, so the next cursor clears it.
        self._gone: dict[str, int] = {}
        self._wanted: dict[str, _Wanted] = {}
        # Of runs that were fetched and are ahead of the stream: how far the stream is. A
        # fetched run may have left already, by a version that the stream has yet to tell.
        self._behind: dict[str, int] = {}
        # If it has: the version that was told of it. Until the stream is there, what it
        # tells of the run is older than what the caller knows, and is not told.
        self._hushed: dict[str, int] = {}
        self._unmarked: str | None = None
        # While a snapshot replaces what was held: the runs from before, to tell which have left.
        self._before: dict[str, AnyRun] = {}
        # Those of them that a truncated snapshot said nothing of: they may match still.
        self._unsure: dict[str, AnyRun] = {}
        self._is_reset = False
        self._ending: str | None = None
        if self.cursor is None:
            inbox.keep()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come into the inbox."""
        return self.state is StreamState.ENDED

    @property
    def held(self) -> Mapping[str, AnyRun]:
        """The runs that match, as they were last heard of; also what is still kept from the caller."""
        return self._held

    @property
    def is_overfull(self) -> bool:
        """Whether the caller is so far behind that it is better to stop listening.

        Never before the first cursor: a snapshot cannot be gone on from in its middle,
        and is bounded by its `limit`.
        """
        if self.cursor is None:
            return False
        if self.inbox.is_full:
            return True
        return bool(self._wanted) and sum(len(w.changes) for w in self._wanted.values()) > 10_000

    # What the session does with it

    def joining(self, stream_id: int) -> protocol.Wish:
        """The message that asks for it under this id, from its cursor if it has one."""
        self.state = StreamState.JOINING
        self.id = stream_id
        self.retry_at = None
        if self.cursor is None:
            # Nothing of what came was given to the caller: the next one starts from nothing.
            self.inbox.drop()
            self._forget()
        # After a reset a snapshot is owed, also to who did not ask for one to begin with.
        snapshot = self.wish.snapshot or self._is_reset
        return msgspec.structs.replace(
            self.wish, id=stream_id, cursor=self.cursor, snapshot=snapshot
        )

    def lost(self) -> None:
        """The connection is gone; what is held stays, and the cursor says from where to go on."""
        if self.state in (StreamState.JOINING, StreamState.LIVE):
            self.state = StreamState.IDLE
        self.id = None

    def pause(self) -> None:
        """The caller is too slow: nothing more is taken until it has caught up."""
        self.state = StreamState.PAUSED
        self.id = None
        self._stats.pauses += 1

    def fail(self, error: RunstreamError) -> None:
        """Ends it with an error, which the caller gets after what has come before."""
        if self.state is not StreamState.ENDED:
            self.error = error
            self._finish()

    def cut(self, reason: str) -> None:
        """Ends it on this side, for this reason; what has come is still there to be taken."""
        if self.state is not StreamState.ENDED:
            self.end_reason = reason
            self._finish()

    def close(self) -> None:
        """The caller wants no more."""
        self.cut("unsubscribed")
        self.inbox.clear()

    def _finish(self) -> None:
        if self.cursor is None:
            # What is there by halves is not told.
            self.inbox.drop()
        self.inbox.release()
        self.state = StreamState.ENDED
        self.retry_at = None
        # Held runs are many; who keeps a finished subscription should not keep them.
        self._before = {}
        self._unsure = {}
        self._forget()

    def _forget(self) -> None:
        self._held = {}
        self._wanted.clear()
        self._behind.clear()
        self._hushed.clear()
        self._gone.clear()
        self._settled.clear()
        self._let_go.clear()
        self._unmarked = None

    # What the server says

    def snapshot(self, runs: Sequence[AnyRun], weight: float) -> None:
        """A page of the runs that match now."""
        for run in runs:
            held = self._held.get(run.id)
            self._hold(run)
            if held is None:
                self.inbox.put_run(Entered(run), weight)
            elif held != run:
                self.inbox.put_run(Changed(run), weight)

    def live(self, cursor: str, *, resumed: bool, truncated: bool) -> None:
        """All that was before has been told."""
        if self._is_reset:
            self._settle_before(truncated)
        self._is_reset = False
        self.inbox.release()
        self.state = StreamState.LIVE
        self.was_live = True
        self.refusals = 0
        self.truncated = truncated
        if resumed:
            self._stats.resumes += 1
        self.inbox.put(Live(resumed, truncated))
        self.mark(cursor)

    def _settle_before(self, truncated: bool) -> None:
        before = self._unsure | self._before
        self._before, self._unsure = {}, {}
        for run_id, run in before.items():
            if run_id in self._held or run_id in self._let_go or run_id in self._gone:
                # It matches, or has left since, which was told.
                continue
            if truncated:
                # More match than the snapshot holds, and this may be one of them: what the
                # server says of it from here on shows it.
                self._unsure[run_id] = run
            else:
                self.inbox.put_run(Left(run), 0)
        while len(self._unsure) > self._max_held:
            del self._unsure[next(iter(self._unsure))]

    def _may_not_match(self, fields: dict[str, Any]) -> None:
        run_id = fields["id"]
        run = self._before.get(run_id) or self._unsure.get(run_id)
        if run is None or run_id in self._gone:
            return
        self._gone[run_id] = fields["version"]
        if not self._is_reset:
            # Until a reset is done it stays: if that is cut off, this was not told.
            del self._unsure[run_id]
        self.inbox.put_run(Left(merged(run, fields)), 0)

    def mark(self, cursor: str) -> None:
        """All that came before is covered by this cursor."""
        self.cursor = cursor
        if self._gone:
            self._gone.clear()
        # What waits for a fetch has not been shown: whoever stores the cursor
        # and starts anew with it must get it again.
        if self._wanted:
            self._unmarked = cursor
        else:
            self.inbox.mark(cursor)

    def change(self, kind: str, fields: dict[str, Any], weight: float) -> None:
        """What has become of one run."""
        self._stats.changes += 1
        try:
            if kind == "change":
                self._changed(fields, weight)
            elif kind == "enter":
                self._entered(whole(fields), weight)
            else:
                self._left(fields)
        except DecodeError as error:
            self.fail(error)

    def _changed(self, fields: dict[str, Any], weight: float) -> None:
        run_id = fields["id"]
        held = self._held.get(run_id)
        if held is None:
            if fields["version"] <= self._told_of(run_id):
                self._stats.repeats_dropped += 1
                return
            self._wanted.setdefault(run_id, _Wanted()).changes.append((fields, weight))
            return
        version = fields["version"]
        if self._behind and run_id in self._behind:
            self._catch_up(held, version)
        if version <= held.version:
            self._stats.repeats_dropped += 1
            return
        if version != held.version + 1 and self.wish.delivery == "every":
            # The server never does this; if it does, the count shows it.
            self._stats.gaps += 1
        run = merged(held, fields)
        self._held[run_id] = run
        if run.status is not held.status and run.is_final:
            self._settle(run_id)
        if self._hushed and run_id in self._hushed:
            self._tell_again(run, weight)
        else:
            self.inbox.put_run(Changed(run), weight)

    def _told_of(self, run_id: str) -> int:
        """The version up to which the caller has been told of a run that is not held."""
        run = self._let_go.get(run_id)
        return run.version if run is not None else self._gone.get(run_id, 0)

    def _tell_again(self, run: AnyRun, weight: float) -> None:
        if run.version >= self._hushed[run.id]:
            del self._hushed[run.id]
            self.inbox.put_run(Entered(run), weight)

    def _catch_up(self, held: AnyRun, version: int) -> None:
        if version >= held.version:
            del self._behind[held.id]
        else:
            self._behind[held.id] = max(version, self._behind[held.id])

    def _entered(self, run: AnyRun, weight: float) -> None:
        held = self._held.get(run.id)
        if held is not None and run.id in self._behind:
            self._catch_up(held, run.version)
        known = held.version if held is not None else self._told_of(run.id)
        if run.version <= known:
            self._stats.repeats_dropped += 1
            return
        self._wanted.pop(run.id, None)
        self._hold(run)
        if run.id in self._hushed:
            self._tell_again(run, weight)
        else:
            self.inbox.put_run(Changed(run) if held is not None else Entered(run), weight)
        self._settle_fetches()

    def _left(self, fields: dict[str, Any]) -> None:
        run_id, version = fields["id"], fields["version"]
        self._wanted.pop(run_id, None)
        held = self._held.get(run_id) or self._let_go.get(run_id)
        if held is not None and version >= self._behind.get(run_id, held.version):
            self._held.pop(run_id, None)
            self._let_go.pop(run_id, None)
            self._behind.pop(run_id, None)
            self._gone[run_id] = version
            hushed = self._hushed.get(run_id)
            if hushed is None:
                if version < held.version:
                    self._hushed[run_id] = held.version
                self.inbox.put_run(Left(merged(held, fields)), 0)
            elif version >= hushed:
                del self._hushed[run_id]
        elif held is None:
            self._may_not_match(fields)
        self._settle_fetches()

    def batch_progress(self, batch: Batch) -> None:
        """How far the batch is."""
        self.batch = batch
        self.inbox.put(BatchProgress(batch))

    def reset(self, reason: str) -> None:
        """What is held can't be gone on from; a snapshot follows and replaces it."""
        self._stats.resets += 1
        self.state = StreamState.JOINING
        if self.cursor is None:
            # What was not told yet is not missed.
            self.inbox.drop()
        else:
            # Those that have left for the caller, and entered again unsaid, can't leave once more.
            told = (each for each in self._held.items() if each[0] not in self._hushed)
            self._before.update(self._let_go)
            self._before.update(told)
        self.cursor = None
        self._forget()
        self._is_reset = True
        # The caller hears of it now; what follows, only when it is live.
        self.inbox.release()
        self.inbox.put(Reset(reason))
        self.inbox.keep()

    def end(self, reason: str) -> None:
        """Nothing more comes. What was asked for because of earlier changes is still told."""
        if reason == "not_found":
            self.fail(NotFound())
        elif reason == "forbidden":
            self.fail(refusal("forbidden", "the token does not cover this stream any more"))
        elif reason not in ("completed", "deleted"):
            self.fail(StreamEnded(reason))
        elif self._wanted:
            self._ending = reason
        else:
            self.end_reason = reason
            self._finish()

    def refused(self, error: Refused) -> None:
        """The subscription was refused, for good."""
        self.fail(error)

    def later(self, at: float) -> None:
        """The subscription was refused for now; it is asked for again then."""
        self.state = StreamState.IDLE
        self.id = None
        self.refusals += 1
        self.retry_at = at

    # Runs that are not held

    def wanted(self) -> list[str]:
        """Runs to be fetched, each told once."""
        if not self._wanted:
            return []
        asked = [run_id for run_id, wanted in self._wanted.items() if not wanted.in_flight]
        for run_id in asked:
            self._wanted[run_id].in_flight = True
        self._stats.fetches += len(asked)
        return asked

    def wants(self, run_id: str) -> bool:
        """Whether this run has been asked for and has not come."""
        return run_id in self._wanted

    def fetched(self, run_id: str, run: AnyRun | None) -> bool:
        """A run that was asked for; None if there is none. False if it is too old, to be asked again."""
        wanted = self._wanted[run_id]
        if run is not None:
            if run.version < wanted.changes[0][0]["version"]:
                return False
            del self._wanted[run_id]
            if self._skipped:
                run = msgspec.structs.replace(run, **self._skipped)
            self._hold(run)
            told = max(fields["version"] for fields, _ in wanted.changes)
            if run.version > told:
                self._behind[run_id] = told
            self.inbox.put_run(Entered(run), wanted.changes[0][1])
            try:
                for fields, weight in wanted.changes:
                    if fields["version"] > run.version:
                        self._changed(fields, weight)
            except DecodeError as error:
                self.fail(error)
        else:
            del self._wanted[run_id]
            fields = wanted.changes[-1][0]
            if run_id in self._let_go:
                self._left(fields)
            else:
                self._may_not_match(fields)
        self._settle_fetches()
        return True

    def _settle_fetches(self) -> None:
        # Cursors and the end have waited for the fetches.
        if self._wanted or self.state is StreamState.ENDED:
            return
        if self._unmarked is not None:
            self.inbox.mark(self._unmarked)
            self._unmarked = None
        if self._ending is not None:
            self.end_reason = self._ending
            self._finish()

    # Runs that are

    def _hold(self, run: AnyRun) -> None:
        self._held[run.id] = run
        if self._let_go:
            self._let_go.pop(run.id, None)
        if self._unsure and not self._is_reset:
            self._unsure.pop(run.id, None)
        if run.is_final:
            self._settle(run.id)

    def _settle(self, run_id: str) -> None:
        # Final runs hardly change any more. Should one do so after it was let go, it
        # is fetched like any run that is not held.
        self._settled.append(run_id)
        while len(self._held) > self._max_held and self._settled:
            run = self._held.pop(self._settled.popleft(), None)
            if run is not None:
                self._behind.pop(run.id, None)
                if run.id not in self._hushed:
                    self._let_go[run.id] = msgspec.structs.replace(run, **_LARGE)
        while len(self._let_go) > self._max_held:
            self._let_go.popitem(last=False)
        if len(self._settled) > 2 * self._max_held:
            self._settled.popleft()
