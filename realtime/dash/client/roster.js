/** Which id stands for which subscription, on one connection. */

/** @import {Stream} from "./stream.js" */

/** Gives ids to streams, from 1, and takes each back when the server has ended it. */
export class Roster {
  /** @type {Map<number, Stream>} */
  byId = new Map();
  /** @type {Set<number>} Ids whose `end` has not come; meanwhile what comes for them finds no stream. */
  #leaving = new Set();

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

  /** The server has said the last about this id. @param {number} id */
  ended(id) {
    this.byId.delete(id);
    this.#leaving.delete(id);
  }

  /** Takes the stream from its id, if it has one. @param {Stream} stream @returns {any[]} What says so. */
  leave(stream) {
    const { id } = stream;
    if (id === undefined || this.byId.get(id) !== stream) return [];
    this.byId.delete(id);
    this.#leaving.add(id);
    return [{ type: "unsubscribe", id }];
  }
}
