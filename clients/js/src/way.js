/** By which way to connect: a WebSocket, or server-sent events where none gets through. */

/** @import {Transport} from "./effects.js" */
/** @import {Timing} from "./timing.js" */

export class Way {
  /** @type {Transport} */
  transport = "websocket";
  #canChange;
  #timing;
  // Tries in a row that something may have been in the way of.
  #blocked = 0;
  // A WebSocket has got through before; and: it was tried again after events showed the server there.
  #isOpen = false;
  #isProven = false;
  /** @type {number | undefined} Until then events are preferred. */
  #fallbackUntil;

  /** @param {Transport[] | undefined} transports @param {Timing} timing */
  constructor(transports, timing) {
    this.#timing = timing;
    this.#canChange = !transports || transports.length > 1;
    if (transports) this.transport = transports[0] ?? "websocket";
  }

  /** The one to try now. @param {number} now */
  choose(now) {
    if (!this.#canChange) return this.transport;
    const preferred = this.#fallbackUntil !== undefined && now < this.#fallbackUntil;
    if (this.#fallbackUntil !== undefined && !preferred) {
      // The other way is tried once more.
      this.#fallbackUntil = undefined;
      this.#blocked = this.#timing.fallbackAfter - 1;
    }
    // By turns, since it cannot be told what is in the way: something between, or the server
    // itself being away.
    const over = this.#blocked - this.#timing.fallbackAfter;
    this.transport = preferred || (over >= 0 && over % 2 === 0) ? "sse" : "websocket";
    return this.transport;
  }

  /** It could not be opened, or nobody answered on it. */
  blocked() {
    this.#blocked++;
  }

  /** It broke without a code. @param {boolean} wasWelcome Whether the server had said welcome on it. */
  broke(wasWelcome) {
    // One that never got as far as a word from the server may have something in its way; events
    // that did not get through either show that it is the server.
    const isMute = this.transport === "sse" ? this.#fallbackUntil === undefined : !wasWelcome;
    if (isMute) this.#blocked++;
  }

  /** The server has said welcome on it. */
  welcome() {
    // Events say so themselves, before anything was asked of the server.
    if (this.transport !== "websocket") return;
    this.#blocked = 0;
    this.#isOpen = true;
    this.#isProven = false;
  }

  /**
   * A subscription is live on it.
   *
   * @param {number} now
   * @returns {boolean} Whether to connect anew, to try the other way.
   */
  live(now) {
    if (this.transport !== "sse" || !this.#canChange) return false;
    if (this.#isOpen && !this.#isProven && this.#fallbackUntil === undefined) {
      // It may have been the server that was away; now that it is there the socket is tried once.
      this.#isProven = true;
      this.#blocked = this.#timing.fallbackAfter - 1;
      return true;
    }
    // They get through: the server is there, and they are preferred for a while.
    this.#fallbackUntil ??= now + this.#timing.fallbackMs;
    return false;
  }
}
