/** Runs and messages as the server has them, and a world without a network or a clock. */

import { Runstream } from "../src/index.js";

/** @import {ClientOptions} from "../src/types.js" */

export const AT = "2026-03-01T12:00:00.000000Z";

/** @param {string} [id] @param {number} [version] @param {object} [fields] @returns {any} A whole run. */
export function aRun(id = "run_1", version = 1, fields = {}) {
  return {
    id,
    version,
    number: 1,
    taskIdentifier: "send-invoice",
    status: "QUEUED",
    payload: { orderId: 42 },
    output: null,
    error: null,
    metadata: {},
    tags: [],
    batchId: null,
    parentRunId: null,
    position: null,
    createdAt: AT,
    updatedAt: AT,
    ...fields,
  };
}

/** @param {number} version @param {Record<string, any>} [fields] @param {string} [kind] */
export function aChange(version, fields = {}, kind = "change") {
  const run = { id: "run_1", version, status: "EXECUTING", taskIdentifier: "send-invoice", updatedAt: AT, ...fields };
  return { type: "change", ids: [1], kind, run };
}

/** @param {any} run */
export const anEnter = (run) => ({ type: "change", ids: [1], kind: "enter", run });
/** @param {any[]} runs */
export const aSnapshot = (...runs) => ({ type: "snapshot", id: 1, runs });
/** @param {string} [cursor] @param {object} [fields] */
export const live = (cursor = "c1", fields = {}) => ({
  type: "live",
  id: 1,
  cursor,
  resumed: false,
  truncated: false,
  ...fields,
});
/** @param {string} [reason] */
export const theEnd = (reason = "completed") => ({ type: "end", id: 1, reason });
/** @param {object} [fields] */
export const welcome = (fields = {}) => ({ type: "welcome", connectionId: "c", heartbeatS: 10, server: "s/1", ...fields });
/** @param {number} [final] */
export const aBatch = (final = 0) => ({
  id: "batch_1",
  createdAt: AT,
  sealedAt: AT,
  size: 3,
  final,
  counts: { COMPLETED: final, QUEUED: 3 - final },
  completedAt: final === 3 ? AT : null,
});

/** Time that passes when it is told to. */
export class FakeClock {
  time = 1_000;
  /** @type {Map<number, {at: number, call: () => void}>} */
  #timers = new Map();
  #last = 0;

  now = () => this.time;
  wall = () => Date.parse(AT) + this.time;

  /** @param {() => void} call @param {number} ms */
  setTimeout = (call, ms) => {
    this.#timers.set(++this.#last, { at: this.time + ms, call });
    return this.#last;
  };

  /** @param {number} timer */
  clearTimeout = (timer) => {
    this.#timers.delete(timer);
  };

  /** @param {number} ms */
  async pass(ms) {
    const until = this.time + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= until).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].call();
      await settled();
    }
    this.time = until;
  }
}

/** All that waits for nothing but its turn has had it. */
export const settled = () => new Promise((done) => setImmediate(done));

/** One side of a socket that a test plays the server of. */
export class FakeSocket {
  /** @type {((event: any) => any) | null} */
  onopen = null;
  /** @type {((event: any) => any) | null} */
  onmessage = null;
  /** @type {((event: any) => any) | null} */
  onclose = null;
  /** @type {((event: any) => any) | null} */
  onerror = null;
  /** @type {any[]} What the client has sent and nobody has looked at. */
  sent = [];
  isClosed = false;

  /** @param {string} url @param {string[]} protocols */
  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }
  /** @param {string} text */
  send(text) {
    for (const line of text.split("\n")) this.sent.push(JSON.parse(line));
  }
  close() {
    this.isClosed = true;
  }
  /** @param {any[]} messages */
  says(...messages) {
    this.onmessage?.({ data: messages.map((message) => JSON.stringify(message)).join("\n") });
  }
  opens(said = welcome()) {
    this.onopen?.({});
    this.says(said);
  }
  /** @param {number} [code] @param {string} [reason] */
  closes(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
  }
  taken() {
    return this.sent.splice(0);
  }
}

/** A client in a world that a test plays. @param {ClientOptions} [options] */
export function aWorld(options = {}) {
  const clock = new FakeClock();
  /** @type {FakeSocket[]} */
  const sockets = [];
  const runs = new Runstream({
    url: "http://test",
    clock,
    random: () => 0.5,
    WebSocket: class extends FakeSocket {
      /** @param {string} url @param {string[]} protocols */
      constructor(url, protocols) {
        super(url, protocols);
        sockets.push(this);
      }
    },
    fetch: async () => {
      throw new TypeError("no network");
    },
    ...options,
  });
  return {
    runs,
    clock,
    sockets,
    get socket() {
      const socket = sockets.at(-1);
      if (!socket) throw new Error("nobody has dialled");
      return socket;
    },
  };
}
