/**
 * Server-sent events in the shape of a WebSocket, for where something between lets no WebSocket
 * through: each subscription is a request of its own, read with `fetch`, since `EventSource` can't
 * send a token.
 */

import { refusal, search } from "./http.js";
import { PATH } from "./protocol.js";

/** @import {Clock} from "./types.js" */

// The server says something at least every 15 s unless it was set otherwise.
const SILENT_MS = 45_000;

/** @type {Record<string, [string, string?]>} */
const TARGETS = {
  subscribeToRun: ["runs", "runId"],
  subscribeToRuns: ["runs"],
  subscribeToRunsWithTag: ["runs"],
  subscribeToBatch: ["batches", "batchId"],
  subscribeToJobRun: ["job-runs", "jobRunId"],
};

export class SseSocket {
  /** @type {((event: any) => void) | null} */
  onopen = null;
  /** @type {((event: {data: string}) => void) | null} */
  onmessage = null;
  /** @type {((event: {code: number, reason: string}) => void) | null} */
  onclose = null;
  /** @type {((event: any) => void) | null} */
  onerror = null;

  #base;
  #fetch;
  #clock;
  /** @type {string | undefined} */
  #token;
  /** @type {Map<number, AbortController>} */
  #running = new Map();

  /**
   * @param {string} base
   * @param {typeof globalThis.fetch} fetch
   * @param {Clock} clock
   */
  constructor(base, fetch, clock) {
    this.#base = base;
    this.#fetch = fetch;
    this.#clock = clock;
    queueMicrotask(() => {
      this.onopen?.({});
      // Nothing has been asked of the server yet. What it says to the first subscription
      // shows whether it is there; how long it may be silent is watched for each here.
      this.#say({ type: "welcome", heartbeatS: 86_400, server: "", expiresAt: null });
    });
  }

  /** @param {string} text */
  send(text) {
    for (const line of text.split("\n")) {
      const { type, id, ...fields } = JSON.parse(line);
      if (type === "authenticate") {
        if (this.#token) this.#say({ type: "authenticated", expiresAt: null });
        this.#token = fields.token;
      } else if (type === "ping") {
        this.#say({ type: "pong" });
      } else if (type === "unsubscribe") {
        this.#running.get(id)?.abort();
        this.#running.delete(id);
        this.#say({ type: "end", id, reason: "unsubscribed" });
      } else {
        const [folder, key] = TARGETS[type] ?? [""];
        const { [key ?? ""]: target, tags, ...query } = fields;
        const path = `${PATH}/${folder}${key ? `/${encodeURIComponent(target)}` : ""}`;
        this.#read(id, this.#base + path + search({ tag: tags, ...query }));
      }
    }
  }

  close() {
    for (const controller of this.#running.values()) controller.abort();
    this.#running.clear();
    this.onopen = this.onmessage = this.onclose = null;
  }

  /** @param {number} id @param {string} url */
  async #read(id, url) {
    const controller = new AbortController();
    const { signal } = controller;
    this.#running.set(id, controller);
    /** @type {any} */
    let watch;
    const heard = () => {
      this.#clock.clearTimeout(watch);
      watch = this.#clock.setTimeout(() => controller.abort(new Error("silent")), SILENT_MS);
    };
    // Whoever hears a message may let go of this stream, and another may take its id.
    const isOurs = () => this.#running.get(id) === controller;
    let hasEnded = false;
    heard();
    try {
      /** @type {Record<string, string>} */
      const headers = { Accept: "text/event-stream" };
      if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
      const response = await this.#fetch(url, { headers, signal, cache: "no-store" });
      if (!response.ok) {
        const { code, message, status } = await refusal(response);
        if (code === "unauthorized") this.#broke(4401, message);
        else if (status === 429) this.#broke(4429, message);
        else if (isOurs()) this.#refused(id, { type: "error", code, message });
        return;
      }
      const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
      const decoder = new TextDecoder();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        heard();
        const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r/);
        rest = /** @type {string} */ (lines.pop());
        for (const line of lines) {
          if (!isOurs()) return;
          if (!line.startsWith("data:")) continue;
          const message = JSON.parse(line.slice(5));
          if (message.ids) message.ids = [id];
          else message.id = id;
          hasEnded ||= message.type === "end" || message.type === "error";
          if (message.type === "error") this.#refused(id, message);
          else this.#say(message);
        }
      }
      if (!isOurs()) return;
      if (!hasEnded && response.status === 204) this.#say({ type: "end", id, reason: "completed" });
      else if (!hasEnded) this.#broke(1006, "the stream broke off");
    } catch (error) {
      if (isOurs()) this.#broke(1006, String(error));
    } finally {
      this.#clock.clearTimeout(watch);
      if (isOurs()) this.#running.delete(id);
    }
  }

  /** @param {number} id @param {any} error */
  #refused(id, error) {
    this.#say({ ...error, id });
    // As over a socket, where this is said twice.
    if (error.code === "not_found") this.#say({ type: "end", id, reason: "not_found" });
  }

  /** @param {any} message */
  #say(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  // One that is lost is all lost: each goes on from its cursor.
  /** @param {number} code @param {string} reason */
  #broke(code, reason) {
    const { onclose } = this;
    this.close();
    onclose?.({ code, reason });
  }
}
