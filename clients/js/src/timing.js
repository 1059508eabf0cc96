/** How patient the session is. */

/** In milliseconds, but for counts and shares. */
export const TIMING = {
  baseDelayMs: 100,
  maxDelayMs: 10_000,
  // For a server that says it is too busy: coming back quickly would make it worse.
  busyBaseDelayMs: 1_000,
  busyMaxDelayMs: 60_000,
  dialMs: 10_000,
  greetingMs: 10_000,
  // After so many heartbeats of silence the server is asked, and half a heartbeat later it is gone.
  silentHeartbeats: 2,
  graceHeartbeats: 0.5,
  minGraceMs: 500,
  // With no subscription left the connection is kept a little, in case of another.
  lingerMs: 5_000,
  // A token is replaced when this part of its life is over, or when so little is left.
  refreshAt: 0.8,
  refreshBeforeMs: 30_000,
  busyRetries: 5,
  // So many failures of a WebSocket before server-sent events are tried, and how long those are
  // then preferred.
  fallbackAfter: 2,
  fallbackMs: 600_000,
};

/** @typedef {typeof TIMING} Timing */

/** How long to wait before the next try: longer with each failure, and by chance. */
export class Backoff {
  #timing;
  #random;
  #failures = 0;

  /** @param {Timing} timing @param {() => number} random */
  constructor(timing, random) {
    this.#timing = timing;
    this.#random = random;
  }

  /** It works again: the next failure is the first. */
  reset() {
    this.#failures = 0;
  }

  /** The pause after one more failure. */
  next(busy = false) {
    return this.after(this.#failures++, busy);
  }

  /** The pause after so many failures; `busy` if the server said that it is. @param {number} failures @param {boolean} busy */
  after(failures, busy) {
    const { baseDelayMs, maxDelayMs, busyBaseDelayMs, busyMaxDelayMs } = this.#timing;
    const full = Math.min(
      busy ? busyMaxDelayMs : maxDelayMs,
      (busy ? busyBaseDelayMs : baseDelayMs) * 2 ** Math.min(failures, 30),
    );
    // Full jitter: of many who lost the same server, few come back at the same moment. One who
    // was told to stay away stays away for half of it at least.
    return full * (busy ? 0.5 + this.#random() / 2 : this.#random());
  }
}
