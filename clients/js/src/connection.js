/** What is under a session: carries what comes in to it, and its effects out. */

import { call } from "./callbacks.js";
import { isPassing } from "./credentials.js";
import { RunstreamError } from "./errors.js";
import { PATH, SUBPROTOCOL, write } from "./protocol.js";
import { Session } from "./session.js";
import { SseSocket } from "./sse.js";

/** @import {Credentials} from "./credentials.js" */
/** @import {Effect, Transport} from "./effects.js" */
/** @import {Stream} from "./stream.js" */
/** @import {ClientOptions, Clock, Socket} from "./types.js" */

/** One socket at a time, dialled again as often as the session says. */
export class Connection {
  #base;
  #credentials;
  #getRun;
  #WebSocket;
  #fetch;
  /** @type {Clock} */
  clock;
  #random;
  #sleepAfterMs;
  #trace;
  #onState;
  /** @type {Map<Stream, () => void>} */
  #wakes = new Map();
  /** @type {Socket | undefined} */
  #socket;
  /** @type {any} */
  #timer;
  #timerAt = Infinity;
  /** @type {(() => void) | undefined} */
  #unwatch;
  /** @type {Set<string>} */
  #fetching = new Set();

  /**
   * @param {string} base
   * @param {Credentials} credentials
   * @param {(id: string) => Promise<any>} getRun
   * @param {Required<Pick<ClientOptions, "fetch" | "clock" | "random" | "sleepAfterMs">> &
   *   Pick<ClientOptions, "WebSocket" | "timing" | "trace">} options
   * @param {() => void} onState
   */
  constructor(base, credentials, getRun, options, onState) {
    this.#base = base;
    this.#credentials = credentials;
    this.#getRun = getRun;
    this.#WebSocket = options.WebSocket;
    this.#fetch = options.fetch;
    this.clock = options.clock;
    this.#random = options.random;
    this.#sleepAfterMs = options.sleepAfterMs;
    this.#trace = options.trace;
    this.#onState = onState;
    this.session = new Session({
      token: credentials.token,
      hasProvider: credentials.hasProvider,
      random: options.random,
      wall: options.clock.wall,
      timing: options.timing,
      transports: options.WebSocket ? undefined : ["sse"],
    });
  }

  /** Begins to fill the stream; `wake` is called when it has something to show. @param {Stream} stream @param {() => void} wake */
  subscribe(stream, wake) {
    this.#wakes.set(stream, wake);
    this.#perform(this.session.subscribe(stream, this.clock.now()));
  }

  /** @param {Stream} stream */
  unsubscribe(stream) {
    this.#wakes.delete(stream);
    this.#perform(this.session.unsubscribe(stream, this.clock.now()));
  }

  /** @param {Stream} stream */
  drained(stream) {
    this.#perform(this.session.drained(stream));
  }

  close() {
    this.#perform(this.session.close());
  }

  /** @param {Effect[]} effects */
  #perform(effects) {
    for (const effect of effects) {
      switch (effect.do) {
        case "wake":
          for (const stream of effect.streams) this.#wakes.get(stream)?.();
          break;
        case "send":
          for (const text of write(effect.messages, this.session.maxMessageBytes)) {
            call(this.#trace, "out", text);
            this.#socket?.send(text);
          }
          break;
        case "tell":
          this.#watch(effect.state !== "IDLE" && effect.state !== "CLOSED");
          this.#onState();
          break;
        case "fetch":
          void this.#fetchRun(effect.id, effect.again);
          break;
        case "ask":
          void this.#ask();
          break;
        case "dial":
          this.#dial(effect.transport);
          break;
        case "hangUp":
          this.#hangUp();
      }
    }
    this.#setTimer();
  }

  // Time

  #setTimer() {
    const at = this.session.deadline ?? Infinity;
    // One that is early looks again; so the timer is not set anew with each message.
    if (this.#timerAt <= at && at !== Infinity) return;
    this.clock.clearTimeout(this.#timer);
    this.#timerAt = at;
    if (at === Infinity) return;
    this.#timer = this.clock.setTimeout(
      () => {
        this.#timerAt = Infinity;
        this.#perform(this.session.tick(this.clock.now()));
      },
      Math.max(0, Math.min(at - this.clock.now(), 2 ** 30)),
    );
  }

  // The socket

  /** @param {Transport} transport */
  #dial(transport) {
    const { session, clock } = this;
    /** @type {Socket} */
    let socket;
    try {
      socket =
        transport === "sse" || !this.#WebSocket
          ? new SseSocket(this.#base, this.#fetch, clock)
          : new this.#WebSocket(`${this.#base.replace(/^http/, "ws")}${PATH}`, [SUBPROTOCOL]);
    } catch (error) {
      this.#perform(session.breakOff(new RunstreamError("unsupported", `cannot connect: ${error}`, { cause: error })));
      return;
    }
    this.#socket = socket;
    const ifCurrent = (/** @type {() => Effect[]} */ happened) => {
      if (this.#socket === socket) this.#perform(happened());
    };
    let isOpen = false;
    socket.onopen = () =>
      ifCurrent(() => {
        isOpen = true;
        return session.opened(clock.now());
      });
    socket.onmessage = ({ data }) =>
      ifCurrent(() => {
        call(this.#trace, "in", String(data));
        return session.received(String(data), clock.now());
      });
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) =>
      ifCurrent(() => {
        this.#socket = undefined;
        return isOpen ? session.closed(code, reason, clock.now()) : session.dialFailed(reason, clock.now());
      });
  }

  #hangUp() {
    const socket = this.#socket;
    this.#socket = undefined;
    // One that is still being opened fails when it is closed, which is what was asked for.
    socket?.close(1000);
  }

  // The tab

  /** @param {boolean} on */
  #watch(on) {
    if (!on) {
      this.#unwatch?.();
      this.#unwatch = undefined;
    }
    if (!on || this.#unwatch || typeof document === "undefined" || !globalThis.addEventListener) return;
    /** @type {any} */
    let bedtime;
    const controller = new AbortController();
    const { signal } = controller;
    const wake = () => {
      this.clock.clearTimeout(bedtime);
      this.#perform(this.session.woke(this.clock.now()));
    };
    const sleep = () => this.#perform(this.session.slept());
    const look = () => {
      if (document.visibilityState !== "hidden") {
        wake();
      } else if (this.#sleepAfterMs < Infinity) {
        this.clock.clearTimeout(bedtime);
        bedtime = this.clock.setTimeout(sleep, this.#sleepAfterMs);
      }
    };
    document.addEventListener("visibilitychange", look, { signal });
    addEventListener("online", wake, { signal });
    // A page with an open socket can't be kept for the back button.
    addEventListener("pagehide", sleep, { signal });
    addEventListener("pageshow", ({ persisted }) => persisted && wake(), { signal });
    this.#unwatch = () => {
      this.clock.clearTimeout(bedtime);
      controller.abort();
    };
  }

  // The rest

  async #ask() {
    const { session, clock } = this;
    try {
      // Another than the present one, also if that was never refused: it ends soon.
      const token = await this.#credentials.fresh(this.#credentials.token);
      this.#perform(session.tokenCame(token, clock.now()));
    } catch (error) {
      const isFinal = error instanceof RunstreamError && !isPassing(error);
      this.#perform(session.tokenFailed(isFinal ? error : undefined, clock.now()));
    }
  }

  /** @param {string} id @param {boolean} again */
  async #fetchRun(id, again) {
    if (this.#fetching.has(id)) return;
    this.#fetching.add(id);
    let run;
    let pauseMs = again ? 50 : 0;
    while ([...this.session.streams].some((stream) => stream.wants(id))) {
      try {
        if (pauseMs) await new Promise((done) => this.clock.setTimeout(() => done(undefined), pauseMs));
        run = await this.#getRun(id);
        break;
      } catch (error) {
        if (["not_found", "forbidden"].includes(/** @type {any} */ (error)?.code)) break;
        pauseMs = Math.min(10_000, 2 * pauseMs + 500) * (0.5 + this.#random() / 2);
      }
    }
    this.#fetching.delete(id);
    this.#perform(this.session.fetched(id, run, this.clock.now()));
  }
}
