/** The token that a client shows, and where a fresh one comes from. */

import { RunstreamError } from "./errors.js";

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
  /** @type {Promise<string> | undefined} */
  #asking;

  /** @param {string | (() => string | Promise<string>)} [token] */
  constructor(token) {
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
   * Another token than `stale`, from the provider, or from whoever asked it meanwhile.
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
    try {
      token = await this.#provider();
    } catch (error) {
      if (isPassing(error)) throw error;
      throw new RunstreamError("unauthorized", `the token provider failed: ${error}`, { cause: error });
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
