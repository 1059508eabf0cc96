/** The messages on the wire, as a client writes and reads them: what it does not know it ignores. */

import { RunstreamError } from "./errors.js";

export const SUBPROTOCOL = "runstream.v1";
export const PATH = "/v1/realtime";

/** Close codes with a meaning of their own; one from 4400 to 4407 says: not again as you are. */
export const CLOSE = { BAD_MESSAGE: 4400, UNAUTHORIZED: 4401, FORBIDDEN: 4403, BUSY: 4429 };

/**
 * The messages in one WebSocket message, one a line.
 *
 * @param {string} text
 * @returns {any[]}
 */
export function read(text) {
  try {
    const messages = text.split("\n").flatMap((line) => (line.trim() ? [JSON.parse(line)] : []));
    if (messages.every((message) => typeof message?.type === "string")) return messages;
  } catch {}
  throw new RunstreamError("protocol", `the server sent what cannot be read: ${text.slice(0, 200)}`);
}

/**
 * The messages as few WebSocket messages, none above `maxBytes` unless one alone is.
 *
 * @param {any[]} messages
 * @param {number} maxBytes
 * @returns {string[]}
 */
export function write(messages, maxBytes) {
  /** @type {string[]} */
  const texts = [];
  let room = 0;
  for (const message of messages) {
    const line = JSON.stringify(message);
    // A character is 3 bytes at most for each of its units: near enough, and never too long.
    const size = line.length * 3 + 1;
    if (texts.length && size <= room) texts.push(`${texts.pop()}\n${line}`);
    else [room] = [maxBytes, texts.push(line)];
    room -= size;
  }
  return texts;
}
