/** Whether the server still lives: it says something with each heartbeat, or is asked. */

/** @import {Timing} from "./timing.js" */

export class Pulse {
  #timing;
  #heartbeatMs = 15_000;
  /** When something came last. */
  heardAt = 0;
  /** @type {number | undefined} Since when an answer is waited for. */
  doubtedAt;

  /** @param {Timing} timing */
  constructor(timing) {
    this.#timing = timing;
  }

  /** Something has come. @param {number} now */
  heard(now) {
    this.heardAt = now;
    this.doubtedAt = undefined;
  }

  /** How often the server says something. @param {number} heartbeatS */
  beats(heartbeatS) {
    this.#heartbeatMs = heartbeatS * 1000;
  }

  /** When it has been silent for too long: to be asked, or, if it was, to be taken for gone. */
  get silentAt() {
    const { minGraceMs, graceHeartbeats, silentHeartbeats } = this.#timing;
    return this.doubtedAt === undefined
      ? this.heardAt + silentHeartbeats * this.#heartbeatMs
      : this.doubtedAt + Math.max(minGraceMs, graceHeartbeats * this.#heartbeatMs);
  }
}
