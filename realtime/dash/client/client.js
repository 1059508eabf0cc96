/** The client: subscriptions over one connection, and a few calls. */

import { call } from "./callbacks.js";
import { Connection } from "./connection.js";
import { Credentials } from "./credentials.js";
import { Http } from "./http.js";
import { runOf } from "./run.js";
import { Subscription } from "./subscription.js";

/** @import {RequestOptions} from "./http.js" */
/** @import {State, Transport} from "./effects.js" */
/** @import {Stream} from "./stream.js" */
/**
 * @import {BatchValue, ClientOptions, Clock, JobRunValue, Run, RunValue, RunsOptions, RunsValue,
 *   Stats, StreamOptions, TagOptions} from "./types.js"
 */

/**
 * How the connection stands.
 *
 * @typedef {object} ConnectionValue
 * @property {State} state
 * @property {Transport} transport
 * @property {boolean} isStale Connected to a server that can't read its store just now.
 * @property {string | undefined} lastError
 * @property {string | undefined} server Its name and version.
 */

/** @type {Clock} */
const CLOCK = {
  now: () => performance.now(),
  wall: () => Date.now(),
  setTimeout: (call, ms) => setTimeout(call, ms),
  clearTimeout: (timer) => clearTimeout(timer),
};

/**
 * ```js
 * const runs = new Runstream({ url: "http://localhost:8080", token });
 * for await (const run of runs.subscribeToRun(id)) console.log(run.status, run.metadata.progress);
 * ```
 *
 * One connection carries all subscriptions. It opens with the first, comes back for ever, and goes on
 * where it was.
 */
export class Runstream {
  #connection;
  #http;
  /** @type {Set<(value: ConnectionValue) => void>} */
  #callbacks = new Set();
  /** @type {ConnectionValue | undefined} */
  #value;

  /** @param {ClientOptions} [options] */
  constructor({
    url = globalThis.location?.origin,
    token,
    WebSocket = globalThis.WebSocket,
    fetch = (...request) => globalThis.fetch(...request),
    clock = CLOCK,
    random = Math.random,
    sleepAfterMs = 300_000,
    timing,
    trace,
  } = {}) {
    if (!url) throw new TypeError("outside of a page, url must be given");
    const address = new URL(url, globalThis.location?.href);
    if (!/^https?:$/.test(address.protocol)) throw new TypeError(`${address} is no http address`);
    const base = address.origin + address.pathname.replace(/\/+$/, "");
    const credentials = new Credentials(token, clock);
    this.#http = new Http(base, credentials, { fetch, clock, random });
    this.#connection = new Connection(
      base,
      credentials,
      (id) => this.request("GET", `/v1/runs/${encodeURIComponent(id)}`),
      { WebSocket, fetch, clock, random, sleepAfterMs, timing, trace },
      () => this.#told(),
    );
  }

  // Subscriptions

  /**
   * The run as it stands, then each change, until it is final.
   *
   * @template [P=any]
   * @template [O=any]
   * @param {string} runId
   * @param {StreamOptions} [options]
   * @returns {Subscription<RunValue<P, O>, Run<P, O>>}
   */
  subscribeToRun(runId, options) {
    return this.#subscription({ type: "subscribeToRun", runId }, options, ({ shown }) => ({
      run: shown.get(runId),
    }));
  }

  /**
   * All runs with this tag, or with these: with all of them, or, with `match: "any"`, one of them.
   *
   * @template [P=any]
   * @template [O=any]
   * @param {string | string[]} tags
   * @param {TagOptions} [options]
   * @returns {Subscription<RunsValue<P, O>, Run<P, O>>}
   */
  subscribeToRunsWithTag(tags, options) {
    const wish = { type: "subscribeToRunsWithTag", tags: typeof tags === "string" ? [tags] : [...tags] };
    return this.#subscription(wish, options, manyOf);
  }

  /**
   * The runs of a batch, and how far it is, until it is complete.
   *
   * @template [P=any]
   * @template [O=any]
   * @param {string} batchId
   * @param {RunsOptions} [options]
   * @returns {Subscription<BatchValue<P, O>, Run<P, O>>}
   */
  subscribeToBatch(batchId, options) {
    return this.#subscription({ type: "subscribeToBatch", batchId }, options, (stream) => ({
      ...manyOf(stream),
      batch: stream.batch,
    }));
  }

  /**
   * A job run and its workflow runs, until it is final; `not_found` also for a run that is none.
   *
   * @template [P=any]
   * @template [O=any]
   * @param {string} jobRunId
   * @param {StreamOptions} [options]
   * @returns {Subscription<JobRunValue<P, O>, Run>}
   */
  subscribeToJobRun(jobRunId, options) {
    return this.#subscription({ type: "subscribeToJobRun", jobRunId }, options, ({ shown }) => ({
      run: shown.get(jobRunId),
      runs: [...shown.values()]
        .filter((run) => run.id !== jobRunId)
        .sort((a, b) => (a.position ?? 0) - (b.position ?? 0)),
    }));
  }

  /**
   * All runs of the project, or those that the filters let through.
   *
   * @template [P=any]
   * @template [O=any]
   * @param {RunsOptions} [options]
   * @returns {Subscription<RunsValue<P, O>, Run<P, O>>}
   */
  subscribeToRuns(options) {
    return this.#subscription({ type: "subscribeToRuns" }, options, manyOf);
  }

  // Calls

  /**
   * Makes a run. With a token for it, or a key; neither belongs into a page that others see.
   *
   * @param {string} taskIdentifier
   * @param {any} [payload]
   * @param {{tags?: string[], metadata?: object, idempotencyKey?: string, [field: string]: any}} [options]
   * @returns {Promise<Run>}
   */
  async trigger(taskIdentifier, payload, options) {
    const body = { taskIdentifier, payload, ...options };
    return runOf(await this.request("POST", "/v1/runs", { body }));
  }

  /** @param {string} runId @returns {Promise<Run>} The run as it stands. */
  async get(runId) {
    return runOf(await this.request("GET", `/v1/runs/${encodeURIComponent(runId)}`));
  }

  /** @param {string} runId @returns {Promise<Run>} The run, canceled. */
  async cancel(runId) {
    return runOf(await this.request("POST", `/v1/runs/${encodeURIComponent(runId)}/cancel`));
  }

  /** @param {string} runId @returns {Promise<Run>} A new run of the same task with the same payload. */
  async replay(runId) {
    return runOf(await this.request("POST", `/v1/runs/${encodeURIComponent(runId)}/replay`));
  }

  /**
   * Any call of the HTTP API: the answer's JSON. Reads, and commands by their key, are tried again
   * where that is safe.
   *
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<any>}
   */
  request(method, path, options) {
    return this.#http.call(method, path, options);
  }

  // The connection

  /** @returns {Readonly<Stats>} */
  get stats() {
    return { ...this.#connection.session.stats };
  }

  /** How the connection stands, as a store. */
  connection = {
    /** @returns {ConnectionValue} */
    getSnapshot: () => {
      const { state, transport, isStale, lastError, server } = this.#connection.session;
      return (this.#value ??= { state, transport, isStale, lastError, server });
    },
    /** @param {(value: ConnectionValue) => void} callback @returns {() => void} */
    subscribe: (callback) => {
      const own = (/** @type {ConnectionValue} */ value) => callback(value);
      this.#callbacks.add(own);
      call(own, this.connection.getSnapshot());
      return () => {
        this.#callbacks.delete(own);
      };
    },
  };

  /** Ends all subscriptions and closes the connection, for good. */
  close() {
    this.#connection.close();
  }

  #told() {
    this.#value = undefined;
    for (const callback of this.#callbacks) call(callback, this.connection.getSnapshot());
  }

  /**
   * @param {{type: string, [field: string]: any}} wish
   * @param {TagOptions | undefined} options
   * @param {(stream: Stream) => any} shape
   * @returns {Subscription<any, any>}
   */
  #subscription(wish, { signal, buffer, ...fields } = {}, shape) {
    // Dates become times of the protocol, and what is undefined is left out.
    const full = JSON.parse(JSON.stringify({ ...wish, ...fields }));
    return new Subscription(this.#connection, full, shape, { signal, buffer });
  }
}

/** @param {Stream} stream */
function manyOf({ shown, truncated }) {
  // Ids begin with the time. Nearly in order already, so this is quick.
  const runs = [...shown.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  return { runs, truncated };
}
