/** A run as the client gives it: the fields that came, and what follows from its status. */

/** @import {Run, RunStatus} from "./types.js" */

const QUEUED = ["WAITING_FOR_DEPLOY", "DELAYED", "QUEUED"];
const EXECUTING = ["EXECUTING", "REATTEMPTING"];
const FAILED = ["FAILED", "CRASHED", "INTERRUPTED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"];

// Getters of the prototype, so that a run still prints and serializes as what came.
class Fields {
  /** @type {RunStatus} */
  status = "QUEUED";

  get isQueued() {
    return QUEUED.includes(this.status);
  }
  get isExecuting() {
    return EXECUTING.includes(this.status);
  }
  get isWaiting() {
    return this.status === "FROZEN";
  }
  get isFinal() {
    return this.isSuccess || this.isCanceled || this.isFailed;
  }
  get isSuccess() {
    return this.status === "COMPLETED";
  }
  get isFailed() {
    return FAILED.includes(this.status);
  }
  get isCanceled() {
    return this.status === "CANCELED";
  }
}

/**
 * A run with these fields, laid over those of `held`.
 *
 * @param {Record<string, any>} fields
 * @param {Run} [held]
 * @returns {Run}
 */
export function runOf(fields, held) {
  return Object.assign(/** @type {any} */ (new Fields()), held, fields);
}
