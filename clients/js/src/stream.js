/**
 * One subscription as the session keeps it: what its subscriber was shown, and from where to go on.
 *
 * A core without I/O. What it needs done it shows: `wanted()` runs are to be fetched,
 * `isOverfull` asks to be paused, `error` and `endReason` say why it is over.
 */

import { RunstreamError } from "./errors.js";
import { runOf } from "./run.js";

/** @import {Inbox} from "./inbox.js" */
/** @import {Batch, Change, Run, Stats, Wish} from "./types.js" */

/** @typedef {"IDLE" | "JOINING" | "LIVE" | "PAUSED" | "ENDED"} StreamState */

/** So many changes may wait for runs to be fetched. */
const MOST_WAITING = 10_000;

export class Stream {
  /** @type {StreamState} */
  state = "IDLE";
  /** @type {number | undefined} */
  id;
  /** @type {string | undefined} */
  cursor;
  /** @type {Batch | undefined} */
  batch;
  /** @type {RunstreamError | undefined} */
  error;
  /** @type {string | undefined} */
  endReason;
  /** @type {number | undefined} */
  retryAt;
  refusals = 0;
  truncated = false;
  wasLive = false;
  /** @type {Inbox | undefined} Filled while a loop takes from it. */
  inbox;

  #stats;
  #maxHeld;
  /** @type {Map<string, Run>} The runs that match, as they were last heard of. */
  #held = new Map();
  /** @type {Set<string>} Final ones, in the order they became so: the first to be let go. */
  #settled = new Set();
  /**
   * Versions of runs that left since the last cursor. Only what came after that can be
   * repeated to us, so the next cursor clears it.
   *
   * @type {Map<string, number>}
   */
  #gone = new Map();
  /** @type {Map<string, {asked: boolean, changes: any[]}>} Runs of which a change came, and that are not held. */
  #wanted = new Map();
  /** @type {string | undefined} A cursor that waits for the fetches. */
  #unmarked;
  /** @type {string | undefined} An end that waits for them, too. */
  #ending;
  /**
   * Of runs that were fetched and are ahead of the stream: how far the stream is. Such a run may
   * have left already, by a version that the stream has yet to tell.
   *
   * @type {Map<string, number>}
   */
  #behind = new Map();
  /**
   * If it has: the version that was told of it. Until the stream is there, what it tells of the run
   * is older than what the caller knows, and is not told.
   *
   * @type {Map<string, number>}
   */
  #hushed = new Map();
  /** @type {Map<string, Run>} While a snapshot replaces what was held: the runs from before. */
  #before = new Map();
  /** @type {Map<string, Run>} Those of them that a truncated snapshot said nothing of: they may match still. */
  #unsure = new Map();
  /** @type {string | undefined} Why, until the snapshot is there. */
  #resetBy;

  /**
   * @param {Wish} wish
   * @param {Stats} stats
   * @param {number} [maxHeld]
   */
  constructor(wish, stats, maxHeld = 20_000) {
    this.wish = wish;
    this.cursor = wish.cursor;
    this.#stats = stats;
    this.#maxHeld = maxHeld;
  }

  get isOver() {
    return this.state === "ENDED";
  }

  /**
   * Whether what comes is still kept from the caller: a snapshot that is not live. Until then there
   * is no cursor, so a lost connection means another snapshot, with other versions: who had been
   * shown the first would see a gap between the two.
   */
  get isOpening() {
    return this.cursor === undefined && !this.isOver;
  }

  /** The runs to show: while others take their place, those from before. */
  get shown() {
    return this.cursor === undefined ? this.#before : this.#held;
  }

  /**
   * Whether the loop is so far behind that it is better to stop listening. Never before the first
   * cursor: a snapshot cannot be gone on from in its middle, and is bounded by its `limit`.
   */
  get isOverfull() {
    if (this.cursor === undefined || !this.inbox) return false;
    let waiting = 0;
    for (const { changes } of this.#wanted.values()) waiting += changes.length;
    return this.inbox.isFull || waiting > MOST_WAITING;
  }

  /** A loop takes from now on, and gets first what is there to be shown. @param {Inbox} inbox */
  fill(inbox) {
    this.inbox = inbox;
    for (const run of this.shown.values()) this.#tell({ kind: "enter", run });
    if (this.#resetBy !== undefined) this.#tell({ kind: "reset", reason: this.#resetBy });
    if (!this.isOpening) return;
    inbox.keep();
    for (const run of this.#held.values()) this.#tell({ kind: "enter", run });
  }

  // What the session does with it

  /** @param {number} id @returns {Wish} What asks for it, from its cursor if it has one. */
  joining(id) {
    this.state = "JOINING";
    this.id = id;
    this.retryAt = undefined;
    if (this.cursor === undefined) {
      // Nothing of what came was shown: the next one starts from nothing.
      this.inbox?.drop();
      this.#forget();
    }
    // After a reset a snapshot is owed, also to who did not ask for one to begin with.
    return { ...this.wish, id, cursor: this.cursor, ...(this.#resetBy !== undefined && { snapshot: true }) };
  }

  /** The connection is gone; what is held stays. */
  lost() {
    if (this.state === "JOINING" || this.state === "LIVE") this.state = "IDLE";
    this.id = undefined;
  }

  /** Nobody asks for it any more; if somebody does again, it goes on from its cursor. */
  rest() {
    if (!this.isOver) this.state = "IDLE";
    // A read that ends meanwhile is nobody's.
    for (const wanted of this.#wanted.values()) wanted.asked = false;
    this.id = this.retryAt = undefined;
  }

  pause() {
    this.state = "PAUSED";
    this.id = undefined;
    this.#stats.pauses++;
  }

  /** It was refused for now, and is asked for again then. @param {number} at */
  later(at) {
    this.state = "IDLE";
    this.id = undefined;
    this.refusals++;
    this.retryAt = at;
  }

  /** Ends it on this side. @param {string} reason */
  cut(reason) {
    if (this.isOver) return;
    this.endReason = reason;
    this.#finish();
  }

  /** @param {RunstreamError} error */
  fail(error) {
    if (this.isOver) return;
    this.error = error;
    this.#finish();
  }

  // What the server says

  /** @param {any[]} runs */
  snapshot(runs) {
    for (const fields of runs) {
      const run = runOf(fields);
      const had = this.#held.get(run.id);
      this.#hold(run);
      if (!had) this.#tell({ kind: "enter", run });
      else if (had.version !== run.version || had.updatedAt !== run.updatedAt) this.#tell({ kind: "change", run });
    }
  }

  /** @param {{cursor: string, resumed?: boolean, truncated?: boolean}} message */
  live({ cursor, resumed = false, truncated = false }) {
    if (this.#resetBy !== undefined) this.#settleBefore(truncated);
    this.#resetBy = undefined;
    this.inbox?.release();
    this.state = "LIVE";
    this.wasLive = true;
    this.refusals = 0;
    this.truncated = truncated;
    if (resumed) this.#stats.resumes++;
    this.#tell({ kind: "live", resumed, truncated });
    this.mark(cursor);
  }

  /** @param {boolean} truncated */
  #settleBefore(truncated) {
    const before = new Map([...this.#unsure, ...this.#before]);
    this.#before = new Map();
    this.#unsure.clear();
    for (const [id, run] of before) {
      // It matches, or has left since, which was told.
      if (this.#held.has(id) || this.#gone.has(id)) continue;
      // Where more match than the snapshot holds, this may be one of them: what the server says
      // of it from here on shows it.
      if (truncated) this.#unsure.set(id, run);
      else this.#tell({ kind: "leave", run });
    }
    for (const id of this.#unsure.keys()) {
      if (this.#unsure.size <= this.#maxHeld) break;
      this.#unsure.delete(id);
    }
  }

  /** All that came before is covered by this cursor. @param {string} cursor */
  mark(cursor) {
    this.cursor = cursor;
    this.#gone.clear();
    // What waits for a fetch has not been shown: whoever keeps the cursor and starts anew
    // with it must get it again.
    if (this.#wanted.size) this.#unmarked = cursor;
    else this.inbox?.put({ kind: "mark", cursor });
  }

  /** @param {string} kind @param {any} fields */
  change(kind, fields) {
    this.#stats.changes++;
    const { id, version } = fields;
    const held = this.#held.get(id);
    const behind = this.#behind.get(id);
    const hushed = this.#hushed.get(id);
    if (kind === "leave") {
      this.#wanted.delete(id);
      if (held && version >= (behind ?? held.version)) {
        this.#held.delete(id);
        this.#settled.delete(id);
        this.#behind.delete(id);
        this.#gone.set(id, version);
        if (hushed === undefined) {
          if (version < held.version) this.#hushed.set(id, held.version);
          this.#tell({ kind, run: runOf(fields, held) });
        } else if (version >= hushed) {
          this.#hushed.delete(id);
        }
      } else if (!held) {
        this.#mayNotMatch(fields);
      }
      this.#settleFetches();
      return;
    }
    if (held && behind !== undefined) {
      if (version >= held.version) this.#behind.delete(id);
      else this.#behind.set(id, Math.max(version, behind));
    }
    if (version <= (held?.version ?? this.#gone.get(id) ?? 0)) {
      this.#stats.repeatsDropped++;
    } else if (held || kind === "enter") {
      // The server never leaves one out; if it does, the count shows it.
      const isNext = kind === "enter" || version === /** @type {Run} */ (held).version + 1;
      if (!isNext && this.wish.delivery !== "latest") this.#stats.gaps++;
      const run = kind === "enter" ? runOf(fields) : runOf(fields, held);
      this.#wanted.delete(id);
      this.#hold(run);
      if (hushed === undefined) {
        this.#tell({ kind: held ? "change" : "enter", run });
      } else if (version >= hushed) {
        this.#hushed.delete(id);
        this.#tell({ kind: "enter", run });
      }
      this.#settleFetches();
    } else {
      const wanted = this.#wanted.get(id);
      if (wanted) wanted.changes.push(fields);
      else this.#wanted.set(id, { asked: false, changes: [fields] });
    }
  }

  /** @param {Batch} batch */
  progress(batch) {
    this.batch = batch;
    this.#tell({ kind: "batch", batch });
  }

  /** What is held can't be gone on from; a snapshot follows and replaces it. @param {string} reason */
  reset(reason) {
    this.#stats.resets++;
    this.state = "JOINING";
    // What was not shown yet is not missed.
    if (this.cursor === undefined) this.inbox?.drop();
    else for (const [id, run] of this.#held) this.#before.set(id, run);
    this.inbox?.release();
    this.cursor = undefined;
    this.#resetBy = reason;
    this.#forget();
    this.#tell({ kind: "reset", reason });
    this.inbox?.keep();
  }

  /** Nothing more comes. What was asked for because of earlier changes is still told. @param {string} reason */
  end(reason) {
    if (reason === "completed" || reason === "deleted") {
      if (this.#wanted.size) this.#ending = reason;
      else this.cut(reason);
    } else {
      this.endReason = reason;
      const code = reason === "not_found" || reason === "forbidden" ? reason : "stream_ended";
      this.fail(new RunstreamError(code, `the stream has ended: ${reason.replaceAll("_", " ")}`));
    }
  }

  // Runs that are not held

  /** @returns {string[]} Runs to be fetched, each told once. */
  wanted() {
    const ids = [];
    for (const [id, wanted] of this.#wanted) {
      if (!wanted.asked) ids.push(id);
      wanted.asked = true;
    }
    this.#stats.fetches += ids.length;
    return ids;
  }

  /** @param {string} id */
  wants(id) {
    return this.#wanted.has(id);
  }

  /**
   * A run that was asked for; undefined if there is none.
   *
   * @param {string} id
   * @param {any} [fields]
   * @returns {boolean} False if it is too old, to be asked again.
   */
  fetched(id, fields) {
    const changes = this.#wanted.get(id)?.changes ?? [];
    if (fields && fields.version < changes[0]?.version) return false;
    this.#wanted.delete(id);
    if (fields) {
      const run = runOf(fields);
      for (const name of this.wish.skip ?? []) delete (/** @type {any} */ (run)[name]);
      this.#hold(run);
      const told = changes.at(-1)?.version ?? 0;
      if (run.version > told) this.#behind.set(id, told);
      this.#tell({ kind: "enter", run });
      for (const later of changes) if (later.version > run.version) this.change("change", later);
    } else {
      this.#mayNotMatch(changes.at(-1) ?? { id });
    }
    this.#settleFetches();
    return true;
  }

  /** Of a run that is not held, and of which it may not be sure whether it matches. @param {any} fields */
  #mayNotMatch(fields) {
    const { id, version } = fields;
    const run = this.#before.get(id) ?? this.#unsure.get(id);
    if (!run || this.#gone.has(id)) return;
    this.#gone.set(id, version);
    // Until a reset is done it stays: if that is cut off, this was not told.
    if (this.#resetBy === undefined) this.#unsure.delete(id);
    this.#tell({ kind: "leave", run: runOf(fields, run) });
  }

  // Cursors and the end have waited for the fetches.
  #settleFetches() {
    if (this.#wanted.size || this.isOver) return;
    if (this.#unmarked !== undefined) this.inbox?.put({ kind: "mark", cursor: this.#unmarked });
    this.#unmarked = undefined;
    if (this.#ending) this.cut(this.#ending);
  }

  /** @param {Run} run */
  #hold(run) {
    this.#held.set(run.id, run);
    if (this.#resetBy === undefined) this.#unsure.delete(run.id);
    if (!run.isFinal) return;
    this.#settled.add(run.id);
    // Final runs hardly change any more. Should one do so after it was let go, it is fetched
    // like any run that is not held.
    for (const id of this.#settled) {
      if (this.#held.size <= this.#maxHeld) break;
      this.#settled.delete(id);
      this.#held.delete(id);
    }
  }

  #forget() {
    this.#held = new Map();
    this.#settled.clear();
    this.#gone.clear();
    this.#wanted.clear();
    this.#behind.clear();
    this.#hushed.clear();
    this.#unmarked = undefined;
  }

  #finish() {
    // What is there by halves is not shown.
    if (this.isOpening) this.inbox?.drop();
    this.inbox?.release();
    this.state = "ENDED";
    this.retryAt = undefined;
    this.#unsure.clear();
    this.#wanted.clear();
    this.#gone.clear();
  }

  /** @param {Change} change */
  #tell(change) {
    this.inbox?.put(change);
  }
}
