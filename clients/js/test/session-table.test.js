/**
 * The tables of states and events in `docs/client-session.md` are what the session does: the same
 * page that the Python client's tests read. Each cell is tried.
 *
 * A page cannot set a header, so here the token is the first message and subscriptions follow
 * `welcome`; and it cannot see with which status a WebSocket was refused. Those cells are `OURS`.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { RunstreamError } from "../src/errors.js";
import { Inbox } from "../src/inbox.js";
import { Session } from "../src/session.js";
import { Stream } from "../src/stream.js";
import { AT, aBatch, aChange, anEnter, aRun, aSnapshot, live, theEnd, welcome } from "./builders.js";

/** @import {Effect} from "../src/effects.js" */

const PAGE = readFileSync(new URL("../../../docs/client-session.md", import.meta.url), "utf8");
const NOW = 1_000_000;
const EXPIRES = new Date(Date.parse(AT) + 10_000).toISOString();
const OPEN = ["OPEN", "DRAINING"];
const RESET = { type: "reset", id: 1, reason: "epoch" };

const OURS = /** @type {Record<string, string>} */ ({
  "a subscription, GREETING": "–",
  "the last one is dropped, GREETING": "IDLE: Hangup",
  "the socket is open, DIALING": "GREETING: send Authenticate",
  "`end` `token_expired`, `token_revoked`, GREETING": "–",
  "`welcome`, GREETING": "OPEN: send SubscribeToRuns",
});
const UNSEEN = ["429 or 503 instead", "401 instead", "403, or no such server"];

const ERRORS = /** @type {Record<string, string>} */ ({
  unauthorized: "Unauthorized",
  forbidden: "Forbidden",
  not_found: "NotFound",
  bad_request: "BadRequest",
  too_many_requests: "TooManyRequests",
  stream_ended: "StreamEnded",
  closed: "ClientClosed",
  protocol: "ProtocolError",
  fault: "RunstreamError",
});
const DONE = /** @type {Record<string, string>} */ ({ ask: "AskToken", dial: "Dial", hangUp: "Hangup", fetch: "Fetch" });
const TOLD = /** @type {Record<string, string>} */ ({
  enter: "Entered",
  change: "Changed",
  leave: "Left",
  batch: "BatchProgress",
  live: "Live",
  reset: "Reset",
  mark: "cursor",
});

/** A session in some state, with one stream unless the state has none. */
class Case {
  session = new Session({ hasProvider: true, random: () => 0.5, wall: () => Date.parse(AT) });
  stream = new Stream({ type: "subscribeToRuns" }, this.session.stats);

  constructor(buffer = 100) {
    this.stream.fill(new Inbox(false, buffer));
  }

  /** @param {any[]} messages */
  says(...messages) {
    return this.session.received(messages.map((message) => JSON.stringify(message)).join("\n"), NOW);
  }

  /** By what really happens before it. @param {string} state */
  bring(state) {
    const { session, stream } = this;
    if (state === "IDLE") return this;
    if (state === "CLOSED") {
      session.close();
      return this;
    }
    session.subscribe(stream, NOW);
    if (state === "ASKING") return this;
    session.tokenCame("first", NOW);
    if (state === "WAITING") {
      session.dialFailed("refused", NOW);
    } else if (state !== "DIALING") {
      session.opened(NOW);
      if (state !== "GREETING") this.says(welcome());
      if (state === "DRAINING") this.says({ type: "reconnect", afterMs: 60_000, reason: "draining" });
    }
    assert.equal(session.state, state);
    return this;
  }

  /** @param {string} state */
  bringStream(state) {
    this.bring("OPEN");
    if (state === "IDLE") this.says({ type: "error", id: 1, code: "unavailable", message: "" });
    if (state === "LIVE" || state === "PAUSED" || state === "ENDED") this.says(aSnapshot(aRun()), live());
    // A buffer of two: the snapshot's run and this one fill it.
    if (state === "PAUSED") this.says(anEnter(aRun("run_2")));
    if (state === "ENDED") this.says(theEnd());
    assert.equal(this.stream.state, state);
    this.drain();
    return this;
  }

  /** What was told; before `live` it waits for that, and is dropped with a lost connection. */
  drain() {
    const told = [];
    this.stream.inbox?.release();
    for (let entry; (entry = this.stream.inbox?.take()); ) told.push(TOLD[entry.kind] ?? entry.kind);
    return told;
  }

  /** What has followed, as the table writes it. @param {Effect[]} effects @param {boolean} isStream */
  cell(effects, isStream) {
    const { error, endReason } = this.stream;
    const state = isStream ? this.stream.state : this.session.state;
    const done = isStream ? this.drain() : [];
    for (const effect of effects) {
      if (effect.do === "send") {
        for (const { type } of effect.messages) done.push(`send ${type[0].toUpperCase()}${type.slice(1)}`);
      } else if (DONE[effect.do]) {
        done.push(DONE[effect.do] ?? "");
      }
    }
    if (error) done.push(`raise ${ERRORS[error.code] ?? error.code}`);
    else if (endReason && (isStream || state === "CLOSED")) done.push(`end ${endReason}`);
    return done.length ? `${state}: ${done.join(", ")}` : state;
  }
}

/** @typedef {(one: Case) => Effect[]} Event */

/** @param {any[]} messages @returns {Event} */
const says = (...messages) => (one) => one.says(...messages);
/** @param {number} [code] @returns {Event} */
const closes = (code) => (one) => one.session.closed(code, "", NOW);
/** That the time has come for which it waits in this state. @param {string[]} states @returns {Event} */
const at = (...states) => (one) =>
  one.session.tick(states.includes(one.session.state) ? (one.session.deadline ?? NOW) : NOW);

/** @type {Event} */
const tokenEndsSoon = (one) => {
  if (!OPEN.includes(one.session.state)) return [];
  one.says({ type: "authenticated", expiresAt: EXPIRES });
  return one.session.tick(NOW + 8_000);
};

/** @param {Event} then @returns {Event} */
const askedEarly = (then) => (one) => {
  if (!OPEN.includes(one.session.state)) return [];
  tokenEndsSoon(one);
  return then(one);
};

/** @param {Case} one */
function drop({ session, stream }) {
  stream.cut("unsubscribed");
  return session.unsubscribe(stream, NOW);
}

/** @type {Record<string, Event>} */
const CONNECTION = {
  "a subscription": (one) => {
    one.stream = new Stream({ type: "subscribeToRuns" }, one.session.stats);
    return one.session.subscribe(one.stream, NOW);
  },
  "the last one is dropped": drop,
  "a token": ({ session }) => session.tokenCame("second", NOW),
  "the token that was refused": ({ session }) => {
    if (session.state === "ASKING") {
      session.tokenCame("first", NOW);
      session.opened(NOW);
      session.closed(4401, "", NOW);
    }
    return session.tokenCame("first", NOW);
  },
  "no token for now": ({ session }) => session.tokenFailed(undefined, NOW),
  "no token for good": ({ session }) => session.tokenFailed(new RunstreamError("unauthorized"), NOW),
  "a token, asked for early": askedEarly(({ session }) => session.tokenCame("second", NOW)),
  "none for now, asked for early": askedEarly(({ session }) => session.tokenFailed(undefined, NOW)),
  "the socket is open": ({ session }) => session.opened(NOW),
  "it can't be opened": ({ session }) => session.dialFailed("refused", NOW),
  "`welcome`": says(welcome()),
  "`authenticated`": says({ type: "authenticated", expiresAt: null }),
  "`reconnect`": says({ type: "reconnect", afterMs: 500, reason: "draining" }),
  "`heartbeat`, `checkpoint`": says({ type: "checkpoint", cursor: "c2" }),
  "`stale`, `fresh`, `pong`": says({ type: "stale" }, { type: "fresh" }, { type: "pong" }),
  "`error` without an id": says({ type: "error", code: "bad_request", message: "" }),
  "`end` `token_expired`, `token_revoked`": says(theEnd("token_expired")),
  "an unknown message": says({ type: "news" }),
  "what can't be read": ({ session }) => session.received("{", NOW),
  "lost; 1001, 1006, 1012, 4408 …": closes(),
  "closed with 4429": closes(4429),
  "closed with 4401": closes(4401),
  "closed with 4400, 4402 to 4407": closes(4403),
  "the pause is over": at("WAITING"),
  "`afterMs` is over": ({ session }) => session.tick(session.state === "DRAINING" ? NOW + 60_000 : NOW),
  "no `welcome` for 10 s": at("GREETING"),
  "silence for 2 heartbeats": ({ session }) => (OPEN.includes(session.state) ? session.tick(NOW + 20_000) : []),
  "and for half a one more": ({ session }) => {
    if (!OPEN.includes(session.state)) return [];
    session.tick(NOW + 20_000);
    return session.tick(NOW + 25_000);
  },
  "the token ends soon": tokenEndsSoon,
  "no subscription for 30 s": (one) => {
    if (!OPEN.includes(one.session.state)) return [];
    one.session.unsubscribe(one.stream, NOW);
    return one.session.tick(/** @type {number} */ (one.session.deadline));
  },
  "the client itself fails": ({ session }) => session.breakOff(new RunstreamError("fault")),
  "`aclose`": ({ session }) => session.close(),
};

/** @param {any} [run] @returns {Event} */
const fetched = (run) => (one) => {
  one.says(aChange(3, { id: "run_9" }));
  one.drain();
  return one.session.fetched("run_9", run, NOW);
};

/** @type {Record<string, Event>} */
const STREAM = {
  "`snapshot`": says(aSnapshot(aRun(), aRun("run_2"))),
  "`live`": says(live("c2")),
  "`change` `enter`": says(anEnter(aRun("run_3"))),
  "`change`, newer": says(aChange(2)),
  "`change`, a repeat": says(aChange(1)),
  "`change` of a run that is not held": says(aChange(3, { id: "run_9" })),
  "that run": fetched(aRun("run_9", 3)),
  "that run, too old": fetched(aRun("run_9", 2)),
  "no such run": fetched(),
  "`change` `leave`": says(aChange(2, {}, "leave")),
  "`leave`, older": says(aChange(0, {}, "leave")),
  "`leave` of a run that is not held": says(aChange(2, { id: "run_9" }, "leave")),
  "`batch`": says({ type: "batch", id: 1, batch: aBatch() }),
  "`checkpoint`, `heartbeat`": says({ type: "checkpoint", cursor: "c2" }),
  "`reset`": says(RESET),
  "`reset`, then `live` without what is held": says(RESET, live("c2")),
  "the same, and `live` is truncated": says(RESET, live("c2", { truncated: true })),
  "`end` `completed`, `deleted`": says(theEnd()),
  "`end` `not_found`": says(theEnd("not_found")),
  "`end` `forbidden`": says(theEnd("forbidden")),
  "`end` `unsubscribed`, or a new word": says(theEnd("unsubscribed")),
  "`error` `unavailable`": says({ type: "error", id: 1, code: "unavailable", message: "" }),
  "`error` `too_many_requests`": says({ type: "error", id: 1, code: "too_many_requests", message: "" }),
  "another `error`": says({ type: "error", id: 1, code: "bad_request", message: "" }),
  "it is time to ask again": ({ session, stream }) => session.tick(stream.retryAt ?? NOW + 1_000),
  "the inbox is full": (one) => {
    const effects = one.says(...[5, 6, 7].map((n) => anEnter(aRun(`run_${n}`))));
    one.drain();
    return effects;
  },
  "the caller has caught up": ({ session, stream }) => session.drained(stream),
  "the connection is lost": (one) => closes()(one).filter((effect) => effect.do === "send"),
  "the caller drops it": drop,
};

/** The table whose first heading is this. @param {string} first */
function written(first) {
  const lines = PAGE.split("\n");
  const start = lines.findIndex((line) => line.startsWith(`| ${first} |`));
  const cells = (/** @type {number} */ n) => (lines[n] ?? "").split("|").slice(1, -1).map((cell) => cell.trim());
  const [, ...states] = cells(start);
  /** @type {Map<string, string[]>} */
  const rows = new Map();
  for (let n = start + 2; lines[n]?.startsWith("|"); n++) {
    const [event = "", ...row] = cells(n);
    assert.equal(row.length, states.length, event);
    rows.set(event, row);
  }
  return { states, rows };
}

for (const [first, events] of /** @type {const} */ ([
  ["connection", CONNECTION],
  ["stream", STREAM],
])) {
  const isStream = first === "stream";
  const { states, rows } = written(first);

  test(`every event of the ${first} is tried`, () => {
    assert.ok(rows.size > 20 && states.length >= 5);
    const untried = [...rows.keys()].filter((event) => !events[event]);
    assert.deepEqual(untried, isStream ? [] : UNSEEN);
    assert.deepEqual(Object.keys(events).filter((event) => !rows.has(event)), []);
  });

  for (const [n, state] of states.entries()) {
    test(`${first} in ${state}`, () => {
      /** @type {Record<string, string>} */
      const observed = {};
      /** @type {Record<string, string>} */
      const said = {};
      for (const [event, happens] of Object.entries(events)) {
        const cell = OURS[`${event}, ${state}`] ?? rows.get(event)?.[n] ?? "missing";
        said[event] = cell === "–" ? state : cell;
        const isFull = event === "the inbox is full";
        const one = new Case(!isStream ? 100 : state === "PAUSED" || (isFull && state !== "LIVE") ? 2 : isFull ? 3 : 100);
        if (isStream) one.bringStream(state);
        else one.bring(state);
        const cellNow = one.cell(happens(one), isStream);
        // One that was over before tells again how it ended; nothing has followed.
        observed[event] = state === "ENDED" && cellNow === "ENDED: end completed" ? "ENDED" : cellNow;
      }
      assert.deepEqual(observed, said);
    });
  }
}

test("without a provider a refused token is told at once", () => {
  for (const event of [closes(4401), says(theEnd("token_expired"))]) {
    const one = new Case();
    one.session = new Session({ token: "fixed", random: () => 0.5, wall: () => 0 });
    one.session.subscribe(one.stream, NOW);
    one.session.opened(NOW);
    one.says(welcome());
    assert.match(one.cell(event(one), false), /^IDLE/);
    assert.equal(one.stream.error?.code, "unauthorized");
  }
});
