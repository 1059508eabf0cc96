/** What has come for a loop and has not been taken yet. */

/** @import {Change} from "./types.js" */

/** @typedef {{kind: "mark", cursor: string}} Mark All before it has been taken when it is reached. */
/** @typedef {Change | Mark} Entry */

/**
 * A queue that knows its bound, and conflates under `latest`. Who fills it looks at `isFull`:
 * what to do about it (stop listening, go on later) is no business of a queue.
 */
export class Inbox {
  #conflating;
  #most;
  /** @type {(Entry | undefined)[]} */
  #entries = [];
  #head = 0;
  #changes = 0;
  /** @type {Map<string, number>} Where an untaken change of a run is, under `latest`. */
  #owed = new Map();
  /** From this entry on nothing is given yet. */
  #kept = Infinity;

  /**
   * @param {boolean} conflating
   * @param {number} most
   */
  constructor(conflating, most) {
    this.#conflating = conflating;
    this.#most = most;
  }

  get isFull() {
    return this.#changes >= this.#most;
  }

  /** Whether there is room again; well below full, so that the two don't alternate quickly. */
  get isLow() {
    return this.#changes <= this.#most / 4;
  }

  get isEmpty() {
    return this.#head === this.#entries.length;
  }

  /** @param {Entry} entry */
  put(entry) {
    const { kind } = entry;
    const last = this.#entries.at(-1);
    if ("run" in entry) {
      const at = this.#owed.get(entry.run.id);
      if (at !== undefined) {
        // In the older one's place, so that a busy run does not lose its turn. What has not
        // been told as entered still enters.
        const isNew = kind === "change" && this.#entries[at]?.kind === "enter";
        this.#entries[at] = isNew ? { kind: "enter", run: entry.run } : entry;
        return;
      }
      if (this.#conflating) this.#owed.set(entry.run.id, this.#entries.length);
      this.#changes++;
    } else if (!this.isEmpty && last?.kind === kind && (kind === "mark" || kind === "batch") && this.#kept !== this.#entries.length) {
      this.#entries[this.#entries.length - 1] = entry;
      return;
    } else if (kind === "live" || kind === "reset") {
      this.#owed.clear();
    }
    this.#entries.push(entry);
  }

  /** @returns {Entry | undefined} The oldest, no longer in here. */
  take() {
    const at = this.#head;
    const entry = this.#entries[at];
    if (!entry || at >= this.#kept) return undefined;
    this.#entries[at] = undefined;
    this.#head++;
    if ("run" in entry) {
      this.#changes--;
      if (this.#owed.get(entry.run.id) === at) this.#owed.delete(entry.run.id);
    }
    if (this.#head === this.#entries.length) {
      const isKeeping = this.#kept < Infinity;
      this.clear();
      if (isKeeping) this.keep();
    } else if (!this.#conflating && this.#head > 1024 && this.#head * 2 > this.#entries.length) {
      this.#entries.splice(0, this.#head);
      this.#kept -= this.#head;
      this.#head = 0;
    }
    return entry;
  }

  /** What comes from now on is not given before `release`: it may yet have to be dropped. */
  keep() {
    this.#kept = this.#entries.length;
    this.#owed.clear();
  }

  release() {
    this.#kept = Infinity;
  }

  /** Forgets what is kept; what comes instead is kept, too. */
  drop() {
    for (const entry of this.#entries.splice(this.#kept)) if (entry && "run" in entry) this.#changes--;
    this.#owed.clear();
  }

  clear() {
    this.#entries = [];
    this.#head = this.#changes = 0;
    this.#kept = Infinity;
    this.#owed.clear();
  }
}
