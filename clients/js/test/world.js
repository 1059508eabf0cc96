/** A world without a network or a clock, which a test plays. */

import { Runstream } from "../src/index.js";
import { AT, welcome } from "./builders.js";

/** @import {ClientOptions} from "../src/types.js" */

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
