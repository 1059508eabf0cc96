"""What a client was told and holds, against what was committed."""

from __future__ import annotations

from collections.abc import Mapping

from store.lifecycle import FINAL
from store.model import Cursor
from tests.oracle.ledger import Ledger, State
from tests.oracle.stream import Broken, Ended, Shown, Stream


def covered_by_cursor(stream: Stream, scopes: frozenset[str], ledger: Ledger) -> dict[str, State]:
    """The runs as its cursor covers them."""
    if stream.cursor is None:
        return {}
    horizon = Cursor.decode(stream.cursor).horizon
    have = {}
    for id, xids in ledger.xids.items():
        if stream.partial and id not in stream.have and id not in stream.gone:
            continue  # it was never shown to it
        state = ledger.at(id, sum(map(horizon.seen, xids)))
        if state is not None and stream.fits(state, scopes):
            have[id] = {name: value for name, value in state.items() if name not in stream.skip}
    return have


def verify(stream: Stream, ledger: Ledger) -> None:
    """Raises Broken for anything that was said since the last time and was not so."""
    for shown in stream.shown:
        _verify_shown(stream, shown, ledger)
    stream.shown.clear()
    if stream.ended is not None:
        _verify_end(stream, stream.ended, ledger)


def _verify_shown(stream: Stream, shown: Shown, ledger: Ledger) -> None:
    id, version = shown.run_id, shown.version
    truth = ledger.at(id, version)
    if shown.kind == "leave":
        if id not in ledger.deleted and (truth is None or stream.fits(truth, shown.scopes)):
            raise Broken(f"version {version} of {id} has not left {stream.ask}: {truth}")
        return
    if truth is None:
        raise Broken(f"version {version} of {id} was never committed")
    if not stream.fits(truth, shown.scopes):
        raise Broken(f"{shown.kind}: {id} at version {version} does not belong to {stream.ask}")
    if shown.state is not None:
        for name, value in truth.items():
            if name in shown.skip or (name == "payload" and id not in ledger.payloads):
                continue
            if name not in shown.state or shown.state[name] != value:
                raise Broken(
                    f"{shown.kind}: {name} of {id} at version {version} is {value!r} and not "
                    f"{shown.state.get(name, 'there')!r}, at {stream.ask}"
                )
    if shown.kind == "enter" and shown.had is not None:
        between = [ledger.at(id, each) for each in range(shown.had, version)]
        if all(state is not None and stream.fits(state, shown.scopes) for state in between):
            raise Broken(f"{id} entered at version {version} and had never left: {stream.ask}")


def _verify_end(stream: Stream, ended: Ended, ledger: Ledger) -> None:
    ask = stream.ask
    target = stream.target
    what = f"ended with {ended.reason}: {ask}"
    match ended.reason:
        case "deleted" if target not in ledger.deleted:
            raise Broken(f"its target is still there, and it {what}")
        case "not_found" if target in ledger.states and target not in ledger.deleted:
            raise Broken(f"its target is there, and it {what}")
        case "forbidden" if "read:runs" in ended.scopes:
            raise Broken(f"everything is allowed, and it {what}")
        case "completed":
            if not stream.stops:
                raise Broken(f"it was to stay, and {what}")
            for id, states in ledger.states.items():
                _verify_final(stream, ended, id, states, ledger, what)
            if "batchId" in ask:
                if not ledger.is_complete(ask["batchId"]):
                    raise Broken(f"the batch is not complete, and it {what}")
                if "read:runs" in ended.scopes and not (ended.batch and ended.batch["completedAt"]):
                    raise Broken(f"it was not told when the batch was complete, and {what}")


def _verify_final(
    stream: Stream, ended: Ended, id: str, states: list[State], ledger: Ledger, what: str
) -> None:
    """The stream was to be shown the run's final version before its end."""
    finals = [state for state in states if state["status"] in FINAL]
    own = id == stream.target
    if own and not finals:
        raise Broken(f"{id} is not final, and it {what}")
    if not finals or id in ledger.deleted or stream.partial:
        return
    if "jobRunId" in stream.ask and not own and finals[0]["workflowId"] is None:
        return  # a child that is no step may outlive the job run, and the stream with it
    # After its end a run's tags may still change, and with them what a token covers.
    if not all(stream.fits(state, ended.scopes) for state in finals):
        return
    had = ended.have.get(id)
    if had is None or had["version"] < finals[0]["version"]:
        had_version = None if had is None else had["version"]
        raise Broken(f"{id} is final by {finals[0]['version']} and not {had_version}, it {what}")


def problem(
    stream: Stream, scopes: frozenset[str], ledger: Ledger, committed: Mapping[str, int]
) -> str | None:
    """What it does not yet have as it must."""
    ask = stream.ask
    target = stream.target
    runs = ledger.now()
    if target is not None:
        now = runs.get(target)
        if now is None:
            return "its target is gone, and it does not end"
        if stream.stops and now["status"] in FINAL:
            return "it never ends"
    if "batchId" in ask:
        if stream.stops and ledger.is_complete(ask["batchId"]):
            return "it never ends"
        if stream.batch is None or stream.batch["counts"] != ledger.counts(ask["batchId"]):
            if "read:runs" in scopes:
                return f"the batch's progress is {stream.batch}"
        elif (stream.batch["sealedAt"] is not None) != (ask["batchId"] in ledger.sealed):
            return f"the batch's seal is {stream.batch}"
    truth = {id: state for id, state in runs.items() if stream.fits(state, scopes)}
    for id, state in truth.items():
        had = stream.have.get(id)
        if had is None:
            if stream.base is not None and committed.get(id, 0) <= stream.base:
                continue
            return f"{id} is missing, version {state['version']}"
        expected = {name: value for name, value in state.items() if name not in stream.skip}
        if had != expected:
            wrong = [name for name in expected if had.get(name) != expected[name]]
            return f"{id} is at {had['version']} and not {state['version']}, wrong in {wrong}"
    for id in stream.have:
        if id not in truth:
            return f"{id} has left, and the client still has it"
    return None
