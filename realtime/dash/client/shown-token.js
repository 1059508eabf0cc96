/** The token that the session shows: how long it holds, and which were refused. */

/** @import {Timing} from "./timing.js" */

// A provider whose every token is refused gives wrong ones.
const MOST_REFUSED = 3;

/** A fixed token, or the last one of a provider. */
export class ShownToken {
  value;
  hasProvider;
  /** Whether the provider has been asked for the next one, while this one still holds. */
  isAskedEarly = false;
  /** @type {number | undefined} When it should be. */
  refreshAt;
  #timing;
  #wall;
  /** @type {(string | undefined)[]} */
  #refused = [];
  /** @type {number | undefined} */
  #endsAt;

  /**
   * @param {string | undefined} value
   * @param {boolean} hasProvider
   * @param {Timing} timing
   * @param {() => number} wall
   */
  constructor(value, hasProvider, timing, wall) {
    this.value = value;
    this.hasProvider = hasProvider;
    this.#timing = timing;
    this.#wall = wall;
  }

  /** Whether the provider must be asked before there is anything to show. */
  get isNeeded() {
    return this.hasProvider && (this.value === undefined || this.wasRefused(this.value));
  }

  /** Whether the server has refused this one since it last accepted any. @param {string} token */
  wasRefused(token) {
    return this.#refused.includes(token);
  }

  /** The server refuses it. False if it is no use to ask for another. */
  refused() {
    this.#refused.push(this.value);
    return this.hasProvider && this.#refused.length < MOST_REFUSED;
  }

  /** The server accepts it, until then. @param {string | null | undefined} endsAt @param {number} now */
  accepted(endsAt, now) {
    this.#refused = [];
    this.#endsAt = this.refreshAt = undefined;
    if (!endsAt || !this.hasProvider) return;
    // The only place where the wall clock counts: the server says a time of day.
    const left = Date.parse(endsAt) - this.#wall();
    // It was accepted just now, so where nothing is left it is our clock that is wrong. The
    // server will say when it is over.
    if (!(left > 0)) return;
    const { refreshBeforeMs, refreshAt } = this.#timing;
    this.#endsAt = now + left;
    this.refreshAt = now + left - Math.min(refreshBeforeMs, left * (1 - refreshAt));
  }

  /** The provider is being asked for the next one. */
  askEarly() {
    this.refreshAt = undefined;
    this.isAskedEarly = true;
  }

  /** There is no other for now: half of what is left may pass until the next try. @param {number} now */
  stays(now) {
    this.isAskedEarly = false;
    this.refreshAt = now + Math.max(1_000, ((this.#endsAt ?? now) - now) / 2);
  }

  /** This is the one to show from now on. @param {string} token */
  replaced(token) {
    this.isAskedEarly = false;
    this.value = token;
  }

  /** The connection on which it was shown is gone. */
  lost() {
    this.refreshAt = undefined;
    this.isAskedEarly = false;
  }

  /** What was refused is forgotten; whoever subscribes next starts with a fresh one. */
  startAnew() {
    this.#refused = [];
    if (this.hasProvider) this.value = undefined;
  }
}
