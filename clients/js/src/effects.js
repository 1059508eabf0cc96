/** What the session asks of the shell around it, and in which state it is. */

/** @import {Stream} from "./stream.js" */

/**
 * `IDLE`: not connected, and nothing asks for it. `ASKING`: waits for a token. `DIALING`: opens a
 * socket. `GREETING`: it is open, and the server has not said welcome. `OPEN`. `DRAINING`: open, and
 * told by the server to come back soon. `WAITING`: not connected, the next try is after a pause, or
 * when the tab is shown again. `CLOSED`: by its owner, for good.
 *
 * @typedef {"IDLE" | "ASKING" | "DIALING" | "GREETING" | "OPEN" | "DRAINING" | "WAITING" | "CLOSED"} State
 */

/**
 * `sse` goes through where WebSockets don't.
 *
 * @typedef {"websocket" | "sse"} Transport
 */

/**
 * What the session asks for. `ask`: a token. `dial`: open a socket. `send`: these messages, in this
 * order. `hangUp`: close the socket, or stop opening it; nothing more is heard from it. `fetch`: GET
 * this run, `again` if what came was too old. `wake`: these streams have something to show. `tell`:
 * the state is now this.
 *
 * @typedef {{do: "ask"} | {do: "dial", transport: Transport} | {do: "send", messages: any[]}
 *   | {do: "hangUp"} | {do: "fetch", id: string, again: boolean} | {do: "wake", streams: Stream[]}
 *   | {do: "tell", state: State}} Effect
 */

export {};
