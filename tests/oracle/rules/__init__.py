"""The rules that keep what is promised, each with the edit that takes it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEPT: Final = Path(__file__).parent
"""For each rule the shortest history known that shows its loss: `<name>.json`."""

PROJECT: Final = "realtime/hub/project/project.py"
ORDER: Final = "realtime/hub/project/order.py"
BATCHES: Final = "realtime/hub/project/batches.py"
DISPATCH: Final = "realtime/hub/project/dispatch.py"
JOINING: Final = "realtime/hub/joining/joining.py"
REPLAY: Final = "realtime/hub/joining/replay.py"
FROM_SNAPSHOT: Final = "realtime/hub/joining/snapshot.py"
SHOWING: Final = "realtime/hub/joining/showing.py"
SUBSCRIPTION: Final = "realtime/subscription.py"
MAILBOX: Final = "realtime/mailbox.py"
RING: Final = "realtime/ring.py"
CHANGES: Final = "store/changes.py"
TAIL: Final = "store/tail.py"


@dataclass(frozen=True)
class Edit:
    """In this file, what stands there once, and what stands there when the rule is out."""

    path: str
    old: str
    new: str

    def applied(self, root: Path) -> str:
        """The file's text without the rule. Raises ValueError where the code has moved on."""
        text = (root / self.path).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.path} has this {text.count(self.old)} times:\n{self.old}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Rule:
    """One rule: what it says, and how it is taken out."""

    says: str
    edits: tuple[Edit, ...]
    shown_by: str | None = None
    """The test that shows its loss, where the moment is too rare for the oracle."""
    set_ups: tuple[str, ...] = ("sqlite", "postgres")
    """Where the oracle looks, in this order."""
    often: tuple[str, ...] = ()
    """What happens more often than else while it looks: of what the loss of a rare rule takes."""


POSTGRES: Final = ("postgres",)
SQLITE: Final = ("sqlite",)

RULES: Final[dict[str, Rule]] = {
    "whole-snapshots": Rule(
        "A horizon is a whole snapshot: what was open when it was made is read later.",
        (
            Edit(
                CHANGES,
                "    xmax = min(snapshot.xmax, newest + 1)\n    return Horizon(",
                "    xmax = min(snapshot.xmax, newest + 1)\n    return Horizon(xmax, xmax, ())\n"
                "    return Horizon(",
            ),
        ),
        shown_by="test_what_was_committed_late_is_read_then",
        set_ups=POSTGRES,
    ),
    "one-statement": Rule(
        "The horizon is of the same snapshot as the rows that were read.",
        (
            Edit(
                "store/engine/postgres.py",
                'isolation_level="REPEATABLE READ"',
                'isolation_level="READ COMMITTED"',
            ),
        ),
        shown_by="test_nothing_is_lost_or_torn_while_two_servers_write",
        set_ups=POSTGRES,
    ),
    "tail-reads": Rule(
        "The tail hands on whatever no hint has told.",
        (Edit(TAIL, "            await follower.hand_on(page.groups)\n", ""),),
    ),
    "moved-after-its-rows": Rule(
        "The horizon moves only after all rows of its statement were handed on.",
        (
            Edit(
                TAIL,
                "        while True:\n            await follower.hand_on(page.groups)\n",
                "        follower.passed(first)\n"
                "        while True:\n            await follower.hand_on(page.groups)\n",
            ),
            Edit(
                TAIL,
                "        follower.passed(first)\n        return first.epoch",
                "        return first.epoch",
            ),
        ),
    ),
    "first-pages-horizon": Rule(
        "Of a statement in pages the first page's horizon counts.",
        (
            Edit(
                TAIL,
                "        follower.passed(first)\n        return first.epoch, first.horizon",
                "        follower.passed(page)\n        return page.epoch, page.horizon",
            ),
        ),
    ),
    "horizon-per-project": Rule(
        "Each project has its own horizon, moved by its own statements.",
        (
            Edit(
                TAIL,
                "                epoch, horizon = await self._read(follower, epoch, horizon)\n",
                "                horizon = getattr(self, '_shared', horizon)\n"
                "                epoch, horizon = await self._read(follower, epoch, horizon)\n"
                "                self._shared = horizon\n",
            ),
        ),
    ),
    "hints-seen": Rule(
        "A hint that the horizon has seen is dropped.",
        (
            Edit(
                ORDER,
                "        elif horizon.seen(change.xid):\n            self._count(Place.SEEN)\n",
                "",
            ),
            Edit(
                ORDER,
                "        if self.horizon.seen(change.xid):\n            return Place.SEEN\n",
                "",
            ),
        ),
    ),
    "previous-xid": Rule(
        "What nothing is remembered of is next only if its previousXid is seen.",
        (
            Edit(
                ORDER,
                "if change.version == 1 or self.horizon.seen(change.previous_xid):",
                "if True:",
            ),
        ),
    ),
    "gaps-are-fetched": Rule(
        "A version that is not the next one waits for a fetch.",
        (
            Edit(
                ORDER,
                "return Place.NEXT if change.version == last[0] + 1 else Place.GAP",
                "return Place.NEXT",
            ),
        ),
    ),
    "groups-are-fetched": Rule(
        "A hint of ids only is fetched with its group.",
        (
            Edit(
                ORDER,
                "        is_whole = run is not None or change.kind is ChangeKind.SEALED\n",
                "        is_whole = True\n",
            ),
        ),
    ),
    "remembered-until-seen": Rule(
        "A run's last version is remembered until the xid of that version is seen.",
        (
            Edit(
                ORDER,
                "            run_id: last for run_id, last in self._last.items()"
                " if not horizon.seen(last[1])\n",
                "            run_id: last for run_id, last in self._last.items() if False\n",
            ),
        ),
    ),
    "read-rows-once": Rule(
        "What the tail or a fetch found is shown only from the version that is next.",
        (
            Edit(
                ORDER,
                "            change for change in group.changes"
                " if change.version > version and not seen(change.xid)\n",
                "            change for change in group.changes\n",
            ),
        ),
    ),
    "whole-groups": Rule(
        "A group is shown as changes only if every state in it belongs to the stream.",
        (
            Edit(
                SUBSCRIPTION,
                "    if all(fits):\n        return Verdict(Kind.CHANGE, changes, over=over)\n",
                "    if fits[0] and fits[-1]:\n"
                "        return Verdict(Kind.CHANGE, changes, over=over)\n",
            ),
        ),
    ),
    "leave-if-any": Rule(
        "If any state of a group belonged to the stream and the last does not, it leaves.",
        (
            Edit(
                SUBSCRIPTION,
                "    if any(fits):\n        return Verdict(Kind.LEAVE, changes,"
                " _known(wish, run, facets, fits), over=over)\n",
                "    if fits[-2]:\n        return Verdict(Kind.LEAVE, changes,"
                " _known(wish, run, facets, fits), over=over)\n",
            ),
        ),
    ),
    "grant-in-the-filter": Rule(
        "What the token covers is part of the filter, before and after each change.",
        (
            Edit(
                SUBSCRIPTION,
                "return facet is not None and self.selection.admits(facet)"
                " and self.grant.covers(run, facet)",
                "return facet is not None and self.selection.admits(facet)",
            ),
        ),
    ),
    "buffer-while-joining": Rule(
        "What comes while history is read is held back, and shown after it.",
        (
            Edit(
                SUBSCRIPTION,
                "            self.buffer.append(group)\n",
                "            pass\n",
            ),
        ),
    ),
    "overflow-is-read": Rule(
        "A buffer that overflowed is read from the log.",
        (Edit(JOINING, "if member.overflowed:", "if False:"),),
        often=("write", "deliver", "subscribe"),
    ),
    "joining-starts-again": Rule(
        "A joining that finds the log cut starts again from a snapshot.",
        (
            Edit(
                JOINING,
                "            except CannotContinue as error:\n                reason =",
                "            except CannotContinue as error:\n                if cursor is None:\n"
                "                    raise\n                reason =",
            ),
        ),
        often=("write", "deliver", "subscribe", "cut_log"),
    ),
    "join-horizon": Rule(
        "A stream keeps the horizon that it joined with until a tail has passed.",
        (
            Edit(
                PROJECT,
                "        if not member.is_settled:\n            self.waits.joined.append(member)\n",
                "        member.settle()\n",
            ),
        ),
    ),
    "joined-before-composed": Rule(
        "Only a statement that began after the joining's lets it forget.",
        (
            Edit(
                PROJECT,
                "        for member in composed.joined:\n            member.settle()\n",
                "        for member in [*composed.joined, *self.waits.joined]:\n"
                "            member.settle()\n",
            ),
        ),
    ),
    "token-of-the-moment": Rule(
        "What waited is shown under the token of the moment that it goes out, or refused.",
        (
            Edit(
                "realtime/hub/joining/showing.py",
                "            if self._member.wish is not wish:\n                return False\n",
                "",
            ),
        ),
        shown_by="test_history_that_waits_its_turn_is_shown_under_the_token_of_that_moment",
    ),
    "cursors-after-live": Rule(
        "No checkpoint is older than the live of a subscription that it stands in for.",
        (
            Edit(
                "realtime/session.py",
                "        return all(\n            each.join_horizon is None or",
                "        return True or all(\n            each.join_horizon is None or",
            ),
        ),
        shown_by="test_no_cursor_takes_a_stream_to_before_its_own_live",
    ),
    "shown-of-later-pages": Rule(
        "Of rows that were read after the first page the version shown is kept.",
        (
            Edit(
                FROM_SNAPSHOT,
                "                if not first.seen(run.last_xid):\n"
                "                    member.shown[run.id] = run.version\n",
                "",
            ),
            Edit(
                SHOWING,
                "            if not horizon.seen(group.last.xid):\n",
                "            if False:\n",
            ),
        ),
    ),
    "log-after-pages": Rule(
        "After a snapshot of several pages the log is read from the first one's horizon.",
        (Edit(FROM_SNAPSHOT, "if page.horizon is not first:", "if False:"),),
        often=("subscribe_over_pages",),
    ),
    "replay-bound-by-its-first-page": Rule(
        "A replay goes live at the horizon of its first page.",
        (
            Edit(
                REPLAY,
                "            page = await self._log.page(read_since, after, narrowed)\n",
                "            page = await self._log.page(read_since, after, narrowed)\n"
                "            first = page.horizon\n",
            ),
        ),
    ),
    "one-breath": Rule(
        "Nothing is awaited between the look at the ring and going live.",
        (
            Edit(
                JOINING,
                "        horizon = project.order.horizon\n        if groups is not None and",
                "        import asyncio\n\n        for _ in range(3):\n"
                "            await asyncio.sleep(0)\n"
                "        horizon = project.order.horizon\n        if groups is not None and",
            ),
        ),
        often=("connect_amid", "cut", "write"),
    ),
    "over-is-in-the-log": Rule(
        "Who comes back to a run that is over is served by the log, which has its end.",
        (
            Edit(
                JOINING,
                "is_over = target.expected is not None or target.is_missing",
                "is_over = False",
            ),
        ),
        often=("write", "lose", "subscribe", "cut", "connect"),
    ),
    "reads-begin-after": Rule(
        "Whoever shares a read gets one that begins after they asked.",
        (
            Edit(
                "realtime/hub/flights.py",
                "                del self._waiting[key]  # it begins: whoever comes now waits for"
                " another\n                self.made += 1\n                result = await read()\n",
                "                self.made += 1\n                try:\n"
                "                    result = await read()\n                finally:\n"
                "                    del self._waiting[key]\n",
            ),
        ),
        shown_by="test_whoever_asks_gets_a_read_that_begins_after_they_asked",
    ),
    "ring-knows-what-went": Rule(
        "The ring serves a resume only if all that it has evicted is seen by the cursor.",
        (
            Edit(
                RING,
                "            self._gone = max(self._gone, change.xid)\n"
                "            if not self._horizon.seen(change.xid):\n"
                "                self._gone_unseen.add(change.xid)\n",
                "            pass\n",
            ),
        ),
        shown_by="test_what_had_to_go_only_the_database_has",
    ),
    "ring-evicted-unseen": Rule(
        "Nothing of a transaction that the cursor has not seen may have been evicted.",
        (
            Edit(
                RING,
                "and (xid not in self._horizon.xip or xid in self._gone_unseen)",
                "and xid not in self._horizon.xip",
            ),
        ),
        shown_by="test_nothing_of_an_open_transaction_may_have_gone",
        set_ups=POSTGRES,
    ),
    "end-after-the-tail-batch": Rule(
        "A batch's `end` goes out after the rows of a statement that saw it complete.",
        (
            Edit(
                BATCHES,
                "            self._batches.mark_complete(self._batch_id)\n            return\n",
                "            for member in members:\n"
                "                self._batches.tell(member, protocol.batch_object(batch, FINAL))\n"
                "                if member.wish.stop:\n"
                "                    end(member, EndReason.COMPLETED)\n"
                "            return\n",
            ),
        ),
        often=("complete_batch",),
    ),
    "end-after-the-tail-job-run": Rule(
        "A job run's `end` goes out after the rows of a statement that began after it was final.",
        (
            Edit(
                DISPATCH,
                "                member.over = verdict.over\n"
                "                self._seems_over(member)\n",
                "                end(member, verdict.over)\n",
            ),
        ),
        shown_by="test_a_job_run_ends_after_the_last_changes_of_its_children",
    ),
    "seals-are-changes": Rule(
        "Sealing a batch is a change in the log.",
        (
            Edit(
                "store/writer/applying.py",
                "            self._staged.changes.append(seal)\n"
                "            self._staged.hints.append(Hint(seal, None))\n",
                "",
            ),
        ),
        shown_by="test_a_deletion_and_a_seal_are_changes_like_any_other",
    ),
    "newer-in-the-place-of-the-older": Rule(
        "Under `latest` the newer state takes the place of the older one.",
        (
            Edit(
                MAILBOX,
                "        self.size += size - old.size\n        old.size = size\n",
                "        self.size += size - old.size\n        old.size = size\n"
                "        self._entries.remove(old)\n        self._entries.append(old)\n",
            ),
        ),
        shown_by="test_the_newer_state_takes_the_place_of_the_older",
    ),
    "nothing-merges-across": Rule(
        "Nothing merges across a `reset` or a `live`.",
        (Edit(MAILBOX, "        self._latest.pop(id, None)\n", "        return\n"),),
        shown_by="test_nothing_merges_across_a_reset_or_a_live",
    ),
    "checkpoints-wait-their-turn": Rule(
        "A checkpoint is an entry of the mailbox like any other.",
        (
            Edit(
                MAILBOX,
                "        self._append(_Checkpoint(line))\n",
                "        self._append(_Checkpoint(line))\n        self._entries.rotate(1)\n",
            ),
        ),
        shown_by="test_whatever_is_put_in_comes_out_in_order_and_merged_by_the_rules",
    ),
    "nothing-after-too-slow": Rule(
        "Whoever was told to resume is sent nothing more.",
        (
            Edit(
                "realtime/hub/connection.py",
                "        self.mailbox.close()\n        self.perform(self.session.close(CloseCode.SLOW",
                "        self.mailbox.clear()\n        self.perform(self.session.close(CloseCode.SLOW",
            ),
        ),
        often=("overwhelm",),
    ),
    "epoch": Rule(
        "A cursor of another epoch is not continued.",
        (
            Edit(JOINING, "if cursor.epoch != self._project.order.epoch:", "if False:"),
            Edit(CHANGES, "if epoch is not None and epoch != at.epoch:", "if False:"),
        ),
        shown_by="test_a_new_epoch_refuses_every_cursor_from_before",
    ),
    "ahead-is-another-history": Rule(
        "A cursor ahead of the log is of another history.",
        (Edit(CHANGES, "if since.xmax > at.horizon.xmax:", "if False:"),),
        shown_by="test_a_cursor_that_is_ahead_is_of_another_history",
        set_ups=SQLITE,
    ),
    "witness": Rule(
        "On SQLite a cursor is of this history if the change that it saw last has its stamp.",
        (
            Edit(CHANGES, "    if since.witness:\n", "    if False:\n"),
            Edit(
                RING,
                "return not horizon.witness or self._known.get(horizon.xmax) == horizon.witness",
                "return True",
            ),
        ),
        shown_by="test_an_older_copy_of_the_file_that_was_written_on_refuses_newer_cursors",
        set_ups=SQLITE,
    ),
    "witness-is-not-cut": Rule(
        "A cursor whose witness was cut is not taken at its word.",
        (
            Edit(
                CHANGES,
                '        raise CannotContinue("retention")\n    if stamp',
                "        return\n    if stamp",
            ),
        ),
        shown_by="test_a_cursor_whose_witness_was_cut_is_not_taken_at_its_word",
        set_ups=SQLITE,
    ),
    "cuts-are-marked": Rule(
        "A cursor that has not seen all that was cut is answered with `reset`.",
        (
            Edit(
                CHANGES,
                "if at.cut_xid and (at.cut_xid >= since.xmax"
                " or any(xid <= at.cut_xid for xid in since.xip)):",
                "if False:",
            ),
        ),
        shown_by="test_an_old_day_is_marked_and_then_taken_away_while_everybody_goes_on",
        set_ups=POSTGRES,
    ),
    "open-ones-were-cut-too": Rule(
        "So is one that had seen the newest that was cut, but not all.",
        (
            Edit(
                CHANGES,
                "if at.cut_xid and (at.cut_xid >= since.xmax"
                " or any(xid <= at.cut_xid for xid in since.xip)):",
                "if at.cut_xid and at.cut_xid >= since.xmax:",
            ),
        ),
        shown_by="test_one_that_was_open_when_the_newest_cut_one_was_seen_is_not_past_the_cut",
        set_ups=POSTGRES,
    ),
    "locks-in-one-order": Rule(
        "All groups lock in one order: keys, batches, runs, each sorted (the runs were not).",
        (
            Edit(
                "store/writer/held.py",
                "where(among_given(dialect, runs.c.id)).order_by(runs.c.id)\n    return locked",
                "where(among_given(dialect, runs.c.id))\n    return locked",
            ),
        ),
        shown_by="test_locks_are_waited_for_in_one_order",
        set_ups=POSTGRES,
    ),
    "versions-under-the-lock": Rule(
        "A run's version is raised under its row's lock.",
        (
            Edit(
                "store/writer/held.py",
                "return locked.with_for_update(skip_locked=skip_locked) "
                'if dialect == "postgresql" else locked\n',
                "return locked\n",
            ),
        ),
        shown_by="test_nothing_is_lost_or_torn_while_two_servers_write",
        set_ups=POSTGRES,
    ),
}
