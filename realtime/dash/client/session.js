/**
 * The client's side of the protocol: what is known of the connection, and what follows.
 *
 * A core without I/O: each method is something that has happened, and returns the effects that it
 * asks for; the time is an argument, and so is chance. `docs/client-session.md` shows it as a table
 * of states and events, which tests hold against this file and against the Python client's.
 */

import { RunstreamError } from "./errors.js";
import { CLOSE, read } from "./protocol.js";

/** @import {Stream} from "./stream.js" */
/** @import {Stats} from "./types.js" */

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

/** How patient the session is, in milliseconds. */
const TIMING = {
  baseDelayMs: 100,
  maxDelayMs: 10_000,
  // For a server that says it is too busy: coming back quickly would make it worse.
  busyBaseDelayMs: 1_000,
  busyMaxDelayMs: 60_000,
  dialMs: 10_000,
  greetingMs: 10_000,
  // After so many heartbeats of silence the server is asked, and half a heartbeat later it is gone.
  silentHeartbeats: 2,
  graceHeartbeats: 0.5,
  minGraceMs: 500,
  // With no subscription left the connection is kept a little, in case of another.
  lingerMs: 5_000,
  // A token is replaced when this part of its life is over, or when so little is left.
  refreshAt: 0.8,
  refreshBeforeMs: 30_000,
  busyRetries: 5,
  // So many failures of a WebSocket before server-sent events are tried, and how long those are
  // then preferred.
  fallbackAfter: 2,
  fallbackMs: 600_000,
};

/** @typedef {typeof TIMING} Timing */

/** The state of one client's connection and of its subscriptions. */
export class Session {
  /** @type {State} */
  state = "IDLE";
  /** @type {Transport} */
  transport = "websocket";
  isStale = false;
  /** @type {string | undefined} */
  lastError;
  /** @type {string | undefined} */
  server;
  maxMessageBytes = 65_536;
  /** @type {Set<Stream>} */
  streams = new Set();
  /** @type {Stats} */
  stats = {
    connects: 0,
    reconnects: 0,
    resumes: 0,
    resets: 0,
    changes: 0,
    repeatsDropped: 0,
    gaps: 0,
    fetches: 0,
    pauses: 0,
  };
  /** @type {string | undefined} */
  token;

  #hasProvider;
  #random;
  #wall;
  #timing;
  #canFallBack;
  /** @type {Effect[]} */
  #effects = [];

  /** @type {Map<number, Stream>} */
  #byId = new Map();
  /** @type {Set<number>} Ids whose `end` has not come; meanwhile what comes for them finds no stream. */
  #leaving = new Set();

  #failures = 0;
  #blocked = 0;
  /** A WebSocket has got through before; and: it was tried again after events showed the server there. */
  #isOpenWay = false;
  #isProven = false;
  /** @type {number | undefined} */
  #fallbackUntil;
  /** @type {(string | undefined)[]} */
  #refused = [];
  #asked = false;
  #patient = false;
  #asleep = false;
  #isWelcome = false;
  #heartbeatMs = 15_000;

  // Times, undefined where there is nothing to wait for.
  #heardAt = 0;
  /** @type {number | undefined} */
  #doubtedAt;
  /** @type {number | undefined} The next try, or the end of this one. */
  #nextAt;
  /** @type {number | undefined} */
  #comeBackAt;
  /** @type {number | undefined} */
  #expiresAt;
  /** @type {number | undefined} */
  #refreshAt;
  /** @type {number | undefined} */
  #idleAt;

  /**
   * @param {object} facts
   * @param {string} [facts.token]
   * @param {boolean} [facts.hasProvider] Whether somebody gives a token when asked.
   * @param {() => number} facts.random
   * @param {() => number} facts.wall
   * @param {Partial<Timing>} [facts.timing]
   * @param {Transport[]} [facts.transports]
   */
  constructor({ token, hasProvider = false, random, wall, timing, transports }) {
    this.token = token;
    this.#hasProvider = hasProvider;
    this.#random = random;
    this.#wall = wall;
    this.#timing = { ...TIMING, ...timing };
    this.#canFallBack = !transports || transports.length > 1;
    if (transports) this.transport = transports[0] ?? "websocket";
  }

  get isConnected() {
    return this.state === "GREETING" || this.#isOpen;
  }

  get #isOpen() {
    return this.state === "OPEN" || this.state === "DRAINING";
  }

  // What callers ask

  /** @param {Stream} stream @param {number} now */
  subscribe(stream, now) {
    if (this.state === "CLOSED") {
      stream.fail(new RunstreamError("closed", "the client is closed"));
      return [/** @type {Effect} */ ({ do: "wake", streams: [stream] })];
    }
    this.streams.add(stream);
    this.#idleAt = undefined;
    if (this.state === "IDLE") this.#begin(now);
    else if (this.#isWelcome) this.#join([stream]);
    return this.#take();
  }

  /** @param {Stream} stream @param {number} now */
  unsubscribe(stream, now) {
    if (this.streams.has(stream)) {
      this.#letGo(stream);
      this.#drop(stream, now);
    }
    stream.rest();
    return this.#take();
  }

  /** The loop over a paused stream has caught up. @param {Stream} stream */
  drained(stream) {
    if (stream.state === "PAUSED" && this.streams.has(stream)) {
      stream.rest();
      if (this.#isWelcome) this.#join([stream]);
    }
    return this.#take();
  }

  /** The owner closes the client. */
  close() {
    if (this.state === "CLOSED") return [];
    const streams = [...this.streams];
    this.#hangUp();
    this.streams.clear();
    for (const stream of streams) stream.cut("closed");
    this.#turn("CLOSED");
    return this.#take();
  }

  /** The shell has failed: whoever waits is told, and the next subscription starts anew. @param {RunstreamError} error */
  breakOff(error) {
    if (this.state !== "CLOSED") {
      this.#effects.push({ do: "hangUp" });
      this.#giveUp(error);
    }
    return this.#take();
  }

  /** The tab is shown again, or the network is back. @param {number} now */
  woke(now) {
    this.#asleep = false;
    // A pause that the server asked for is kept, also by whoever looks again.
    if (this.state === "WAITING" && !(this.#patient && this.#nextAt !== undefined)) {
      this.#failures = 0;
      this.#begin(now);
    } else if (this.#isOpen && this.#doubtedAt === undefined) {
      this.#doubt(now);
    }
    return this.#take();
  }

  /** The tab has been hidden for long, or is put away. */
  slept() {
    this.#asleep = true;
    if (this.isConnected || this.state === "DIALING" || this.state === "WAITING") {
      this.#hangUp();
      this.#turn(this.streams.size ? "WAITING" : "IDLE");
    }
    return this.#take();
  }

  // Tokens

  /** The provider gave one. @param {string} token @param {number} now */
  tokenCame(token, now) {
    if (this.state === "ASKING") {
      if (this.#refused.includes(token)) {
        this.#giveUp("unauthorized", "the token provider gave the token that was refused");
      } else {
        this.token = token;
        this.#begin(now);
      }
    } else if (this.#isOpen && this.#asked) {
      this.#asked = false;
      if (token === this.token) {
        this.#refreshAgain(now);
      } else {
        this.token = token;
        this.#send([{ type: "authenticate", token }]);
      }
    }
    return this.#take();
  }

  /**
   * The provider failed: with an error that ends the streams, or without, to ask it again.
   *
   * @param {RunstreamError | undefined} error
   * @param {number} now
   */
  tokenFailed(error, now) {
    if (this.state === "ASKING") {
      if (error) this.#giveUp(error);
      else this.#wait(now, this.#delay());
    } else if (this.#asked) {
      this.#asked = false;
      this.#refreshAgain(now);
    }
    return this.#take();
  }

  // The socket

  /** @param {number} now */
  opened(now) {
    if (this.state !== "DIALING") return [/** @type {Effect} */ ({ do: "hangUp" })];
    this.#heardAt = now;
    // Who shows no token is told so by the server when its patience ends, which is about the same.
    this.#nextAt = now + this.#timing.greetingMs * (this.token === undefined ? 1.5 : 1);
    this.#byId.clear();
    this.#leaving.clear();
    this.#turn("GREETING");
    if (this.token !== undefined) this.#send([{ type: "authenticate", token: this.token }]);
    return this.#take();
  }

  /** The socket could not be opened; a page cannot see why. @param {string} reason @param {number} now */
  dialFailed(reason, now) {
    if (this.state === "DIALING") {
      this.lastError = reason || "the server cannot be reached";
      this.#blocked++;
      this.#lose();
      this.#wait(now, this.#delay());
    }
    return this.#take();
  }

  /**
   * The socket is closed, or broke: then there is no code, or it is 1006.
   *
   * @param {number | undefined} code
   * @param {string} reason
   * @param {number} now
   */
  closed(code, reason, now) {
    if (!this.isConnected) return [];
    this.lastError = `closed with ${code ?? "no code"} ${reason}`.trimEnd();
    const comeBackAt = this.#comeBackAt;
    // One that never got as far as a word from the server may have something in its way; events
    // that did not get through either show that it is the server.
    const isMute = this.transport === "sse" ? this.#fallbackUntil === undefined : !this.#isWelcome;
    if (isMute && (code === undefined || code === 1006)) this.#blocked++;
    this.#lose();
    if (code === CLOSE.UNAUTHORIZED) {
      this.#refusedToken(reason || "the token is not accepted", now);
    } else if (code !== undefined && code >= CLOSE.BAD_MESSAGE && code < 4408) {
      const word = code === CLOSE.FORBIDDEN ? "forbidden" : code === 4404 ? "not_found" : "bad_request";
      this.#giveUp(word, reason || `closed with ${code}`);
    } else if (comeBackAt !== undefined) {
      this.#wait(now, comeBackAt - now, true);
    } else {
      this.#wait(now, this.#delay(code === CLOSE.BUSY), code === CLOSE.BUSY);
    }
    return this.#take();
  }

  /** A WebSocket message has come. @param {string} text @param {number} now */
  received(text, now) {
    if (!this.isConnected) return [];
    this.#heardAt = now;
    this.#doubtedAt = undefined;
    /** @type {Set<Stream>} */
    const touched = new Set();
    try {
      for (const message of read(text)) {
        this.#hear(message, touched, now);
        // The socket was given up: what is left on it is not heard.
        if (!this.isConnected) break;
      }
    } catch (error) {
      this.#hangUp();
      this.#giveUp(asError(error));
    }
    for (const stream of touched) this.#lookAfter(stream, now);
    if (touched.size) this.#effects.push({ do: "wake", streams: [...touched] });
    return this.#take();
  }

  /**
   * A run that was to be fetched; undefined if there is none.
   *
   * @param {string} id
   * @param {any} run
   * @param {number} now
   */
  fetched(id, run, now) {
    const touched = [];
    let again = false;
    for (const stream of [...this.streams]) {
      if (!stream.wants(id)) continue;
      if (stream.fetched(id, run)) {
        touched.push(stream);
        this.#lookAfter(stream, now);
      } else {
        again = true;
      }
    }
    if (again) this.#effects.push({ do: "fetch", id, again });
    if (touched.length) this.#effects.push({ do: "wake", streams: touched });
    return this.#take();
  }

  // Time

  /** When `tick` should be called at the latest. */
  get deadline() {
    let least = Infinity;
    const times = [this.#nextAt, this.#comeBackAt, this.#refreshAt, this.#idleAt];
    if (this.#isOpen) {
      times.push(this.#silentAt);
      for (const stream of this.streams) times.push(stream.retryAt);
    }
    for (const time of times) if (time !== undefined && time < least) least = time;
    return least === Infinity ? undefined : least;
  }

  /** @param {number} now */
  tick(now) {
    const isDue = due(this.#nextAt, now);
    if (this.state === "WAITING") {
      if (isDue) this.#begin(now);
    } else if (this.state === "DIALING" || this.state === "GREETING") {
      if (isDue) {
        this.#blocked++;
        this.#broke(`the server does not ${this.state === "DIALING" ? "answer" : "say welcome"}`, now);
      }
    } else if (this.state === "DRAINING" && due(this.#comeBackAt, now)) {
      this.#hangUp();
      this.#begin(now);
    } else if (this.#isOpen) {
      this.#tickOpen(now);
    }
    return this.#take();
  }

  /** @param {number} now */
  #tickOpen(now) {
    if (now >= this.#silentAt) {
      if (this.#doubtedAt !== undefined) {
        this.#broke("the server is silent", now);
        return;
      }
      // Perhaps it was us who did not listen: a page that was busy, or asleep. What is in the
      // socket is read before the grace is over.
      this.#doubt(now);
    }
    if (due(this.#idleAt, now)) {
      this.#hangUp();
      this.#turn("IDLE");
      return;
    }
    if (due(this.#refreshAt, now)) {
      this.#refreshAt = undefined;
      this.#asked = true;
      this.#effects.push({ do: "ask" });
    }
    this.#join([...this.streams].filter((stream) => due(stream.retryAt, now)));
  }

  get #silentAt() {
    const { minGraceMs, graceHeartbeats, silentHeartbeats } = this.#timing;
    return this.#doubtedAt === undefined
      ? this.#heardAt + silentHeartbeats * this.#heartbeatMs
      : this.#doubtedAt + Math.max(minGraceMs, graceHeartbeats * this.#heartbeatMs);
  }

  /** @param {number} now */
  #doubt(now) {
    this.#doubtedAt = now;
    this.#send([{ type: "ping" }]);
  }

  // Messages

  /** @param {any} message @param {Set<Stream>} touched @param {number} now */
  #hear(message, touched, now) {
    const { type, id } = message;
    const stream = this.#byId.get(id);
    switch (type) {
      case "change":
        for (const one of message.ids) {
          const changed = this.#byId.get(one);
          if (!changed) continue;
          changed.change(message.kind, message.run);
          touched.add(changed);
        }
        return;
      case "heartbeat":
      case "checkpoint":
        // With an id it is of one stream only: that is how the fallback gives it.
        if (!message.cursor) return;
        for (const each of stream ? [stream] : this.#byId.values()) {
          if (each.state === "LIVE") each.mark(message.cursor);
        }
        return;
      case "welcome":
        this.#welcome(message, now);
        return;
      case "authenticated":
        this.#expire(message.expiresAt, now);
        return;
      case "reconnect":
        if (this.#comeBackAt === undefined) {
          this.#nextAt = undefined;
          this.#comeBackAt = now + message.afterMs;
          this.#turn("DRAINING");
        }
        return;
      case "stale":
      case "fresh":
        this.isStale = type === "stale";
        this.#wakeAll();
        this.#turn(this.state);
        return;
    }
    if (!stream) {
      if (type === "end") this.#leaving.delete(id);
      if (type === "error" && id === undefined) this.lastError = `${message.code}: ${message.message}`;
      return;
    }
    touched.add(stream);
    switch (type) {
      case "snapshot":
        stream.snapshot(message.runs);
        return;
      case "live":
        this.#failures = 0;
        stream.live(message);
        if (this.transport === "sse" && this.#canFallBack) this.#settle(now);
        return;
      case "batch":
        stream.progress(message.batch);
        return;
      case "reset":
        stream.reset(message.reason);
        return;
      case "end":
        if (message.reason === "token_expired" || message.reason === "token_revoked") {
          // It is the grant that ends, for all streams; a close with 4401 would follow.
          this.#hangUp();
          this.#refusedToken(`the ${message.reason.replace("_", " is ")}`, now);
          return;
        }
        this.#byId.delete(id);
        stream.end(message.reason);
        return;
      case "error": {
        this.#byId.delete(id);
        // A limit may be reached for a moment only, as when many come back at once; whoever
        // asks for the first time is told.
        const { code } = message;
        const isBusy = code === "too_many_requests" && stream.wasLive;
        if (code === "unavailable" || (isBusy && stream.refusals < this.#timing.busyRetries)) {
          stream.later(now + this.#backoff(stream.refusals, true));
        } else {
          stream.fail(new RunstreamError(code, message.message));
        }
      }
    }
  }

  /** @param {any} message @param {number} now */
  #welcome({ heartbeatS = 15, limits, server, expiresAt }, now) {
    this.#heartbeatMs = heartbeatS * 1000;
    this.maxMessageBytes = limits?.messageBytes || 65_536;
    this.server = server;
    this.#refused = [];
    this.#expire(expiresAt, now);
    // Later it only answers an `authenticate`.
    if (this.#isWelcome) return;
    this.#isWelcome = true;
    this.#nextAt = undefined;
    if (this.transport === "websocket") {
      this.#blocked = 0;
      this.#isOpenWay = true;
      this.#isProven = false;
    }
    if (this.stats.connects++) this.stats.reconnects++;
    this.lastError = undefined;
    if (!this.streams.size) this.#idleAt = now + this.#timing.lingerMs;
    if (this.state === "GREETING") this.#turn("OPEN");
    this.#join([...this.streams].filter((stream) => stream.state === "IDLE" && !stream.retryAt));
  }

  // Parts of the above

  /** @param {number} now */
  #begin(now) {
    this.#nextAt = undefined;
    if (!this.streams.size) this.#turn("IDLE");
    else if (this.#asleep) this.#turn("WAITING");
    else if (this.#hasProvider && (this.token === undefined || this.#refused.includes(this.token))) {
      this.#turn("ASKING");
      this.#effects.push({ do: "ask" });
    } else {
      this.#dial(now);
    }
  }

  /** @param {number} now */
  #dial(now) {
    if (this.#canFallBack) {
      const preferred = this.#fallbackUntil !== undefined && now < this.#fallbackUntil;
      if (this.#fallbackUntil !== undefined && !preferred) {
        // The other way is tried once more.
        this.#fallbackUntil = undefined;
        this.#blocked = this.#timing.fallbackAfter - 1;
      }
      // By turns, since it cannot be told what is in the way: something between, or the server
      // itself being away.
      const over = this.#blocked - this.#timing.fallbackAfter;
      this.transport = preferred || (over >= 0 && over % 2 === 0) ? "sse" : "websocket";
    }
    this.#nextAt = now + this.#timing.dialMs;
    this.#turn("DIALING");
    this.#effects.push({ do: "dial", transport: this.transport });
  }

  /** Events get through: the server is there, and they are preferred for a while. @param {number} now */
  #settle(now) {
    if (this.#isOpenWay && !this.#isProven && this.#fallbackUntil === undefined) {
      // It may have been the server that was away; now that it is there the socket is tried once.
      this.#isProven = true;
      this.#blocked = this.#timing.fallbackAfter - 1;
      this.#hangUp();
      this.#begin(now);
    } else {
      this.#fallbackUntil ??= now + this.#timing.fallbackMs;
    }
  }

  /** @param {number} now @param {number} delay @param {boolean} [patient] */
  #wait(now, delay, patient = false) {
    if (!this.streams.size) {
      this.#turn("IDLE");
      return;
    }
    this.#patient = patient;
    this.#nextAt = this.#asleep ? undefined : now + Math.max(0, delay);
    this.#turn("WAITING");
  }

  /** @param {State} state */
  #turn(state) {
    this.state = state;
    this.#effects.push({ do: "tell", state });
  }

  #delay(busy = false) {
    return this.#backoff(this.#failures++, busy);
  }

  /** @param {number} failures @param {boolean} busy */
  #backoff(failures, busy) {
    const { baseDelayMs, maxDelayMs, busyBaseDelayMs, busyMaxDelayMs } = this.#timing;
    const full = Math.min(
      busy ? busyMaxDelayMs : maxDelayMs,
      (busy ? busyBaseDelayMs : baseDelayMs) * 2 ** Math.min(failures, 30),
    );
    // Full jitter: of many who lost the same server, few come back at the same moment. One who
    // was told to stay away stays away for half of it at least.
    return full * (busy ? 0.5 + this.#random() / 2 : this.#random());
  }

  /** @param {string} reason @param {number} now */
  #broke(reason, now) {
    const comeBackAt = this.#comeBackAt;
    this.lastError = reason;
    this.#hangUp();
    if (comeBackAt === undefined) this.#wait(now, this.#delay());
    else this.#wait(now, comeBackAt - now, true);
  }

  #hangUp() {
    if (this.isConnected || this.state === "DIALING") this.#effects.push({ do: "hangUp" });
    this.#lose();
  }

  #lose() {
    for (const stream of this.streams) stream.lost();
    this.#wakeAll();
    this.#byId.clear();
    this.#leaving.clear();
    this.#doubtedAt = this.#comeBackAt = this.#nextAt = this.#refreshAt = this.#idleAt = undefined;
    this.#asked = this.isStale = this.#isWelcome = false;
  }

  #wakeAll() {
    if (this.streams.size) this.#effects.push({ do: "wake", streams: [...this.streams] });
  }

  /** @param {string} reason @param {number} now */
  #refusedToken(reason, now) {
    this.#refused.push(this.token);
    // A provider whose every token is refused gives wrong ones.
    if (!this.#hasProvider || !this.streams.size || this.#refused.length >= 3) {
      this.#giveUp("unauthorized", reason);
    } else {
      this.#begin(now);
    }
  }

  /** @param {string | RunstreamError} error @param {string} [message] */
  #giveUp(error, message) {
    this.#failures = 0;
    this.#refused = [];
    // Whoever subscribes next starts with a fresh one.
    if (this.#hasProvider) this.token = undefined;
    const streams = [...this.streams];
    this.#lose();
    this.streams.clear();
    const failure = typeof error === "string" ? new RunstreamError(error, message) : error;
    for (const stream of streams) stream.fail(failure);
    this.#turn("IDLE");
  }

  /** @param {string | null | undefined} expiresAt @param {number} now */
  #expire(expiresAt, now) {
    this.#expiresAt = this.#refreshAt = undefined;
    if (!expiresAt || !this.#hasProvider) return;
    // The only place where the wall clock counts: the server says a time of day.
    const left = Date.parse(expiresAt) - this.#wall();
    // It was accepted just now, so where nothing is left it is our clock that is wrong. The
    // server will say when it is over.
    if (!(left > 0)) return;
    const { refreshBeforeMs, refreshAt } = this.#timing;
    this.#expiresAt = now + left;
    this.#refreshAt = now + left - Math.min(refreshBeforeMs, left * (1 - refreshAt));
  }

  /** @param {number} now */
  #refreshAgain(now) {
    // The present token still holds: half of what is left may pass until the next try.
    this.#refreshAt = now + Math.max(1_000, ((this.#expiresAt ?? now) - now) / 2);
  }

  /** @param {Stream[]} streams */
  #join(streams) {
    this.#send(
      streams.flatMap((stream) => {
        // The lowest that is free, since servers build one frame for all who use the same id.
        let id = 1;
        while (this.#byId.has(id) || this.#leaving.has(id)) id++;
        const message = stream.joining(id);
        if (bytes(message) > this.maxMessageBytes) {
          // The server would close the socket, for all streams, again and again.
          stream.fail(new RunstreamError("bad_request", "the subscription is longer than the server takes"));
          this.streams.delete(stream);
          if (!this.streams.size) this.#idleAt = this.#heardAt + this.#timing.lingerMs;
          this.#effects.push({ do: "wake", streams: [stream] });
          return [];
        }
        this.#byId.set(id, stream);
        return [message];
      }),
    );
  }

  /** @param {Stream} stream */
  #letGo(stream) {
    const { id } = stream;
    if (id === undefined || this.#byId.get(id) !== stream) return;
    this.#byId.delete(id);
    this.#leaving.add(id);
    this.#send([{ type: "unsubscribe", id }]);
  }

  /** @param {Stream} stream @param {number} now */
  #drop(stream, now) {
    this.streams.delete(stream);
    if (this.streams.size) return;
    if (this.#isOpen) {
      this.#idleAt = now + this.#timing.lingerMs;
    } else if (this.state !== "IDLE" && this.state !== "CLOSED") {
      this.#hangUp();
      this.#turn("IDLE");
    }
  }

  /** @param {Stream} stream @param {number} now */
  #lookAfter(stream, now) {
    if (stream.isOver) {
      this.#letGo(stream);
      this.#drop(stream, now);
      return;
    }
    for (const id of stream.wanted()) this.#effects.push({ do: "fetch", id, again: false });
    if (stream.id !== undefined && stream.isOverfull) {
      this.#letGo(stream);
      stream.pause();
    }
  }

  /** @param {any[]} messages */
  #send(messages) {
    if (messages.length) this.#effects.push({ do: "send", messages });
  }

  #take() {
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }
}

/** @param {any} message */
function bytes(message) {
  return new TextEncoder().encode(JSON.stringify(message)).length;
}

/** @param {number | undefined} at @param {number} now */
function due(at, now) {
  return at !== undefined && now >= at;
}

/** @param {unknown} error */
function asError(error) {
  if (error instanceof RunstreamError) return error;
  return new RunstreamError("protocol", `the server sent what cannot be understood: ${error}`, { cause: error });
}
