/** What comes over the wire, measured: messages, changes a second, and how old they are. */

/** @import {Runstream} from "./client/index.js" */

const KEPT = 500;
const SECONDS = 120;

/** @typedef {{n: number, at: number, direction: "in" | "out", text: string}} Message */

export class Feed {
  /** @type {Message[]} The last ones, the newest at the end. */
  messages = [];
  isPaused = false;
  /** Changes in each of the last seconds. */
  rates = new Array(SECONDS).fill(0);
  /** @type {number | undefined} In milliseconds: how old the newest changes were. */
  lag;
  heardAt = 0;

  #count = 0;
  #changesBefore = 0;
  /** @type {number[]} */
  #lags = [];
  // How far the server's clock seems to be ahead of ours.
  #skew = 0;

  /** @param {"in" | "out"} direction @param {string} text */
  trace = (direction, text) => {
    const at = Date.now();
    if (direction === "in") {
      this.heardAt = at;
      this.#measure(text, at);
    }
    this.#count++;
    if (this.isPaused) return;
    if (text.startsWith('{"type":"authenticate"')) text = '{"type":"authenticate","token":"…"}';
    this.messages.push({ n: this.#count, at, direction, text });
    if (this.messages.length > KEPT * 2) this.messages.splice(0, KEPT);
  };

  /** A second is over. @param {Runstream} client */
  tick(client) {
    const { changes } = client.stats;
    this.rates.push(changes - this.#changesBefore);
    this.rates.shift();
    this.#changesBefore = changes;
    if (this.#lags.length) {
      const sorted = this.#lags.sort((a, b) => a - b);
      this.lag = Math.max(0, sorted[sorted.length >> 1] ?? 0);
      this.#lags = [];
    }
  }

  clear() {
    this.messages = [];
  }

  // Of each message that brings changes, the last of them: enough to tell, and cheap.
  /** @param {string} text @param {number} at */
  #measure(text, at) {
    if (!text.includes('"kind":"')) return;
    const found = text.lastIndexOf('"updatedAt":"');
    if (found < 0) return;
    const age = at - Date.parse(text.slice(found + 13, found + 13 + 27));
    // What came before it was made was made by a clock that is ahead.
    if (age < -this.#skew) this.#skew = -age;
    if (age < 60_000) this.#lags.push(age + this.#skew);
  }
}
