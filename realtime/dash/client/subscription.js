/** What a caller loops over, or shows: `for await (const run of …)`, and a store with a current value. */

import { call } from "./callbacks.js";
import { Inbox } from "./inbox.js";
import { Stream } from "./stream.js";

/** @import {Connection} from "./connection.js" */
/** @import {Batch, Change, Run, StreamOptions, StreamStatus, StreamValue, Wish} from "./types.js" */

// A component that is put away and shown again at once keeps its stream.
const LINGER_MS = 100;

/**
 * The runs that were asked for, as they change. It starts when it is first looped over or subscribed
 * to, and is let go of when nobody does any more.
 *
 * - As a loop it gives each run of the snapshot, then each change as the whole run, in order and none
 *   twice. It is over when the stream is, and throws a `RunstreamError` if that was refused, or the
 *   signal's reason. A lost connection is neither. A slow loop costs nobody anything: above `buffer`
 *   changes the server is asked to stop, and later to go on from there.
 * - As a store, `subscribe(callback)` calls with the value at once and after each change, and
 *   `getSnapshot()` is the same object until something has changed: what React's
 *   `useSyncExternalStore`, Svelte's `$` and Vue's `customRef` take. An error is part of the value.
 *
 * @template {StreamValue} V
 * @template {Run} R
 * @implements {AsyncIterable<R>}
 */
export class Subscription {
  #connection;
  #stream;
  #shape;
  #buffer;
  #signal;
  /** @type {V | undefined} */
  #value;
  /** @type {Set<(value: V) => void>} */
  #callbacks = new Set();
  #users = 0;
  #isClosed = false;
  #wasLooped = false;
  /** @type {any} */
  #lingering;
  /** @type {(() => void) | undefined} */
  #bell;
  /** @type {string | undefined} What the loop has taken is covered by this. */
  #taken;

  /**
   * @internal
   * @param {Connection} connection
   * @param {Wish} wish
   * @param {(stream: Stream) => Omit<V, keyof StreamValue>} shape The part of the value that is about runs.
   * @param {StreamOptions} options
   */
  constructor(connection, wish, shape, { buffer = 10_000, signal }) {
    this.#connection = connection;
    this.#stream = new Stream(wish, connection.session.stats);
    this.#shape = shape;
    this.#buffer = buffer;
    this.#signal = signal;
    this.#taken = wish.cursor;
  }

  /**
   * From where to go on, with the option `cursor`, if this page or program ends now. In a loop it
   * covers what was taken before the present run; that stays so when the loop is left.
   */
  get cursor() {
    return this.#wasLooped ? this.#taken : this.#stream.cursor;
  }

  /** @returns {StreamStatus} */
  get status() {
    const { state, wasLive } = this.#stream;
    if (state === "ENDED") return "ended";
    if (state === "LIVE" && !this.#connection.session.isStale) return "live";
    return wasLive ? "stale" : "connecting";
  }

  /** @type {Batch | undefined} Of a batch's stream, the batch as it was last heard of. */
  get batch() {
    return this.#stream.batch;
  }

  // As a store

  /** The current value; the same object until something has changed. @returns {V} */
  getSnapshot = () => {
    const { error, endReason } = this.#stream;
    return (this.#value ??= /** @type {V} */ (
      /** @type {unknown} */ ({ ...this.#shape(this.#stream), status: this.status, error, endReason })
    ));
  };

  /**
   * Calls with the current value at once, and again after each change.
   *
   * @param {(value: V) => void} callback
   * @returns {() => void} Ends that.
   */
  subscribe = (callback) => {
    // One function may be given twice, and let go of one by one.
    const own = (/** @type {V} */ value) => callback(value);
    this.#callbacks.add(own);
    this.#use();
    call(own, this.getSnapshot());
    return () => {
      if (this.#callbacks.delete(own)) this.#leave(LINGER_MS);
    };
  };

  // As a loop

  async *[Symbol.asyncIterator]() {
    for await (const change of this.changes()) {
      if (change.kind === "enter" || change.kind === "change") yield /** @type {R} */ (change.run);
    }
  }

  /**
   * Everything that is told, in order: which runs enter, change and leave, and how the stream stands.
   *
   * @returns {AsyncGenerator<Change, void, void>}
   */
  async *changes() {
    const stream = this.#stream;
    if (stream.inbox) throw new TypeError("a subscription can be looped over by one loop at a time");
    const inbox = new Inbox(stream.wish.delivery === "latest", Math.max(1, this.#buffer));
    stream.fill(inbox);
    this.#wasLooped = true;
    this.#use();
    try {
      for (;;) {
        const entry = inbox.take();
        if (stream.state === "PAUSED" && inbox.isLow) this.#connection.drained(stream);
        if (entry?.kind === "mark") {
          this.#taken = entry.cursor;
        } else if (entry) {
          yield entry;
        } else if (this.#signal?.aborted) {
          throw this.#signal.reason;
        } else if (stream.isOver) {
          if (stream.error) throw stream.error;
          return;
        } else {
          await new Promise((ring) => {
            this.#bell = () => ring(undefined);
          });
        }
      }
    } finally {
      stream.inbox = undefined;
      this.#connection.drained(stream);
      this.#leave(0);
    }
  }

  /** Ends it for whoever uses it; may be called again. */
  close() {
    this.#stream.cut("unsubscribed");
    this.#stream.inbox?.clear();
    // Whoever is told that it is over may call this once more.
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#connection.unsubscribe(this.#stream);
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#woken();
  }

  #abort = () => this.close();

  #use() {
    const isKept = this.#lingering !== undefined;
    this.#connection.clock.clearTimeout(this.#lingering);
    this.#lingering = undefined;
    if (this.#users++ || this.#stream.isOver || isKept) return;
    if (this.#signal?.aborted) {
      this.close();
      return;
    }
    this.#signal?.addEventListener("abort", this.#abort);
    this.#connection.subscribe(this.#stream, () => this.#woken());
  }

  /** @param {number} lingerMs */
  #leave(lingerMs) {
    if (--this.#users) return;
    const leave = () => {
      this.#lingering = undefined;
      this.#signal?.removeEventListener("abort", this.#abort);
      this.#connection.unsubscribe(this.#stream);
      this.#value = undefined;
    };
    if (lingerMs) this.#lingering = this.#connection.clock.setTimeout(leave, lingerMs);
    else leave();
  }

  #woken() {
    this.#value = undefined;
    this.#bell?.();
    if (!this.#callbacks.size) return;
    const value = this.getSnapshot();
    for (const callback of [...this.#callbacks]) if (this.#callbacks.has(callback)) call(callback, value);
  }
}
