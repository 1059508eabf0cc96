/** The token that a client shows, and where a fresh one comes from. */

import { RunstreamError } from "./errors.js";

/** @import {Clock} from "./types.js" */

// As long as a provider may take.
const PATIENCE_MS = 30_000;
// A provider mostly asks some server for the token, and that one may be away for a while, too:
// `fetch` then throws a TypeError.
const PASSING = ["TypeError", "AbortError", "TimeoutError", "NetworkError"];
const PASSING_CODES = ["connection_lost", "unavailable", "too_many_requests"];

/** Holds the present token; asks the provider once for all who need a fresh one. */
export class Credentials {
  /** @type {string | undefined} */
  token;
  /** @type {(() => string | Promise<string>) | undefined} */
  #provider;
  #clock;
  /** @type {Promise<string> | undefined} */
  #asking;

  /**
   * @param {string | (() => string | Promise<string>) | undefined} token
   * @param {Clock} clock
   */
  constructor(token, clock) {
    this.#clock = clock;
    if (typeof token === "function") this.#provider = token;
    else this.token = token || undefined;
  }

  get hasProvider() {
    return !!this.#provider;
  }

  /** The token to show; asks the provider if there is none yet. */
  async current() {
    return this.token === undefined && this.#provider ? this.fresh() : this.token;
  }

  /**
   * Another token than `stale`, from the provider, or from whoever asked it meanwhile. Throws
   * `unauthorized` if the provider fails; `connection_lost` if that may pass, or if it does not answer.
   *
   * @param {string} [stale]
   * @returns {Promise<string>}
   */
  async fresh(stale) {
    if (this.token !== undefined && this.token !== stale) return this.token;
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #ask() {
    if (!this.#provider) throw new RunstreamError("unauthorized", "the token is not accepted");
    let token;
    let watch;
    try {
      token = await Promise.race([
        this.#provider(),
        new Promise((_, fail) => {
          const silent = new RunstreamError("connection_lost", "the token provider does not answer");
          watch = this.#clock.setTimeout(() => fail(silent), PATIENCE_MS);
        }),
      ]);
    } catch (error) {
      if (error instanceof RunstreamError && isPassing(error)) throw error;
      const [code, what] = isPassing(error)
        ? ["connection_lost", "there is no token for now"]
        : ["unauthorized", "the token provider failed"];
      throw new RunstreamError(code, `${what}: ${error}`, { cause: error });
    } finally {
      this.#clock.clearTimeout(watch);
    }
    if (!token) throw new RunstreamError("unauthorized", "the token provider gave no token");
    this.token = token;
    return token;
  }
}

/**
 * Whether to ask the provider again is of use.
 *
 * @param {any} error
 */
export function isPassing(error) {
  return error instanceof RunstreamError
    ? PASSING_CODES.includes(error.code)
    : PASSING.includes(error?.name);
}
