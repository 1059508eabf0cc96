/**
 * Runs in React: `const { run, status } = useRun(id)`.
 *
 * Each hook subscribes while its component is mounted, renders on the server as `connecting`, and
 * renders anew at most once a frame, with the newest there is.
 *
 * @module
 */

import { createContext, createElement, useContext, useMemo, useSyncExternalStore } from "react";

/**
 * @import {BatchValue, JobRunValue, RunsOptions, RunsValue, RunValue, Runstream, StreamOptions,
 *   Subscription, TagOptions} from "../src/index.js"
 * @import {ReactNode} from "react"
 */

/**
 * What says which client to use, where that of the provider is not meant.
 *
 * @typedef {{client?: Runstream}} Using
 */

const Context = createContext(/** @type {Runstream | null} */ (null));

/**
 * Gives a client to the hooks below it. Whoever made the client closes it.
 *
 * @param {{client: Runstream, children?: ReactNode}} props
 */
export function RunstreamProvider({ client, children }) {
  return createElement(Context.Provider, { value: client }, children);
}

/** @param {Runstream} [client] @returns {Runstream} The client in use here. */
export function useRunstream(client) {
  const given = useContext(Context);
  const used = client ?? given;
  if (!used) throw new Error("a hook of runstream needs a <RunstreamProvider client={…}> above it");
  return used;
}

/**
 * One run; without an id it waits for one.
 *
 * @template [P=any]
 * @template [O=any]
 * @param {string | null | undefined} runId
 * @param {StreamOptions & Using} [options]
 * @returns {RunValue<P, O>}
 */
export function useRun(runId, options) {
  return useStream("subscribeToRun", runId, options);
}

/**
 * The runs with a tag, or with all (or any) of several, the newest first.
 *
 * @template [P=any]
 * @template [O=any]
 * @param {string | string[] | null | undefined} tags
 * @param {TagOptions & Using} [options]
 * @returns {RunsValue<P, O>}
 */
export function useRunsWithTag(tags, options) {
  return useStream("subscribeToRunsWithTag", tags?.length ? tags : null, options);
}

/**
 * The runs of a batch, and how far it is.
 *
 * @template [P=any]
 * @template [O=any]
 * @param {string | null | undefined} batchId
 * @param {RunsOptions & Using} [options]
 * @returns {BatchValue<P, O>}
 */
export function useBatch(batchId, options) {
  return useStream("subscribeToBatch", batchId, options);
}

/**
 * A job run and its workflow runs.
 *
 * @template [P=any]
 * @template [O=any]
 * @param {string | null | undefined} jobRunId
 * @param {StreamOptions & Using} [options]
 * @returns {JobRunValue<P, O>}
 */
export function useJobRun(jobRunId, options) {
  return useStream("subscribeToJobRun", jobRunId, options);
}

/**
 * All runs of the project, or those that the filters let through.
 *
 * @template [P=any]
 * @template [O=any]
 * @param {RunsOptions & Using} [options]
 * @returns {RunsValue<P, O>}
 */
export function useRuns(options) {
  return useStream("subscribeToRuns", "", options);
}

/**
 * How the connection stands.
 *
 * @param {Runstream} [client]
 * @returns {import("../src/index.js").ConnectionValue}
 */
export function useConnection(client) {
  const { connection } = useRunstream(client);
  return useSyncExternalStore(connection.subscribe, connection.getSnapshot, connection.getSnapshot);
}

/** @type {any} What there is before anything has come: on the server, or without an id. */
const NOTHING = Object.freeze({
  run: undefined,
  runs: Object.freeze([]),
  batch: undefined,
  truncated: false,
  status: "connecting",
  error: undefined,
  endReason: undefined,
});

const getNothing = () => NOTHING;
const subscribeToNothing = () => () => {};

/**
 * @param {"subscribeToRun" | "subscribeToRunsWithTag" | "subscribeToBatch" | "subscribeToJobRun" | "subscribeToRuns"} method
 * @param {any} about
 * @param {StreamOptions & Using} [options]
 */
function useStream(method, about, { client, ...options } = {}) {
  const used = useRunstream(client);
  // By what they say: options are mostly written in place, and are a new object each time.
  const key = JSON.stringify([about, options]);
  const store = useMemo(() => {
    if (about === null || about === undefined) return undefined;
    // Making it does nothing yet, so a render that is thrown away leaves nothing behind.
    const words = method === "subscribeToRuns" ? [options] : [about, options];
    return framed(/** @type {any} */ (used)[method](...words));
  }, [used, method, key]);
  return useSyncExternalStore(
    store?.subscribe ?? subscribeToNothing,
    store?.getSnapshot ?? getNothing,
    getNothing,
  );
}

const soon = globalThis.requestAnimationFrame ?? ((/** @type {() => void} */ show) => setTimeout(show, 16));
const never = globalThis.cancelAnimationFrame ?? clearTimeout;

/**
 * The same store, whose value changes at most once a frame.
 *
 * @param {Subscription<any, any>} stream
 */
function framed(stream) {
  let current = stream.getSnapshot();
  /** @type {any} */
  let frame;
  const show = (/** @type {() => void} */ changed) => {
    frame = undefined;
    current = stream.getSnapshot();
    changed();
  };
  return {
    getSnapshot: () => current,
    /** @param {() => void} changed */
    subscribe(changed) {
      const end = stream.subscribe((value) => {
        if (value !== current) frame ??= soon(() => show(changed));
      });
      return () => {
        never(frame);
        frame = undefined;
        end();
      };
    },
  };
}
