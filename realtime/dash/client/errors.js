/** What goes wrong, in one class. */

/**
 * Whatever this package throws. `code` is the protocol's word (`unauthorized`, `forbidden`,
 * `not_found`, `bad_request`, `conflict`, `too_many_requests`, `unavailable`, `outcome_unknown` …)
 * or one of the client's own: `closed`, `connection_lost`, `protocol`, `unsupported`.
 */
export class RunstreamError extends Error {
  /**
   * @param {string} code
   * @param {string} [message]
   * @param {{status?: number, details?: any, cause?: unknown}} [facts]
   */
  constructor(code, message, { status, details, cause } = {}) {
    super(message || code.replaceAll("_", " "), cause === undefined ? undefined : { cause });
    this.name = "RunstreamError";
    /** @type {string} */
    this.code = code;
    /** @type {number | undefined} The HTTP status, if it came over HTTP. */
    this.status = status;
    /** @type {any} The problem as the server sent it: `errors`, or the `run` of a conflict. */
    this.details = details;
  }
}
