"""One transaction of many commands: locked, applied one by one, written together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.engine import Connection

from store import changes
from store.broker import Hint
from store.commands import Done, Limits, Submission
from store.errors import IdempotencyKeyReused, StoreError
from store.writer.applying import Applying
from store.writer.held import Held
from store.writer.open_claims import NOTHING, OpenClaim, Tried
from store.writer.picking import pick
from store.writer.staged import Outcomes, Staged


class Committed(NamedTuple):
    """What came of a group, once its transaction is committed."""

    outcomes: list[Outcomes | StoreError]
    """For each submission its commands' outcomes, or what refused it whole."""
    hints: list[Hint]
    xid: int
    """The transaction's id in the log."""
    tried: Sequence[Tried | StoreError] = ()
    """For each claim what was found for it."""


def run_group(
    connection: Connection,
    submissions: Sequence[Submission],
    limits: Limits,
    claims: Sequence[OpenClaim] = (),
) -> Committed:
    """Carries the submissions out in the connection's transaction, and then finds runs for the
    claims: of those that waited before, or that the group has queued."""
    held = Held(connection, submissions)
    staged = Staged(connection, held)
    applying: Applying | None = None
    outcomes: list[Outcomes | StoreError] = []
    if submissions:
        moment = changes.begin(connection, held.creates)
        applying = Applying(held, staged, moment, limits)
        outcomes = [applying.carry_out(submission) for submission in submissions]
    tried: dict[OpenClaim, Tried | StoreError] = {}
    found: dict[OpenClaim, Submission] = {}
    if claims:
        fresh = _without_answer(held, submissions, claims, tried)
        picked = pick(connection, staged, fresh)
        found = {claim: claim.submission(id) for claim, id in picked.run_ids.items()}
        tried |= {claim: Tried(None, again=True) for claim in picked.held}
    if found:
        held.taken.take_answers(found.values())
        if applying is None:
            applying = Applying(held, staged, changes.begin(connection, 0), limits)
        claimed = [applying.carry_out(submission) for submission in found.values()]
        tried |= {
            claim: _tried(one, first=held.taken.known(submission) is None)
            for (claim, submission), one in zip(found.items(), claimed, strict=True)
        }
        submissions = [*submissions, *found.values()]
        outcomes = [*outcomes, *claimed]
    if applying is not None:
        staged.write()
        staged.keep_answers(submissions, outcomes)
    return Committed(
        outcomes,
        staged.hints,
        0 if applying is None else applying.xid,
        [tried.get(claim, NOTHING) for claim in claims],
    )


def _without_answer(
    held: Held,
    submissions: Sequence[Submission],
    claims: Sequence[OpenClaim],
    tried: dict[OpenClaim, Tried | StoreError],
) -> list[OpenClaim]:
    """The claims whose idempotency key has no answer yet; of the others that is what was tried."""
    held.taken.read_answers(claim.key for claim in claims if claim.key is not None and claim.looks)
    taken = {(s.project, key) for s in submissions for key in (s.key, s.forgets) if key is not None}
    fresh = []
    for claim in claims:
        key = None if claim.key is None else (claim.key.project, claim.key.key)
        known = None if key is None else held.taken.known(claim.submission(""))
        if key in taken:
            # The other's answer is this one's too, and exists only once it is committed; or is
            # gone by then.
            tried[claim] = Tried(None, again=True)
        elif known is not None:
            tried[claim] = _tried(known, first=False)
        else:
            fresh.append(claim)
            if key is not None:
                taken.add(key)
    return fresh


def _tried(outcomes: Outcomes | StoreError, *, first: bool) -> Tried | StoreError:
    outcome = outcomes if isinstance(outcomes, StoreError) else outcomes[0]
    if isinstance(outcome, Done):
        return Tried(outcome.run, first=first)
    if isinstance(outcome, IdempotencyKeyReused):
        return outcome
    return Tried(None, again=True)
