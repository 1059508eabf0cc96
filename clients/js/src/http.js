/** The HTTP calls: retries what is safe to repeat, throws what was refused. */

import { RunstreamError } from "./errors.js";

/** @import {Credentials} from "./credentials.js" */
/** @import {Clock} from "./types.js" */

const TRIES = 4;
// As long as an answer may take that is not on its way.
const ANSWER_MS = 30_000;
const CODES = {
  400: "bad_request",
  401: "unauthorized",
  403: "forbidden",
  404: "not_found",
  409: "conflict",
  413: "payload_too_large",
  422: "unprocessable",
  429: "too_many_requests",
};

/**
 * @typedef {object} RequestOptions
 * @property {Record<string, any>} [query] Lists repeat the parameter.
 * @property {any} [body] Sent as JSON.
 * @property {string} [idempotencyKey] By which the server knows the repeat of a command; made if left out.
 * @property {AbortSignal} [signal]
 */

/** Makes calls to one server. */
export class Http {
  #base;
  #credentials;
  #fetch;
  #clock;
  #random;

  /**
   * @param {string} base
   * @param {Credentials} credentials
   * @param {{fetch: typeof globalThis.fetch, clock: Clock, random: () => number}} tools
   */
  constructor(base, credentials, { fetch, clock, random }) {
    this.#base = base;
    this.#credentials = credentials;
    this.#fetch = fetch;
    this.#clock = clock;
    this.#random = random;
  }

  // Browsers have `crypto.randomUUID` on secure pages only.
  #aKey() {
    return Array.from({ length: 4 }, () => this.#random().toString(36).slice(2)).join("");
  }

  /**
   * The answer's JSON; of anything else, the answer.
   *
   * @param {string} method
   * @param {string} path
   * @param {RequestOptions} [options]
   * @returns {Promise<any>}
   */
  async call(method, path, { query, body, idempotencyKey, signal } = {}) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (method !== "GET") headers["Idempotency-Key"] = idempotencyKey ?? this.#aKey();
    const init = { method, headers, body: body === undefined ? null : JSON.stringify(body) };
    let hasAsked = false;
    signal?.throwIfAborted();
    for (let tries = 1; ; tries++) {
      const token = await unlessAborted(this.#credentials.current(), signal);
      if (token !== undefined) headers.Authorization = `Bearer ${token}`;
      let response;
      let waitMs = 0;
      const controller = new AbortController();
      const watch = this.#clock.setTimeout(() => controller.abort(new Error("no answer")), ANSWER_MS);
      try {
        response = await this.#fetch(this.#base + path + search(query), {
          ...init,
          signal: signal ? AbortSignal.any([signal, controller.signal]) : controller.signal,
        });
      } catch (error) {
        signal?.throwIfAborted();
        if (tries >= TRIES) {
          throw new RunstreamError("connection_lost", `the server cannot be reached: ${error}`, { cause: error });
        }
      } finally {
        this.#clock.clearTimeout(watch);
      }
      if (response?.ok) {
        return response.headers.get("content-type")?.includes("json") ? response.json() : response;
      }
      if (response) {
        const error = await refusal(response);
        if (error.code === "unauthorized" && this.#credentials.hasProvider && !hasAsked) {
          hasAsked = true;
          await unlessAborted(this.#credentials.fresh(token), signal);
          continue;
        }
        waitMs = 1000 * Number(response.headers.get("retry-after")) || 0;
        // One who asked too much is told, unless the server says when there is room again.
        const mayPass = error.status === 503 || (error.status === 429 && waitMs > 0);
        if (tries >= TRIES || !mayPass || waitMs > ANSWER_MS) throw error;
      }
      waitMs += 200 * 2 ** tries * (0.5 + this.#random() / 2);
      const pause = new Promise((done) => this.#clock.setTimeout(() => done(undefined), waitMs));
      await unlessAborted(pause, signal);
    }
  }
}

/**
 * What comes of the promise; throws the signal's reason, if that is aborted first.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<T>}
 */
function unlessAborted(promise, signal) {
  if (!signal) return promise;
  return new Promise((done, fail) => {
    const abort = () => fail(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(done, fail).finally(() => signal.removeEventListener("abort", abort));
  });
}

/**
 * The query of an address; lists repeat the parameter.
 *
 * @param {Record<string, any>} [query]
 */
export function search(query = {}) {
  const pairs = Object.entries(query).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : value === undefined ? [] : [value]).map((one) => [
      name,
      one instanceof Date ? one.toISOString() : String(one),
    ]),
  );
  return pairs.length ? `?${new URLSearchParams(pairs)}` : "";
}

/**
 * The error that an answer is.
 *
 * @param {Response} response
 */
export async function refusal(response) {
  const { status } = response;
  const problem = await response.json().catch(() => ({}));
  const code = problem.code ?? CODES[/** @type {400} */ (status)] ?? (status >= 500 ? "unavailable" : "bad_request");
  return new RunstreamError(code, problem.detail ?? problem.title ?? `the server answers ${status}`, {
    status,
    details: problem,
  });
}
