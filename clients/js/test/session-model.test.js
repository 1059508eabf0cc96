/**
 * Whatever happens in whatever order, a subscriber of `every` is told each version once, in order.
 *
 * A model of a server with runs, a log and cursors plays against the session: it cuts connections,
 * repeats what came after the last cursor, begins another history, sends runs away and back, and the
 * loop is slow. In the end the subscriber must have exactly what the server has.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Inbox } from "../src/inbox.js";
import { Session } from "../src/session.js";
import { Stream } from "../src/stream.js";
import { aChange, aRun } from "./builders.js";

/** @import {Effect} from "../src/effects.js" */

const SEEDS = Number(process.env.SEEDS ?? 300);
const STEPS = 120;
const RUNS = ["run_a", "run_b", "run_c"];

/** Chance that comes again with its seed (mulberry32). @param {number} seed */
function chance(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

class Play {
  time = 0;
  epoch = 0;
  /** @type {{id: string, version: number, before: boolean, matches: boolean}[]} */
  log = [];
  /** @type {Map<string, {version: number, matches: boolean}>} */
  truth = new Map();
  place = 0;
  isConnected = false;
  isLive = false;
  /** @type {any} */
  wish;
  /** @type {string[]} */
  fetches = [];
  /** @type {Map<string, number>} What the subscriber has. */
  held = new Map();
  /** @type {Map<string, number>} The newest version that was told of each in this history. */
  newest = new Map();
  told = 0;

  /** @param {() => number} random */
  constructor(random) {
    this.random = random;
    this.hasSnapshot = random() < 0.5;
    this.session = new Session({ random, wall: () => 0 });
    const wish = { type: "subscribeToRuns", ...(!this.hasSnapshot && { snapshot: false }) };
    this.stream = new Stream(wish, this.session.stats, random() < 0.3 ? 2 : 100);
    this.inbox = new Inbox(false, [2, 5, 100][Math.floor(random() * 3)] ?? 2);
    this.stream.fill(this.inbox);
    // There is something already; without a snapshot it is read over HTTP as it changes.
    for (let n = 0; n < 6; n++) this.change();
    this.perform(this.session.subscribe(this.stream, 0));
    this.connect();
    if (random() < 0.7) this.join();
  }

  /** @param {Effect[]} effects */
  perform(effects) {
    for (const effect of effects) {
      if (effect.do === "send") for (const message of effect.messages) this.sent(message);
      else if (effect.do === "hangUp") this.cut(false);
      else if (effect.do === "fetch") this.fetches.push(effect.id);
    }
  }

  /** @param {any} message */
  sent(message) {
    if (message.type === "subscribeToRuns") {
      this.wish = message;
      this.isLive = false;
    } else if (message.type === "unsubscribe") {
      if (this.wish?.id === message.id) this.wish = undefined;
      this.say({ type: "end", id: message.id, reason: "unsubscribed" });
    }
  }

  /** @param {any[]} messages */
  say(...messages) {
    if (!this.isConnected || !messages.length) return;
    this.perform(this.session.received(messages.map((message) => JSON.stringify(message)).join("\n"), this.time));
  }

  // What the world does

  connect() {
    for (let n = 0; n < 20 && !this.isConnected; n++) {
      if (this.session.state === "DIALING") {
        this.isConnected = true;
        this.perform(this.session.opened(this.time));
        this.say({ type: "welcome", heartbeatS: 15 });
      } else {
        this.time = Math.max(this.time, this.session.deadline ?? this.time);
        this.perform(this.session.tick(this.time));
      }
    }
    assert.ok(this.isConnected, `it does not connect: ${this.session.state}`);
  }

  /** @param {boolean} [tells] */
  cut(tells = true) {
    const wasConnected = this.isConnected;
    this.isConnected = this.isLive = false;
    this.wish = undefined;
    if (tells && wasConnected) this.perform(this.session.closed(1006, "", this.time));
  }

  /** The answer to a subscription; or its beginning, and a cut. @param {number} [cutAt] */
  join(cutAt = Infinity) {
    const { wish } = this;
    if (!wish || this.isLive) return;
    const messages = [];
    const place = this.place;
    const [epoch, seen] = wish.cursor?.split(":").map(Number) ?? [];
    const resumed = epoch === this.epoch;
    if (resumed) {
      this.place = seen;
      messages.push(...this.owed());
    } else {
      if (wish.cursor) messages.push({ type: "reset", id: wish.id, reason: "epoch" });
      this.place = this.log.length;
      const runs = [...this.truth].filter(([, { matches }]) => matches).map(([id, { version }]) => this.whole(id, version));
      if (wish.cursor || wish.snapshot !== false) messages.push({ type: "snapshot", id: wish.id, runs });
    }
    messages.push({ type: "live", id: wish.id, cursor: this.cursor, resumed, truncated: false });
    this.isLive = true;
    this.say(...messages.slice(0, cutAt));
    if (cutAt < messages.length) {
      this.place = place;
      this.cut();
    }
  }

  get cursor() {
    return `${this.epoch}:${this.place}`;
  }

  /** @param {string} id @param {number} version */
  whole(id, version) {
    return aRun(id, version, { status: "EXECUTING", metadata: { v: version } });
  }

  /** The changes that the connection was not sent, each with what it means for the filter. */
  owed() {
    const messages = [];
    for (const { id, version, before, matches } of this.log.slice(this.place)) {
      const kind = matches ? (before ? "change" : "enter") : before ? "leave" : undefined;
      if (!kind) continue;
      const run = kind === "enter" ? this.whole(id, version) : aChange(version, { id, ...(matches && { metadata: { v: version } }) }).run;
      messages.push({ type: "change", ids: [this.wish?.id ?? 1], kind, run });
    }
    this.place = this.log.length;
    return messages;
  }

  change() {
    const id = RUNS[Math.floor(this.random() * RUNS.length)] ?? "";
    const { version, matches: before } = this.truth.get(id) ?? { version: 0, matches: false };
    const matches = this.random() < 0.8;
    this.truth.set(id, { version: version + 1, matches });
    this.log.push({ id, version: version + 1, before, matches });
  }

  deliver() {
    if (!this.isConnected || !this.isLive || !this.wish) return;
    this.say(...this.owed());
    if (this.isLive && this.wish && this.random() < 0.5) this.say({ type: "checkpoint", cursor: this.cursor });
  }

  anotherHistory() {
    this.cut();
    this.epoch++;
    this.log = [];
    for (const [id, { matches }] of this.truth) this.truth.set(id, { version: 1, matches });
  }

  /** @param {boolean} isLate */
  fetch(isLate) {
    const id = this.fetches.shift();
    if (!id) return;
    const { version } = this.truth.get(id) ?? assert.fail();
    // A read may be of a moment ago.
    this.perform(this.session.fetched(id, this.whole(id, isLate ? Math.max(1, version - 1) : version), this.time));
  }

  // What the subscriber does

  takeOne() {
    const entry = this.inbox.take();
    if (!entry) return false;
    if (entry.kind === "reset") {
      this.held.clear();
      this.newest.clear();
    } else if (entry.kind === "leave") {
      this.held.delete(entry.run.id);
    } else if ("run" in entry) {
      const { id, version, metadata } = entry.run;
      assert.deepEqual(metadata, { v: version });
      const had = this.held.get(id);
      if (entry.kind === "change") {
        // Also after a snapshot that was cut off: nothing of it was given.
        assert.equal(version, (had ?? NaN) + 1, `${id}: ${had}, then ${version}`);
      } else {
        assert.equal(had, undefined, `${id} is there, and enters`);
      }
      // One that was read ahead, and left, enters as what was told already.
      assert.ok(version >= (this.newest.get(id) ?? 0), `${id}: ${version} is older than what was told`);
      this.newest.set(id, version);
      this.held.set(id, version);
      this.told++;
    }
    return true;
  }

  take(count = Infinity) {
    for (let n = 0; n < count && this.takeOne(); n++);
    if (this.stream.state === "PAUSED" && this.inbox.isLow) this.perform(this.session.drained(this.stream));
  }

  step() {
    const what = this.random();
    if (what < 0.35) {
      for (let n = this.random() * 5; n > 0; n--) this.change();
      if (this.random() < 0.7) this.deliver();
    } else if (what < 0.45) {
      if (this.random() < 0.3) this.say({ type: "reconnect", afterMs: 100, reason: "draining" });
      this.deliver();
      this.cut();
    } else if (what < 0.65) {
      this.connect();
      this.join(this.random() < 0.3 ? Math.floor(this.random() * 4) : undefined);
    } else if (what < 0.67) {
      this.anotherHistory();
    } else if (what < 0.75) {
      this.fetch(this.random() < 0.3);
    } else {
      this.take(1 + Math.floor(this.random() * 8));
    }
  }

  /** When all has calmed down, the subscriber has exactly what the server has. */
  settle() {
    for (let n = 0; n < 20; n++) {
      this.connect();
      this.join();
      this.deliver();
      // What was asked for in another history is too old for ever, until that is told.
      for (let n = this.fetches.length; n > 0; n--) this.fetch(false);
      this.take();
    }
    assert.equal(this.stream.state, "LIVE");
    assert.equal(this.session.stats.gaps, 0);
    const matching = [...this.truth].filter(([, { matches }]) => matches);
    for (const [id, { version }] of matching) {
      const had = this.held.get(id);
      // Without a snapshot, what has not changed since is not known.
      if (this.hasSnapshot || had !== undefined) assert.equal(had, version, id);
    }
    for (const id of this.held.keys()) assert.ok(this.truth.get(id)?.matches, `${id} has left`);
    const { told } = this;
    this.told = 0;
    return told;
  }
}

test(`each version is told once and in order, in ${SEEDS} random histories`, () => {
  let told = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const play = new Play(chance(seed));
    try {
      // Once early, while much of it is new, and once late.
      for (const steps of [15, STEPS]) {
        for (let n = 0; n < steps; n++) play.step();
        told += play.settle();
      }
    } catch (error) {
      throw new Error(`seed ${seed}: ${error}`, { cause: error });
    }
  }
  assert.ok(told > SEEDS * 20, "something happened");
});
