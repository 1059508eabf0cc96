/**
 * The shapes of what the client takes and gives. Types alone: no page ever loads this file.
 *
 * @module
 */

/**
 * Where a run stands. `COMPLETED`, `CANCELED`, `FAILED`, `CRASHED`, `INTERRUPTED`,
 * `SYSTEM_FAILURE`, `EXPIRED` and `TIMED_OUT` are final.
 *
 * @typedef {"WAITING_FOR_DEPLOY" | "DELAYED" | "QUEUED" | "EXECUTING" | "REATTEMPTING" | "FROZEN"
 *   | "COMPLETED" | "CANCELED" | "FAILED" | "CRASHED" | "INTERRUPTED" | "SYSTEM_FAILURE"
 *   | "EXPIRED" | "TIMED_OUT"} RunStatus
 */

/**
 * One execution of a task, as it was at one version; never changed in place. Times are RFC 3339
 * in UTC with microseconds, which a `Date` would cut.
 *
 * @template [P=any] The payload's type.
 * @template [O=any] The output's type.
 * @typedef {object} Run
 * @property {string} id
 * @property {number} version The run's own count of its changes: 1, 2, 3, with no gaps.
 * @property {number} number
 * @property {string} taskIdentifier
 * @property {RunStatus} status
 * @property {P} payload
 * @property {O | null} output
 * @property {{name: string, message: string, stack?: string} | null} error
 * @property {Record<string, any>} metadata
 * @property {string[]} tags
 * @property {string | null} batchId
 * @property {string | null} parentRunId
 * @property {string | null} rootRunId
 * @property {number} depth
 * @property {number} attempt
 * @property {string | null} idempotencyKey
 * @property {string} createdAt
 * @property {string} updatedAt
 * @property {string | null} queuedAt
 * @property {string | null} startedAt
 * @property {string | null} finishedAt
 * @property {string | null} delayedUntil
 * @property {string | null} expiredAt
 * @property {number | null} ttl
 * @property {number | null} maxDuration
 * @property {number | null} heartbeatTimeout
 * @property {string | null} workflowId
 * @property {number | null} position
 * @property {number} durationMs
 * @property {number} costInCents
 * @property {number} baseCostInCents
 * @property {boolean} isTest
 * @property {boolean} isQueued It has not begun.
 * @property {boolean} isExecuting A worker is on it, or will be again after a failed attempt.
 * @property {boolean} isWaiting It has begun and is paused by the system.
 * @property {boolean} isFinal It is over; exactly one of the next three holds.
 * @property {boolean} isSuccess
 * @property {boolean} isFailed
 * @property {boolean} isCanceled
 */

/**
 * Runs made together, and how far they are.
 *
 * @typedef {object} Batch
 * @property {string} id
 * @property {string} createdAt
 * @property {string | null} sealedAt
 * @property {number} size
 * @property {number} final How many of its runs are over.
 * @property {Partial<Record<RunStatus, number>>} counts
 * @property {string | null} completedAt Set when it is sealed and all its runs are final.
 */

/**
 * @typedef {object} StreamOptions What may be said of any subscription.
 * @property {string} [cursor] Go on from here: what `subscription.cursor` said, for the same stream.
 * @property {"every" | "latest"} [delivery] Each version (the default), or, under pressure, the newest.
 * @property {string[]} [skip] Fields that are never sent.
 * @property {boolean} [stopOnCompletion] Whether it ends by itself when what it is about is over.
 * @property {boolean} [snapshot] False: only what comes from now on.
 * @property {AbortSignal} [signal] Ends it.
 * @property {number} [buffer] How many changes may wait for a slow loop here, before they wait at the server.
 */

/**
 * @typedef {object} RunFilters Which runs are meant.
 * @property {string[]} [tasks]
 * @property {RunStatus[]} [statuses]
 * @property {string | Date} [createdAfter]
 * @property {boolean} [isTest]
 * @property {number} [limit] How many runs the snapshot holds, the newest; 1,000 by default.
 */

/** @typedef {StreamOptions & RunFilters} RunsOptions */
/** @typedef {RunsOptions & {match?: "all" | "any"}} TagOptions */

/**
 * How a stream stands: `connecting` until it was live for the first time, `stale` while what is
 * shown may be old (the connection or the server's store is away, the tab sleeps), `ended` when
 * nothing more comes.
 *
 * @typedef {"connecting" | "live" | "stale" | "ended"} StreamStatus
 */

/**
 * What is common to the values of all streams.
 *
 * @typedef {object} StreamValue
 * @property {StreamStatus} status
 * @property {import("./errors.js").RunstreamError | undefined} error Why it was refused, or broke.
 * @property {string | undefined} endReason The server's word for why it is over.
 */

/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {StreamValue & {run: Run<P, O> | undefined}} RunValue
 */

/**
 * `runs` are the newest first. `truncated`: there were more than the snapshot's limit.
 *
 * @template [P=any]
 * @template [O=any]
 * @typedef {StreamValue & {runs: Run<P, O>[], truncated: boolean}} RunsValue
 */

/**
 * @template [P=any]
 * @template [O=any]
 * @typedef {RunsValue<P, O> & {batch: Batch | undefined}} BatchValue
 */

/**
 * `run` is the job run, `runs` are its workflow runs in the order of execution.
 *
 * @template [P=any]
 * @template [O=any]
 * @typedef {StreamValue & {run: Run<P, O> | undefined, runs: Run[]}} JobRunValue
 */

/**
 * What a stream tells, one value for each thing. `live` comes when what was before has been told,
 * and again after each lost connection; after `reset` all runs are told anew.
 *
 * @template [P=any]
 * @template [O=any]
 * @typedef {{kind: "enter" | "change" | "leave", run: Run<P, O>}
 *   | {kind: "batch", batch: Batch}
 *   | {kind: "live", resumed: boolean, truncated: boolean}
 *   | {kind: "reset", reason: string}} Change
 */

/**
 * What a subscription asks for, as it goes over the wire, less its id and cursor.
 *
 * @typedef {{type: string, [field: string]: any}} Wish
 */

/**
 * The part of a WebSocket that is used here; also what the fallback looks like.
 *
 * @typedef {object} Socket
 * @property {((event: any) => any) | null} onopen
 * @property {((event: any) => any) | null} onmessage
 * @property {((event: any) => any) | null} onclose
 * @property {((event: any) => any) | null} onerror
 * @property {(text: string) => void} send
 * @property {(code?: number) => void} close
 */

/**
 * Time, as it can be set in tests.
 *
 * @typedef {object} Clock
 * @property {() => number} now Milliseconds, by a clock that never jumps.
 * @property {() => number} wall Milliseconds since 1970.
 * @property {(call: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 */

/**
 * @typedef {object} ClientOptions
 * @property {string | URL} [url] The server's address; in a page, where the page came from.
 * @property {string | (() => string | Promise<string>)} [token] A token, or where a fresh one comes
 *   from: asked before the first is needed, before one ends, and when one is refused.
 * @property {(new (url: string, protocols: string[]) => Socket) | null} [WebSocket] `null` never uses one.
 * @property {typeof globalThis.fetch} [fetch]
 * @property {Clock} [clock]
 * @property {() => number} [random]
 * @property {number} [sleepAfterMs] A tab that was hidden for this long lets go of its connection,
 *   and goes on from there when it is shown; 5 minutes, `Infinity` for never.
 * @property {(direction: "in" | "out", text: string) => void} [trace] Sees each message on the wire.
 * @property {Partial<import("./timing.js").Timing>} [timing]
 */

/**
 * What has happened so far; counts only rise.
 *
 * @typedef {object} Stats
 * @property {number} connects
 * @property {number} reconnects
 * @property {number} resumes
 * @property {number} resets
 * @property {number} changes
 * @property {number} repeatsDropped
 * @property {number} gaps
 * @property {number} fetches
 * @property {number} pauses
 */

export {};
