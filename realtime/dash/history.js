/** A run's history: read once, then followed as it grows. */

/** @import {Run, RunStatus} from "./client/types.js" */
/** @import {Runstream} from "./client/index.js" */

const PAGE = 1_000;
const MOST = 5_000;

/** @typedef {{version: number, at: number, status: RunStatus, attempt: number, fields: string[], error?: any}} Entry */

/** @typedef {{status: RunStatus, from: number, to: number | undefined, attempt: number}} Span */

export class History {
  /** @type {Entry[]} */
  entries = [];
  isTruncated = false;
  /** @type {unknown} */
  error;
  #isRead = false;
  /** @type {Run[]} What came while it was being read. */
  #waiting = [];

  /** @param {Runstream} client @param {string} id @param {AbortSignal} signal */
  async read(client, id, signal) {
    try {
      /** @type {number | null} */
      let afterVersion = 0;
      while (afterVersion !== null && this.entries.length < MOST) {
        const page = await client.request("GET", `/v1/runs/${encodeURIComponent(id)}/changes`, {
          query: { afterVersion, limit: PAGE },
          signal,
        });
        for (const { version, at, changed } of page.data) this.#add(version, at, changed);
        afterVersion = page.next;
      }
      this.isTruncated = afterVersion !== null;
    } catch (error) {
      if (signal.aborted) return;
      this.error = error;
    }
    this.#isRead = true;
    for (const run of this.#waiting) this.take(run);
    this.#waiting = [];
  }

  /** One version more, as it came. @param {Run} run @param {Run} [before] */
  take(run, before) {
    if (!this.#isRead) {
      this.#waiting.push(run);
      return;
    }
    const last = this.entries.at(-1);
    if (last && run.version <= last.version) return;
    const changed = Object.fromEntries(
      Object.entries(run).filter(([name, value]) => before && /** @type {any} */ (before)[name] !== value),
    );
    this.#add(run.version, run.updatedAt, { ...changed, status: run.status, attempt: run.attempt });
  }

  /** @param {number} version @param {string} at @param {any} changed */
  #add(version, at, changed) {
    const last = this.entries.at(-1);
    const { status = last?.status ?? "QUEUED", attempt = last?.attempt ?? 0, error } = changed;
    const fields = Object.keys(changed).filter((name) => name !== "updatedAt" && name !== "version");
    this.entries.push({ version, at: Date.parse(at), status, attempt, fields, error });
  }

  /** The entries at which the status changed. */
  get transitions() {
    return this.entries.filter(({ status }, n) => status !== this.entries[n - 1]?.status);
  }

  /** How long it was in which status. @returns {Span[]} */
  get spans() {
    const { transitions } = this;
    return transitions.map(({ status, at, attempt }, n) => ({ status, attempt, from: at, to: transitions[n + 1]?.at }));
  }
}
