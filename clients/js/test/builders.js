/** Runs and messages as the server has them. */

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
