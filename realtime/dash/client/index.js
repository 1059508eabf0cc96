/**
 * Live status, progress and output of background jobs, in the browser and in Node.
 *
 * @module
 */

export { Runstream } from "./client.js";
export { RunstreamError } from "./errors.js";
export { Subscription } from "./subscription.js";

/** @typedef {import("./client.js").ConnectionValue} ConnectionValue */
/** @typedef {import("./types.js").ClientOptions} ClientOptions */
/** @typedef {import("./types.js").Batch} Batch */
/** @typedef {import("./types.js").RunStatus} RunStatus */
/** @typedef {import("./types.js").RunsOptions} RunsOptions */
/** @typedef {import("./types.js").StreamOptions} StreamOptions */
/** @typedef {import("./types.js").StreamStatus} StreamStatus */
/** @typedef {import("./types.js").TagOptions} TagOptions */
/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {import("./types.js").Run<P, O>} Run
 */
/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {import("./types.js").RunValue<P, O>} RunValue
 */
/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {import("./types.js").RunsValue<P, O>} RunsValue
 */
/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {import("./types.js").BatchValue<P, O>} BatchValue
 */
/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {import("./types.js").JobRunValue<P, O>} JobRunValue
 */
/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {import("./types.js").Change<P, O>} Change
 */
