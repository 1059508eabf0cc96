"""One stream as its client sees it, held to the protocol message by message."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tests.oracle.ledger import State

ALWAYS: Final = frozenset({"id", "version", "status", "taskIdentifier", "updatedAt"})


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Shown:
    """Something that was said of a run, to be held against the ledger later."""

    kind: str
    run_id: str
    version: int
    scopes: frozenset[str]
    skip: frozenset[str]
    """The fields that were not to be shown."""
    state: State | None = None
    """The run as the client has it then; None for a leave, or where it has too little."""
    had: int | None = None
    """For an enter, the version that the client had from this very connection."""


@dataclass
class Ended:
    """How a stream stood when it ended."""

    reason: str
    have: dict[str, State]
    scopes: frozenset[str]
    batch: dict[str, Any] | None


@dataclass
class Stream:
    """One subscription as its client sees it, through all of its connections."""

    id: int
    ask: dict[str, Any]
    cursor: str | None = None
    ended: Ended | None = None
    is_live: bool = False
    was_reset: bool = False
    with_cursor: bool = False
    forbidden: bool = False
    is_unwanted: bool = False
    have: dict[str, State] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    """The last version of each run on this connection."""
    gone: dict[str, int] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)
    """What was told last of each run that was fetched, and was newer by then."""
    here: dict[str, int] = field(default_factory=dict)
    """The last version of each run that this connection, and no other, left at the client."""
    batch: dict[str, Any] | None = None
    partial: bool = False
    unheard_of: str | None = None
    """A change that came before `live` of a run that no snapshot had."""
    base: int | None = None
    """How much was committed when `live` came to a stream that was not shown everything."""
    shown: list[Shown] = field(default_factory=list)
    lives: int = 0
    forced: frozenset[str] = frozenset()
    """The fields that the token forces out."""
    heard: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    """The last messages about it, shortened: for whoever looks into a finding."""

    @property
    def skip(self) -> frozenset[str]:
        return self.forced.union(self.ask.get("skip", ()))

    @property
    def is_latest(self) -> bool:
        return self.ask.get("delivery") == "latest"

    @property
    def stops(self) -> bool:
        return bool(self.ask.get("stopOnCompletion", True))

    @property
    def target(self) -> str | None:
        """The one run or job run that it is about."""
        return self.ask.get("runId") or self.ask.get("jobRunId")

    def fits(self, state: State, scopes: frozenset[str]) -> bool:
        """Whether a run in that state belongs to it, and may be seen."""
        ask = self.ask
        if not covered(state, scopes):
            return False
        match ask["type"]:
            case "subscribeToRun":
                return bool(state["id"] == ask["runId"])
            case "subscribeToJobRun":
                return ask["jobRunId"] in (state["id"], state["parentRunId"])
            case "subscribeToBatch" if state["batchId"] != ask["batchId"]:
                return False
            case "subscribeToRunsWithTag":
                has = [tag in state["tags"] for tag in ask["tags"]]
                if not (any(has) if ask["match"] == "any" else all(has)):
                    return False
        return (
            state["status"] in ask.get("statuses", [state["status"]])
            and state["taskIdentifier"] in ask.get("tasks", [state["taskIdentifier"]])
            and state["isTest"] is ask.get("isTest", state["isTest"])
            and (
                "createdAfter" not in ask or _time(state["createdAt"]) > _time(ask["createdAfter"])
            )
        )

    # ---------------------------------------------------------------------------- what is told

    def asked(self, forced: frozenset[str]) -> dict[str, Any]:
        """It is asked for on another connection: with this message, from its cursor."""
        self.is_live = False
        self.was_reset = False
        self.forced = forced
        self.sent, self.here = {}, {}
        self.unheard_of = None
        self.with_cursor = self.cursor is not None
        message = self.ask | {"id": self.id}
        if self.cursor is None:
            # No `reset` will say so, since nothing was asked for that can't be had.
            self.have, self.gone, self.base, self.partial = {}, {}, None, False
            self.behind.clear()
        else:
            message["cursor"] = self.cursor
        self.heard.append(f"--- asks {self.ask}, with a cursor: {self.with_cursor}")
        return message

    def reset(self) -> None:
        """What it had is no more."""
        self.have, self.gone, self.sent, self.here = {}, {}, {}, {}
        self.behind.clear()
        self.base, self.partial, self.unheard_of = None, False, None
        # With what it had goes the place where that ended, until `live` gives another.
        self.cursor = None
        self.was_reset, self.is_live = True, False

    def live(self, message: dict[str, Any], commits: int) -> None:
        """Its past is there, and so much was committed by now."""
        if self.is_live:
            raise Broken(f"live came twice: {self.ask}")
        self.is_live = True
        self.lives += 1
        self.cursor = message["cursor"]
        expected = self.with_cursor and not self.was_reset
        if message["resumed"] is not expected:
            raise Broken(f"resumed is {message['resumed']}: {self.ask}")
        if not message["resumed"]:
            skipped = not self.ask.get("snapshot", True) and not self.was_reset
            if message["truncated"] or skipped:
                self.partial = True
                self.base = commits
        if self.unheard_of is not None and not self.partial:
            raise Broken(f"a change of a run that it has not: {self.unheard_of}, {self.ask}")
        self.unheard_of = None

    def end(self, reason: str, scopes: frozenset[str]) -> None:
        """It is over."""
        if not self.lives and reason not in ("not_found", "forbidden", "unsubscribed"):
            raise Broken(f"ended with {reason} before live: {self.ask}")
        if reason in ("token_expired", "token_revoked"):
            self.is_live = False  # the connection's close follows; it goes on from its cursor
            return
        self.ended = Ended(reason, dict(self.have), scopes, self.batch)

    async def change(
        self,
        kind: str,
        run: State,
        scopes: frozenset[str],
        get: Callable[[str], Awaitable[State | None]],
    ) -> None:
        """A change of any kind; a run that it does not hold is asked for."""
        if kind == "enter":
            self.whole(kind, run, scopes)
            return
        id, version = run["id"], run["version"]
        self._rises(id, version)
        had = self.have.get(id)
        if kind == "leave":
            if set(run) != ALWAYS:
                raise Broken(f"a leave tells more: {run}")
            self.shown.append(Shown(kind, id, version, scopes, self.skip))
            self.here.pop(id, None)
            self.gone[id] = max(version, self.gone.get(id, 0))
            # A run that was fetched may have changed again after it had left.
            if had is not None and version >= self.behind.get(id, had["version"]):
                del self.have[id]
                self.behind.pop(id, None)
            return
        if self.skip & set(run):
            raise Broken("a skipped field was sent")
        if had is None:
            self.shown.append(Shown(kind, id, version, scopes, self.skip))
            if version <= self.gone.get(id, 0):
                return  # a repeat: it has left since
            if not self.is_live:
                self.unheard_of = self.unheard_of or brief_run(run)  # `live` says whether
            elif not self.partial:
                raise Broken(f"a change of a run that it has not: {brief_run(run)} at {self.ask}")
            found = await get(id)
            if found is not None and found["version"] >= version:
                self.have[id] = {k: v for k, v in found.items() if k not in self.skip}
                if found["version"] > version:
                    self.behind[id] = version
            return
        self._told(id, version)
        if version > had["version"]:
            if version > had["version"] + 1 and not self.is_latest:
                raise Broken(f"a gap from {had['version']} to {version} of {id} at {self.ask}")
            self.have[id] = had = had | run
            self.here[id] = version
        # A repeat says nothing new; but what it says was so.
        state = dict(had) if had["version"] == version else None
        self.shown.append(Shown(kind, id, version, scopes, self.skip, state))

    def whole(self, kind: str, run: State, scopes: frozenset[str]) -> None:
        """A run that is shown whole, in a snapshot or as it enters."""
        id, version = run["id"], run["version"]
        if kind == "enter":
            self._rises(id, version)
            self._told(id, version)
        else:
            self.sent[id] = max(version, self.sent.get(id, 0))
        if self.skip & set(run):
            raise Broken("a skipped field was sent")
        self.shown.append(
            Shown(kind, id, version, scopes, self.skip, dict(run), self.here.get(id))
        )  # fmt: skip
        had = self.have.get(id)
        if had is None or version >= had["version"]:
            self.have[id] = dict(run)
            self.here[id] = version

    def _told(self, id: str, version: int) -> None:
        if id in self.behind:
            self.behind[id] = max(version, self.behind[id])
            if self.behind[id] >= self.have[id]["version"]:
                del self.behind[id]

    def _rises(self, id: str, version: int) -> None:
        last = self.sent.get(id)
        if last is not None and version <= last:
            raise Broken(f"version {version} of {id} came after {last} at {self.ask}")
        self.sent[id] = version


def covered(state: State, scopes: frozenset[str]) -> bool:
    """Whether a token with these scopes reads a run in that state."""
    step = state["workflowId"] is not None and f"read:runs:{state['parentRunId']}" in scopes
    return (
        "read:runs" in scopes
        or f"read:runs:{state['id']}" in scopes
        or step
        or f"read:batch:{state['batchId']}" in scopes
        or f"read:tasks:{state['taskIdentifier']}" in scopes
        or any(f"read:tags:{tag}" in scopes for tag in state["tags"])
    )


def brief_run(run: State) -> str:
    """Its id, version, status and tags."""
    return f"{run['id']} v{run['version']} {run['status']} {run.get('tags', '')}"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
