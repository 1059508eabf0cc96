/** Which id stands for which subscription, on one connection. */

/** @import {Stream} from "./stream.js" */

/**
 * What the server has still to say about an id that is no stream's any more.
 *
 * - ANSWER: it was unsubscribed: `end` unsubscribed, unless the server has ended it meanwhile.
 * - ERROR: the server has, so it knows no such id when it is unsubscribed: `error` not_found.
 * - END: it was refused as not_found, which is said twice.
 *
 * @typedef {"ANSWER" | "ERROR" | "END"} Owed
 */

/** Gives ids to streams, from 1, and takes each back when the server has said its last word of it. */
export class Roster {
  /** @type {Map<number, Stream>} */
  byId = new Map();
  /** @type {Map<number, Owed>} What still comes for these must not be taken for another stream's. */
  #leaving = new Map();

  /** Another connection: all ids are free. */
  clear() {
    this.byId.clear();
    this.#leaving.clear();
  }

  /** The lowest id that is free, since servers build one frame for all who use the same. */
  get free() {
    let id = 1;
    while (this.byId.has(id) || this.#leaving.has(id)) id++;
    return id;
  }

  /** The server has said `end` about this id. @param {number} id @param {string} reason */
  ended(id, reason) {
    this.byId.delete(id);
    if (this.#leaving.get(id) === "ANSWER" && reason !== "unsubscribed") this.#leaving.set(id, "ERROR");
    else this.#leaving.delete(id);
  }

  /** The server has said `error` about this id. @param {number} id @param {string} code */
  refused(id, code) {
    const isNotFound = code === "not_found";
    const owed = this.#leaving.get(id);
    if (this.byId.delete(id)) {
      if (isNotFound) this.#leaving.set(id, "END");
    } else if (owed === "ERROR") {
      this.#leaving.delete(id);
    } else if (owed === "ANSWER" && !isNotFound) {
      this.#leaving.set(id, "ERROR");
    }
    // Else it is said of the subscription, and `end` says it once more.
  }

  /** Takes the stream from its id, if it has one. @param {Stream} stream @returns {any[]} What says so. */
  leave(stream) {
    const { id } = stream;
    if (id === undefined || this.byId.get(id) !== stream) return [];
    this.byId.delete(id);
    this.#leaving.set(id, "ANSWER");
    return [{ type: "unsubscribe", id }];
  }
}
